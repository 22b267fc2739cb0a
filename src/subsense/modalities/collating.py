"""Batches of samples that lack modalities: what has no key in a sample, or None, is not `present` in its row.

torch's own `default_collate` fails at such samples, since it wants the same keys in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from subsense.errors import InputError, closest
from subsense.modalities.declaration import AxisSpec, Modalities
from subsense.modalities.inputs import read


class Collate:
    """Make a batch of samples, each of which may lack modalities: the `collate_fn` of a `DataLoader`.

    Args:
        modalities: the names in declared order, which is that of `present`'s columns: of `RobustModel.modalities`, of
            what was passed to `adapt`, or a list.
        targets: ``"stack"``, as torch's own collate function; ``"list"``: one entry for each row, as it is, for what
            differs in size from row to row: ``{"boxes": tensor (n, 4), "labels": tensor (n,)}``.

    A sample is ``({modality: tensor}, target)``, or the inputs alone. What it lacks is no key, None, or False in an
    entry ``"present"`` of its own, bool (modality,). The batch has ``"present"``, bool (batch, modality); zeros stand
    where a row lacks what others have, and are never read; what no row has is left out.

    Raises:
        InputError: a sample of another form, with an unknown name or without any modality; rows of unlike shapes;
            targets that can't be stacked; a word for them that isn't known.

    >>> collate = Collate(["rgb", "thermal"])
    >>> inputs, target = collate([({"rgb": torch.ones(2), "thermal": torch.ones(1)}, 0), ({"rgb": torch.ones(2)}, 1)])
    >>> inputs["present"]
    tensor([[ True,  True],
            [ True, False]])
    >>> inputs["thermal"], target
    (tensor([[1.],
            [0.]]), tensor([0, 1]))
    """

    def __init__(self, modalities: Iterable[str], targets: str = "stack") -> None:
        if targets not in ("stack", "list"):
            raise InputError(f"targets: expected 'stack' or 'list', but found {targets!r}")
        self.names, self.targets = tuple(modalities), targets

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Make a batch: ``({modality: tensor, "present": mask}, target)``, or the inputs alone."""
        rows = [_split(sample, number) for number, sample in enumerate(samples)]
        present = torch.stack([_present(self.names, inputs, number) for number, (inputs, _) in enumerate(rows)])
        inputs = {
            name: _stack(
                name, [row[name] if has else None for (row, _), has in zip(rows, column.tolist(), strict=True)]
            )
            for name, column in zip(self.names, present.T, strict=True)
            if column.any()
        }
        batch = inputs | {"present": present}
        targets = [target for _, target in rows]
        for number, target in enumerate(targets):
            if len(target) != len(targets[0]):
                wanted = "a target, as sample 0 has" if targets[0] else "no target, as sample 0 has none"
                raise InputError(f"sample {number}: expected {wanted}")
        return (batch, self._collated([target for (target,) in targets])) if targets[0] else batch

    def _collated(self, targets: list[Any]) -> Any:
        if self.targets == "list":
            for number, target in enumerate(targets):
                if isinstance(target, (tuple, list)) or (isinstance(target, Tensor) and target.dim()):
                    raise InputError(
                        f"sample {number}: expected a mapping or a number for a target, since a list of "
                        f"{type(target).__name__}s could be rows or parts, but found one; name it: {{'boxes': ...}}"
                    )
            return targets
        try:
            return default_collate(targets)
        except RuntimeError as error:
            raise InputError(
                f"targets of a batch can't be stacked: {str(error).splitlines()[0]}; where they differ in size from "
                "row to row, give each row a mapping and say subsense.Collate(..., targets='list')"
            ) from error


