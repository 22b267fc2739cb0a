"""What a declared layer class really computes: its output must follow weight and bias as its kind says.

A declaration is a claim about code that isn't ours. Folding relies on it (``W <- gamma W``, ``b <- gamma b + beta``):
a claim that is off, of a norm that computes with ``1 + weight`` or has its activation inside, would give wrong numbers
without an error. So a copy of the layer is run on a few random numbers, with other weights and biases.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from subsense.adapters.layers.layer import Layer
from subsense.errors import UnsupportedLayer

SPATIAL = (7, 5, 6)
"""Sizes of further axes, told apart from each other; a layer that wants others is refused."""
OFFSETS = (0.0, 1.0)
LARGEST = 4096
"""Most numbers of a weight that is probed in float64; a larger one is probed as it is."""


def probe(layer: Layer, module: nn.Module) -> Layer | UnsupportedLayer:
    """Run a copy of a declared layer, and give the layer with what its weight is offset by, or what is wrong.

    Nothing of the module is changed; the caller's random state neither. A module on the meta device is taken as
    declared: it has no numbers yet, and `subsense.adapt` refuses it.
    """
    weight = layer.weight.parameter(module)
    if weight is None or weight.is_meta:
        return layer
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        found = _run(layer, _copy(module, weight))
    if isinstance(found, float):
        return layer if found == 0.0 else replace(layer, offset=found)
    return UnsupportedLayer(
        f"{layer.path} ({layer.class_name}): declared as {layer.kind.name!r} with features on axis {layer.axis}, but "
        f"{found}; declare what it is, or exclude it"
    )


def _copy(module: nn.Module, weight: Tensor) -> nn.Module:
    own: nn.Module = copy.deepcopy(module).eval()
    own._forward_hooks.clear()
    own._forward_pre_hooks.clear()
    return own.double() if weight.numel() <= LARGEST else own


def _run(layer: Layer, module: nn.Module) -> float | str:
    weight = layer.weight.parameter(module)
    assert weight is not None
    why = "it can't be run"
    for shape in _shapes(layer, weight):
        x = torch.randn(shape, dtype=torch.float64).to(weight)
        try:
            y = functional_call(module, _parameters(layer, module), (x,))
        except Exception as error:
            why = f"it can't be run on one tensor of numbers ({type(error).__name__}: {error})"
            continue
        if not isinstance(y, Tensor):
            why = f"it gives {type(y).__name__}, no tensor"
            continue
        return _fault(layer, module, x, y)
    return why


def _shapes(layer: Layer, weight: Tensor) -> Iterator[tuple[int, ...]]:
    """Give shapes of an input that such a layer may take, the likeliest first."""
    inputs, last = (weight.shape[1 - layer.out_axis] if layer.kind.product else layer.channels), layer.axis < 0
    for count in (1, 0, 2) if last else (2, 1, 3, 0):
        yield (3, *SPATIAL[:count], inputs) if last else (3, inputs, *SPATIAL[:count])


def _parameters(layer: Layer, module: nn.Module) -> dict[str, Tensor]:
    """Draw a weight and a bias, so that the layer's own, at which much looks alike, decide nothing."""
    slots = [layer.weight, *([layer.bias] if layer.bias else [])]
    own = {slot.name: slot.parameter(module) for slot in slots}
    return {name: 0.5 + torch.rand_like(tensor) for name, tensor in own.items() if tensor is not None}


def _fault(layer: Layer, module: nn.Module, x: Tensor, y: Tensor) -> float | str:
    """Give the weight's offset, or say what doesn't follow."""
    axis = layer.axis if layer.axis >= 0 else y.dim() + layer.axis
    if axis >= y.dim() or y.shape[axis] != layer.channels:
        return f"its output {tuple(y.shape)} has no {layer.channels} channels there"
    one, two = _parameters(layer, module), _parameters(layer, module)
    tolerance = max(1e-5, 8 * torch.finfo(x.dtype).eps)  # some compute in float32 whatever they are given

    def run(**other: Tensor) -> Tensor:
        result: Tensor = functional_call(module, {**one, **other}, (x,)).movedim(axis, -1)
        return result

    def same(found: Tensor, expected: Tensor) -> bool:
        return bool((found - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1.0))

    base, weight = run(), layer.weight.name
    if not torch.equal(base, run()):
        return "it gives other numbers for the same input"
    bias = layer.bias.name if layer.bias and layer.bias.name in one else None
    if bias and not same(run(**{bias: two[bias]}), base + two[bias] - one[bias]):
        return f"its output isn't moved by its {bias!r}, channel by channel (an activation inside, or another axis)"
    plain = base - one[bias] if bias else base
    scale = one[weight].new_ones(layer.channels).uniform_(0.5, 2.0)
    scale[::2].neg_()  # an activation that lets positive factors through is one, too
    if layer.kind.product and not same(plain, _multiplied(layer, x.movedim(axis, -1), one[weight])):
        return f"its output isn't its input times its {weight!r}, plus its bias"
    for offset in OFFSETS:
        scaled = layer.kind.scale(layer, one[weight] + offset, scale) - offset
        expected = plain * scale + one[bias] if bias else plain * scale
        if same(run(**{weight: scaled}), expected):
            return offset
    return f"its output isn't scaled as its {weight!r} is, channel by channel (an activation inside, or another axis)"


def _multiplied(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    return x @ (weight if layer.out_axis else weight.T)
