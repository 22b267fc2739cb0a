"""Find what in an exported graph is the same for every input, compute it once, and leave out what made it.

What no input reaches can still depend on how many rows a batch has: zeros (batch, ...) and all that is made of them.
Such a value is replaced where it is one row repeated, so that the batch size stays free. Two things must say so:

* the graph: the batch size shapes the value, but no number is made of it (as in ``arange(batch)``), nothing random is
  in it, and each axis has a fixed size or a multiple of the batch size;
* the numbers: computed for one row, for two and for three, they are the one row repeated along those axes.

What fails stays in the graph, and what it is made of is looked at instead; so does what would take up more memory than
what computes it, where that is no part of what is absent (relative positions of windows, masks).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import getitem
from typing import Any

import torch
from torch import SymInt, Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from subsense.deployment.export import CLOSE, tolerance_of
from subsense.deployment.torch_private import VIEWS, OpOverload
from subsense.errors import FoldError
from subsense.modalities import filling

ROWS = (1, 2, 3)
SMALL = 4096
"""Numbers of a constant that is kept whatever it is made of."""
aten = torch.ops.aten


def fold_constants(program: ExportedProgram, largest: float = 1.0) -> fx.GraphModule:
    """Give an exported program as a module in which everything that no input reaches is computed already.

    Args:
        program: exported with a free batch size, the first axis of every input, and every other size fixed.
        largest: most numbers of a constant for each number of the weights and buffers that it is made of, where no
            stand-in for what is absent has a part in it; such a constant of up to `SMALL` numbers is kept.

    Raises:
        FoldError: the program changes a buffer or an input in each call, or can't run on a single row.
    """
    module = _functional(program)
    search = _Search(module.graph)
    constants: dict[fx.Node, Tensor] = {}
    refused: set[fx.Node] = set()
    while new := [node for node in search.frontier(refused) if node not in constants]:
        computed = [_compute(module, search, new, rows) for rows in ROWS]
        for node in new:
            values = [found[node] for found in computed]
            if _is_row_repeated(search.multiples(node), values) and _pays(node, values[0], largest):
                constants[node] = computed[0][node]
            else:
                refused.add(node)
    _replace(module, search, constants)
    return fx.GraphModule(module, module.graph)


def _functional(program: ExportedProgram) -> fx.GraphModule:
    """Give the program as a module without operations in place, and without guards, which a new export makes again."""
    program = program.run_decompositions({})
    for spec in program.graph_signature.output_specs:
        if spec.kind is not OutputKind.USER_OUTPUT:
            raise FoldError(
                f"drop_absent: the network changes {spec.target or spec.arg.name!r} in each call, so what depends on "
                "it is no constant; put the network in eval mode, or fold it without drop_absent"
            )
    module: fx.GraphModule = program.module(check_guards=False)
    module.graph.eliminate_dead_code()
    return module


class _Search:
    """Know what in a graph no input reaches, and what of that may be replaced.

    Attributes:
        source: an input; its first axis is the batch.
        batch: the symbol of the batch size.
        free: the nodes that no input reaches.
        sound: those of them whose numbers the batch size doesn't enter, and nothing random.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.source = next(node for node in graph.nodes if node.op == "placeholder" and _has_rows(node))
        self.batch = self.source.meta["val"].shape[0].node.expr
        self.free: set[fx.Node] = set()
        self.sound: set[fx.Node] = set()
        for node in graph.nodes:
            if self._is_free(node):
                self.free.add(node)
                if _is_size(node) or (_is_sound(node) and self.sound.issuperset(node.all_input_nodes)):
                    self.sound.add(node)

    def frontier(self, refused: set[fx.Node]) -> list[fx.Node]:
        """Give the last nodes, on the way to what depends on an input, that may be replaced."""
        found, seen = set(), set()
        stack = [read for node in self.graph.nodes if node not in self.free for read in node.all_input_nodes]
        while stack:
            node = stack.pop()
            if node in seen or node not in self.free or _is_size(node) or _costs_nothing(node):
                continue
            seen.add(node)
            if node in self.sound and node not in refused and self.multiples(node) is not None:
                found.add(node)
            else:
                stack += node.all_input_nodes
        return [node for node in self.graph.nodes if node in found]

    def multiples(self, node: fx.Node) -> list[int] | None:
        """Give each axis' size in batch sizes, 0 where it is fixed; None where it is neither."""
        value = _value(node)
        if not isinstance(value, Tensor):
            return None
        sizes: list[Any] = [size.node.expr / self.batch if isinstance(size, SymInt) else 0 for size in value.shape]
        return [int(size) for size in sizes] if all(size == 0 or size.is_Integer for size in sizes) else None

    def _is_free(self, node: fx.Node) -> bool:
        if _is_size(node):
            return bool(_value(node).node.expr.free_symbols <= {self.batch})
        return node.op in ("get_attr", "call_function") and self.free.issuperset(node.all_input_nodes)


def _value(node: fx.Node) -> Any:
    return node.meta.get("val")


def _is_size(node: fx.Node) -> bool:
    return isinstance(_value(node), SymInt)


def _has_rows(node: fx.Node) -> bool:
    value = _value(node)
    return isinstance(value, Tensor) and any(isinstance(size, SymInt) for size in value.shape)


def _costs_nothing(node: fx.Node) -> bool:
    """Say whether a node is a parameter, or no more than a view of one."""
    if node.op == "get_attr":
        return True
    is_view = isinstance(node.target, OpOverload) and node.target.is_view
    return is_view and all(_is_size(read) or _costs_nothing(read) for read in node.all_input_nodes)


