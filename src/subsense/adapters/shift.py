"""Shift only: the other half of SSF (arXiv 2310.03986, ablation)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from subsense.adapters.affine import affine
from subsense.adapters.base import Mix, Shapes, weighted_sum
from subsense.errors import UnsupportedLayer
from subsense.layers import Layer


@dataclass(frozen=True)
class Shift:
    """Shift: ``h' = h + shift``, a number for each output channel, whether the layer has a bias or not.

    >>> Shift().name
    'shift'
    """

    name: ClassVar[str] = "shift"

    def serves(self, layer: Layer, module: nn.Module) -> bool:
        """Serve every kind of layer."""
        return True

    def parameters(self, layer: Layer) -> Shapes:
        """Name a shift; raise `UnsupportedLayer` where the layer's class has no place for a bias."""
        if layer.bias is None:
            raise UnsupportedLayer(
                f"{layer.key} ({layer.class_name}): 'shift' can't serve it, since the class has no bias "
                f"to fold a shift into; exclude=[{layer.path!r}], or choose method='scale' or 'ssf'"
            )
        return {"shift": layer.features}

    def start(self, name: str, row: Tensor, generator: torch.Generator) -> None:
        """Start at zero: the identity."""

    def apply(
        self, layer: Layer, module: nn.Module, bank: Mapping[str, Tensor], mix: Mix, x: Tensor, y: Tensor
    ) -> Tensor:
        """Shift the output."""
        return affine(x, y, None, mix.blend(bank["shift"], y, layer.axis), mix.recall)

    def merge(self, rows: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
        """Add up the bank rows."""
        return weighted_sum(rows, weights)

    def fold(
        self, layer: Layer, row: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Add the shift to the bias."""
        return weight, row["shift"] if bias is None else bias + row["shift"]
