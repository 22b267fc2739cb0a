"""Networks that know nothing of subsense: as their libraries ship them, or as anybody would write them; toy size."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from subsense import LayerClass, RobustModel, adapt

ROWS = 3
CLASSES = 5
WIDTH = 8


@dataclass(frozen=True)
class Architecture:
    """Hold one row of the table: a network, and what `adapt` must be told of it.

    Attributes:
        make: gives the network.
        modalities, call, layers: arguments of `adapt`; `layers` is asked of the network.
        sizes: what the letters of the axis strings are in the test's batch.
        scores: the part of the output which is a tensor (row, class, ...).
        exports: whether the network as it is goes through `torch.export`.
    """

    make: Callable[[], nn.Module]
    modalities: Mapping[str, Any]
    call: Any = "kwargs"
    layers: Callable[[nn.Module], list[LayerClass]] = lambda network: []
    sizes: Mapping[str, int] = field(default_factory=dict)
    scores: Callable[[Any], Tensor] = lambda output: output
    exports: bool = True

    def network(self) -> nn.Module:
        """Make the network: always the same weights; biases and statistics as if it had been trained, not all alike."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = self.make()
            with torch.no_grad():
                for name, tensor in network.state_dict().items():
                    if type(tensor) is Tensor and tensor.dim() == 1 and tensor.is_floating_point():
                        tensor += 0.2 * torch.rand(tensor.shape) if "var" in name else 0.2 * torch.randn(tensor.shape)
        return network.eval()

    def adapt(self, **options: Any) -> RobustModel:
        """Adapt it."""
        network = self.network()
        with warnings.catch_warnings():  # the position tables of a toy Swin
            warnings.filterwarnings("ignore", "adapters reach no layer that holds 10.54%", UserWarning)
            return adapt(network, self.modalities, call=self.call, layers=self.layers(network), **options)

    def inputs(self, num_rows: int = ROWS, seed: int = 1) -> dict[str, Any]:
        """Draw a batch in which nothing is missing."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: self._draw(name, axes, num_rows, generator)
            if isinstance(axes, str)
            else {part: self._draw(part, text, num_rows, generator) for part, text in axes.items()}
            for name, axes in self.modalities.items()
        }

    def _draw(self, part: str, axes: str, num_rows: int, generator: torch.Generator) -> Tensor:
        shape, _, dtype = axes.partition(":")
        size = (num_rows, *(self.sizes[word] if word in self.sizes else int(word) for word in shape.split()))
        if dtype == "int64" and "mask" not in part:
            return torch.randint(1, 20, size, generator=generator)
        if not dtype or "float" in dtype:
            return torch.randn(size, generator=generator).to(getattr(torch, dtype or "float32"))
        valid = torch.arange(size[1]) < size[1] - 1 - torch.arange(num_rows)[:, None] % 2  # one or two padded places
        return valid.long() if dtype == "int64" else ~valid


class EarlyFusion(nn.Module):
    """Segment a picture whose channels are all modalities: convolutions down, transposed convolutions up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4, padding_mode="reflect"),
            nn.BatchNorm2d(8),
            nn.GELU(),
            nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
            nn.GroupNorm(3, 6),
            nn.Conv2d(6, CLASSES, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class SequenceFirst(nn.Module):
    """Classify two padded sequences with a sequence-first encoder, as `nn.TransformerEncoder` is by default."""

    def __init__(self) -> None:
        super().__init__()
        self.audio, self.video = nn.Linear(3, WIDTH), nn.Linear(5, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 16)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(
        self, audio: Tensor, audio_key_padding_mask: Tensor, video: Tensor, video_key_padding_mask: Tensor
    ) -> Tensor:
        tokens = torch.cat([self.audio(audio), self.video(video)], 1).transpose(0, 1)
        mixed = self.encoder(
            tokens, src_key_padding_mask=torch.cat([audio_key_padding_mask, video_key_padding_mask], 1)
        )
        return self.head(mixed[0])


class TwoBranches(nn.Module):
    """Fuse two encoders, one for each modality, as the two-stream networks do."""

    def __init__(self, encoders: list[nn.Module], features: Callable[[Any], Tensor], head: nn.Module) -> None:
        super().__init__()
        self.encoders, self.features, self.head = nn.ModuleList(encoders), features, head

    def forward(self, images: list[Tensor]) -> Tensor:
        maps = [self.features(encoder(image)) for encoder, image in zip(self.encoders, images, strict=True)]
        return self.head(torch.cat(maps, 1))


def _encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True), 2)


def _call_encoder(network: nn.Module, inputs: dict[str, Any], present: Tensor) -> Tensor:
    tokens, padding = (
        torch.cat([inputs[name][name + part] for name in ("audio", "video")], 1) for part in ("", "_key_padding_mask")
    )
    return network(tokens, src_key_padding_mask=padding)


