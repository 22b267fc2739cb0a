"""SSF: scale and shift every layer's output by channel (arXiv 2210.08823; arXiv 2310.03986, section III)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from subsense.adapters.base import Pair, Shapes
from subsense.adapters.channels import ByChannel
from subsense.adapters.layers.layer import Layer


@dataclass(frozen=True)
class SSF(ByChannel):
    """Scale and shift: ``h' = (1 + scale) * h + shift``, a pair for each output channel.

    At a layer whose class has no place for a bias (`RMSNorm`) only the scale acts, since a shift could not be folded
    into it; the plan shows that.

    >>> SSF().name
    'ssf'
    """

    name: ClassVar[str] = "ssf"
    scaled: ClassVar[str | None] = "scale"
    added: ClassVar[str | None] = "shift"

    def serves(self, layer: Layer, module: nn.Module) -> bool:
        """Serve every kind of layer."""
        return True

    def parameters(self, layer: Layer) -> Shapes:
        """Name a scale, and a shift where the layer can hold one."""
        return {"scale": layer.features} | ({"shift": layer.features} if layer.bias else {})

    def pair(self, layer: Layer, row: Mapping[str, Tensor]) -> Pair:
        """Scale and shift."""
        return 1 + row["scale"], row.get("shift")
