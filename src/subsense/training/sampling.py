"""Which combination each row of a batch trains: a pure function of a seed, so nothing is kept between batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsense.errors import ModalityError, TrainingError
from subsense.modalities import Combination, CombinationLike, Modalities
from subsense.modalities.declaration import Wanted


@dataclass(frozen=True)
class Draw:
    """Hold what was drawn for a batch.

    Attributes:
        rows: int64 (kept,): rows of the batch for which a combination fits.
        which: int64 (kept,): the combination of each kept row, as an index into those asked for.
        present: bool (kept, modality): the same as modalities; float where the rows have qualities.
    """

    rows: Tensor
    which: Tensor
    present: Tensor

    def of(self, first: int, count: int) -> Draw:
        """Give what was drawn for `count` rows of the batch from `first` on, as for a batch of their own."""
        mine = (self.rows >= first) & (self.rows < first + count)
        return Draw(self.rows[mine] - first, self.which[mine], self.present[mine])


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


def draw_present(
    modalities: Modalities,
    available: Tensor,
    *,
    seed: int,
    combinations: Wanted | None = None,
    weights: Mapping[CombinationLike, float] | None = None,
) -> Tensor:
    """Draw which of its modalities each row of a batch keeps: what `train` does, for a loop of one's own.

    Args:
        modalities: the declared ones, ``robust.modalities``.
        available: bool (batch, modality): what each row has; all True where the data lack nothing.
        seed: of this batch. The same seed draws the same, whatever was drawn before: give each batch its own.
        combinations: those to draw from; by default all incomplete ones.
        weights: combination -> how often it is drawn relative to the others (default 1).

    Returns:
        bool (batch, modality), on the CPU. A row that none of the combinations fits keeps what it has.

    Raises:
        TrainingError: a negative weight, or none above 0.
        ModalityError: an unknown combination, none at all, or a weight for one that isn't drawn from.

    >>> modalities = Modalities({"rgb": "3 H W", "thermal": "1 H W"})
    >>> present = draw_present(modalities, torch.ones(4, 2, dtype=torch.bool), seed=0)
    >>> present.sum(1)  # each row lacks one of the two
    tensor([1, 1, 1, 1])
    """
    asked = modalities.select("all" if combinations is None else combinations)
    available = available.cpu()
    draw = Drawer(modalities, asked, weights).draw(available, seed)
    return available.index_copy(0, draw.rows, draw.present)


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
