"""BitFit: train the biases that the network has (arXiv 2106.10199)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from subsense.adapters.base import Pair, Shapes
from subsense.adapters.channels import ByChannel
from subsense.adapters.layers.layer import Layer


@dataclass(frozen=True)
class BitFit(ByChannel):
    """BitFit: ``b' = b + bias`` wherever the layer has a bias; layers without one are no sites.

    >>> BitFit().name
    'bitfit'
    """

    name: ClassVar[str] = "bitfit"
    added: ClassVar[str | None] = "bias"

    def serves(self, layer: Layer, module: nn.Module) -> bool:
        """Serve layers that have a bias."""
        return layer.bias is not None and layer.bias.read(module) is not None

    def parameters(self, layer: Layer) -> Shapes:
        """Name the bias's difference."""
        return {"bias": layer.features}

    def pair(self, layer: Layer, row: Mapping[str, Tensor]) -> Pair:
        """Add the difference, which is what a layer with another bias gives."""
        return None, row["bias"]
