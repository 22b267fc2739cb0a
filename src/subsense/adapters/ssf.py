"""SSF: scale and shift every layer's output by channel (arXiv 2210.08823; arXiv 2310.03986, section III)."""

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
class SSF:
    """Scale and shift: ``h' = (1 + scale) * h + shift``, a pair for each output channel.

    At a layer whose class has no place for a bias (`RMSNorm`) only the scale acts, since a shift could not be folded
    into it; the plan shows that.

    >>> SSF().name
    'ssf'
    """

    name: ClassVar[str] = "ssf"

    def serves(self, layer: Layer, module: nn.Module) -> bool:
        """Serve every kind of layer."""
        return True

    def parameters(self, layer: Layer) -> Shapes:
        """Name a scale, and a shift where the layer can hold one."""
        return {"scale": layer.features} | ({"shift": layer.features} if layer.bias else {})

    def start(self, name: str, row: Tensor, generator: torch.Generator) -> None:
        """Start at zero: the identity."""

    def apply(
        self, layer: Layer, module: nn.Module, bank: Mapping[str, Tensor], mix: Mix, x: Tensor, y: Tensor
    ) -> Tensor:
        """Scale and shift the output."""
        shift = mix.blend(bank["shift"], y, layer.axis) if "shift" in bank else None
        return affine(x, y, 1 + mix.blend(bank["scale"], y, layer.axis), shift, mix.recall)

    def merge(self, rows: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
        """Add up the bank rows."""
        return weighted_sum(rows, weights)

    def fold(
        self, layer: Layer, row: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Scale weight and bias, then add the shift."""
        scale = 1 + row["scale"]
        scaled = bias * scale if bias is not None else None
        if "shift" in row:
            scaled = row["shift"] if scaled is None else scaled + row["shift"]
        return scale_outputs(layer, weight, scale), scaled
