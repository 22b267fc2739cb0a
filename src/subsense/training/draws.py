"""Which combination each row of a batch trains: a pure function of a seed, so nothing is kept between batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsense.errors import InputError, ModalityError, TrainingError, closest
from subsense.modalities import Combination, CombinationLike, Modalities


@dataclass(frozen=True)
class Draw:
    """Hold what was drawn for a batch.

    Attributes:
        rows: int64 (kept,): rows of the batch for which a combination fits.
        which: int64 (kept,): the combination of each kept row, as an index into those asked for.
        present: bool (kept, modality): the same as modalities.
    """

    rows: Tensor
    which: Tensor
    present: Tensor


class Drawer:
    """Draw combinations for the rows of a batch.

    Args:
        modalities: the declared modalities.
        combinations: those asked for.
        weights: combination -> how often relative to the others; those not named: 1. None: all alike.

    Raises:
        TrainingError: a negative weight, or none above 0.
        ModalityError: a weight for a combination that isn't asked for.

    >>> modalities = Modalities({"rgb": "3 H W", "thermal": "1 H W"})
    >>> drawer = Drawer(modalities, modalities.incomplete())
    >>> drawer.draw(torch.tensor([[True, True], [False, True]]), seed=0).rows
    tensor([0, 1])
    """

    def __init__(
        self,
        modalities: Modalities,
        combinations: Sequence[Combination],
        weights: Mapping[Any, float] | None = None,
    ) -> None:
        self.combinations = tuple(combinations)
        self.present = torch.stack([modalities.present(combination) for combination in combinations])
        self.weights = torch.tensor(_weights(modalities, self.combinations, weights or {}), dtype=torch.float64)

    def draw(self, available: Tensor, seed: int) -> Draw:
        """Draw for rows that have `available` (batch, modality), bool; a row that nothing fits is left out."""
        lacking = self.present[None] & ~available[:, None]
        odds = self.weights * ~lacking.any(-1)
        rows = odds.any(-1).nonzero().flatten()
        if not len(rows):
            return Draw(rows, rows, self.present[:0])
        which = torch.multinomial(odds[rows], 1, generator=torch.Generator().manual_seed(seed)).flatten()
        return Draw(rows, which, self.present[which])


def _weights(
    modalities: Modalities, combinations: tuple[Combination, ...], weights: Mapping[CombinationLike, float]
) -> list[float]:
    given = {modalities.combination(name): weight for name, weight in weights.items()}
    for combination, weight in given.items():
        if combination not in combinations:
            raise ModalityError(f"weights: {combination} is not among the combinations that are trained: "
                                f"{', '.join(map(str, combinations))}")  # fmt: skip
        if not 0 <= weight < float("inf"):
            raise TrainingError(f"weights: expected a number, 0 or more, for {combination}, but found {weight!r}")
    chosen = [float(given.get(combination, 1.0)) for combination in combinations]
    if not any(chosen):
        raise TrainingError("weights: expected at least one above 0, but found none")
    return chosen


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
    """Give what each row has, bool (batch, modality): what was passed, less what ``"present"`` says is missing."""
    for name in inputs:
        if name not in modalities and name != "present":
            known = ", ".join(modalities)
            raise InputError(f"a batch of the loader: unknown modality {name!r}; the modalities are {known}."
                             f"{closest(str(name), modalities)}")  # fmt: skip
    passed = torch.tensor([inputs.get(name) is not None for name in modalities])
    present = inputs.get("present")
    if present is None:
        return passed.expand(num_rows(inputs), -1)
    if not isinstance(present, Tensor) or present.dtype != torch.bool or present.shape[1:] != passed.shape:
        found = f"{present.dtype} {tuple(present.shape)}" if isinstance(present, Tensor) else type(present).__name__
        raise InputError(f"'present' in a batch: expected bool (batch, {len(modalities)}), but found {found}")
    return present.cpu() & passed


def num_rows(inputs: Mapping[str, Any]) -> int:
    """Count the rows of a batch: the length of the first tensor found."""
    for value in inputs.values():
        if isinstance(value, Tensor):
            return len(value)
        if isinstance(value, Mapping) and value:
            return num_rows(value)
    raise InputError(f"a batch of the loader: expected a tensor among the inputs {sorted(inputs)}, but found none")


def take(data: Any, rows: Tensor, count: int) -> Any:
    """Take rows of everything in a batch that has `count` of them.

    A tensor of `count` rows is indexed. In a list or tuple of such tensors each is; any other list or tuple of length
    `count` holds one entry for each row.
    """
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
