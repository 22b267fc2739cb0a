"""Say at once how the graph of a network rearranges numbers, where it says so step by step.

A chain of reshapes, transpositions and selections is given by its two ends: the axes of its source, split as finely as
needed, and how the axes of its result are made of these parts. So it is one reshape, one permutation, one selection and
one reshape, of which most are nothing, and all where a chain ends as it began; copies on the way change no number. The
query, key and value of a packed attention then share a reshape and a permutation, in place of 17 steps.

What works on each number alone, or on each row alone, does not mind in which order they lie: they are rearranged after
it, where they may meet what puts them back. A linear layer's kernel does mind, and reads rows best as they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from typing import Any

import sympy
import torch
from torch import SymInt, Tensor, fx

from subsense.deployment.torch_private import VIEWS, FakeTensorMode, OpOverload

aten = torch.ops.aten
_REGROUPS = {  # they give the same numbers in the same order, as far as they give as many
    *VIEWS,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.slice.Tensor,
    aten.expand.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
}
_COPIES = {aten.clone.default, aten.contiguous.default}


def rearrange(module: fx.GraphModule) -> fx.GraphModule:
    """Rearrange in as few steps as needed, in a graph without writes; nothing else changes, up to rounding."""
    _Rearranging(module.graph).run()
    module.graph.eliminate_dead_code()
    return fx.GraphModule(module, module.graph)


@dataclass(frozen=True, eq=False)
class Part:
    """A part of an axis: one index of several into which an axis was split."""

    size: Any


@dataclass(frozen=True)
class Arrangement:
    """Say how a tensor is made of another one's numbers.

    Attributes:
        source: what gives the other one.
        shape: its sizes.
        parts: the parts of its axes, in their order; an axis of size one has none.
        axes: of which parts the tensor's axes are made, outermost first.
        picks: parts of which one index is taken.
        copied: whether the tensor was a copy.
    """

    source: fx.Node
    shape: tuple[Any, ...]
    parts: tuple[Part, ...]
    axes: tuple[tuple[Part, ...], ...]
    picks: tuple[tuple[Part, int], ...] = ()
    copied: bool = False

    @property
    def sizes(self) -> tuple[Any, ...]:
        """Give the tensor's sizes."""
        return tuple(_size(axis) for axis in self.axes)

    def regroup(self, sizes: Sequence[Any]) -> Arrangement | None:
        """Make axes of such sizes of the same parts in the same order, splitting parts; None where they don't fit."""
        result, rest, axes = self, list(chain(*self.axes)), []
        for size in sizes:
            axis: list[Part] = []
            while size != 1:
                if not rest:
                    return None
                part = rest.pop(0)
                if not _divides(part.size, size):
                    if not _divides(size, part.size):
                        return None
                    outer, inner = Part(size), Part(part.size / size)
                    result = result._split(part, outer, inner)
                    part, rest = outer, [inner, *rest]
                axis.append(part)
                size = size / part.size
            axes.append(tuple(axis))
        return None if rest else replace(result, axes=tuple(axes))

    def permute(self, order: Sequence[int]) -> Arrangement:
        """Put the axes into another order."""
        return replace(self, axes=tuple(self.axes[axis] for axis in order))

    def select(self, axis: int, index: int) -> Arrangement | None:
        """Take one index of an axis; None where that is not one index of one part."""
        axes = (*self.axes[:axis], *self.axes[axis + 1 :])
        if not self.axes[axis]:
            return replace(self, axes=axes)
        part, *others = self.axes[axis]
        if others or not part.size.is_Integer:
            return None
        return replace(self, axes=axes, picks=(*self.picks, (part, index % int(part.size))))

    def _split(self, part: Part, outer: Part, inner: Part) -> Arrangement:
        at = self.parts.index(part)
        return replace(self, parts=(*self.parts[:at], outer, inner, *self.parts[at + 1 :]))

    def steps(self) -> list[tuple[OpOverload, tuple[Any, ...]]]:
        """Give the operations, with what they take beside the tensor, that make the tensor of its source."""
        if not self.picks and tuple(chain(*self.axes)) == self.parts:
            return self._reshaped(self.shape)
        picked = [(part,) for part, _ in self.picks]
        runs = [run for axis in self.axes for run in self._runs(axis)]
        lying = sorted([*picked, *runs], key=self._place)
        order = lying if runs == sorted(runs, key=self._place) else [*picked, *runs]
        steps = _reshape(self.shape, [_size(run) for run in lying])
        if order != lying:
            steps.append((aten.permute.default, ([lying.index(run) for run in order],)))
        for run, (_, index) in zip(picked, self.picks, strict=True):
            steps.append((aten.select.int, (order.index(run), index)))
            order = [other for other in order if other is not run]
        return steps + self._reshaped([_size(run) for run in runs])

    def _reshaped(self, before: Sequence[Any]) -> list[tuple[OpOverload, tuple[Any, ...]]]:
        return _reshape(before, self.sizes)

    def _place(self, run: tuple[Part, ...]) -> int:
        return self.parts.index(run[0])

    def _runs(self, axis: tuple[Part, ...]) -> list[tuple[Part, ...]]:
        """Join parts that follow each other in the source, too."""
        runs: list[tuple[Part, ...]] = []
        for part in axis:
            if runs and self.parts.index(part) == self.parts.index(runs[-1][-1]) + 1:
                runs[-1] += (part,)
            else:
                runs.append((part,))
        return runs


