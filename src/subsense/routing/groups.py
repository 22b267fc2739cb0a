"""Run a mixed batch as one uniform batch for each combination in it, and put the rows back in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from subsense.errors import InputError
from subsense.modalities.inputs import Filled
from subsense.routing.placement import NotGrouped, Placement
from subsense.support.torch_private import tree_flatten, tree_unflatten


def run_grouped(
    run: Callable[[Filled, int], Any],
    filled: Filled,
    codes: Sequence[int],
    places: Sequence[Placement | None],
    names: Sequence[Any] = (),
    why: str = "",
) -> Any:
    """Run each group of rows that have the same modalities, and stitch the outputs.

    Args:
        run: runs the network on rows which all have the modalities of the bit mask.
        filled: the whole batch.
        codes: bit mask of each row.
        places: where each tensor of the output has its rows.
        names: what the output calls each of them, see `output_names`.
        why: says what makes groups necessary.

    Of an output with names (a dict, a transformers output) what only some groups give is left out, since no row of the
    others has it. A group of one row whose output isn't shaped as rows were located (a network that squeezes) runs
    again beside a copy of its row, of which nothing is kept.

    Raises:
        InputError: an output whose rows can't be told apart, or that has another shape in one group.
    """
    try:
        return _run_grouped(run, filled, codes, places, names)
    except NotGrouped as error:
        error.why = why
        ways = " or ".join(filter(None, [error.way, "pass rows with the same modalities together"]))
        raise InputError(f"{error}; {ways}{why and f'. Groups are needed because of this: {why}'}") from error


def _run_grouped(
    run: Callable[[Filled, int], Any],
    filled: Filled,
    codes: Sequence[int],
    places: Sequence[Placement | None],
    names: Sequence[Any],
) -> Any:
    groups = {code: [row for row, other in enumerate(codes) if other == code] for code in dict.fromkeys(codes)}
    known = _Places(places, names)
    outputs = [_run_group(run, filled, rows, code, known) for code, rows in groups.items()]
    order = torch.tensor([row for rows in groups.values() for row in rows]).argsort()
    counts = [len(rows) for rows in groups.values()]
    shared = _shared(outputs)
    leaves = [tree_flatten(output) for output in shared]
    if any(spec != leaves[0][1] for _, spec in leaves):
        raise NotGrouped(
            "the network gives outputs of different forms for them "
            f"({', '.join(dict.fromkeys(str(spec) for _, spec in leaves))})"
        )
    alike = zip(*(flat for flat, _ in leaves), strict=True)
    stitched = [_stitch(leaf, order, place, counts) for leaf, place in zip(alike, known.of(shared[0]), strict=True)]
    return _as_type(type(outputs[0]), tree_unflatten(stitched, leaves[0][1]))


def output_names(output: Any) -> list[Any]:
    """Give for each tensor of an output the name under which the output has it; None where it has no names."""
    if not isinstance(output, Mapping):
        return [None] * len(tree_flatten(output)[0])
    return [name for name, value in output.items() for _ in tree_flatten(value)[0]]


class _Places:
    """Know where the tensors of an output have their rows, also where some of its names aren't given."""

    def __init__(self, places: Sequence[Placement | None], names: Sequence[Any]) -> None:
        self.places, self.names = places, names

    def of(self, output: Any) -> list[Placement | None]:
        """Give one place for each tensor of an output."""
        found = output_names(output)
        if not isinstance(output, Mapping) or found == list(self.names) or not self.names:
            return _pad(self.places, found)
        by_name: dict[Any, list[Placement | None]] = {}
        for name, place in zip(self.names, self.places, strict=False):
            by_name.setdefault(name, []).append(place)
        counts = {name: found.count(name) for name in found}
        return [place for name, count in counts.items() for place in _pad(by_name.get(name, []), [None] * count)]


