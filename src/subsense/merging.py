"""Merge what follows each other in the graph of a network that no longer learns; up to rounding nothing changes.

A convolution and the batch normalisation after it are one affine map, so they are one convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
_CONVOLUTIONS = (
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.conv3d.default,
    aten.conv3d.padding,
)


def merge(module: fx.GraphModule) -> fx.GraphModule:
    """Merge convolutions with batch normalisations, in a graph without writes."""
    for node in list(module.graph.nodes):
        if node.target is aten._native_batch_norm_legit_no_training.default:
            _merge_norm(module, node, node.args[0])
    module.graph.eliminate_dead_code()
    return fx.GraphModule(module, module.graph)


def _merge_norm(module: fx.GraphModule, norm: fx.Node, convolution: fx.Node) -> None:
    """Let a convolution normalise, too, where nothing else reads what it gives and all parameters are at hand."""
    outputs = [user for user in norm.users if user.users]
    if convolution.target not in _CONVOLUTIONS or len(convolution.users) > 1 or any(one.args[1] for one in outputs):
        return
    given = [*convolution.args[1:3], None][:2] + list(norm.args[1:5])  # weight, bias; scale, shift, mean, variance
    values = [_constant(module, one) for one in given]
    if any((value is None) != (one is None) for value, one in zip(values, given, strict=True)):
        return
    owner = str(convolution.all_input_nodes[1].target).rpartition(".")[0]
    names = [f"{convolution.name}_{part}" for part in ("weight", "bias")]
    for name, value in zip(names, _affine(values, norm.args[-1]), strict=True):
        module.get_submodule(owner).register_buffer(name, value)
    with module.graph.inserting_before(convolution):
        merged = [module.graph.get_attr(f"{owner}.{name}".lstrip(".")) for name in names]
    convolution.args = (convolution.args[0], *merged, *convolution.args[3:])
    for output in outputs:
        output.replace_all_uses_with(convolution)


def _affine(values: list[Tensor | None], eps: Any) -> tuple[Tensor, Tensor]:
    """Give weight and bias of a convolution that normalises, too; computed in float64."""
    weight, *rest = values
    assert weight is not None
    bias, scale, shift, mean, variance = (None if one is None else one.double() for one in rest)
    assert mean is not None
    assert variance is not None
    scale = (torch.ones_like(mean) if scale is None else scale) * (variance + eps).rsqrt()
    offset = ((0.0 if bias is None else bias) - mean) * scale + (0.0 if shift is None else shift)
    return (weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype), offset.to(weight.dtype)


def _constant(module: fx.GraphModule, node: Any) -> Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    owner, _, name = str(node.target).rpartition(".")
    value = getattr(module.get_submodule(owner), name)
    return value.detach() if isinstance(value, Tensor) else None
