"""Take adapter sets into a weight and bias: what `fold` writes down, and layers do that are adapted as a whole."""

from __future__ import annotations

import torch
from torch import Tensor

from subsense.adapters.base import Sets
from subsense.adapters.layers.layer import Layer


def fold_sets(layer: Layer, sets: Sets, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Give the weight and bias of a layer that does what it and these sets do, in turn; differentiable.

    Args:
        layer: the layer.
        sets: each adapter with its set.
        weight, bias: as they act, an offset included; None: the layer has no bias.

    Returns:
        Both in float32 at least.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    result: tuple[Tensor, Tensor | None] = weight.to(wide), None if bias is None else bias.to(wide)
    for adapter, row in sets:
        result = adapter.fold(layer, {name: value.to(result[0]) for name, value in row.items()}, *result)
    return result