def _shared(outputs: Sequence[Any]) -> list[Any]:
    """Give what all outputs have, of those with names; the outputs themselves where they have the same names."""
    if not all(isinstance(one, Mapping) for one in outputs) or all(list(one) == list(outputs[0]) for one in outputs):
        return list(outputs)
    names = [name for name in outputs[0] if all(one.get(name) is not None for one in outputs)]
    return [{name: one[name] for name in names} for one in outputs]


def _as_type(cls: type, output: Any) -> Any:
    if type(output) is cls or not isinstance(output, dict) or not issubclass(cls, Mapping):
        return output
    return cls(**output)


def output_tensors(output: Any) -> list[Tensor]:
    """Give all tensors of an output, in order; numbers that aren't tensors come as tensors without a row."""
    return [leaf if isinstance(leaf, Tensor) else torch.zeros(()) for leaf in tree_flatten(output)[0]]


def _run_group(
    run: Callable[[Filled, int], Any],
    filled: Filled,
    rows: Sequence[int],
    code: int,
    known: _Places,
) -> Any:
    output = run(_take(filled, rows), code)
    leaves = tree_flatten(output)[0]
    if len(rows) > 1 or all(_holds(leaf, place, 1) for leaf, place in zip(leaves, known.of(output), strict=True)):
        return output
    doubled = run(_take(filled, [*rows, *rows]), code)
    twice, spec = tree_flatten(doubled)
    kept = [_first(leaf, place) for leaf, place in zip(twice, known.of(doubled), strict=True)]
    return tree_unflatten(kept, spec)


def _row_shape(leaf: Tensor, num_rows: int, place: Placement) -> tuple[int, ...] | None:
    """Give the shape that one row has in an output; None where the output doesn't hold that many rows."""
    if not place.holds(leaf, num_rows):
        return None
    return tuple(size // num_rows if axis == place.axis else size for axis, size in enumerate(leaf.shape))


def _holds(leaf: Any, place: Placement | None, num_rows: int) -> bool:
    return place is None or not isinstance(leaf, Tensor) or place.holds(leaf, num_rows)


def _first(leaf: Any, place: Placement | None) -> Any:
    """Give the first of two rows that are alike."""
    if place is None or place.inner or not isinstance(leaf, Tensor) or not place.holds(leaf, 2):
        return leaf
    return leaf.narrow(place.axis, 0, leaf.shape[place.axis] // 2)


def _take(filled: Filled, rows: Sequence[int]) -> Filled:
    return {name: tuple(tensor[list(rows)] for tensor in tensors) for name, tensors in filled.items()}


def _pad(places: Sequence[Placement | None], leaves: Sequence[Any]) -> list[Placement | None]:
    return [*places, *[None] * (len(leaves) - len(places))][: len(leaves)]


def _stitch(leaf: Sequence[Any], order: Tensor, place: Placement | None, counts: Sequence[int]) -> Any:
    if all(other is None for other in leaf):
        return None
    if place is None or place.inner or not all(isinstance(one, Tensor) for one in leaf):
        raise NotGrouped(
            f"an output of the network ({_describe(leaf[0])}) has no place for rows",
            "switch it off (network.config.use_cache = False)" if "Cache" in _describe(leaf[0]) else "",
        )
    shapes = {_row_shape(one, count, place) for one, count in zip(leaf, counts, strict=True)}
    if len(shapes) > 1 or None in shapes:
        raise NotGrouped(
            f"an output of the network has shapes {', '.join(str(tuple(one.shape)) for one in leaf)} for groups of "
            f"{', '.join(map(str, counts))} rows, which can't be put together on axis {place.axis}",
            "let the network keep every axis whatever the number of rows (squeeze(1), not squeeze())",
        )
    joined = torch.cat(list(leaf), place.axis)
    folds = joined.shape[place.axis] // len(order)
    if folds != 1:
        place.check_folds(f"an output of the network {tuple(joined.shape)}")
    wide = (order[:, None] * folds + torch.arange(folds)).flatten()
    return joined.index_select(place.axis, wide.to(joined.device))


def _describe(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
