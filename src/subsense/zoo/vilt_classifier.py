"""ViLT with a classifier on its pooled output, for one image and one text: `food101` and `emoji`.

Paper: W. Kim, B. Son, I. Kim, ViLT: Vision-and-Language Transformer Without Convolution or Region Supervision, ICML
2021 (arXiv 2102.03334). Original repository: https://github.com/dandelin/ViLT, Apache-2.0, the weights too.
The transformer is transformers' `ViltModel` (Apache-2.0); the head and all names of the `state_dict` are those of its
`ViltForImagesAndTextClassification` with one image. What is around it was written for subsense, Apache-2.0.

Needs transformers: ``pip install subsense[transformers]``. Nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from subsense.errors import FactoryError, InputError, closest

if TYPE_CHECKING:
    from transformers import ViltConfig, ViltModel

PUBLISHED = "The published weights are at https://huggingface.co/dandelin/vilt-b32-mlm; nothing is downloaded."
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


class ViltClassifier(nn.Module):
    """Classify an image with a text.

    The image's patches all become tokens, in order; `pixel_mask` says which of them are attended. transformers' own
    `ViltModel` draws them in a random order and drops those that no row needs, which changes no score but in the last
    bits, and fails where a row has no patch at all. A missing image may be one without a patch here.

    Args:
        num_classes: number of classes; None: as many as the folder's own classifier has.
        folder: a checkpoint folder (config.json and safetensors) of any of transformers' ViLT networks.
        head: ``"checkpoint"``: the classifier comes from the folder too; ``"fresh"``: it starts anew, as it has to
            with weights that were pretrained on another task.
        config: without a folder: values of transformers' `ViltConfig` for a network with fresh weights; those not
            given are the published network's (111 million parameters).

    Raises:
        FactoryError: transformers isn't installed; a folder without its files, or whose weights don't fit; an unknown
            value in `config`; both folder and config.

    >>> small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    >>> network = ViltClassifier(5, config=small | {"image_size": 32, "patch_size": 16, "vocab_size": 30})
    >>> ones = torch.ones(2, 6, dtype=torch.long)
    >>> image = {"pixel_values": torch.zeros(2, 3, 32, 32), "pixel_mask": torch.ones(2, 32, 32, dtype=torch.long)}
    >>> network(**image, input_ids=ones, attention_mask=ones, token_type_ids=0 * ones).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        num_classes: int | None = None,
        folder: str | Path | None = None,
        head: Literal["checkpoint", "fresh"] = "checkpoint",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _check_arguments(num_classes, folder, head, config)
        read = _configure(config or {}) if folder is None else _read_config(Path(folder), num_classes)
        _check_keeps_patches(read)
        self.vilt, classifier = (_fresh_model(read), None) if folder is None else _load(Path(folder), read, head)
        self.classifier = _classifier(read, num_classes) if classifier is None else classifier

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
    ) -> Tensor:
        """Score the classes.

        Args:
            pixel_values: (batch, 3, H, W), normalised to -1..1; H and W at least a patch.
            pixel_mask: int64 (batch, H, W), 1 where the image is and 0 where it was padded, right and below.
            input_ids: int64 (batch, length), at most as long as the network has positions.
            attention_mask: int64 (batch, length), 1 where a token is attended.
            token_type_ids: int64 (batch, length), 0 for a single text.

        Returns:
            (batch, num_classes).
        """
        positions = self.vilt.config.max_position_embeddings
        if input_ids.shape[1] > positions:
            raise InputError(
                f"input_ids: expected at most {positions} tokens, the network's positions, but found "
                f"{input_ids.shape[1]}; cut the texts to that length"
            )
        tokens, mask = self._image_tokens(pixel_values, pixel_mask)
        output = self.vilt(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            image_embeds=tokens,
            pixel_mask=mask,
        )
        scores: Tensor = self.classifier(output.pooler_output)
        return scores

    def _image_tokens(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Give a class token and one for each patch (batch, 1 + h w, width), and which are attended."""
        embeddings = self.vilt.embeddings
        patches = embeddings.patch_embeddings(pixel_values)
        mask = F.interpolate(pixel_mask[:, None].float(), patches.shape[-2:])[:, 0]
        positions = embeddings.position_embeddings[0]
        placed = patches.movedim(1, -1) + _resized(positions[1:].view(*self._grid, -1), mask)
        start = (embeddings.cls_token + positions[:1]).expand(len(patches), -1, -1)
        tokens = embeddings.dropout(torch.cat([start, placed.flatten(1, 2)], 1))
        return tokens, torch.cat([mask.new_ones(len(mask), 1), mask.flatten(1)], 1).long()

    @property
    def _grid(self) -> tuple[int, int]:
        """Give how many patches the network has positions for, down and across."""
        layer = self.vilt.embeddings.patch_embeddings
        down, across = (size // patch for size, patch in zip(layer.image_size, layer.patch_size, strict=True))
        return down, across


def _resized(grid: Tensor, mask: Tensor) -> Tensor:
    """Stretch a grid of positions (P, Q, width) over each row's own image: (batch, h, w, width); corners stay corners.

    The image's size in patches is that of the mask's first column and row, as in ViLT.
    """
    down, across = _weights(mask[:, :, 0], grid.shape[0]), _weights(mask[:, 0, :], grid.shape[1])
    return torch.einsum("nhp,nwq,pqc->nhwc", down.to(grid), across.to(grid), grid)


def _weights(mask: Tensor, num_positions: int) -> Tensor:
    """Give how much of each position each patch along one axis gets: linear interpolation, (batch, patch, position)."""
    size, patch = mask.sum(1)[:, None], torch.arange(mask.shape[1], device=mask.device)[None]
    place = patch * (num_positions - 1) / (size - 1).clamp(min=1)
    distance = place[..., None] - torch.arange(num_positions, device=mask.device)
    return (1 - distance.abs()).clamp(min=0)


def _classifier(config: ViltConfig, num_classes: int | None) -> nn.Sequential:
    assert num_classes is not None
    first, last = nn.Linear(config.hidden_size, config.hidden_size), nn.Linear(config.hidden_size, num_classes)
    for layer in (first, last):
        nn.init.normal_(layer.weight, std=config.initializer_range)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.LayerNorm(config.hidden_size), nn.GELU(), last)


# ---- checks


def _check_arguments(
    num_classes: int | None, folder: str | Path | None, head: str, config: Mapping[str, Any] | None
) -> None:
    if head not in ("checkpoint", "fresh"):
        raise FactoryError(f"vilt-classifier: expected head 'checkpoint' or 'fresh', but got {head!r}.")
    if folder is not None and config is not None:
        raise FactoryError("vilt-classifier: a folder has its own config.json; give folder or config, not both.")
    if num_classes is None and (folder is None or head == "fresh"):
        raise FactoryError("vilt-classifier: num_classes is needed where the classifier doesn't come from a folder.")


def _check_keeps_patches(config: ViltConfig) -> None:
    if config.max_image_length > 0:
        raise FactoryError(
            f"vilt-classifier: max_image_length is {config.max_image_length}, which draws patches at random; "
            "set it to -1 in config.json, as in the published weights, and all patches are kept."
        )


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise FactoryError(
            "vilt-classifier is built on transformers, which isn't installed: pip install subsense[transformers]"
        ) from error
    return transformers


# ---- from a config, from a folder


def _configure(values: Mapping[str, Any]) -> ViltConfig:
    default = _transformers().ViltConfig()
    for name in values:
        if name not in (known := default.to_dict()):
            raise FactoryError(f"vilt-classifier: ViltConfig has no value {name!r}.{closest(name, known)}")
    config: ViltConfig = type(default)(**values)
    return config


def _fresh_model(config: ViltConfig) -> ViltModel:
    """Make a network with weights drawn from torch's generator."""
    model: ViltModel = _transformers().ViltModel(config)
    for name in ("cls_token", "position_embeddings"):  # zeros in transformers, which tell no patch from another
        nn.init.trunc_normal_(getattr(model.embeddings, name), std=config.initializer_range)
    return model


def _read_config(folder: Path, num_classes: int | None) -> ViltConfig:
    for names in (("config.json",), WEIGHTS):
        if not any((folder / name).is_file() for name in names):
            raise FactoryError(
                f"vilt-classifier: expected the file {folder / names[0]}, but there is none. A pytorch_model.bin is a "
                f"pickle, which is not read: convert it with save_pretrained. {PUBLISHED}"
            )
    path = folder / "config.json"
    try:
        kind = json.loads(path.read_text("utf-8")).get("model_type")
        config: ViltConfig = _transformers().ViltConfig.from_pretrained(folder, local_files_only=True, num_images=1)
    except (OSError, ValueError, AttributeError) as error:
        raise FactoryError(f"vilt-classifier: {path} can't be read: {error}") from error
    if kind != "vilt":
        raise FactoryError(f"vilt-classifier: {path}: expected model_type 'vilt', but found {kind!r}.")
    if num_classes is not None:
        config.num_labels = num_classes
    return config


def _load(folder: Path, config: ViltConfig, head: str) -> tuple[ViltModel, nn.Sequential | None]:
    """Load the transformer, and the classifier where it is to come from the folder."""
    kind = _transformers().ViltModel if head == "fresh" else _transformers().ViltForImagesAndTextClassification
    options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    try:  # other sizes are let through to be named below
        network, found = kind.from_pretrained(folder, config=config, ignore_mismatched_sizes=True, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise FactoryError(f"vilt-classifier: {folder} can't be loaded: {error}") from error
    if lacking := sorted(found["missing_keys"]) + [str(one[0]) for one in sorted(found["mismatched_keys"])]:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        advice = " With head='fresh' the classifier starts anew." if "classifier" in lacking[0] else ""
        raise FactoryError(
            f"vilt-classifier: {folder} lacks weights of the network: {', '.join(lacking[:3])}{more}, or has them in "
            f"another size.{advice}"
        )
    return (network, None) if head == "fresh" else (network.vilt, network.classifier)
