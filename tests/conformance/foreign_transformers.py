"""Multimodal networks as the transformers library ships them, random weights and toy sizes, as cases of the survey."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from architectures import ARCHITECTURES, CLASSES, IMAGE_TEXT, IMAGE_TEXT_CALL, Architecture, TwoBranches
from conformance.survey import Case

TINY = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = {"vocab_size": 20, "max_position_embeddings": 12}
PICTURES = {"image_size": 16, "patch_size": 8}
TEXT = {"input_ids": "6:int64", "attention_mask": "6:int64"}
TEXT_ARGUMENTS = ["input_ids", "attention_mask"]
TWO_PICTURES = {"rgb": "3 32 32", "thermal": "1 32 32"}


def _library() -> Any:
    import transformers

    return transformers


def build(
    model: str, config: str, *parts: tuple[str, str, Mapping[str, Any]], **options: Any
) -> Callable[[], nn.Module]:
    """Say how to make a model of the library: its class, its config's, and configs inside that one by argument."""

    def make() -> nn.Module:
        library = _library()
        inner = {argument: getattr(library, cls)(**values) for argument, cls, values in parts}
        return getattr(library, model)(getattr(library, config)(**inner, **options))

    return make


def two_towers(
    prefix: str, text: Mapping[str, Any], vision: Mapping[str, Any], **options: Any
) -> Callable[[], nn.Module]:
    """Say how to make a model of an image and a text encoder."""
    parts = [
        ("text_config", f"{prefix}TextConfig", TINY | WORDS | dict(text)),
        ("vision_config", f"{prefix}VisionConfig", TINY | PICTURES | dict(vision)),
    ]
    return build(f"{prefix}Model", f"{prefix}Config", *parts, **options)


def embeddings(output: Any) -> Tensor:
    return output.image_embeds + output.text_embeds


def image_text(make: Callable[[], nn.Module], scores: Callable[[Any], Tensor], **options: Any) -> Case:
    return Case(Architecture(make, IMAGE_TEXT, IMAGE_TEXT_CALL, scores=scores), **options)


def branches(
    *encoders: Callable[[], nn.Module], features: Callable[[Any], Tensor], width: int
) -> Callable[[], nn.Module]:
    return lambda: TwoBranches([encoder() for encoder in encoders], features, nn.Linear(width, CLASSES))


def pooled(output: Any) -> Tensor:
    return output.last_hidden_state.mean(1)


VIDEO = {"image_size": 16, "patch_size": 8, "num_frames": 4, "tubelet_size": 2}
VIDEO_MAE = build("VideoMAEModel", "VideoMAEConfig", **TINY, **VIDEO)
SPECTROGRAM = build(
    "ASTModel", "ASTConfig", **TINY, patch_size=8, max_length=24, num_mel_bins=16, frequency_stride=8, time_stride=8
)
WAVES = build(
    "Wav2Vec2Model",
    "Wav2Vec2Config",
    **TINY,
    vocab_size=10,
    conv_dim=(8, 8),
    conv_stride=(5, 2),
    conv_kernel=(10, 3),
    num_feat_extract_layers=2,
    num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
)
BERT = build("BertModel", "BertConfig", **TINY, **WORDS)
VIT = build("ViTModel", "ViTConfig", **TINY, **PICTURES)


