"""Know a layer by what it computes: of a class that isn't torch's, and that nobody has declared.

Names say little: libraries have their own RMSNorm, LayerNorm over channels of a map, or a linear layer whose weight is
turned round. So a layer that holds one weight and at most one bias is taken for each kind that its shapes allow, and
`subsense.adapters.layers.probe` says whether it is one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from torch import nn

from subsense.adapters.layers.kinds import CONV, GAIN, LINEAR, NORM
from subsense.adapters.layers.layer import Layer, Slot
from subsense.adapters.layers.probe import examine
from subsense.support.torch_private import own_attributes

Known = dict[Hashable, Layer | str]
"""What was found of a module, by everything that it consists of but its numbers."""


def recognise(path: str, module: nn.Module, like: Layer | None, known: Known) -> Layer | str:
    """Give the layer that a module computes, or why it is none.

    Args:
        path: where it is.
        module: the module; nothing of it is changed.
        like: what it would be if it computed what the class of torch's does from which it is derived; None: no such.
        known: what was found of others in this network; it grows.

    >>> class Turned(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = nn.Parameter(torch.ones(3, 5))
    ...     def forward(self, x):
    ...         return x @ self.weight
    >>> import torch
    >>> layer = recognise("head", Turned(), None, {})
    >>> layer.kind.name, layer.out_axis, layer.features
    ('linear', 1, (5,))
    """
    key = _signature(module)
    if key is None:
        return _find(path, module, like)
    if key not in known:
        known[key] = _find(path, module, like)
    found = known[key]
    return replace(found, path=path) if isinstance(found, Layer) else found


def _find(path: str, module: nn.Module, like: Layer | None) -> Layer | str:
    why = "it holds no weight that scales its output"
    for flat, candidate in product((False, True), _candidates(path, module, like)):
        if candidate.weight.parameter(module) is None:
            continue
        found = examine(candidate, module, flat)
        if isinstance(found, float):
            return replace(candidate, offset=found)
        why = why if why.startswith("its ") else found
    return why


def _candidates(path: str, module: nn.Module, like: Layer | None) -> Iterator[Layer]:
    """Give what a module may be, the likeliest first; with a place for a bias before those without."""
    for one in _own_kinds(path, module) if like is None else _like_kinds(module, like):
        yield one
        if one.bias and one.bias.parameter(module) is None:
            yield replace(one, bias=None)


def _own_kinds(path: str, module: nn.Module) -> Iterator[Layer]:
    shape = tuple(module.get_parameter("weight").shape)
    name = type(module).__name__
    for axis, out_axis in ((-1, 0), (1, 0)) if len(shape) == 1 else ((-1, 0), (-1, 1)):
        features = (shape[out_axis],)
        bias = Slot("bias", features) if "bias" in module._parameters else None
        kind = NORM if len(shape) == 1 else LINEAR
        weight = Slot("weight", shape)
        yield Layer(path, kind, name, features, axis, weight, bias, out_axis=out_axis, declared=True, found=True)


def _like_kinds(module: nn.Module, like: Layer) -> Iterator[Layer]:
    plain = replace(like, run=None, declared=True, found=True)
    layers = [plain]
    if like.kind == NORM and len(like.features) == 1:
        layers.append(replace(plain, axis=1 if like.axis < 0 else -1))
    yield from layers
    for inside in (name for name, _ in module.named_children()):
        yield from (replace(layer, seen=inside) for layer in layers)
    if like.kind == CONV:
        yield from _gains(module, plain)


def _gains(module: nn.Module, plain: Layer) -> Iterator[Layer]:
    """Take each parameter of one number for each channel for what scales the output."""
    taken = {plain.weight.name, plain.bias.name if plain.bias else ""}
    for name, parameter in module._parameters.items():
        if parameter is not None and name not in taken and parameter.numel() == plain.channels:
            shape = tuple(parameter.shape)
            slot, axis = Slot(name, shape), shape.index(plain.channels)
            yield replace(plain, kind=GAIN, weight=slot, out_axis=axis, computed=(plain.weight.name,))


_SIMPLE = (bool, int, float, str, type(None))


def _signature(module: nn.Module) -> Hashable | None:
    """Give all that a module consists of but its numbers; None where that isn't plain."""
    own = own_attributes(module)
    if not all(_is_plain(value) for value in own.values()):
        return None
    tensors = (*module._parameters.items(), *module._buffers.items())
    shapes = tuple((name, None if one is None else (tuple(one.shape), one.dtype)) for name, one in tensors)
    children = tuple((name, _signature(child)) for name, child in module.named_children())
    if any(signature is None for _, signature in children):
        return None
    return type(module), shapes, tuple(sorted(own.items(), key=lambda item: item[0])), children


def _is_plain(value: Any) -> bool:
    return isinstance(value, _SIMPLE) or (isinstance(value, tuple) and all(map(_is_plain, value)))
