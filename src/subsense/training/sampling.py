"""Which combination each row of a batch trains: a pure function of a seed, so nothing is kept between batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsense.errors import ModalityError, TrainingError
from subsense.modalities import Combination, CombinationLike, Modalities
from subsense.modalities.declaration import Wanted
from subsense.modalities.inputs import check_names

DEGRADED = 0.5
"""How often what a drawn combination lacks is there after all, degraded, where inputs are degraded at all."""


@dataclass(frozen=True)
class Draw:
    """Hold what was drawn for a batch.

    Attributes:
        rows: int64 (kept,): rows of the batch for which a combination fits.
        which: int64 (kept,): the combination of each kept row, as an index into those asked for.
        present: bool (kept, modality): the same as modalities; float where the rows have qualities: what the
            combination lacks may be there then, degraded.
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
        degraded: modality -> how often it is there after all, degraded, where the combination lacks it; its quality is
            then uniform in (0, 1). None: never, and `present` is bool.

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
        degraded: Mapping[str, float] | None = None,
    ) -> None:
        self.combinations = tuple(combinations)
        self.present = torch.stack([modalities.present(combination) for combination in combinations])
        self.weights = torch.tensor(_weights(modalities, self.combinations, weights or {}), dtype=torch.float64)
        self._degraded = degraded and torch.tensor([degraded.get(name, 0.0) for name in modalities])

    def draw(self, available: Tensor, seed: int) -> Draw:
        """Draw for rows that have `available` (batch, modality), bool; a row that nothing fits is left out."""
        lacking = self.present[None] & ~available[:, None]
        odds = self.weights * ~lacking.any(-1)
        rows = odds.any(-1).nonzero().flatten()
        if not len(rows):
            return Draw(rows, rows, self.present[:0])
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(odds[rows], 1, generator=generator).flatten()
        present = self.present[which]
        if self._degraded is not None:
            present = self._with_degraded(present, available[rows], generator)
        return Draw(rows, which, present)

    def _with_degraded(self, present: Tensor, available: Tensor, generator: torch.Generator) -> Tensor:
        """Give `present` as a quality, in which some of what is lacking is there after all."""
        chances, quality = torch.rand(2, *present.shape, generator=generator)
        is_there = available & (chances < self._degraded)
        return torch.where(present, 1.0, torch.where(is_there, quality.clamp_min(1e-6), 0.0))


def draw_present(
    modalities: Modalities | Iterable[str],
    available: Tensor,
    *,
    seed: int,
    combinations: Wanted | None = None,
    weights: Mapping[CombinationLike, float] | None = None,
    degraded: float | Mapping[str, float] | None = None,
) -> Tensor:
    """Draw which of its modalities each row of a batch keeps: what `train` does, for a loop of one's own.

    Args:
        modalities: the declared ones, ``robust.modalities``; or their names in declared order, as `subsense.Collate`
            takes them: what was passed to `adapt`, or a list.
        available: bool (batch, modality): what each row has; all True where the data lack nothing.
        seed: of this batch. The same seed draws the same, whatever was drawn before: give each batch its own.
        combinations: those to draw from; by default all incomplete ones.
        weights: combination -> how often it is drawn relative to the others (default 1).
        degraded: how often a modality that would be missing is there after all, degraded: one number in [0, 1] for
            all, or modality -> number. Its quality is uniform in (0, 1), a severity of 0 to 5; hand inputs and
            quality to a `subsense.degradation.Degrader`. `train` uses 0.5.

    Returns:
        bool (batch, modality), on the CPU; with `degraded` a quality, float in [0, 1]. A row that none of the
        combinations fits keeps what it has.

    Raises:
        TrainingError: a negative weight, or none above 0; a number of `degraded` outside [0, 1].
        ModalityError: an unknown combination, none at all, or a weight for one that isn't drawn from.

    >>> modalities = Modalities({"rgb": "3 H W", "thermal": "1 H W"})
    >>> present = draw_present(modalities, torch.ones(4, 2, dtype=torch.bool), seed=0)
    >>> present.sum(1)  # each row lacks one of the two
    tensor([1, 1, 1, 1])
    >>> quality = draw_present(modalities, torch.ones(4, 2, dtype=torch.bool), seed=0, degraded=1.0)
    >>> (quality > 0).all(), (quality == 1).sum(1)  # each row has one healthy modality, and the other one degraded
    (tensor(True), tensor([1, 1, 1, 1]))
    """
    if not isinstance(modalities, Modalities):
        modalities = Modalities(dict.fromkeys(modalities, ""))  # of which only the names are asked for
    asked = modalities.select("all" if combinations is None else combinations)
    available = available.cpu()
    draw = Drawer(modalities, asked, weights, _degraded(modalities, degraded)).draw(available, seed)
    return available.to(draw.present.dtype).index_copy(0, draw.rows, draw.present)


def _degraded(modalities: Modalities, given: float | Mapping[str, float] | None) -> Mapping[str, float] | None:
    if given is None:
        return None
    shares = given if isinstance(given, Mapping) else dict.fromkeys(modalities, given)
    check_names(modalities, shares)
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise TrainingError(f"degraded: expected a number in [0, 1] for {name!r}, but found {share!r}")
    return shares


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