class Incomplete(Dataset[Any]):
    """Give a data set's samples complete and with ``"present"``, so that any collate function makes batches of them.

    Args:
        dataset: map-style; ``dataset[i]`` is ``({modality: tensor}, target)``, or the inputs alone; a key may be absent
            or None.
        modalities: as passed to `adapt`; gives the shapes of the zeros that stand for what a sample lacks.

    Raises:
        InputError: a sample that doesn't fit, or a letter of an axis string that only the absent modality has: declare
            a number, or use `Collate`, which takes shapes from other rows.

    >>> data = Incomplete([({"rgb": torch.ones(3, 2, 2)}, 0)], {"rgb": "3 H W", "thermal": "1 H W"})
    >>> inputs, target = data[0]
    >>> inputs["thermal"].shape, inputs["present"]
    (torch.Size([1, 2, 2]), tensor([ True, False]))
    """

    def __init__(self, dataset: Any, modalities: Modalities | Mapping[str, AxisSpec]) -> None:
        self.dataset = dataset
        self.modalities = modalities if isinstance(modalities, Modalities) else Modalities(modalities)

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Hand on that an epoch begins, where the data set draws anew in each."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __getitem__(self, index: int) -> Any:
        sample = self.dataset[index]
        inputs, rest = _split(sample, index)
        present = _present(self.modalities.names, inputs, index)
        given = {name: _each(inputs[name], lambda value: value[None]) for name in self.modalities if _has(inputs, name)}
        batch = read(self.modalities, given)
        complete: dict[str, Any] = {}
        for name, modality in self.modalities.items():
            if _has(inputs, name):
                complete[name] = inputs[name]
                continue
            zeros = {
                part: torch.zeros(batch.shape(name, axes)[1:], dtype=axes.torch_dtype)
                for part, axes in modality.parts.items()
            }
            complete[name] = zeros[name] if modality.is_single else zeros
        complete["present"] = present
        return (complete, *rest) if rest else complete


def _split(sample: Any, number: int) -> tuple[Mapping[str, Any], tuple[Any, ...]]:
    """Split a sample into inputs and what follows: a target, or nothing."""
    if isinstance(sample, Mapping):
        return _tensors(sample), ()
    if isinstance(sample, (tuple, list)) and 1 <= len(sample) <= 2 and isinstance(sample[0], Mapping):
        return _tensors(sample[0]), tuple(sample[1:])
    kinds = [type(part).__name__ for part in sample] if isinstance(sample, (tuple, list)) else type(sample).__name__
    raise InputError(
        f"sample {number}: expected ({{modality: tensor}}, target), or the inputs alone, but found {kinds}"
    )


def _tensors(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if value is None else _each(value, torch.as_tensor) for name, value in inputs.items()}


def _each(value: Any, change: Any) -> Any:
    """Change a modality's one tensor, or each of those that carry it."""
    return {part: change(one) for part, one in value.items()} if isinstance(value, Mapping) else change(value)


def _has(inputs: Mapping[str, Any], name: str) -> bool:
    return inputs.get(name) is not None


def _present(names: Sequence[str], inputs: Mapping[str, Any], number: int) -> Tensor:
    """Say what a sample has: bool (modality,)."""
    for name in inputs:
        if name not in names and name != "present":
            raise InputError(f"sample {number}: unknown modality {name!r}; the modalities are {', '.join(names)}."
                             f"{closest(str(name), names)}")  # fmt: skip
    has = torch.tensor([_has(inputs, name) for name in names])
    said = inputs.get("present")
    if said is not None:
        if said.dtype != torch.bool or said.shape != has.shape:
            raise InputError(
                f"sample {number}, 'present': expected bool ({len(names)},), in the order {', '.join(names)}, "
                f"but found {said.dtype} {tuple(said.shape)}"
            )
        has = has & said
    if not has.any():
        raise InputError(f"sample {number} has no modality present; each needs at least one")
    return has


def _stack(name: str, values: Sequence[Any]) -> Any:
    """Stack rows, zeros for None: a tensor, or part -> tensor."""
    given = next(value for value in values if value is not None)
    if not isinstance(given, Mapping):
        return _stack_tensors(name, values)
    for value in values:
        if value is not None and (not isinstance(value, Mapping) or set(value) != set(given)):
            found = sorted(value) if isinstance(value, Mapping) else type(value).__name__
            raise InputError(f"modality {name!r}: expected {sorted(given)} in each sample, but found {found}")
    return {part: _stack_tensors(part, [value and value[part] for value in values]) for part in given}


def _stack_tensors(name: str, values: Sequence[Tensor | None]) -> Tensor:
    given = [value for value in values if value is not None]
    if len(shapes := {(tuple(value.shape), value.dtype) for value in given}) > 1:
        found = ", ".join(sorted(f"{shape} {dtype}" for shape, dtype in shapes))
        raise InputError(f"{name!r}: expected one shape and dtype in all samples of a batch, but found {found}")
    return torch.stack([torch.zeros_like(given[0]) if value is None else value for value in values])