def _is_sound(node: fx.Node) -> bool:
    """Say whether a node's numbers are the same in each call, and the batch size gives no more than its shape."""
    target = node.target
    if node.op == "get_attr" or target is getitem:
        return True
    if not isinstance(target, OpOverload) or _is_random(target, node):
        return False
    entered = [argument for argument, value in _arguments(target, node) if any(map(_is_size, _nodes(value)))]
    return all("int" in str(argument.type) for argument in entered)


def _is_random(target: OpOverload, node: fx.Node) -> bool:
    rates = [value for argument, value in _arguments(target, node) if argument.name in ("p", "dropout_p")]
    return torch.Tag.nondeterministic_seeded in target.tags and rates != [0.0]


def _arguments(target: OpOverload, node: fx.Node) -> list[tuple[Any, Any]]:
    """Give each argument of an operation's schema with its value, the default where none is given."""
    arguments = target._schema.arguments
    values = dict(zip((argument.name for argument in arguments), node.args, strict=False)) | node.kwargs
    return [(argument, values.get(argument.name, argument.default_value)) for argument in arguments]


def _nodes(value: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(value, found.append)
    return found


class _Rows(fx.Interpreter):
    """Run what no input reaches, for a number of rows."""

    def __init__(self, module: fx.GraphModule, search: _Search, wanted: Sequence[fx.Node], rows: int) -> None:
        super().__init__(module)
        self.search, self.rows = search, rows
        self.wanted = set(wanted)
        self.needed = _ancestors(wanted)
        self.found: dict[fx.Node, Tensor] = {}

    def run_node(self, node: fx.Node) -> Any:
        """Compute a node, if what is wanted needs it; a size by its formula."""
        if node not in self.needed:
            return None
        if _is_size(node):
            return int(_value(node).node.expr.subs(self.search.batch, self.rows))
        result = super().run_node(node)
        if node in self.wanted:
            self.found[node] = result
        return result


def _compute(module: fx.GraphModule, search: _Search, nodes: Sequence[fx.Node], rows: int) -> dict[fx.Node, Tensor]:
    interpreter = _Rows(module, search, nodes, rows)
    try:
        with torch.no_grad():
            interpreter.run(enable_io_processing=False)
    except Exception as error:
        raise FoldError(f"drop_absent: what is absent can't be computed for {rows} rows: {error}") from error
    return interpreter.found


def _ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack += [] if _is_size(node) else node.all_input_nodes
    return found


def _pays(node: fx.Node, constant: Tensor, largest: float) -> bool:
    """Say whether a constant is no larger than it may be for what it is made of."""
    made_of = _ancestors([node])
    if constant.numel() <= SMALL or any(filling.__file__ in (one.meta.get("stack_trace") or "") for one in made_of):
        return True
    numbers: int = sum(_value(one).numel() for one in made_of if one.op == "get_attr")
    return constant.numel() <= largest * numbers


def _is_row_repeated(multiples: list[int] | None, values: Sequence[Tensor]) -> bool:
    assert multiples is not None
    return all(
        _is_close(values[0].repeat([rows if multiple else 1 for multiple in multiples]), value)
        for rows, value in zip(ROWS, values, strict=True)
    )


def _is_close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    same = (one == other) | (one != one) & (other != other)
    one, other = one[~same], other[~same]  # what is alike, such as a mask's -10000, says nothing about the rest's scale
    if not one.numel():
        return True
    close = one.is_floating_point() and (one - other).abs().max() <= tolerance_of(one.dtype, CLOSE) * one.abs().max()
    return bool(close)


def _replace(module: fx.GraphModule, search: _Search, constants: dict[fx.Node, Tensor]) -> None:
    graph = module.graph
    with graph.inserting_after([node for node in graph.nodes if node.op == "placeholder"][-1]):
        rows = graph.call_function(aten.sym_size.int, (search.source, 0))
    output = next(node for node in graph.nodes if node.op == "output")
    for node in search.free.intersection(output.all_input_nodes):  # whoever gets it may write into it
        with graph.inserting_before(output):
            own = graph.call_function(aten.clone.default, (node,), {"memory_format": torch.contiguous_format})
        output.replace_input_with(node, own)
    for index, (node, constant) in enumerate(constants.items()):
        name = f"constant_{index}"
        module.register_buffer(name, constant.clone())
        with graph.inserting_before(node):
            node.replace_all_uses_with(_repeated(graph, name, node, search.multiples(node) or [], rows))
    _tidy(graph, search)


def _repeated(graph: fx.Graph, name: str, node: fx.Node, multiples: list[int], rows: fx.Node) -> fx.Node:
    """Insert a constant, repeated for each row; without a copy where no axis has rows folded into it."""
    new = graph.get_attr(name)
    if max(multiples, default=0) > 1:
        new = graph.call_function(aten.repeat.default, (new, [rows if multiple else 1 for multiple in multiples]))
    elif any(multiples):
        sizes = [rows if multiple else size for multiple, size in zip(multiples, _value(node).shape, strict=True)]
        new = graph.call_function(aten.expand.default, (new, sizes))
    new.meta["val"] = _value(node)
    return new


def _tidy(graph: fx.Graph, search: _Search) -> None:
    """Leave out what nothing needs: checks of what is gone, and copies, of which a graph without writes needs none."""
    for node in reversed(graph.nodes):
        if node in search.free and not node.users:
            graph.erase_node(node)
        elif node.target in VIEWS:  # a repeated constant has other strides than what it stands for
            node.target = aten.reshape.default
        elif node.target is aten.clone.default and not node.kwargs and all(user.op != "output" for user in node.users):
            node.replace_all_uses_with(node.args[0])
    graph.eliminate_dead_code()