def _vilt(head: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        config = transformers.ViltConfig(
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=16,
            patch_size=8,
            vocab_size=20,
            max_position_embeddings=6,
            num_labels=CLASSES,
            tie_word_embeddings=True,
            initializer_range=0.3,
        )
        return getattr(transformers, head)(config)

    return make


def _segformer_options() -> dict[str, Any]:
    return {
        "num_encoder_blocks": 2,
        "depths": [1, 1],
        "sr_ratios": [2, 1],
        "hidden_sizes": [8, 12],
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "num_attention_heads": [1, 2],
        "mlp_ratios": [2, 2],
        "initializer_range": 0.3,
    }


def _segformer() -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(num_channels=4, decoder_hidden_size=8, num_labels=CLASSES, **_segformer_options())
    return SegformerForSemanticSegmentation(config)


def _two_segformers() -> nn.Module:
    from transformers import SegformerConfig, SegformerModel

    encoders = [SegformerModel(SegformerConfig(num_channels=channels, **_segformer_options())) for channels in (3, 1)]
    return TwoBranches(encoders, lambda output: output.last_hidden_state, nn.Conv2d(24, CLASSES, 1))


def _two_swins() -> nn.Module:
    """Swin attends in windows, which it folds into the batch."""
    from transformers import SwinConfig, SwinModel

    configs = [
        SwinConfig(
            image_size=16,
            patch_size=2,
            num_channels=channels,
            embed_dim=4,
            depths=[2, 2],
            num_heads=[1, 2],
            window_size=4,
            initializer_range=0.3,
        )
        for channels in (3, 1)
    ]
    head = nn.Linear(16, CLASSES)
    return TwoBranches([SwinModel(config) for config in configs], lambda output: output.pooler_output, head)


def _aimv2() -> nn.Module:
    """Two towers with an RMSNorm class of the library's own; the scores of the pairs have the batch on two axes."""
    from transformers import Aimv2Config, Aimv2Model, Aimv2TextConfig, Aimv2VisionConfig

    common = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = Aimv2VisionConfig(image_size=16, patch_size=8, **common)
    text = Aimv2TextConfig(vocab_size=20, max_position_embeddings=6, eos_token_id=1, **common)
    return Aimv2Model(Aimv2Config(vision_config=vision, text_config=text, projection_dim=CLASSES))


def _rms_norms(network: nn.Module) -> list[LayerClass]:
    classes = {type(layer) for layer in network.modules() if type(layer).__name__ == "Aimv2RMSNorm"}
    return [LayerClass(one, kind="norm", axis=-1, bias=None) for one in classes]


def _embeddings(output: Any) -> Tensor:
    return output.image_embeds + output.text_embeds


IMAGE_TEXT = {"image": "3 16 16", "text": {"input_ids": "6:int64", "attention_mask": "6:int64"}}
IMAGE_TEXT_CALL = {"image": ["pixel_values"], "text": ["input_ids", "attention_mask"]}
SEQUENCES = {
    "audio": {"audio": "T 3", "audio_key_padding_mask": "T:bool"},
    "video": {"video": "T 5", "video_key_padding_mask": "T:bool"},
}
TOKENS = {
    "audio": {"audio": "T 8", "audio_key_padding_mask": "T:bool"},
    "video": {"video": "T 8", "video_key_padding_mask": "T:bool"},
}
RGB_THERMAL = {"rgb": "3 H W", "thermal": "1 H W"}
PICTURE = {"H": 16, "W": 24}

ARCHITECTURES: dict[str, Architecture] = {
    "vilt-answering": Architecture(
        _vilt("ViltForQuestionAnswering"),
        IMAGE_TEXT,
        IMAGE_TEXT_CALL,
        scores=lambda output: output.logits,
        exports=False,  # it chooses visual tokens by data-dependent indices
    ),
    "vilt-retrieval": Architecture(
        _vilt("ViltForImageAndTextRetrieval"),
        IMAGE_TEXT,
        IMAGE_TEXT_CALL,
        scores=lambda output: output.logits,
        exports=False,
    ),
    "vilt-masked": Architecture(  # its output layer is tied to the word embedding
        _vilt("ViltForMaskedLM"),
        IMAGE_TEXT,
        IMAGE_TEXT_CALL,
        scores=lambda output: output.logits.transpose(1, 2),
        exports=False,
    ),
    "segformer": Architecture(
        _segformer, RGB_THERMAL, "channels", sizes={"H": 32, "W": 48}, scores=lambda output: output.logits
    ),
    "segformer-two": Architecture(_two_segformers, RGB_THERMAL, "list", sizes={"H": 32, "W": 48}),
    "swin-two": Architecture(_two_swins, {"rgb": "3 16 16", "thermal": "1 16 16"}, "list"),
    "aimv2": Architecture(_aimv2, IMAGE_TEXT, IMAGE_TEXT_CALL, _rms_norms, scores=_embeddings),
    "encoder": Architecture(
        _encoder, TOKENS, _call_encoder, sizes={"T": 4}, scores=lambda output: output[:, 0], exports=False
    ),
    "encoder-sequence-first": Architecture(SequenceFirst, SEQUENCES, sizes={"T": 4}),
    "early-fusion": Architecture(lambda: EarlyFusion(4), RGB_THERMAL, "channels", sizes=PICTURE),
}
