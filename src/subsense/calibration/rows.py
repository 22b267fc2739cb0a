"""Read the rows to calibrate on: complete ones, of a loader with or without labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

from subsense.errors import InputError
from subsense.modalities import Modalities
from subsense.modalities.inputs import Inputs
from subsense.modalities.loaders import available, num_rows, split, take

SIDE_BY_SIDE = 3
"""Sets of all rows that run as one batch, which is about what a training step with these rows keeps."""
FEWEST = 32
"""Rows of a piece."""


@dataclass(frozen=True)
class Rows:
    """Hold calibration rows in chunks, each of which runs as one batch.

    Attributes:
        chunks: inputs, everything present.
        count: rows in all.
        left_out: rows of the loader that lack something, and so have no output with everything present.
    """

    chunks: tuple[Inputs, ...]
    count: int
    left_out: int


def read_rows(modalities: Modalities, loader: Iterable[Any], most: int | None, device: torch.device) -> Rows:
    """Take the first complete rows of a loader.

    Args:
        modalities: the declared modalities.
        loader: batches ``(inputs, target)``, or inputs alone; the target isn't read.
        most: how many rows; None: all.
        device: where they are put.

    Raises:
        InputError: a batch of another form, or no row that is complete.
    """
    found: list[dict[str, Any]] = []
    count = left_out = 0
    for batch in loader:
        inputs, _ = split(batch)
        complete = available(modalities, inputs).all(1).nonzero().flatten()
        total = num_rows(inputs)
        left_out += total - len(complete)
        complete = complete if most is None else complete[: most - count]
        if len(complete):
            values = {name: value for name, value in inputs.items() if name != "present"}
            found.append(_moved(take(values, complete, total), device))
            count += len(complete)
        if count == most:
            break
    if not count:
        why = f"all {left_out} rows lack a modality" if left_out else "it has no row"
        raise InputError(f"calibrate: expected rows with everything present ({', '.join(modalities)}), but {why}")
    return Rows(tuple(_joined(found)), count, left_out)


def cut(chunks: Iterable[Inputs], size: int) -> list[Inputs]:
    """Cut chunks into smaller ones, of at most so many rows."""
    return [
        take(inputs, torch.arange(start, min(start + size, num_rows(inputs))), num_rows(inputs))
        for inputs in chunks
        for start in range(0, num_rows(inputs), size)
    ]


def spread(inputs: Inputs, num_sets: int) -> list[Inputs]:
    """Cut rows into pieces of one size, so that sets which each run one of them, in turn, are no large batch together.

    Sets that share bank rows are solved from all of them at once, so the rows of one need not be those of another.
    Pieces may share a row or two, so that they are of one size and none is left out.

    >>> [len(piece["a"]) for piece in spread({"a": torch.zeros(100, 2)}, 14)]
    [34, 34, 34]
    """
    count = num_rows(inputs)
    pieces = min(ceil(num_sets / SIDE_BY_SIDE), count // FEWEST)
    if pieces < 2:
        return [inputs]
    size = ceil(count / pieces)
    starts = [number * (count - size) // (pieces - 1) for number in range(pieces)]
    return [take(inputs, torch.arange(start, start + size), count) for start in starts]


def _moved(values: Any, device: torch.device) -> Any:
    if isinstance(values, Mapping):
        return {name: _moved(value, device) for name, value in values.items()}
    return values.to(device) if isinstance(values, Tensor) else values


def _joined(batches: list[dict[str, Any]]) -> list[Inputs]:
    """Join batches whose rows have the same shapes."""
    alike: dict[Any, list[dict[str, Any]]] = {}
    for batch in batches:
        alike.setdefault(_shapes(batch), []).append(batch)
    return [joined(some) for some in alike.values()]


def _shapes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple((name, _shapes(value[name])) for name in sorted(value))
    return tuple(value.shape[1:]) if isinstance(value, Tensor) else None


def joined(some: Sequence[Any]) -> Any:
    """Put inputs of one form one after the other; what isn't a tensor is the first's."""
    first = some[0]
    if isinstance(first, Mapping):
        return {name: joined([one[name] for one in some]) for name in first}
    return torch.cat(list(some)) if isinstance(first, Tensor) else first
