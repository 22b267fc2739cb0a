"""Read SegFormer's MiT encoders, trained on ImageNet, as their authors and as transformers name the weights.

Original: https://github.com/NVlabs/SegFormer (``mit_b0.pth`` to ``mit_b5.pth``) and https://huggingface.co/nvidia
(``nvidia/mit-b0`` to ``-b5``), under NVIDIA's Source Code License for SegFormer: research and evaluation only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from subsense.zoo.weights import check_fit, read_weights

ENCODER = re.compile(r"(patch_embed|block|norm)\d\.")
HEADS = ("head.", "classifier.", "decode_head.")
"""Starts of names that belong to a classifier or a head, and are left out."""

STAGED = {"patch_embeddings": "patch_embed", "block": "block", "layer_norm": "norm"}
PARTS = {
    "layer_norm_1": "norm1",
    "layer_norm_2": "norm2",
    "attention.self.query": "attn.q",
    "attention.self.key": "attn.kv",
    "attention.self.sr": "attn.sr",
    "attention.self.layer_norm": "attn.norm",
    ".layer_norm": ".norm",
    "attention.output.dense": "attn.proj",
    "mlp.dense1": "mlp.fc1",
    "mlp.dense2": "mlp.fc2",
}
"""What transformers calls a stage's part, and a block's -> what the authors call it."""


def load_mit(encoders: nn.Module, path: str | Path) -> None:
    """Load an MiT encoder's weights into the colour encoder of CMNeXt, as its authors do; all else stays as drawn.

    The second encoder has blocks of another kind, so it takes none of them.

    Args:
        encoders: CMNeXt's `backbone`; untouched where anything doesn't fit.
        path: a file that `subsense.zoo.weights.read_weights` reads, of an encoder of the same variant; a classifier
            or a head in it is left out.

    Raises:
        MissingFile, DamagedFile: no such file, or none that can be read.
        ForeignTensor: names the first tensors that are lacking, don't belong, or have another shape.
    """
    weights = published_names(read_weights(path)[0])
    own = {name: tensor for name, tensor in encoders.state_dict().items() if ENCODER.match(name)}
    check_fit(weights, own, path, "the colour encoder")
    encoders.load_state_dict(weights, strict=False)


def published_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name an encoder's weights as its authors do, without those of a head.

    >>> list(published_names({"segformer.encoder.layer_norm.0.bias": torch.zeros(32)}))
    ['norm1.bias']
    """
    plain = {re.sub(r"^(backbone|segformer)\.", "", name): tensor for name, tensor in weights.items()}
    kept = {name: tensor for name, tensor in plain.items() if not name.startswith(HEADS)}
    if any(name.startswith("encoder.") for name in kept):
        kept = _from_transformers({name.removeprefix("encoder."): tensor for name, tensor in kept.items()})
    return kept


def _from_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename, and make one layer of key and value; where the value is lacking, the shape will tell."""
    named = {}
    for name, tensor in weights.items():
        value = weights.get(name.replace(".self.key.", ".self.value."), tensor[:0])
        if ".self.value." not in name:
            named[_renamed(name)] = torch.cat([tensor, value]) if ".self.key." in name else tensor
    return named


def _renamed(name: str) -> str:
    """Translate a name; transformers counts the stages from 0, the authors from 1."""
    stage = re.match(rf"({'|'.join(STAGED)})\.(\d)", name)
    if stage:
        name = f"{STAGED[stage[1]]}{int(stage[2]) + 1}{name[stage.end() :]}"
    for theirs, authors in PARTS.items():
        name = name.replace(theirs, authors)
    return name