def _size(parts: Sequence[Part]) -> Any:
    return prod((part.size for part in parts), start=sympy.Integer(1))


def _divides(size: Any, whole: Any) -> bool:
    return bool((whole / size).is_integer)


def _reshape(before: Sequence[Any], after: Sequence[Any]) -> list[tuple[OpOverload, tuple[Any, ...]]]:
    sizes = [int(size) if size.is_Integer else -1 for size in after]
    return [] if tuple(before) == tuple(after) else [(aten.reshape.default, (sizes,))]


class _Rearranging:
    """Walk a graph: remember how tensors are arranged, and arrange them where they are read.

    Attributes:
        arranged: node -> how it is made of another one.
        built: operation and what it takes -> the node that does it.
        values: node -> a tensor of no numbers, as it will come: its strides say how it lies in memory.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.arranged: dict[fx.Node, Arrangement] = {}
        self.built: dict[Any, fx.Node] = {}
        self.values: dict[fx.Node, Any] = {}
        self.mode = FakeTensorMode()

    def run(self) -> None:
        """Change the graph; what nothing reads any more stays in it."""
        for node in list(self.graph.nodes):
            arranged = self._follow(node)
            if arranged is None:
                reads = node.all_input_nodes
                arranged = self._work_before(node)
                self._arrange_inputs(node, reads if arranged is None else reads[1:])
                self._imagine(node)
            if arranged is not None:
                self.arranged[node] = arranged

    def _follow(self, node: fx.Node) -> Arrangement | None:
        """Give how a node that only rearranges is made of what came before; None for another."""
        before, sizes = self._before(node), _sizes(node)
        if before is None or sizes is None:
            return None
        arranged: Arrangement | None = None
        if node.target in _REGROUPS:
            arranged = before.regroup(sizes)
        elif node.target in (aten.transpose.int, aten.permute.default, aten.t.default):
            arranged = before.permute(_order(node, len(before.axes)))
        elif node.target is aten.select.int and isinstance(node.args[2], int):
            arranged = before.select(_axis(node.args[1], len(before.axes)), node.args[2])
        if arranged is None or arranged.sizes != sizes or _num_free(arranged.parts) > 1:
            return None
        return replace(arranged, copied=arranged.copied or node.target in _COPIES)

    def _before(self, node: fx.Node) -> Arrangement | None:
        read = node.args[0] if node.args else None
        if node.op != "call_function" or not isinstance(read, fx.Node):
            return None
        sizes = _sizes(read)
        if read in self.arranged or sizes is None:
            return self.arranged.get(read)
        parts = [Part(size) for size in sizes]
        axes = tuple((part,) if part.size != 1 else () for part in parts)
        return Arrangement(read, sizes, tuple(chain(*axes)), axes)

    def _work_before(self, node: fx.Node) -> Arrangement | None:
        """Let a node read what is not arranged yet, where it may; give how what it gave is made of what it gives."""
        read = node.args[0] if node.args else None
        arranged = self.arranged.get(read) if isinstance(read, fx.Node) else None
        if arranged is None or arranged.picks:
            return None
        if _keeps_rows(node):
            return self._take_rows_as_they_lie(node, arranged)
        if not _is_pointwise(node):
            return None
        node.replace_input_with(node.all_input_nodes[0], arranged.source)
        return replace(arranged, source=node, copied=False)

    def _take_rows_as_they_lie(self, node: fx.Node, arranged: Arrangement) -> Arrangement | None:
        sizes = _sizes(node)
        *axes, features = arranged.axes
        rows = list(chain(*axes))
        lying = self._as_they_lie(arranged, rows)
        if sizes is None or lying == rows:
            return None
        taken = replace(arranged, axes=(*((part,) for part in lying), features))
        node.args = (self._build(taken, node), *node.args[1:])
        given = () if sizes[-1] == 1 else (Part(sizes[-1]),)
        shape = (*(part.size for part in lying), sizes[-1])
        return Arrangement(node, shape, (*lying, *given), (*axes, given))

    def _arrange_inputs(self, node: fx.Node, reads: Sequence[fx.Node]) -> None:
        for read in reads:
            if read in self.arranged:
                node.replace_input_with(read, self._build(self.arranged[read], node))

    def _build(self, arranged: Arrangement, user: fx.Node) -> fx.Node:
        """Give a node for an arrangement, ahead of the one that reads it."""
        result, steps = arranged.source, arranged.steps()
        given_away = user.op == "output"  # whoever gets it may write into it
        if given_away and arranged.copied:
            steps = [*steps, (aten.clone.default, ())]
        for target, args in steps:
            key = (target, result, str(args))
            if given_away or key not in self.built:
                with self.graph.inserting_before(user):
                    self.built[key] = self.graph.call_function(target, (result, *args))
                self._imagine(self.built[key])
            result = self.built[key]
        return result

    def _imagine(self, node: fx.Node) -> None:
        """Run a node on tensors of no numbers, where what it reads is known.

        The batch has a size here: with a free one the operations might put conditions on it.
        """
        with self.mode:
            value = _of_no_numbers(node.meta.get("val"))
            if callable(node.target) and _gives_known_sizes(node) and self.values.keys() >= {*node.all_input_nodes}:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
                value = node.target(*args, **kwargs)
        if value is not None:
            self.values[node] = value

    def _as_they_lie(self, arranged: Arrangement, parts: Sequence[Part]) -> list[Part]:
        """Give parts in the order in which they lie in memory, where that is known."""
        value = self.values.get(arranged.source)
        strides: dict[Part, int] = {}
        if isinstance(value, Tensor):
            whole = replace(arranged, axes=(arranged.parts,)).regroup(arranged.shape)
            for axis, stride in zip(whole.axes if whole else (), value.stride(), strict=False):
                strides |= dict.fromkeys(axis, stride)
        return sorted(parts, key=lambda part: (-strides.get(part, 0), arranged.parts.index(part)))


def _sizes(node: fx.Node) -> tuple[Any, ...] | None:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    return tuple(size.node.expr if isinstance(size, SymInt) else sympy.Integer(size) for size in value.shape)


def _num_free(parts: Sequence[Part]) -> int:
    return sum(not part.size.is_Integer for part in parts)


def _axis(axis: Any, num_axes: int) -> int:
    return int(axis) % num_axes


def _order(node: fx.Node, num_axes: int) -> list[int]:
    order = list(range(num_axes))
    if node.target is aten.permute.default:
        axes: Any = node.args[1]
        return [_axis(axis, num_axes) for axis in axes]
    first, second = (_axis(axis, num_axes) for axis in (node.args[1:] or (0, -1)))
    order[first], order[second] = second, first
    return order


def _is_pointwise(node: fx.Node) -> bool:
    """Say whether a node works on each number of one tensor alone, in the same way in each call."""
    tags = node.target.tags if isinstance(node.target, OpOverload) else ()
    alone = len(node.all_input_nodes) == 1 and _sizes(node) == _sizes(node.all_input_nodes[0])
    return alone and torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags


def _keeps_rows(node: fx.Node) -> bool:
    """Say whether a node works on each row of its first input, the last axis, alone."""
    if node.target is aten.layer_norm.default:
        axes: Any = node.args[1]
        return len(axes) == 1
    return node.target is aten.linear.default and node.args[0] not in node.args[1:]


def _gives_known_sizes(node: fx.Node) -> bool:
    tags = node.target.tags if isinstance(node.target, OpOverload) else ()
    by_value = torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags
    return node.op == "call_function" and not by_value


def _of_no_numbers(value: Any) -> Any:
    """Give a tensor alike, with a batch of the size with which it was traced; None where a size isn't known."""
    if isinstance(value, Tensor):
        sizes, strides = ([_hint(size) for size in some] for some in (value.shape, value.stride()))
        known = None not in (*sizes, *strides)
        return torch.empty_strided(sizes, strides, dtype=value.dtype, device=value.device) if known else None
    return _hint(value) if isinstance(value, SymInt | int) else None


def _hint(size: Any) -> Any:
    return size.node.hint if isinstance(size, SymInt) else int(size)
