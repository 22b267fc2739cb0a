"""Read the rows to calibrate on: complete ones, of a loader with or without labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsense.errors import InputError
from subsense.modalities import Modalities
from subsense.modalities.inputs import Inputs
from subsense.modalities.loaders import available, graded, num_rows, split, take


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
        complete = (graded(available(modalities, inputs), inputs) == 1).all(1).nonzero().flatten()
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


def _moved(values: Any, device: torch.device) -> Any:
    if isinstance(values, Mapping):
        return {name: _moved(value, device) for name, value in values.items()}
    return values.to(device) if isinstance(values, Tensor) else values


def _joined(batches: list[dict[str, Any]]) -> list[Inputs]:
    """Join batches whose rows have the same shapes."""
    alike: dict[Any, list[dict[str, Any]]] = {}
    for batch in batches:
        alike.setdefault(_shapes(batch), []).append(batch)
    return [_concatenated(some) for some in alike.values()]


def _shapes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple((name, _shapes(value[name])) for name in sorted(value))
    return tuple(value.shape[1:]) if isinstance(value, Tensor) else None


def _concatenated(some: list[Any]) -> Any:
    first = some[0]
    if isinstance(first, Mapping):
        return {name: _concatenated([one[name] for one in some]) for name in first}
    return torch.cat(some) if isinstance(first, Tensor) else first
