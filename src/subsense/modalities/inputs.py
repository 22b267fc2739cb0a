"""Read what a caller passes: check every tensor against its axis string, and find out what is missing."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsense.errors import InputError, closest
from subsense.modalities import Axes, Modalities, Modality

Inputs = Mapping[str, Tensor | Mapping[str, Tensor] | None]
"""Modality -> tensor (batch, *axes), or argument -> tensor where several carry it; absent or None: missing."""

HUGE = 1e30
"""From here on a number says "no value": 9.97e36 in NetCDF, 3.4e38 in rasters; half precision ends before."""

Sizes = dict[str, int]
Filled = dict[str, tuple[Tensor, ...]]
"""Modality -> its tensors, one for each part, nothing missing any more."""


@dataclass(frozen=True)
class Batch:
    """Hold one checked batch.

    Attributes:
        tensors: modality -> its tensors, one for each part; None where nothing was passed.
        present: bool (batch, modality).
        quality: what each row has of each modality, float in [0, 1] (batch, modality); None where it is all or nothing.
        whole: the modalities known to be present in every row.
        code: what every row has, as a bit mask (`Modalities.code`); None where rows differ, or where a graph that is
            being compiled can't know.
        sizes: letter -> size.
    """

    tensors: Mapping[str, tuple[Tensor, ...] | None]
    present: Tensor
    whole: frozenset[str]
    code: int | None
    sizes: Sizes
    num_rows: int
    device: torch.device
    quality: Tensor | None = None

    def shape(self, modality: str, axes: Axes) -> tuple[int, ...]:
        """Give the shape (batch, ...) that a part has in this batch; raise `InputError` for an unknown letter."""
        return (self.num_rows, *(self._size(modality, axes, size) for size in axes.sizes))

    def codes(self, modalities: Modalities) -> list[int]:
        """Give what each row has, as bit masks."""
        bits = torch.tensor([1 << bit for bit in range(len(modalities))])
        codes: list[int] = (self.present * bits).sum(1).tolist()
        return codes

    def _size(self, modality: str, axes: Axes, size: int | str) -> int:
        if isinstance(size, int):
            return size
        if size not in self.sizes:
            raise InputError(
                f"modality {modality!r} is missing and axis {size!r} of {str(axes)!r} can't be resolved: no input that "
                f"was passed has it. Declare a number instead of {size!r}, or pass a placeholder of the right shape "
                f"for {modality!r} together with `present`"
            )
        return self.sizes[size]


def read(modalities: Modalities, inputs: Inputs, present: Tensor | None = None) -> Batch:
    """Check inputs and `present`, and settle which row has what.

    Args:
        modalities: what the network was declared to take.
        inputs: modality -> tensor (batch, *axes). An entry ``"present"`` is used where the argument is None.
        present: bool (batch, modality), columns in declared order; None: what is passed is present in every row. Or how
            good it is: float in [0, 1], where 0 is missing.

    Raises:
        InputError: an unknown name, a wrong rank, size, dtype or device, a letter with two sizes, `present` of a wrong
            shape, dtype or range, a row with nothing present, a modality called present that was not passed.
    """
    if not isinstance(inputs, Mapping):
        raise InputError(f"expected a mapping of modality to tensor, but found {type(inputs).__name__}")
    check_names(modalities, inputs)
    said = inputs.get("present") if present is None else present
    tensors = {name: _parts(modality, inputs.get(name)) for name, modality in modalities.items()}
    passed = [(axes, label, tensor) for axes, label, tensor in _walk(modalities, tensors)]
    if not passed:
        raise InputError(f"all modalities are missing: pass at least one of {', '.join(modalities)}")
    sizes, (num_rows, device) = _resolve(passed), _common(passed)
    given = tuple(name for name, parts in tensors.items() if parts is not None)
    if said is None:
        present = modalities.present(given).expand(num_rows, -1)
        return Batch(tensors, present, frozenset(given), modalities.code(given), sizes, num_rows, device)
    said = check_present(modalities, said, num_rows)
    present, quality = said > 0, said if said.is_floating_point() else None
    if torch.compiler.is_compiling():
        present = present & modalities.present(given).to(present.device)
        return Batch(tensors, present, frozenset(), None, sizes, num_rows, device, quality)
    present = present.cpu()
    _check_rows(modalities, given, present)
    whole = frozenset(name for name, full in zip(modalities, present.all(0).tolist(), strict=True) if full)
    uniform = bool((present == present[0]).all())
    code = modalities.code(modalities.from_present(present[0])) if uniform else None
    quality = None if quality is None or bool(((quality == 0) | (quality == 1)).all()) else quality.cpu()
    return Batch(tensors, present, whole, code, sizes, num_rows, device, quality)


def check_finite(modalities: Modalities, batch: Batch, masks: Container[tuple[str, str]] = ()) -> None:
    """Raise `InputError` where a present value is NaN, infinite or beyond `HUGE`; what is missing is not looked at.

    Nor are masks, (modality, part): one that is added to scores may be infinite.
    """
    if _is_moderate(batch):
        return
    for column, name in enumerate(modalities):
        has = batch.present[:, column].to(batch.device)
        for part, tensor in zip(modalities[name].parts, batch.tensors[name] or (), strict=False):
            if (name, part) in masks:
                continue
            finite = _by_row(tensor.isfinite())
            if rows := (has & ~finite).nonzero().flatten().tolist():
                raise InputError(
                    f"input {part!r}: expected finite numbers, but found NaN or infinity in {some(rows)}; "
                    f"say in `present` that they lack {name!r}, or repair it"
                )
            if not tensor.is_floating_point():
                continue
            if rows := (has & ~_by_row(tensor.abs() < HUGE)).nonzero().flatten().tolist():
                found = tensor[rows[0]].abs().max().item()
                raise InputError(
                    f"input {part!r}: expected numbers below {HUGE:.0e}, but found {found:.3g} in {some(rows)}, "
                    f"as files write what was never measured; say in `present` that they lack {name!r}, or repair it"
                )


def check_not_empty(modalities: Modalities, batch: Batch) -> None:
    """Raise `InputError` for an axis of no size: what is passed holds nothing, and a mean of nothing is NaN."""
    for axes, part, tensor in _walk(modalities, batch.tensors):
        for size, found in zip(axes.sizes, tensor.shape[1:], strict=True):
            if not found:
                raise InputError(
                    f"input {part!r}: axis {str(size)!r} has no size, shape {tuple(tensor.shape)}, and a mean or "
                    "attention over nothing is NaN, zeros or a mean, by code path; leave it out where its sizes are "
                    "numbers or another input's, else pass a placeholder of any size and say in `present` that these "
                    "rows lack it"
                )


def _by_row(holds: Tensor) -> Tensor:
    return holds.unsqueeze(1).flatten(1).all(1)


def _is_moderate(batch: Batch) -> bool:
    """Say whether all is finite and below `HUGE` at a glance: one pass over the data, and a GPU is waited for once."""
    tensors = [tensor.detach() for parts in batch.tensors.values() for tensor in parts or ()]
    if any(one.is_complex() for one in tensors):  # they have no least and greatest
        return False
    ends = [end.double() for one in tensors if one.is_floating_point() and one.numel() for end in one.aminmax()]
    return not ends or bool((torch.stack(ends).abs() < HUGE).all())  # the ends of what has NaN are NaN


def named(modalities: Modalities, tensors: Filled) -> dict[str, Any]:
    """Give modality -> tensor, or part -> tensor where several carry it: the shape in which users pass inputs.

    What `tensors` lacks is left out.
    """
    return {
        name: tensors[name][0] if modality.is_single else dict(zip(modality.parts, tensors[name], strict=True))
        for name, modality in modalities.items()
        if name in tensors
    }


def check_names(modalities: Modalities, inputs: Mapping[str, Any]) -> None:
    """Raise `InputError` for a name that is no modality."""
    for name in inputs:
        if name not in modalities and name != "present":
            known = ", ".join(modalities)
            raise InputError(f"unknown modality {name!r}; the modalities are {known}.{closest(str(name), modalities)}")


def _parts(modality: Modality, value: Tensor | Mapping[str, Tensor] | None) -> tuple[Tensor, ...] | None:
    if value is None:
        return None
    parts: object = {modality.name: value} if modality.is_single else value
    if not isinstance(parts, Mapping) or set(parts) != set(modality.parts):
        found = sorted(parts) if isinstance(parts, Mapping) else type(parts).__name__
        raise InputError(
            f"modality {modality.name!r}: expected a mapping with {list(modality.parts)}, but found {found}"
        )
    for part, tensor in parts.items():
        if not isinstance(tensor, Tensor):
            raise InputError(f"input {part!r}: expected a tensor, but found {type(tensor).__name__}")
    return tuple(parts[part] for part in modality.parts)


def _walk(
    modalities: Modalities, tensors: Mapping[str, tuple[Tensor, ...] | None]
) -> Iterator[tuple[Axes, str, Tensor]]:
    for name, modality in modalities.items():
        for (part, axes), tensor in zip(modality.parts.items(), tensors[name] or (), strict=False):
            yield axes, part, tensor


def _resolve(passed: list[tuple[Axes, str, Tensor]]) -> Sizes:
    sizes: Sizes = {}
    givers: dict[str, str] = {}
    for axes, label, tensor in passed:
        _check_kind(axes, label, tensor)
        for axis, (size, found) in enumerate(zip(axes.sizes, tensor.shape[1:], strict=True), start=1):
            expected = size if isinstance(size, int) else sizes.setdefault(size, found)
            source = givers.setdefault(size, label) if isinstance(size, str) else label
            if found != expected:
                why = f"as in {source!r}" if isinstance(size, str) else f"as declared ({str(axes)!r})"
                raise InputError(
                    f"input {label!r}: expected size {expected} on axis {axis} ({size}), {why}, "
                    f"but found {found} in shape {tuple(tensor.shape)}"
                )
    return sizes


def _check_kind(axes: Axes, label: str, tensor: Tensor) -> None:
    if tensor.dim() != len(axes.sizes) + 1:
        raise InputError(
            f"input {label!r}: expected {len(axes.sizes) + 1} axes (batch {axes}), "
            f"but found shape {tuple(tensor.shape)}"
        )
    if tensor.dtype != axes.torch_dtype:
        found = str(tensor.dtype).removeprefix("torch.")
        raise InputError(
            f"input {label!r}: expected dtype {axes.dtype}, but found {found}; convert it, or declare "
            f"'{' '.join(map(str, axes.sizes))}:{found}'"
        )


def _common(passed: list[tuple[Axes, str, Tensor]]) -> tuple[int, torch.device]:
    _, first_label, first = passed[0]
    num_rows = first.shape[0]  # not len(), which would tie an exported graph to one batch size
    for _, label, tensor in passed[1:]:
        if tensor.shape[0] != num_rows:
            raise InputError(
                f"input {label!r}: expected {num_rows} rows as in {first_label!r}, but found {tensor.shape[0]}"
            )
        if tensor.device != first.device:
            raise InputError(f"input {label!r} is on {tensor.device}, but {first_label!r} is on {first.device}")
    if not num_rows:
        raise InputError(f"input {first_label!r}: expected at least one row, but found an empty batch")
    return num_rows, first.device


def _check_rows(modalities: Modalities, given: tuple[str, ...], present: Tensor) -> None:
    empty = (~present.any(1)).nonzero().flatten().tolist()
    if empty:
        have = "has" if len(empty) == 1 else "have"
        raise InputError(f"`present`: {some(empty)} {have} no modality present; each row needs at least one")
    for name, claimed in zip(modalities, present.any(0).tolist(), strict=True):
        if claimed and name not in given:
            raise InputError(f"`present` says that {name!r} is there, but no {name!r} was passed")


def check_present(modalities: Modalities, present: object, num_rows: int) -> Tensor:
    """Give `present`; raise `InputError` where it is neither bool nor a quality in [0, 1], (batch, modality)."""
    if not isinstance(present, Tensor) or not (present.dtype == torch.bool or present.is_floating_point()):
        found = present.dtype if isinstance(present, Tensor) else type(present).__name__
        raise InputError(
            "`present`: expected a bool tensor (batch, modality), or a floating-point one with qualities in [0, 1], "
            f"but found {found}"
        )
    if tuple(present.shape) != (num_rows, len(modalities)):
        raise InputError(
            f"`present`: expected shape ({num_rows}, {len(modalities)}), rows x ({', '.join(modalities)}), "
            f"but found {tuple(present.shape)}"
        )
    if present.is_floating_point() and not torch.compiler.is_compiling():
        wrong = ~((present >= 0) & (present <= 1))
        if rows := wrong.any(1).nonzero().flatten().tolist():
            raise InputError(
                f"`present`: expected a quality in [0, 1], but found {float(present[wrong][0])} in {some(rows)}"
            )
    return present


def some(numbers: list[int], most: int = 5) -> str:
    """Write which rows are meant, the first few of many.

    >>> some([4]), some([1, 2])
    ('row 4', 'rows 1, 2')
    """
    more = f", ... ({len(numbers)} in all)" if len(numbers) > most else ""
    return f"row{'s' * (len(numbers) != 1)} {', '.join(map(str, numbers[:most]))}{more}"
