"""Run a mixed batch as one uniform batch for each combination in it, and put the rows back in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from subsense.errors import InputError
from subsense.modalities.inputs import Filled
from subsense.routing.placement import Placement


def run_grouped(
    run: Callable[[Filled, int], Any], filled: Filled, codes: Sequence[int], places: Sequence[Placement | None]
) -> Any:
    """Run each group of rows that have the same modalities, and stitch the outputs.

    Args:
        run: runs the network on rows which all have the modalities of the bit mask.
        filled: the whole batch.
        codes: bit mask of each row.
        places: where each tensor of the output has its rows.

    Raises:
        InputError: an output whose rows can't be told apart.
    """
    groups = {code: [row for row, other in enumerate(codes) if other == code] for code in dict.fromkeys(codes)}
    outputs = [tree_flatten(run(_take(filled, rows), code)) for code, rows in groups.items()]
    order = torch.tensor([row for rows in groups.values() for row in rows]).argsort()
    leaves = zip(*(leaves for leaves, _ in outputs), strict=True)
    stitched = [_stitch(leaf, order, place) for leaf, place in zip(leaves, _pad(places, outputs[0][0]), strict=True)]
    return tree_unflatten(stitched, outputs[0][1])


def output_tensors(output: Any) -> list[Tensor]:
    """Give all tensors of an output, in order; numbers that aren't tensors come as tensors without a row."""
    return [leaf if isinstance(leaf, Tensor) else torch.zeros(()) for leaf in tree_flatten(output)[0]]


def _take(filled: Filled, rows: Sequence[int]) -> Filled:
    return {name: tuple(tensor[list(rows)] for tensor in tensors) for name, tensors in filled.items()}


def _pad(places: Sequence[Placement | None], leaves: Sequence[Any]) -> list[Placement | None]:
    return [*places, *[None] * (len(leaves) - len(places))][: len(leaves)]


def _stitch(leaf: Sequence[Any], order: Tensor, place: Placement | None) -> Any:
    if all(other is None for other in leaf):
        return None
    if place is None or place.inner or not all(isinstance(one, Tensor) for one in leaf):
        raise InputError(
            "rows of this batch have different modalities and must run in groups, but an output of the network "
            f"({_describe(leaf[0])}) has no place for rows; pass rows with the same modalities together"
        )
    joined = torch.cat(list(leaf), place.axis)
    folds, rest = divmod(joined.shape[place.axis], len(order))
    if rest:
        raise InputError(f"an output of the network {tuple(joined.shape)} can't be put back together from its groups")
    if folds != 1:
        place.check_folds(f"an output of the network {tuple(joined.shape)}")
    wide = (order[:, None] * folds + torch.arange(folds)).flatten()
    return joined.index_select(place.axis, wide.to(joined.device))


def _describe(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
