"""What a layer class that isn't torch's really computes: its output must follow weight and bias as its kind says.

A declaration is a claim about code that isn't ours, and so is a name. Folding relies on it (``W <- gamma W``,
``b <- gamma b + beta``): a claim that is off, of a norm that computes with ``1 + weight`` or has its activation inside,
would give wrong numbers without an error. So a copy of the layer is run on a few random numbers, with other weights and
biases.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from subsense.adapters.layers.layer import Layer
from subsense.errors import UnsupportedLayer
from subsense.support.torch_private import Convolution

SPATIAL = (7, 5, 6)
"""Sizes of further axes, told apart from each other; a layer that wants others is refused."""
OFFSETS = (0.0, 1.0)
LARGEST = 4096
"""Most numbers of a weight that is probed in float64; a larger one is probed as it is, in float32 at least."""
RANK = 2
NO_TENSOR = "no tensor"
"""How what is found ends of a module that gives something else, as routers do: that is no layer."""


def probe(layer: Layer, module: nn.Module) -> Layer | UnsupportedLayer:
    """Run a copy of a declared layer, and give the layer with what its weight is offset by, or what is wrong.

    Nothing of the module is changed; the caller's random state neither. A module on the meta device is taken as
    declared: it has no numbers yet, and `subsense.adapt` refuses it.
    """
    weight = layer.weight.parameter(module)
    if weight is None or weight.is_meta:
        return layer
    with _sandbox():
        found = _run(layer, _copy(layer, module, weight))
    if isinstance(found, float):
        return layer if found == 0.0 else replace(layer, offset=found)
    return UnsupportedLayer(
        f"{layer.path} ({layer.class_name}): declared as {layer.kind.name!r} with features on axis {layer.axis}, but "
        f"{found}; declare what it is, or exclude it"
    )


def examine(layer: Layer, module: nn.Module, flat: bool) -> float | str:
    """Run a copy of a module that has a weight on inputs of every rank that it takes.

    Args:
        layer: what it is taken for.
        module: the module; nothing of it is changed.
        flat: on rows of channels alone, where first and last axis are one, or on all inputs but those.

    Returns:
        What its weight is offset by, or what isn't as the layer says.
    """
    weight = layer.weight.parameter(module)
    assert weight is not None
    with _sandbox():
        own, found, why = _copy(layer, module, weight), list[float](), "it can't be run"
        for shape in _shapes(layer, own, weight):
            x, y = _first_output(layer, own, weight, shape)
            if isinstance(y, str):
                why = y
            elif (len(shape) == 2) == flat:
                one = _fault(layer, own, x, y)
                if isinstance(one, str):
                    return one
                found.append(one)
        return found[0] if len(set(found)) == 1 else why


@contextmanager
def _sandbox() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        yield


def _copy(layer: Layer, module: nn.Module, weight: Tensor) -> nn.Module:
    drawn = {  # of what is split between processes, no numbers are needed
        id(one): nn.Parameter(torch.ones(one.shape, dtype=one.dtype))
        for one in module.parameters()
        if hasattr(one, "full_tensor")
    }
    own: nn.Module = copy.deepcopy(module, drawn).eval()
    for one in own.modules():
        one._forward_hooks.clear()
        one._forward_pre_hooks.clear()
    if weight.is_meta:  # no numbers yet; any do
        own = own.to_empty(device="cpu")
        for tensor in (*own.parameters(), *own.buffers()):
            tensor.fill_(1)
    own = own.double() if weight.numel() <= LARGEST else own.float()
    if layer.bias and layer.bias.parameter(own) is None:  # folding a shift puts one there
        bias = next(own.parameters()).new_zeros(layer.features)
        setattr(layer.bias.owner(own), layer.bias.name, nn.Parameter(bias))
    return own


def _run(layer: Layer, module: nn.Module) -> float | str:
    weight = layer.weight.parameter(module)
    assert weight is not None
    why = "it can't be run"
    for shape in _shapes(layer, module, weight):
        x, y = _first_output(layer, module, weight, shape)
        if not isinstance(y, str):
            return _fault(layer, module, x, y)
        why = y
    return why


def _first_output(
    layer: Layer, module: nn.Module, weight: Tensor, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor | str]:
    """Draw an input, and give what the layer makes of it, or why it makes nothing."""
    own = layer.weight.parameter(module)
    x = torch.randn(shape, dtype=torch.float64).to(weight if own is None else own)
    try:
        y = _call(layer, module, _parameters(layer, module), x)
    except Exception as error:
        return x, f"it can't be run on one tensor of numbers ({type(error).__name__}: {error})"
    return x, y if isinstance(y, Tensor) else f"it gives {type(y).__name__}, {NO_TENSOR}"


def _call(layer: Layer, module: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Any:
    """Give a layer's output: what it gives, or what it gives to that module inside it."""
    if not layer.seen:
        return functional_call(module, parameters, (x,))
    seen: list[Any] = []
    inside = module.get_submodule(layer.seen)
    handle = inside.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone() if len(args) == 1 else None))
    try:
        functional_call(module, parameters, (x,))
    finally:
        handle.remove()
    return seen[0] if len(seen) == 1 else None


