"""Find out where, inside a network, the rows of a batch are.

A layer may see the batch first, second (sequence-first transformers), or folded with windows or frames into one axis.
Running a few rows, running one fewer, and running the same with each row changed in turn tells, for every tensor, which
axis grows with the batch and which slices of it belong to which row. Where that leaves a doubt, the tensor counts as not
located, and mixed batches run grouped: never does a row get another row's set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subsense.inputs import Filled
from subsense.routing import Placement

Run = Callable[[Filled], Mapping[str, Sequence[Tensor]]]
"""Run the network on filled inputs and give all tensors to locate, by name and in the order of calls."""

NUM_ROWS = 3
NOISE = 1e-3  # of the greatest change; below it a slice counts as unchanged


@dataclass(frozen=True)
class Located:
    """Hold where each tensor has its rows, None where that is not known."""

    placements: Mapping[str, tuple[Placement | None, ...]]

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Give those of `names` of which at least one tensor is not located."""
        return [name for name in names if None in self.placements.get(name, (None,))]


def locate(run: Run, filled: Filled) -> Located:
    """Find the rows of every tensor which `run` gives.

    Args:
        run: runs the network, without dropout.
        filled: any batch; its shapes and dtypes are used, and some of its values.
    """
    generator = torch.Generator().manual_seed(0)
    base = {name: tuple(_distinct(tensor, generator) for tensor in tensors) for name, tensors in filled.items()}
    others = [
        {name: tuple(_changed(tensor, row, generator) for tensor in tensors) for name, tensors in base.items()}
        for row in range(NUM_ROWS)
    ]
    fewer = {name: tuple(tensor[: NUM_ROWS - 1] for tensor in tensors) for name, tensors in base.items()}
    runs = [_seeded(run, rows) for rows in (base, fewer, *others)]
    names = [name for name in runs[0] if all(len(one.get(name, ())) == len(runs[0][name]) for one in runs)]
    found = {name: tuple(map(_place, *(one[name] for one in runs))) for name in names}
    return Located({name: found.get(name, (None,)) for name in runs[0]})


def _seeded(run: Run, filled: Filled) -> Mapping[str, Sequence[Tensor]]:
    """Run with the same random numbers every time, since a network may draw some in eval mode too."""
    devices = {tensor.device for tensors in filled.values() for tensor in tensors if tensor.is_cuda}
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(0)
        return run(filled)


def _place(base: Tensor, fewer: Tensor, *others: Tensor) -> Placement | None:
    if base.dim() != fewer.dim() or any(base.shape != other.shape for other in others):
        return None
    axes = [axis for axis in range(base.dim()) if base.shape[axis] != fewer.shape[axis]]
    if len(axes) != 1:
        return None
    axis = axes[0]
    folds, rest = divmod(base.shape[axis], NUM_ROWS)
    if rest or fewer.shape[axis] != folds * (NUM_ROWS - 1):
        return None
    slices = [_changed_slices(base, other, axis) for other in others]
    layouts = (False,) if folds == 1 else (False, True)
    fitting = [inner for inner in layouts if _rows(slices, folds, inner) == [{row} for row in range(NUM_ROWS)]]
    return Placement(axis, fitting[0]) if len(fitting) == 1 else None


def _rows(slices: Sequence[Sequence[int]], folds: int, inner: bool) -> list[set[int]]:
    """Give to which rows the changed slices would belong: one set for each changed row."""
    return [{index % NUM_ROWS if inner else index // folds for index in changed} for changed in slices]


def _changed_slices(base: Tensor, other: Tensor, axis: int) -> list[int]:
    difference = (base.double() - other.double()).movedim(axis, 0).abs().nan_to_num(nan=float("inf"))
    if not difference.numel():
        return []
    change = difference.reshape(len(difference), -1).amax(1)
    greatest = change[change.isfinite()].amax() if bool(change.isfinite().any()) else change.new_zeros(())
    return ((change > NOISE * greatest) & (change > 0)).nonzero().flatten().tolist()


def _distinct(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Give `NUM_ROWS` rows like those of a tensor; numbers get noise, so that no stand-in keeps a layer silent."""
    rows = tensor[torch.arange(NUM_ROWS, device=tensor.device) % len(tensor)]
    return _noisy(rows, generator) if rows.is_floating_point() else rows.clone()


def _changed(tensor: Tensor, row: int, generator: torch.Generator) -> Tensor:
    """Give the same rows with one of them replaced."""
    changed = tensor.clone()
    other = _noisy(tensor, generator) if tensor.is_floating_point() else _redrawn(tensor, generator)
    changed[row] = other[row]
    return changed


def _noisy(rows: Tensor, generator: torch.Generator) -> Tensor:
    finite = rows.nan_to_num(0.0, 0.0, 0.0)
    scale = finite.float().std(correction=0).clamp(min=1e-3)
    return finite + scale.to(rows) * torch.randn(rows.shape, generator=generator).to(rows)


def _redrawn(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Draw integers from the range that the rows span; where they are constant, zeros and ones too (ids, masks)."""
    low, high = int(rows.min()), int(rows.max())
    low, high = (low, high) if low < high else (min(low, 0), max(high, 1))
    return torch.randint(low, high + 1, rows.shape, generator=generator).to(rows)
