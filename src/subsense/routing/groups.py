"""Run a mixed batch as one uniform batch for each combination in it, and put the rows back in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from subsense.errors import InputError
from subsense.modalities.inputs import Filled
from subsense.routing.placement import Placement
from subsense.support.torch_private import TreeSpec, tree_flatten, tree_unflatten


def run_grouped(
    run: Callable[[Filled, int], Any], filled: Filled, codes: Sequence[int], places: Sequence[Placement | None]
) -> Any:
    """Run each group of rows that have the same modalities, and stitch the outputs.

    Args:
        run: runs the network on rows which all have the modalities of the bit mask.
        filled: the whole batch.
        codes: bit mask of each row.
        places: where each tensor of the output has its rows.

    A group of one row whose output isn't shaped as rows were located (a network that squeezes) runs again beside a copy
    of its row, of which nothing is kept.

    Raises:
        InputError: an output whose rows can't be told apart, or that has another shape in one group.
    """
    groups = {code: [row for row, other in enumerate(codes) if other == code] for code in dict.fromkeys(codes)}
    outputs = [_run_group(run, filled, rows, code, places) for code, rows in groups.items()]
    order = torch.tensor([row for rows in groups.values() for row in rows]).argsort()
    leaves = zip(*(leaves for leaves, _ in outputs), strict=True)
    counts = [len(rows) for rows in groups.values()]
    padded = _pad(places, outputs[0][0])
    stitched = [_stitch(leaf, order, place, counts) for leaf, place in zip(leaves, padded, strict=True)]
    return tree_unflatten(stitched, outputs[0][1])


def output_tensors(output: Any) -> list[Tensor]:
    """Give all tensors of an output, in order; numbers that aren't tensors come as tensors without a row."""
    return [leaf if isinstance(leaf, Tensor) else torch.zeros(()) for leaf in tree_flatten(output)[0]]


def _run_group(
    run: Callable[[Filled, int], Any],
    filled: Filled,
    rows: Sequence[int],
    code: int,
    places: Sequence[Placement | None],
) -> tuple[list[Any], TreeSpec]:
    leaves, spec = tree_flatten(run(_take(filled, rows), code))
    if len(rows) > 1 or all(_holds(leaf, place, 1) for leaf, place in zip(leaves, _pad(places, leaves), strict=True)):
        return leaves, spec
    twice, spec = tree_flatten(run(_take(filled, [*rows, *rows]), code))
    return [_first(leaf, place) for leaf, place in zip(twice, _pad(places, twice), strict=True)], spec


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
        raise InputError(
            "rows of this batch have different modalities and must run in groups, but an output of the network "
            f"({_describe(leaf[0])}) has no place for rows; pass rows with the same modalities together"
        )
    shapes = {_row_shape(one, count, place) for one, count in zip(leaf, counts, strict=True)}
    if len(shapes) > 1 or None in shapes:
        raise InputError(
            "rows of this batch have different modalities and must run in groups, but an output of the network has "
            f"shapes {', '.join(str(tuple(one.shape)) for one in leaf)} for groups of {', '.join(map(str, counts))} "
            f"rows, which can't be put together on axis {place.axis}; let the network keep every axis whatever the "
            "number of rows (squeeze(1), not squeeze()), or pass rows with the same modalities together"
        )
    joined = torch.cat(list(leaf), place.axis)
    folds = joined.shape[place.axis] // len(order)
    if folds != 1:
        place.check_folds(f"an output of the network {tuple(joined.shape)}")
    wide = (order[:, None] * folds + torch.arange(folds)).flatten()
    return joined.index_select(place.axis, wide.to(joined.device))


def _describe(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
