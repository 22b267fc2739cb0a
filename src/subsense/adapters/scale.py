"""Scale only: one half of SSF (arXiv 2310.03986, ablation)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from subsense.adapters.affine import affine
from subsense.adapters.base import Mix, Shapes, scale_outputs, weighted_sum
from subsense.layers import Layer


@dataclass(frozen=True)
class Scale:
    """Scale: ``h' = (1 + scale) * h``, a number for each output channel.

    >>> Scale().name
    'scale'
    """

    name: ClassVar[str] = "scale"

    def serves(self, layer: Layer, module: nn.Module) -> bool:
        """Serve every kind of layer."""
        return True

    def parameters(self, layer: Layer) -> Shapes:
        """Name a scale."""
        return {"scale": layer.features}

    def start(self, name: str, row: Tensor, generator: torch.Generator) -> None:
        """Start at zero: the identity."""

    def apply(
        self, layer: Layer, module: nn.Module, bank: Mapping[str, Tensor], mix: Mix, x: Tensor, y: Tensor
    ) -> Tensor:
        """Scale the output."""
        return affine(x, y, 1 + mix.blend(bank["scale"], y, layer.axis), None, mix.recall)

    def merge(self, rows: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
        """Add up the bank rows."""
        return weighted_sum(rows, weights)

    def fold(
        self, layer: Layer, row: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Scale weight and bias."""
        scale = 1 + row["scale"]
        return scale_outputs(layer, weight, scale), None if bias is None else bias * scale
