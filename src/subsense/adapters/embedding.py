"""Embedding: shift what embedding tables give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from subsense.adapters.base import Pair, Shapes
from subsense.adapters.channels import ByChannel
from subsense.adapters.layers.kinds import TABLE
from subsense.adapters.layers.layer import Layer


@dataclass(frozen=True)
class Embedding(ByChannel):
    """Embedding: ``e' = e + shift`` behind each `nn.Embedding`, the padding's entry too; folded into every entry.

    Tables that others share (a tied head) and those that rescale their entries (`max_norm`) are no sites. A table of
    positions has no rows of the batch: where one is adapted, batches whose rows differ run in groups, so name those
    that you want: ``include=["*word*", ...]``, or exclude the others.

    >>> Embedding().name
    'embedding'
    """

    name: ClassVar[str] = "embedding"
    added: ClassVar[str | None] = "shift"

    def serves(self, layer: Layer, module: nn.Module) -> bool:
        """Serve embedding tables."""
        return layer.kind == TABLE

    def parameters(self, layer: Layer) -> Shapes:
        """Name a shift."""
        return {"shift": layer.features}

    def pair(self, layer: Layer, row: Mapping[str, Tensor]) -> Pair:
        """Shift."""
        return None, row["shift"]

    def fold(
        self, layer: Layer, row: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Shift every entry."""
        return weight + row["shift"], bias
