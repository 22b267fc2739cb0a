"""Scale only: one half of SSF (arXiv 2310.03986, ablation)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from subsense.adapters.base import Pair, Shapes
from subsense.adapters.channels import ByChannel
from subsense.adapters.layers.layer import Layer


@dataclass(frozen=True)
class Scale(ByChannel):
    """Scale: ``h' = (1 + scale) * h``, a number for each output channel.

    >>> Scale().name
    'scale'
    """

    name: ClassVar[str] = "scale"
    scaled: ClassVar[str | None] = "scale"

    def serves(self, layer: Layer, module: nn.Module) -> bool:
        """Serve every kind of layer."""
        return True

    def parameters(self, layer: Layer) -> Shapes:
        """Name a scale."""
        return {"scale": layer.features}

    def pair(self, layer: Layer, row: Mapping[str, Tensor]) -> Pair:
        """Scale."""
        return 1 + row["scale"], None
