"""Adapters of a user's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from subsense import SSF
from subsense.adapters import ByChannel
from subsense.adapters.base import Pair, Shapes
from subsense.adapters.layers.layer import Layer


@dataclass(frozen=True)
class GroupScale(ByChannel):
    """Scale groups of neighbouring channels, as docs/write-your-adapter.md does."""

    size: int = 2
    name: ClassVar[str] = "group-scale"

    def serves(self, layer: Layer, module: nn.Module) -> bool:
        return len(layer.features) == 1 and layer.channels % self.size == 0

    def parameters(self, layer: Layer) -> Shapes:
        return {"scale": (layer.channels // self.size,)}

    def pair(self, layer: Layer, row: Mapping[str, Tensor]) -> Pair:
        return 1 + row["scale"].repeat_interleave(self.size, -1), None


@dataclass(frozen=True)
class Halved(SSF):
    """SSF whose parameters count half."""

    name: ClassVar[str] = "halved"

    def pair(self, layer: Layer, row: Mapping[str, Tensor]) -> Pair:
        return super().pair(layer, {name: one / 2 for name, one in row.items()})
