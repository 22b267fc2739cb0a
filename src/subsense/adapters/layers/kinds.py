"""The kinds of layers: an entry says all that methods and fast paths ask of a kind, so a new one is one more entry."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from subsense.adapters.layers.layer import Kind, Layer
from subsense.adapters.products import Convolution, Experts, Multiplication, Transposed


def _scale_axis(layer: Layer, weight: Tensor, scale: Tensor) -> Tensor:
    shape = [1] * weight.dim()
    shape[layer.out_axis] = -1
    return weight * scale.view(shape)


def _scale_groups(layer: Layer, weight: Tensor, scale: Tensor) -> Tensor:
    """Scale a weight (input, output of a group, ...), as transposed convolutions have it."""
    grouped: Tensor = weight.unflatten(0, (layer.groups, -1))
    factor = scale.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
    return (grouped * factor).flatten(0, 1)


def _scale_all(layer: Layer, weight: Tensor, scale: Tensor) -> Tensor:
    return weight * scale


def _scale_experts(layer: Layer, weight: Tensor, scale: Tensor) -> Tensor:
    return weight * scale.unsqueeze(3 - layer.out_axis)


LINEAR = Kind("linear", _scale_axis, Multiplication(), weight_axes=2)
CONV = Kind("conv", _scale_axis, Convolution())
TRANSPOSED = Kind("transposed", _scale_groups, Transposed())
NORM = Kind("norm", _scale_all, weight_axes=1, keeps_input=True)
GAIN = Kind("gain", _scale_axis)
"""Of a layer whose weight is standardised before it multiplies: a gain for each output channel scales it."""
EXPERTS = Kind("experts", _scale_experts, Experts())
"""Of linear layers packed into one weight (expert, ...)."""
TABLE = Kind("table", _scale_all)
"""Of embeddings, whose entries are the outputs."""

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (LINEAR, CONV, TRANSPOSED, NORM, GAIN, EXPERTS, TABLE)}
