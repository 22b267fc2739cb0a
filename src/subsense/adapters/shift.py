"""Shift only: the other half of SSF (arXiv 2310.03986, ablation)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from subsense.adapters.base import Pair, Shapes
from subsense.adapters.channels import ByChannel
from subsense.adapters.layers.layer import Layer
from subsense.errors import UnsupportedLayer


@dataclass(frozen=True)
class Shift(ByChannel):
    """Shift: ``h' = h + shift``, a number for each output channel, whether the layer has a bias or not.

    >>> Shift().name
    'shift'
    """

    name: ClassVar[str] = "shift"
    added: ClassVar[str | None] = "shift"

    def serves(self, layer: Layer, module: nn.Module) -> bool:
        """Serve every kind of layer; of those that nobody declared, where the class has a place for a bias."""
        return layer.bias is not None or not layer.found

    def parameters(self, layer: Layer) -> Shapes:
        """Name a shift; raise `UnsupportedLayer` where the layer's class has no place for a bias."""
        if layer.bias is None:
            raise UnsupportedLayer(
                f"{layer.key} ({layer.class_name}): 'shift' can't serve it, since the class has no bias "
                f"to fold a shift into; exclude=[{layer.path!r}], or choose method='scale' or 'ssf'"
            )
        return {"shift": layer.features}

    def pair(self, layer: Layer, row: Mapping[str, Tensor]) -> Pair:
        """Shift."""
        return None, row["shift"]