def _shapes(layer: Layer, module: nn.Module, weight: Tensor) -> Iterator[tuple[int, ...]]:
    """Give shapes of an input that such a layer may take, the likeliest first."""
    if isinstance(module, Convolution):
        spans = (
            int(step) * (int(size) - 1) + 1 for size, step in zip(module.kernel_size, module.dilation, strict=True)
        )
        sizes = [max(least, span + 2) for least, span in zip(SPATIAL, spans, strict=False)]
        yield (3, module.in_channels, *sizes)
        return
    inputs, last = (weight.shape[1 - layer.out_axis] if layer.kind.product else layer.channels), layer.axis < 0
    for count in (1, 0, 2) if last else (2, 1, 3, 0):
        yield (3, *SPATIAL[:count], inputs) if last else (3, inputs, *SPATIAL[:count])


def _parameters(layer: Layer, module: nn.Module) -> dict[str, Tensor]:
    """Draw a weight and a bias, so that the layer's own, at which much looks alike, decide nothing."""
    slots = [layer.weight, *([layer.bias] if layer.bias else [])]
    own = {slot.name: slot.parameter(module) for slot in slots}
    return {name: 0.5 + torch.rand_like(tensor) for name, tensor in own.items() if tensor is not None}


@dataclass(frozen=True)
class _Trial:
    """Hold one layer, one input, and one draw of its parameters."""

    layer: Layer
    module: nn.Module
    x: Tensor
    axis: int
    one: dict[str, Tensor]
    tolerance: float

    def run(self, **other: Tensor) -> Tensor:
        """Give the output (..., channels) with these parameters in the place of the drawn ones."""
        result: Tensor = _call(self.layer, self.module, {**self.one, **other}, self.x).movedim(self.axis, -1)
        return result

    def same(self, found: Tensor, expected: Tensor) -> bool:
        """Say whether two tensors are one, but for rounding."""
        if found.shape != expected.shape:
            return False
        return bool((found - expected).abs().max() <= self.tolerance * expected.abs().max().clamp(min=1.0))


def _fault(layer: Layer, module: nn.Module, x: Tensor, y: Tensor) -> float | str:
    """Give the weight's offset, or say what doesn't follow."""
    axis = layer.axis if layer.axis >= 0 else y.dim() + layer.axis
    if not 0 <= axis < y.dim() or y.shape[axis] != layer.channels:
        return f"its output {tuple(y.shape)} has no {layer.channels} channels there"
    one, two = _parameters(layer, module), _parameters(layer, module)
    # some compute in float32 whatever they are given, and some draw their own numbers
    trial = _Trial(layer, module, x, axis, one, max(1e-5, 8 * torch.finfo(x.dtype).eps))
    base, weight = trial.run(), layer.weight.name
    if not torch.equal(base, trial.run()):
        return "it gives other numbers for the same input"
    bias = layer.bias.name if layer.bias and layer.bias.name in one else None
    if bias and not trial.same(trial.run(**{bias: two[bias]}), base + two[bias] - one[bias]):
        return f"its output isn't moved by its {bias!r}, channel by channel (an activation inside, or another axis)"
    plain = base - one[bias] if bias else base
    scale = one[weight].new_ones(layer.channels).uniform_(0.5, 2.0)
    scale[::2].neg_()  # an activation that lets positive factors through is one, too
    fault = _fault_of_product(trial, plain, base)
    if fault:
        return fault
    for offset in OFFSETS:
        scaled = layer.kind.scale(layer, one[weight] + offset, scale) - offset
        expected = plain * scale + one[bias] if bias else plain * scale
        if trial.same(trial.run(**{weight: scaled}), expected):
            return offset
    return f"its output isn't scaled as its {weight!r} is, channel by channel (an activation inside, or another axis)"


class _Ungated:
    """Weigh the middle of a low-rank path with 1."""

    def gates(self, like: Tensor, axis: int, rank: int, repeats: int = 1) -> Tensor:
        """Give 1."""
        return like.new_ones(())


def _fault_of_product(trial: _Trial, plain: Tensor, base: Tensor) -> str | None:
    """Say where a layer that multiplies by a matrix doesn't: another product, or no place for a low-rank difference."""
    layer, product = trial.layer, trial.layer.kind.product
    if product is None:
        return None
    weight = trial.one[layer.weight.name]
    if layer.kind.weight_axes and not trial.same(plain, _multiplied(layer, trial.x.movedim(trial.axis, -1), weight)):
        return f"its output isn't its input times its {layer.weight.name!r}, plus its bias"
    down, up = (torch.randn(shape, dtype=trial.x.dtype).to(weight) for shape in product.shapes(layer, RANK))
    fault = f"its output isn't linear in its {layer.weight.name!r}"
    moved = trial.run(**{layer.weight.name: weight + product.difference(layer, down, up)}) - base
    try:
        path = product.path(
            layer, trial.module, down[None], up[None], _Ungated(), trial.x, base.movedim(-1, trial.axis)
        )
    except Exception:  # it does more with the weight's shape than multiply
        return fault
    return None if trial.same(path.movedim(trial.axis, -1), moved) else fault


def _multiplied(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    return x @ (weight if layer.out_axis else weight.T)
