"""Find out where, inside a network, the rows of a batch are.

A layer may see the batch first, second (sequence-first transformers), or folded with windows or frames into one axis.
Running a few rows, running one fewer, and running the same with each row changed in turn tells, for every tensor,
which axis grows with the batch and which slices of it belong to which row. Where that leaves a doubt, the tensor
counts as not located, and mixed batches run grouped: never does a row get another row's set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from subsense.modalities.inputs import Filled
from subsense.routing.placement import Placement

Run = Callable[[Filled], Mapping[str, Sequence[Tensor]]]
"""Run the network on filled inputs and give all tensors to locate, by name and in the order of calls."""

Redraw = Callable[[Tensor, torch.Generator], Tensor]
"""Give other integers of the same shape."""

NUM_ROWS = 3
STRENGTHS = (1.0, 3.0, 10.0, 30.0)  # of the change; a greater one wakes units that a ReLU keeps silent
OTHER_DRAWS = ((True, True), (True, True), (False, False), (True, False))  # (other integers, noise on the rest)
NOISE = 1e-3  # of the greatest change; below it a slice counts as unchanged


@dataclass(frozen=True)
class Located:
    """Hold where each tensor has its rows, None where that is not known.

    Attributes:
        certain: whether integers (ids, masks) were changed too. What inside a network depends on them is not known
            otherwise, and only what it gives back can be told apart by rows.
        not_finite: names of tensors that hold NaN, whatever the inputs. A row of NaN shows no change, so it can't be
            told whose it is.
    """

    placements: Mapping[str, tuple[Placement | None, ...]]
    certain: bool = True
    not_finite: frozenset[str] = frozenset()

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Give those of `names` of which at least one tensor is not located."""
        if not self.certain:
            return list(names)
        return [name for name in names if None in self.placements.get(name, (None,))]


def locate(run: Run, filled: Filled, output: str = "") -> Located:
    """Find the rows of every tensor which `run` gives.

    Args:
        run: runs the network, without dropout.
        filled: any batch; its shapes and dtypes are used, and some of its values.
        output: the name of tensors from which rows are only taken: one that holds the same for every row counts as
            located, since it doesn't matter which is whose.
    """
    found = Located({}, certain=False)
    with suppress(_Refused):
        found = _located(run, filled, output, _redrawn)
        if not _lacks(found, output):
            return found
    with suppress(_Refused):  # of a mask that hides all of a row, say: what integers may be is the network's own rule
        kept = replace(_located(run, filled, output, lambda rows, generator: rows), certain=False)
        if not found.placements or not _lacks(kept, output):
            return kept
    return found


def _lacks(found: Located, output: str) -> bool:
    """Say whether rows of the output aren't known: redrawn placeholders in a prompt hand a row's picture to others."""
    return None in found.placements.get(output, ())


class _Refused(Exception):
    """Say that the network could not run on changed inputs."""


def _located(run: Run, filled: Filled, output: str, redraw: Redraw) -> Located:
    generator = torch.Generator().manual_seed(0)
    base, first = _base(run, filled, redraw, generator)
    traces = _traces(run, base, first)
    for strength in STRENGTHS:
        for row in range(NUM_ROWS):
            third = _run_changed(run, _with_changed_row(base, row, strength, generator, redraw))
            _compare(traces, third, row)
        if all(trace.placement for calls in traces.values() for trace in calls):
            break
    placements = {name: tuple(trace.placement for trace in calls) or (None,) for name, calls in traces.items()}
    repeated = tuple(trace.placement or trace.repeated for trace in traces.get(output, ()))
    lost = frozenset(name for name, calls in traces.items() for trace in calls if trace.is_lost)
    return Located(placements | ({output: repeated} if repeated else {}), not_finite=lost)


def _base(
    run: Run, filled: Filled, redraw: Redraw, generator: torch.Generator
) -> tuple[Filled, Mapping[str, Sequence[Tensor]]]:
    """Give rows to change one by one, and what the network makes of them: of several draws one with the least NaN.

    Rows of a batch may give NaN (attention whose mask hides all that a stand-in has), and such a row shows no change.
    """
    base = _distinct(filled, generator)
    first = _seeded(run, base)
    for integers, noise in OTHER_DRAWS:
        if not _num_lost(first):
            break
        with suppress(Exception):  # the network may refuse what is drawn; then another draw does
            other = _distinct(filled, generator, redraw if integers else None, noise)
            found = _seeded(run, other)
            base, first = (other, found) if _num_lost(found) < _num_lost(first) else (base, first)
    return base, first


def _num_lost(found: Mapping[str, Sequence[Tensor]]) -> int:
    return sum(bool(tensor.isnan().any()) for calls in found.values() for tensor in calls)


def _traces(run: Run, base: Filled, first: Mapping[str, Sequence[Tensor]]) -> dict[str, list[_Trace]]:
    """Begin a trace for every call of every tensor, from a run of all rows and one of fewer."""
    fewer = {name: tuple(tensor[: NUM_ROWS - 1] for tensor in tensors) for name, tensors in base.items()}
    second = _seeded(run, fewer)
    return {
        name: [_Trace(tensor, other) for tensor, other in _paired(tensors, second.get(name, ()))]
        for name, tensors in first.items()
    }


def _with_changed_row(base: Filled, row: int, strength: float, generator: torch.Generator, redraw: Redraw) -> Filled:
    return {
        name: tuple(_changed(tensor, row, strength, generator, redraw) for tensor in tensors)
        for name, tensors in base.items()
    }


def _compare(traces: Mapping[str, Sequence[_Trace]], found: Mapping[str, Sequence[Tensor]], row: int) -> None:
    for name, calls in traces.items():
        for trace, other in _paired(calls, found.get(name, ())):
            trace.compare(other, row)