class Listening(nn.Module):
    """Add a sound encoder's and a text encoder's features."""

    def __init__(self) -> None:
        super().__init__()
        self.sound, self.text, self.head = WAVES(), BERT(), nn.Linear(8, CLASSES)

    def forward(self, input_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(pooled(self.sound(input_values)) + pooled(self.text(input_ids, attention_mask)))


class Watching(nn.Module):
    """Add a video encoder's and a sound encoder's features."""

    def __init__(self) -> None:
        super().__init__()
        self.video, self.sound, self.head = VIDEO_MAE(), SPECTROGRAM(), nn.Linear(8, CLASSES)

    def forward(self, video: Tensor, sound: Tensor) -> Tensor:
        return self.head(pooled(self.video(video)) + pooled(self.sound(sound)))


class Tokens(nn.Module):
    """Put two modalities' features one after the other, and give them to a sequence model."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.video, self.sound, self.body = nn.Linear(5, 8), nn.Linear(7, 8), body

    def forward(self, video: Tensor, sound: Tensor) -> Tensor:
        tokens = torch.cat([self.video(video), self.sound(sound)], 1)
        return self.body(inputs_embeds=tokens).last_hidden_state


class Perceived(nn.Module):
    """Give a Perceiver the features of two modalities."""

    def __init__(self) -> None:
        super().__init__()
        self.video, self.sound = nn.Linear(5, 8), nn.Linear(7, 8)
        config = _library().PerceiverConfig(
            num_latents=4, d_latents=8, d_model=8, num_blocks=1, num_self_attends_per_block=1,
            num_self_attention_heads=2, num_cross_attention_heads=2,
        )  # fmt: skip
        self.body = _library().PerceiverModel(config)

    def forward(self, video: Tensor, sound: Tensor) -> Tensor:
        return self.body(torch.cat([self.video(video), self.sound(sound)], 1)).last_hidden_state


FEATURES = {"video": "4 5", "sound": "3 7"}
MAMBA = build(
    "MambaModel", "MambaConfig", vocab_size=20, hidden_size=8, state_size=4, num_hidden_layers=2, time_step_rank=2
)
SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
}


def _mask2former() -> nn.Module:
    library = _library()
    backbone = library.SwinConfig(num_channels=4, **SWIN, out_features=["stage1", "stage2", "stage3", "stage4"])
    config = library.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=12,
        dim_feedforward=12, encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=4,
        num_labels=CLASSES,
    )  # fmt: skip
    return library.Mask2FormerForUniversalSegmentation(config)


def _deformable_detr() -> nn.Module:
    library = _library()
    backbone = library.ResNetConfig(
        num_channels=4, embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = library.DeformableDetrConfig(
        backbone_config=backbone, use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, num_channels=4,
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=12, decoder_ffn_dim=12, num_queries=4, num_feature_levels=3, num_labels=CLASSES,
    )  # fmt: skip
    return library.DeformableDetrForObjectDetection(config)


def _captioner() -> nn.Module:
    """ViT and GPT-2, whose linear layers are of a class of its own."""
    library = _library()
    decoder = library.GPT2Config(
        n_embd=8, n_layer=1, n_head=2, n_positions=12, vocab_size=20, add_cross_attention=True, is_decoder=True,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    encoder = library.ViTConfig(**TINY, **PICTURES)
    config = library.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return library.VisionEncoderDecoderModel(config)


def _checkpointing() -> nn.Module:
    network = ARCHITECTURES["vilt-answering"].make()
    network.gradient_checkpointing_enable()
    return network


CAPTIONER = {"image": "3 16 16", "text": {"decoder_input_ids": "6:int64", "decoder_attention_mask": "6:int64"}}
CAPTIONER_CALL = {"image": ["pixel_values"], "text": ["decoder_input_ids", "decoder_attention_mask"]}
CONVNEXT = branches(
    *(
        build(
            "ConvNextModel", "ConvNextConfig", num_channels=channels, hidden_sizes=[8, 8], depths=[1, 1], num_stages=2
        )
        for channels in (3, 1)
    ),
    features=lambda output: output.pooler_output,
    width=16,
)
RECURRENT_GEMMA = build(
    "RecurrentGemmaModel",
    "RecurrentGemmaConfig",
    **TINY | {"num_hidden_layers": 3},
    vocab_size=20,
    lru_width=8,
    attention_window_size=4,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=0,
)


def pair(
    model: str, config: str, features: Callable[[Any], Tensor], width: int, **options: Any
) -> Callable[[], nn.Module]:
    """Say how to make two of the library's encoders, for pictures of three channels and of one."""
    encoders = (build(model, config, num_channels=channels, **options) for channels in (3, 1))
    return branches(*encoders, features=features, width=width)


class Reading(nn.Module):
    """Add a long-text encoder's and an image encoder's features."""

    def __init__(self, text: nn.Module) -> None:
        super().__init__()
        self.text, self.image, self.head = text, VIT(), nn.Linear(8, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> Tensor:
        return self.head(pooled(self.text(input_ids, attention_mask)) + pooled(self.image(pixel_values)))


def pooler(output: Any) -> Tensor:
    return output.pooler_output


def picture(output: Any) -> Tensor:
    return output.last_hidden_state.mean((2, 3))


LONGFORMER = build(
    "LongformerModel",
    "LongformerConfig",
    **TINY,
    vocab_size=20,
    max_position_embeddings=20,
    attention_window=4,
    pad_token_id=0,
)
UNUSED = "layers that the network has and does not call"
FLAVA = build(
    "FlavaModel",
    "FlavaConfig",
    ("text_config", "FlavaTextConfig", TINY | WORDS),
    ("image_config", "FlavaImageConfig", TINY | PICTURES),
    ("multimodal_config", "FlavaMultimodalConfig", TINY),
    projection_dim=CLASSES,
)
BLIP = build(
    "BlipForImageTextRetrieval",
    "BlipConfig",
    ("text_config", "BlipTextConfig", TINY | WORDS | {"encoder_hidden_size": 8, "bos_token_id": 2, "sep_token_id": 3}),
    ("vision_config", "BlipVisionConfig", TINY | PICTURES),
    projection_dim=CLASSES,
)
BRIDGE_TOWER = build(
    "BridgeTowerForImageAndTextRetrieval",
    "BridgeTowerConfig",
    ("text_config", "BridgeTowerTextConfig", TINY | WORDS | {"hidden_size": 64, "num_hidden_layers": 2}),
    ("vision_config", "BridgeTowerVisionConfig", {"hidden_size": 64, "num_hidden_layers": 2} | PICTURES),
    hidden_size=64,
    num_attention_heads=2,
    num_hidden_layers=2,
)


def logits(output: Any) -> Tensor:
    return output.logits


def flava_scores(output: Any) -> Tensor:
    return output.multimodal_embeddings


def _embeddings_alone(network: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """Leave the scores of pairs, which have no row, out of the output."""
    output = network(**inputs["text"], pixel_values=inputs["image"])
    return output.image_embeds + output.text_embeds


def _talk(network: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """Put the image's places before the words."""
    words, known = inputs["text"]["input_ids"], inputs["text"]["attention_mask"]
    places = words.new_full((len(words), 4), IMAGE_TOKEN)
    ids, mask = torch.cat([places, words], 1), torch.cat([torch.ones_like(places), known], 1)
    return network(input_ids=ids, attention_mask=mask, pixel_values=inputs["image"]).logits


IMAGE_TOKEN = 21
LLAVA = build(
    "LlavaForConditionalGeneration",
    "LlavaConfig",
    ("text_config", "LlamaConfig", TINY | WORDS | {"vocab_size": 22, "bos_token_id": 0, "eos_token_id": 1}),
    ("vision_config", "CLIPVisionConfig", TINY | PICTURES | {"num_hidden_layers": 2}),
    image_token_index=IMAGE_TOKEN,
)


def _two_swins_v2() -> nn.Module:
    library = _library()
    encoders = [
        library.Swinv2Model(
            library.Swinv2Config(
                image_size=16, patch_size=2, num_channels=channels, embed_dim=4, depths=[2, 2], num_heads=[1, 2],
                window_size=4,
            )
        )
        for channels in (3, 1)
    ]  # fmt: skip
    return TwoBranches(encoders, lambda output: output.pooler_output, nn.Linear(16, CLASSES))


DOCUMENT = {"text": {"input_ids": "6:int64", "bbox": "6 4:int64", "attention_mask": "6:int64"}, "image": "3 16 16"}
MAMBA_MIXER = ["*.mixer.conv1d", "*.mixer.dt_proj"]

TRANSFORMERS: dict[str, Case] = {
    "ViLT": Case(ARCHITECTURES["vilt-answering"], fast=True),
    "ViLT, gradient checkpointing enabled": Case(
        Architecture(_checkpointing, IMAGE_TEXT, IMAGE_TEXT_CALL, scores=lambda output: output.logits),
        note="the library checkpoints in training mode alone, and an adapted network stays in eval mode",
    ),
    "CLIP": image_text(two_towers("CLIP", {"eos_token_id": 1}, {}, projection_dim=CLASSES), embeddings, fast=True),
    "SigLIP": image_text(
        two_towers("Siglip", {"projection_size": 8, "bos_token_id": 2, "eos_token_id": 3}, {}),
        embeddings,
        refused="must run in groups, but an output of the network",
        note="the scores of pairs (row, row) can't be put together from groups; one combination at a time works",
        fast=True,
    ),
    "SigLIP, called for its embeddings": Case(
        Architecture(
            two_towers("Siglip", {"projection_size": 8, "bos_token_id": 2, "eos_token_id": 3}, {}),
            IMAGE_TEXT,
            _embeddings_alone,
        )
    ),
    "FLAVA": image_text(FLAVA, flava_scores, refused="never calls image_projection, text_projection", note=UNUSED),
    "FLAVA, those excluded": image_text(
        FLAVA, flava_scores, options={"exclude": ["image_projection", "text_projection"]}
    ),
    "BLIP": image_text(
        BLIP, lambda output: output.itm_score, refused="never calls vision_proj, text_proj", note=UNUSED
    ),
    "BLIP, those excluded": image_text(
        BLIP, lambda output: output.itm_score, options={"exclude": ["vision_proj", "text_proj"]}
    ),
    "BridgeTower": image_text(BRIDGE_TOWER, logits, refused="never calls .*text_model.pooler.dense", note=UNUSED),
    "BridgeTower, that excluded": image_text(
        BRIDGE_TOWER, logits, options={"exclude": ["bridgetower.text_model.pooler.dense"]}
    ),
    "LXMERT": Case(
        Architecture(
            build(
                "LxmertForQuestionAnswering",
                "LxmertConfig",
                hidden_size=8,
                num_attention_heads=2,
                intermediate_size=12,
                l_layers=1,
                x_layers=1,
                r_layers=1,
                num_qa_labels=CLASSES,
                visual_feat_dim=5,
                **WORDS,
            ),
            {"text": TEXT, "image": {"visual_feats": "4 5", "visual_pos": "4 4"}},
            {"text": TEXT_ARGUMENTS, "image": ["visual_feats", "visual_pos"]},
            scores=lambda output: output.question_answering_score,
        )
    ),
    "VisualBERT": Case(
        Architecture(
            build("VisualBertModel", "VisualBertConfig", **TINY, **WORDS, visual_embedding_dim=5),
            {"text": TEXT, "image": "4 5"},
            {"text": TEXT_ARGUMENTS, "image": ["visual_embeds"]},
            scores=pooled,
        )
    ),
    "AltCLIP": image_text(
        two_towers(
            "AltCLIP", {"project_dim": CLASSES, "type_vocab_size": 1, "pad_token_id": 0}, {}, projection_dim=CLASSES
        ),
        embeddings,
    ),
    "ChineseCLIP": image_text(two_towers("ChineseCLIP", {}, {}, projection_dim=CLASSES), embeddings),
    "GIT": image_text(
        build("GitModel", "GitConfig", ("vision_config", "GitVisionConfig", TINY | PICTURES), **TINY, **WORDS),
        lambda output: output.last_hidden_state.mean(1),
    ),
    "CLAP": Case(
        Architecture(
            build(
                "ClapModel",
                "ClapConfig",
                ("text_config", "ClapTextConfig", TINY | WORDS | {"projection_dim": CLASSES, "pad_token_id": 0}),
                (
                    "audio_config",
                    "ClapAudioConfig",
                    {
                        "spec_size": 32,
                        "num_mel_bins": 16,
                        "window_size": 4,
                        "patch_size": 4,
                        "patch_stride": [4, 4],
                        "patch_embeds_hidden_size": 8,
                        "depths": [1, 1],
                        "num_attention_heads": [1, 2],
                        "hidden_size": 16,
                        "projection_dim": CLASSES,
                        "num_classes": 5,
                    },
                ),
                projection_dim=CLASSES,
            ),
            {"sound": "1 64 16", "text": TEXT},
            {"sound": ["input_features"], "text": TEXT_ARGUMENTS},
            scores=lambda output: output.audio_embeds + output.text_embeds,
        )
    ),
    "Perceiver": Case(
        Architecture(Perceived, FEATURES),
        note="the library's body behind two linear layers; its multimodal autoencoder has no toy size",
    ),
    "VideoMAE + Audio Spectrogram Transformer": Case(
        Architecture(Watching, {"video": "4 3 16 16", "sound": "24 16"}),
        note="two of the library's encoders, their features added",
    ),
    "X-CLIP": Case(
        Architecture(
            two_towers(
                "XCLIP",
                {"eos_token_id": 1},
                {"num_frames": 2, "mit_hidden_size": 8, "mit_intermediate_size": 12, "mit_num_attention_heads": 2},
                projection_dim=8,
                prompt_layers=1,
                prompt_num_attention_heads=2,
            ),
            {"video": "2 3 16 16", "text": TEXT},
            {"video": ["pixel_values"], "text": TEXT_ARGUMENTS},
            scores=lambda output: output.video_embeds,
        ),
        refused="must run in groups, but an output of the network",
        note="as SigLIP",
    ),
    "Wav2Vec2 + BERT": Case(
        Architecture(Listening, {"sound": {"input_values": "200"}, "text": TEXT}),
        note="its positional convolution is weight-normed",
    ),
    "SegFormer, two encoders": Case(ARCHITECTURES["segformer-two"], fast=True),
    "SegFormer, four channels": Case(ARCHITECTURES["segformer"]),
    "Swin, two encoders": Case(ARCHITECTURES["swin-two"]),
    "AIMv2": Case(ARCHITECTURES["aimv2"], note="its RMSNorm class is declared"),
    "ConvNeXt, two encoders": Case(
        Architecture(CONVNEXT, TWO_PICTURES, "list"),
        note="its LayerNorm is channel-first or channel-last by an attribute",
    ),
    "Mask2Former": Case(
        Architecture(
            _mask2former,
            {"rgb": "3 64 64", "depth": "1 64 64"},
            "channels",
            scores=lambda output: output.class_queries_logits,
        ),
        note="four channels; multi-scale deformable attention",
    ),
    "Deformable DETR": Case(
        Architecture(
            _deformable_detr,
            {"rgb": "3 64 64", "depth": "1 64 64"},
            "channels",
            scores=lambda output: output.logits,
        ),
        note="four channels; deformable attention in encoder and decoder",
    ),
    "Mamba": Case(
        Architecture(lambda: Tokens(MAMBA()), FEATURES),
        refused=r"never calls body\.layers\.0\.mixer\.conv1d",
        note="a state-space model over two modalities' tokens; it reads the weights of two layers itself",
    ),
    "Mamba, those excluded": Case(Architecture(lambda: Tokens(MAMBA()), FEATURES), options={"exclude": MAMBA_MIXER}),
    "RecurrentGemma": Case(Architecture(lambda: Tokens(RECURRENT_GEMMA()), FEATURES)),
    "Longformer + ViT": Case(
        Architecture(lambda: Reading(LONGFORMER()), IMAGE_TEXT, IMAGE_TEXT_CALL),
        options={"exclude": ["*_global"]},
        note="its layers for global attention are called where some is asked for; refused until excluded",
    ),
    "MobileViT, two encoders": Case(
        Architecture(
            pair(
                "MobileViTModel",
                "MobileViTConfig",
                pooler,
                32,
                image_size=32,
                hidden_sizes=[8, 8, 8],
                neck_hidden_sizes=[4, 4, 4, 8, 8, 8, 16],
                num_attention_heads=2,
                mlp_ratio=1.0,
                expand_ratio=1.0,
            ),
            {"rgb": "3 64 64", "thermal": "1 64 64"},
            "list",
        ),
        note="patches folded into the batch",
    ),
    "CvT, two encoders": Case(
        Architecture(
            pair("CvtModel", "CvtConfig", picture, 24, embed_dim=[8, 8, 12], num_heads=[1, 1, 2], depth=[1, 2, 3]),
            {"rgb": "3 64 64", "thermal": "1 64 64"},
            "list",
        )
    ),
    "DINOv2, two encoders": Case(
        Architecture(
            pair("Dinov2Model", "Dinov2Config", pooler, 16, **TINY, **PICTURES),
            {"rgb": "3 16 16", "thermal": "1 16 16"},
            "list",
        )
    ),
    "PoolFormer, two encoders": Case(
        Architecture(
            pair(
                "PoolFormerModel",
                "PoolFormerConfig",
                picture,
                24,
                depths=[1, 1],
                hidden_sizes=[8, 12],
                patch_sizes=[7, 3],
                strides=[4, 2],
                padding=[2, 1],
                num_encoder_blocks=2,
            ),
            TWO_PICTURES,
            "list",
        )
    ),
    "TimeSformer, two encoders": Case(
        Architecture(
            pair(
                "TimesformerModel", "TimesformerConfig", pooled, 16, **TINY, image_size=16, patch_size=8, num_frames=2
            ),
            {"rgb": "2 3 16 16", "thermal": "2 1 16 16"},
            "list",
        ),
        note="frames and places folded into the batch in turn",
    ),
    "EfficientNet, two encoders": Case(
        Architecture(
            pair(
                "EfficientNetModel",
                "EfficientNetConfig",
                picture,
                640,
                image_size=32,
                width_coefficient=0.25,
                depth_coefficient=0.3,
                hidden_dim=320,
                in_channels=[32, 16],
                out_channels=[16, 24],
                kernel_sizes=[3, 3],
                strides=[1, 2],
                num_block_repeats=[1, 1],
                expand_ratios=[1, 2],
                depthwise_padding=[],
            ),
            TWO_PICTURES,
            "list",
        )
    ),
    "LLaVA": Case(Architecture(LLAVA, IMAGE_TEXT, _talk)),
    "LayoutLMv3": Case(
        Architecture(
            build(
                "LayoutLMv3Model",
                "LayoutLMv3Config",
                **TINY,
                **WORDS,
                input_size=16,
                patch_size=8,
                coordinate_size=1,
                shape_size=2,
                max_2d_position_embeddings=32,
                pad_token_id=0,
            ),
            DOCUMENT,
            {"text": ["input_ids", "bbox", "attention_mask"], "image": ["pixel_values"]},
            scores=pooled,
        ),
        options={"exclude": ["encoder.rel_*"]},
        note="its tables of relative positions are linear layers whose weight is read; refused until excluded",
    ),
    "Swin v2, two encoders": Case(
        Architecture(_two_swins_v2, {"rgb": "3 16 16", "thermal": "1 16 16"}, "list"),
        note="layers that see a table of positions and no row: mixed batches run in groups",
    ),
    "ViT + GPT-2": Case(
        Architecture(_captioner, CAPTIONER, CAPTIONER_CALL, scores=lambda output: output.logits),
        note="GPT-2's linear layers are a class of the library's own, known by what it computes",
    ),
}
