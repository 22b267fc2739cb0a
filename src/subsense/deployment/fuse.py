"""Merge what follows each other in the graph of a network that no longer learns; up to rounding nothing changes.

A convolution and the batch normalisation after it are one affine map, so they are one convolution. Of what a linear
layer reads beside each other, a constant row belongs to its bias.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from subsense.deployment.torch_private import BATCH_NORM

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
    """Merge convolutions with batch normalisations and linear layers with constants, in a graph without writes."""
    for node in list(module.graph.nodes):
        if node.target is BATCH_NORM:
            _merge_norm(module, node, node.args[0])
        elif node.target is aten.linear.default:
            _merge_constants(module, node, node.args[0])
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
    merged = _hold(module, owner, convolution, *_affine(values, norm.args[-1]))
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


def _merge_constants(module: fx.GraphModule, linear: fx.Node, joined: fx.Node) -> None:
    """Let a linear layer that reads several rows joined into one read those alone that aren't the same in each call."""
    weight, bias = (_constant(module, one) for one in [*linear.args[1:3], None][:2])
    if joined.target is not aten.cat.default or weight is None or (bias is None and len(linear.args) > 2):
        return
    parts: Any = joined.args[0]
    rows = [_constant_row(module, part) for part in parts]
    sizes = [part.meta["val"].shape[-1] for part in parts]
    num_fixed, along_last = sum(row is not None for row in rows), sum(sizes) == weight.shape[1]
    if not along_last or num_fixed in (0, len(rows)):
        return
    columns = weight.split(sizes, 1)
    offset = sum(column.double() @ row.double() for column, row in zip(columns, rows, strict=True) if row is not None)
    offset = (offset if bias is None else offset + bias.double()).to(weight.dtype)
    kept = torch.cat([column for column, row in zip(columns, rows, strict=True) if row is None], 1)
    left = [part for part, row in zip(parts, rows, strict=True) if row is None]
    with module.graph.inserting_before(linear):
        read = left[0] if len(left) == 1 else module.graph.call_function(aten.cat.default, (left, *joined.args[1:]))
    linear.args = (read, *_hold(module, "", linear, kept, offset))


def _constant_row(module: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """Give the one row of which all that a node gives is made, where there is one."""
    value = _constant(module, node.args[0]) if node.target is aten.expand.default else None
    rows = None if value is None else value.reshape(-1, value.shape[-1])
    return rows[0] if rows is not None and rows.eq(rows[0]).all() else None


def _hold(module: fx.GraphModule, owner: str, layer: fx.Node, weight: Tensor, bias: Tensor) -> list[fx.Node]:
    """Give the nodes of a layer's new weight and bias, which are held beside what it had."""
    nodes = []
    for part, value in (("weight", weight), ("bias", bias)):
        name = f"{layer.name}_{part}"
        module.get_submodule(owner).register_buffer(name, value)
        with module.graph.inserting_before(layer):
            nodes.append(module.graph.get_attr(f"{owner}.{name}".lstrip(".")))
        nodes[-1].meta["val"] = value
    return nodes


def _constant(module: fx.GraphModule, node: Any) -> Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    owner, _, name = str(node.target).rpartition(".")
    value = getattr(module.get_submodule(owner), name)
    return value.detach() if isinstance(value, Tensor) else None
