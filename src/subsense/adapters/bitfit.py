"""BitFit: train the biases that the network has (arXiv 2106.10199)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from subsense.adapters.affine import affine
from subsense.adapters.base import Mix, Shapes, weighted_sum
from subsense.layers import Layer


@dataclass(frozen=True)
class BitFit:
    """BitFit: ``b' = b + bias`` wherever the layer has a bias; layers without one are no sites.

    >>> BitFit().name
    'bitfit'
    """

    name: ClassVar[str] = "bitfit"

    def serves(self, layer: Layer, module: nn.Module) -> bool:
        """Serve layers that have a bias."""
        return layer.bias is not None and layer.bias.parameter(module) is not None

    def parameters(self, layer: Layer) -> Shapes:
        """Name the bias's difference."""
        return {"bias": layer.features}

    def start(self, name: str, row: Tensor, generator: torch.Generator) -> None:
        """Start at zero: the identity."""

    def apply(
        self, layer: Layer, module: nn.Module, bank: Mapping[str, Tensor], mix: Mix, x: Tensor, y: Tensor
    ) -> Tensor:
        """Add the difference, which is what a layer with another bias gives."""
        return affine(x, y, None, mix.blend(bank["bias"], y, layer.axis), mix.recall)

    def merge(self, rows: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
        """Add up the bank rows."""
        return weighted_sum(rows, weights)

    def fold(
        self, layer: Layer, row: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Add the difference to the bias."""
        assert bias is not None
        return weight, bias + row["bias"]
