"""What a batch of a loader holds: inputs and target, which rows have what, and some of its rows.

A batch is ``({modality: tensor}, target)``, or the inputs alone; its data may lack modalities, by ``"present"``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from subsense.errors import InputError
from subsense.modalities import Modalities
from subsense.modalities.inputs import check_names, check_present


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


def split_labelled(batch: Any) -> tuple[Mapping[str, Any], Tensor]:
    """Split a batch into inputs and a target that is a tensor (batch, ...), as metrics need it.

    Raises:
        InputError: another form, or a target that hasn't one entry for each row of the inputs.
    """
    inputs, target = split(batch)
    if not isinstance(target, Tensor) or not target.ndim:
        found = "none" if target is None else type(target).__name__ + " without axes" * isinstance(target, Tensor)
        raise InputError(f"a batch of the loader: expected a target that is a tensor (batch, ...), but found {found}")
    if len(target) != (rows := num_rows(inputs)):
        raise InputError(f"a batch of the loader: expected a target of {rows} rows, as many as the inputs have, "
                         f"but found shape {tuple(target.shape)}")  # fmt: skip
    return inputs, target


def available(modalities: Modalities, inputs: Mapping[str, Any]) -> Tensor:
    """Give what each row has, bool (batch, modality): what was passed, less what ``"present"`` says is missing.

    Raises:
        InputError: a name that is no modality, or a ``"present"`` of wrong shape or dtype.

    >>> modalities = Modalities({"rgb": "3", "thermal": "1"})
    >>> available(modalities, {"rgb": torch.zeros(2, 3)})
    tensor([[ True, False],
            [ True, False]])
    """
    passed = torch.tensor([inputs.get(name) is not None for name in modalities])
    try:
        check_names(modalities, inputs)
        rows, said = num_rows(inputs), inputs.get("present")
        return passed.expand(rows, -1) if said is None else (check_present(modalities, said, rows) > 0).cpu() & passed
    except InputError as error:
        raise InputError(f"a batch of the loader: {error}") from None


def graded(present: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """Give `present`, bool (batch, modality), less what ``"present"`` of these inputs says of the quality.

    >>> graded(torch.tensor([[True, False]]), {"present": torch.tensor([[0.5, 1.0]])})
    tensor([[0.5000, 0.0000]])
    """
    said = inputs.get("present")
    return present if said is None or not said.is_floating_point() else present * said.to(present.device)


def num_rows(inputs: Mapping[str, Any]) -> int:
    """Count the rows of a batch: the length of the first tensor found."""
    for name, value in inputs.items():
        if isinstance(value, Tensor) and name != "present":
            return len(value)
        if isinstance(value, Mapping) and value:
            return num_rows(value)
    raise InputError(f"expected a tensor among the inputs {sorted(inputs)}, but found none")


def moved(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Bring every tensor of nested inputs to a device."""
    return {name: moved(value, device) if isinstance(value, Mapping)
            else value.to(device) if isinstance(value, Tensor) else value
            for name, value in inputs.items()}  # fmt: skip


def take(data: Any, rows: Tensor, count: int, what: str = "target") -> Any:
    """Take rows, int64 and ascending, of everything in a batch of `count` rows; all of them: `data` itself.

    What holds rows is told by its kind, never by its length. A tensor with axes has them on the first. A mapping holds
    parts, and so does a list or tuple in which there is a tensor with axes or another list or tuple. Any other list or
    tuple (of strings, numbers, mappings, tensors without axes) holds one entry for each row. The rest is left as it is.

    Raises:
        InputError: a tensor, list or tuple that by this has rows, but not `count`; names it, beginning with `what`.

    >>> take({"rgb": torch.tensor([1, 2, 3]), "names": ["a", "b", "c"], "scale": 2.0}, torch.tensor([0, 2]), count=3)
    {'rgb': tensor([1, 3]), 'names': ['a', 'c'], 'scale': 2.0}
    >>> take((torch.tensor([1, 2]), torch.tensor([3, 4])), torch.tensor([1]), count=2)
    (tensor([2]), tensor([4]))
    """
    if len(rows) == count:
        return data
    if isinstance(data, Tensor):
        return data[rows.to(data.device)] if _has_axes(data, count, what) else data
    if isinstance(data, Mapping):
        return {name: take(value, rows, count, f"{what}[{name!r}]") for name, value in data.items()}
    if not isinstance(data, (tuple, list)):
        return data
    if any(_is_part(value) for value in data):
        taken = [take(value, rows, count, f"{what}[{index}]") for index, value in enumerate(data)]
    else:
        _check_count(len(data), count, what, f"{type(data).__name__} of {len(data)} entries")
        taken = [data[row] for row in rows.tolist()]
    return taken if isinstance(data, list) else type(data)(*taken) if hasattr(data, "_fields") else tuple(taken)


def _is_part(value: Any) -> bool:
    return isinstance(value, (tuple, list)) or (isinstance(value, Tensor) and value.dim() > 0)


def _has_axes(value: Tensor, count: int, what: str) -> bool:
    if value.dim():
        _check_count(len(value), count, what, f"shape {tuple(value.shape)}")
    return value.dim() > 0


def _check_count(found: int, count: int, what: str, described: str) -> None:
    if found != count:
        raise InputError(
            f"{what} of a batch: expected {count} rows, as many as the inputs have, since only some of them are used, "
            f"but found {described}. A tensor has its rows on the first axis; what differs in size from row to row "
            "goes into a mapping for each row: [{'boxes': tensor}, ...]; what belongs to no row is a number or a "
            "tensor without axes"
        )
