"""Give the graph of an exported program as a plain module, whose call costs little beside its operations.

`ExportedProgram.module()` looks up each weight along its module path, and takes its arguments apart and compares their
structure outside of the graph, in every call: on one row of a small network that is a tenth of the time. Here all
weights lie in one module, and the graph itself takes its arguments apart and checks their sizes. What torch also has as
a Python function is called as one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from subsense.deployment.torch_private import arguments_of
from subsense.support.torch_private import TreeSpec, tree_unflatten

STRUCTURE = "output_structure"
aten = torch.ops.aten
# The same operations by torch's own Python functions, which take half as long to call as `torch.ops`.
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    aten.linear.default: F.linear,
    aten.conv1d.default: F.conv1d,
    aten.conv2d.default: F.conv2d,
    aten.conv3d.default: F.conv3d,
    aten.scaled_dot_product_attention.default: F.scaled_dot_product_attention,
    aten.gelu.default: F.gelu,
    aten.silu.default: F.silu,
    aten.layer_norm.default: torch.layer_norm,
    aten.relu.default: torch.relu,
    aten.sigmoid.default: torch.sigmoid,
    aten.tanh.default: torch.tanh,
    aten.add.Tensor: torch.add,
    aten.mul.Tensor: torch.mul,
    aten.sub.Tensor: torch.sub,
    aten.div.Tensor: torch.div,
    aten.matmul.default: torch.matmul,
    aten.bmm.default: torch.bmm,
    aten.softmax.int: torch.softmax,
    aten.mean.dim: torch.mean,
    aten.cat.default: torch.cat,
    aten.reshape.default: torch.reshape,
    aten.permute.default: torch.permute,
    aten.select.int: torch.select,
}


def plain(module: fx.GraphModule) -> fx.GraphModule:
    """Give the same graph as a module that is called in the same way; the first axis of every input is the batch.

    A parameter ``a.b.weight`` becomes ``a_b_weight``. Inputs of another size than the graph is for are refused by an
    `AssertionError`, which says what was expected and what was found.
    """
    return _Rewriting(module).run()


class _Rewriting:
    """Copy a graph node by node, except for its inputs, attributes and output.

    Attributes:
        attributes: name -> what the new module holds.
        new: node -> what it is copied to.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.old, self.graph = module, fx.Graph()
        self.attributes: dict[str, Any] = {}
        self.new: dict[fx.Node, fx.Node] = {}

    def run(self) -> fx.GraphModule:
        """Give the new module."""
        info = arguments_of(self.old)
        self._copy_inputs(info.orig_args, info.in_spec)
        for node in self.old.graph.nodes:
            if node.op == "get_attr":
                self.new[node] = self._attribute(node.name, operator.attrgetter(node.target)(self.old))
            elif node.op not in ("placeholder", "output"):
                self.new[node] = new = self.graph.node_copy(node, self.new.__getitem__)
                new.target = FUNCTIONS.get(new.target, new.target)
        flat: Any = fx.node.map_arg(self.old.graph.output_node().args[0], self.new.__getitem__)
        self.graph.output(self._structured(list(flat), info.out_spec))
        return fx.GraphModule(self.attributes, self.graph).eval()

    def _copy_inputs(self, names: list[str], spec: TreeSpec) -> None:
        args, kwargs = spec.children()
        given = list(zip(names, args.children(), strict=False))
        given += zip(kwargs.context, kwargs.children(), strict=True)
        arguments = [(self.graph.placeholder(name), name, structure) for name, structure in given]
        taken = [leaf for argument in arguments for leaf in self._take_apart(*argument)]
        olds = self.old.graph.find_nodes(op="placeholder")
        self.new |= {old: node for old, (node, _) in zip(olds, taken, strict=True)}
        _Sizes(self.graph).check({name: (node, old.meta["val"]) for old, (node, name) in zip(olds, taken, strict=True)})

    def _take_apart(self, value: fx.Node, name: str, spec: TreeSpec) -> Iterator[tuple[fx.Node, str]]:
        """Give the tensors in an argument, each with what it is called."""
        if spec.is_leaf():
            yield value, name
            return
        keys = spec.context if spec.type is dict else range(spec.num_children)
        length = self.graph.call_function(len, (value,))
        alike = self.graph.call_function(operator.eq, (length, len(keys)))
        expected = ", ".join(map(repr, keys)) if spec.type is dict else f"{len(keys)} tensors"
        self.graph.call_function(torch._assert, (alike, f"{name}: expected {expected} and nothing else"))
        for key, child in zip(keys, spec.children(), strict=True):
            part = self.graph.call_function(operator.getitem, (value, key))
            yield from self._take_apart(part, f"{name}[{key!r}]", child)

    def _attribute(self, name: str, value: Any) -> fx.Node:
        self.attributes[name] = value
        return self.graph.get_attr(name)

    def _structured(self, flat: list[Any], spec: TreeSpec) -> Any:
        """Give what the network gave, made of the graph's results: a tensor, a tuple, or a class of its own."""
        if spec.is_leaf():
            return flat[0]
        if spec.type in (tuple, list, dict) and all(child.is_leaf() for child in spec.children()):
            return tree_unflatten(flat, spec)
        return self.graph.call_function(tree_unflatten, (flat, self._attribute(STRUCTURE, spec)))


class _Sizes:
    """Let a graph check the sizes of its inputs."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph

    def check(self, inputs: Mapping[str, tuple[fx.Node, Tensor]]) -> None:
        """Require each input's fixed sizes, and as many rows of each, one at least."""
        first: fx.Node | None = None
        for name, (node, value) in inputs.items():
            shape = self._call(getattr, node, "shape")
            fixed = tuple(value.shape[1:])
            expected = f"{name}: expected sizes (rows, {', '.join(map(str, fixed))})"
            reason = "for which alone it was folded: what is absent was computed for them"
            same = self._call(operator.eq, self._call(operator.getitem, shape, slice(1, None)), fixed)
            found = self._call(operator.mod, f"{expected}, {reason}; found %s", (shape,))
            self._call(torch._assert, same, found)
            rows = self._call(operator.getitem, shape, 0)
            if first is None:
                self._call(torch._assert, self._call(operator.ge, rows, 1), f"{name}: expected one row at least")
            else:
                alike = self._call(operator.eq, rows, first)
                self._call(torch._assert, alike, f"{name}: expected as many rows as the inputs before it have")
            first = first or rows

    def _call(self, function: Callable[..., Any], *args: Any) -> fx.Node:
        return self.graph.call_function(function, args)
