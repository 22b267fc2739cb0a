"""What a batch of a loader holds: inputs and target, which rows have what, and some of its rows.

A batch is ``({modality: tensor}, target)``, or the inputs alone; its data may lack modalities, by ``"present"``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from subsense.errors import InputError, closest
from subsense.modalities import Modalities


def split(batch: Any) -> tuple[Mapping[str, Any], Any]:
    """Split a batch into inputs and target (None where there is none).

    Raises:
        InputError: neither a mapping nor ``(inputs, target)``.
    """
    if isinstance(batch, Mapping):
        return batch, None
    if isinstance(batch, (tuple, list)) and 1 <= len(batch) <= 2 and isinstance(batch[0], Mapping):
        return batch[0], batch[1] if len(batch) == 2 else None
    kinds = [type(part).__name__ for part in batch] if isinstance(batch, (tuple, list)) else type(batch).__name__
    raise InputError(f"a batch of the loader: expected ({{modality: tensor}}, target), but found {kinds}")


def available(modalities: Modalities, inputs: Mapping[str, Any]) -> Tensor:
    """Give what each row has, bool (batch, modality): what was passed, less what ``"present"`` says is missing.

    Raises:
        InputError: a name that is no modality, or a ``"present"`` of wrong shape or dtype.

    >>> modalities = Modalities({"rgb": "3", "thermal": "1"})
    >>> available(modalities, {"rgb": torch.zeros(2, 3)})
    tensor([[ True, False],
            [ True, False]])
    """
    for name in inputs:
        if name not in modalities and name != "present":
            known = ", ".join(modalities)
            raise InputError(f"a batch of the loader: unknown modality {name!r}; the modalities are {known}."
                             f"{closest(str(name), modalities)}")  # fmt: skip
    passed = torch.tensor([inputs.get(name) is not None for name in modalities])
    present = inputs.get("present")
    expected = (num_rows(inputs), len(modalities))
    if present is None:
        return passed.expand(expected)
    if not isinstance(present, Tensor) or present.dtype != torch.bool or present.shape != expected:
        found = f"{present.dtype} {tuple(present.shape)}" if isinstance(present, Tensor) else type(present).__name__
        raise InputError(
            f"'present' in a batch: expected bool {expected}, in the order {', '.join(modalities)}, but found {found}"
        )
    return present.cpu() & passed


def num_rows(inputs: Mapping[str, Any]) -> int:
    """Count the rows of a batch: the length of the first tensor found."""
    for name, value in inputs.items():
        if isinstance(value, Tensor) and name != "present":
            return len(value)
        if isinstance(value, Mapping) and value:
            return num_rows(value)
    raise InputError(f"a batch of the loader: expected a tensor among the inputs {sorted(inputs)}, but found none")


def take(data: Any, rows: Tensor, count: int) -> Any:
    """Take rows, int64 and ascending, of everything in a batch that has `count` of them.

    A tensor of `count` rows is indexed. In a list or tuple of such tensors each is; any other list or tuple of length
    `count` holds one entry for each row.

    >>> take({"rgb": torch.tensor([1, 2, 3]), "names": ["a", "b", "c"], "scale": 2.0}, torch.tensor([0, 2]), count=3)
    {'rgb': tensor([1, 3]), 'names': ['a', 'c'], 'scale': 2.0}
    """
    if len(rows) == count:
        return data
    if isinstance(data, Tensor):
        return data[rows.to(data.device)] if _has_rows(data, count) else data
    if isinstance(data, Mapping):
        return {name: take(value, rows, count) for name, value in data.items()}
    if not isinstance(data, (tuple, list)):
        return data
    one_each = len(data) == count and not all(_has_rows(value, count) for value in data)
    taken = [data[row] for row in rows.tolist()] if one_each else [take(value, rows, count) for value in data]
    return tuple(taken) if isinstance(data, tuple) else taken


def _has_rows(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == count