def _run_changed(run: Run, changed: Filled) -> Mapping[str, Sequence[Tensor]]:
    try:
        return _seeded(run, changed)
    except Exception as error:
        raise _Refused from error


class _Trace:
    """Gather what is known of one tensor inside the network: its batch axis, and which slices each row changes."""

    def __init__(self, base: Tensor, fewer: Tensor | None) -> None:
        self.base = base
        self.axis = None if fewer is None else _batch_axis(base, fewer)
        self.slices: list[set[int]] = [set() for _ in range(NUM_ROWS)]

    def compare(self, other: Tensor | None, row: int) -> None:
        """Note which slices differ from the base where one row was changed."""
        if other is None or other.shape != self.base.shape:
            self.axis = None
        elif self.axis is not None:
            self.slices[row].update(_changed_slices(self.base, other, self.axis))

    @property
    def placement(self) -> Placement | None:
        """Give where the rows are; None while there is a doubt."""
        if self.axis is None:
            return None
        folds = self.base.shape[self.axis] // NUM_ROWS
        layouts = (None,) if folds == 1 else (False, True)
        fitting = [inner for inner in layouts if self._rows(folds, inner) == [{row} for row in range(NUM_ROWS)]]
        return Placement(self.axis, fitting[0], self.base.dim()) if len(fitting) == 1 else None

    @property
    def is_lost(self) -> bool:
        """Say whether NaN is why it isn't known where the rows are."""
        return self.placement is None and self.repeated is None and bool(self.base.isnan().any())

    @property
    def repeated(self) -> Placement | None:
        """Give where the rows are if they are all alike, and nothing changed any of them."""
        if self.axis is None or self.base.shape[self.axis] != NUM_ROWS or any(self.slices):
            return None
        first = self.base.narrow(self.axis, 0, 1)
        alike = torch.equal(first.expand_as(self.base), self.base)
        return Placement(self.axis, rank=self.base.dim()) if alike else None

    def _rows(self, folds: int, inner: bool | None) -> list[set[int]]:
        """Give to which rows the changed slices would belong: one set for each changed row."""
        return [{index % NUM_ROWS if inner else index // folds for index in changed} for changed in self.slices]


def _batch_axis(base: Tensor, fewer: Tensor) -> int | None:
    if base.dim() != fewer.dim():
        return None
    axes = [axis for axis in range(base.dim()) if base.shape[axis] != fewer.shape[axis]]
    if len(axes) != 1:
        return None
    folds, rest = divmod(base.shape[axes[0]], NUM_ROWS)
    return None if rest or fewer.shape[axes[0]] != folds * (NUM_ROWS - 1) else axes[0]


def _paired(some: Sequence[Any], others: Sequence[Tensor]) -> Iterator[tuple[Any, Tensor | None]]:
    """Pair each call with the same call of another run; with None where that run had another number of calls."""
    same = len(some) == len(others)
    return ((one, others[index] if same else None) for index, one in enumerate(some))


def _seeded(run: Run, filled: Filled) -> Mapping[str, Sequence[Tensor]]:
    """Run with the same random numbers every time, since a network may draw some in eval mode too."""
    devices = {tensor.device for tensors in filled.values() for tensor in tensors if tensor.is_cuda}
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(0)
        return run(filled)


def _changed_slices(base: Tensor, other: Tensor, axis: int) -> list[int]:
    """Give the slices that differ; NaN and infinity that stand in both at the same place are no difference."""
    one, two = base.double(), other.double()
    same = (one == two) | (one.isnan() & two.isnan())
    difference = (one - two).masked_fill(same, 0.0).movedim(axis, 0).abs().nan_to_num(nan=float("inf"))
    if not difference.numel():
        return []
    change = difference.reshape(len(difference), -1).amax(1)
    greatest = change[change.isfinite()].amax() if bool(change.isfinite().any()) else change.new_zeros(())
    return ((change > NOISE * greatest) & (change > 0)).nonzero().flatten().tolist()


def _distinct(filled: Filled, generator: torch.Generator, redraw: Redraw | None = None, noise: bool = True) -> Filled:
    """Give `NUM_ROWS` rows like those of a batch; numbers get noise, so that no stand-in keeps a layer silent."""

    def draw(tensor: Tensor) -> Tensor:
        rows = tensor[torch.arange(NUM_ROWS, device=tensor.device) % len(tensor)]
        if rows.is_floating_point():
            return _noisy(rows, generator) if noise else rows.nan_to_num(0.0, 0.0, 0.0)
        return rows.clone() if redraw is None else redraw(rows, generator)

    return {name: tuple(draw(tensor) for tensor in tensors) for name, tensors in filled.items()}


def _changed(tensor: Tensor, row: int, strength: float, generator: torch.Generator, redraw: Redraw) -> Tensor:
    """Give the same rows with one of them replaced."""
    changed = tensor.clone()
    other = _noisy(tensor, generator, strength) if tensor.is_floating_point() else redraw(tensor, generator)
    changed[row] = other[row]
    return changed


def _noisy(rows: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    finite = rows.nan_to_num(0.0, 0.0, 0.0)
    scale = finite.float().std(correction=0).clamp(min=1e-3)
    return finite + strength * scale.to(rows) * torch.randn(rows.shape, generator=generator).to(rows)


def _redrawn(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Draw integers from the range that the rows span; where they are constant, zeros and ones too (ids, masks)."""
    low, high = int(rows.min()), int(rows.max())
    low, high = (low, high) if low < high else (min(low, 0), max(high, 1))
    return torch.randint(low, high + 1, rows.shape, generator=generator).to(rows)
