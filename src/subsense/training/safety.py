"""No combination ends worse than it began: losses before and after, and what was better is given back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from subsense.modalities import Combination
from subsense.modalities.loaders import available, graded, num_rows, split, take
from subsense.model.robust import RobustModel
from subsense.support.modules import modes_kept
from subsense.training.losses import Objective
from subsense.training.seeding import random_state_kept, seed_everything, seed_loader

Kept = Literal["trained", "start", "identity"]

FEWEST, MOST = 32, 256
"""Rows on which each combination is measured."""
SHARE = 0.1
"""Of the rows trained on: so many are measured, over all combinations."""
NOISE = 1e-3
"""Relative difference of losses that counts as none."""


@dataclass(frozen=True)
class Losses:
    """Hold one combination's losses, on the same rows and in eval mode.

    Attributes:
        frozen: the frozen network's on filled inputs.
        start: with the adapter set that training began with; None where that was the identity.
        reached: with the adapter set that training ended with.
        floor: the least there can be, where it is known: the teacher against itself.
        kept: which of them was kept.
    """

    frozen: float
    start: float | None
    reached: float
    floor: float | None = None
    kept: Kept = "trained"

    @property
    def is_worse(self) -> bool:
        """Say whether training ended above what there was."""
        least = self.frozen if self.start is None else min(self.frozen, self.start)
        return not self.reached <= least + NOISE * abs(least)


def rows_to_measure(trained: int, combinations: int) -> int:
    """Say on how many rows each combination is measured, so that it costs little beside training.

    >>> rows_to_measure(100_000, 14), rows_to_measure(100, 14)
    (256, 32)
    """
    return max(FEWEST, min(MOST, int(SHARE * trained / max(1, combinations))))


def keep_better(
    robust: RobustModel,
    loader: Any,
    objective: Objective,
    combinations: Sequence[Combination],
    before: Before,
    rows: int,
    seed: int,
) -> dict[str, Losses]:
    """Measure what training did to each combination, and give back what was better.

    With independent sharing each combination has a row of its own. Rows of additive sharing are shared, so there all of
    them are given back, and only where the mean over combinations got worse.

    Args:
        robust: the trained model.
        loader: what to measure on.
        objective: what was minimised.
        combinations: those that were trained.
        before: what training began with.
        rows: how many rows each combination is measured on.
        seed: of the loader's order.
    """
    after = {name: value.detach().clone() for name, value in robust.adapter_parameters().items()}
    with random_state_kept(loader), modes_kept(robust), torch.no_grad():
        robust.train()  # in which a set may be used that isn't finished
        batches = list(_batches(robust, loader, rows, seed))
        losses = {"frozen": _measure(robust.pretrained, robust, objective, combinations, batches)}
        losses["reached"] = _measure(robust, robust, objective, combinations, batches)
        if before.acts:
            _put(robust, before.parameters)
            losses["start"] = _measure(robust, robust, objective, combinations, batches)
            _put(robust, after)
        floors = _floor(objective, robust, batches)
    found = {
        one: Losses(losses["frozen"][one], losses.get("start", {}).get(one), losses["reached"][one], floors)
        for one in losses["frozen"]
    }
    groups = [tuple(found)] if robust.sharing == "additive" else [(one,) for one in found]
    for group in filter(None, groups):
        kept = _better([found[one] for one in group])
        if kept != "trained":
            _give_back(robust, group, before, kept)
        found |= {one: replace(found[one], kept=kept) for one in group}
    return {str(one): found[one] for one in found}


@dataclass(frozen=True)
class Before:
    """Hold what training began with: the adapter parameters, and whether they did anything."""

    parameters: Mapping[str, Tensor]
    acts: bool

    @classmethod
    def of(cls, robust: RobustModel, combinations: Sequence[Combination]) -> Before:
        """Take down a model's parameters; sets that were never trained are the identity."""
        parameters = {name: value.detach().clone() for name, value in robust.adapter_parameters().items()}
        return cls(parameters, any(one in robust.trained for one in combinations))


def _batches(robust: RobustModel, loader: Any, rows: int, seed: int) -> Iterator[tuple[dict[str, Any], Any]]:
    """Give the first rows of a loader, on the model's device."""
    seed_everything(seed, "safety")
    seed_loader(loader, 0, seed, "safety")
    for batch in loader:
        inputs, target = split(batch)
        count = num_rows(inputs)
        if count > rows:
            inputs, target = take(inputs, torch.arange(rows), count), take(target, torch.arange(rows), count)
        yield tree_map_only(Tensor, lambda one: one.to(robust.banks.device), (dict(inputs), target))
        rows -= count
        if rows <= 0:
            return


def _measure(
    run: Callable[..., Any],
    robust: RobustModel,
    objective: Objective,
    combinations: Sequence[Combination],
    batches: Sequence[tuple[dict[str, Any], Any]],
) -> dict[Combination, float]:
    """Give the mean loss of each combination of which there are rows."""
    sums: dict[Combination, float] = {}
    counts: Counter[Combination] = Counter()
    for inputs, target in batches:
        has = available(robust.modalities, inputs)
        for one in combinations:
            present = robust.modalities.present(one)
            fits = has.all(1) if objective.needs_complete else has[:, present].all(1)
            rows = fits.nonzero().flatten()
            if len(rows):
                some, truth = take(inputs, rows, len(has)), take(target, rows, len(has))
                goal = objective.goal(some, truth)
                loss = float(objective.loss(run(some, graded(present.expand(len(rows), -1), some)), goal))
                sums[one] = sums.get(one, 0.0) + loss * len(rows)
                counts[one] += len(rows)
    return {one: total / counts[one] for one, total in sums.items()}


def _floor(objective: Objective, robust: RobustModel, batches: Sequence[tuple[dict[str, Any], Any]]) -> float | None:
    """Give the loss of the network with everything present, where that is what is learned from."""
    if not objective.needs_complete:
        return None
    complete = robust.modalities.complete
    return _measure(robust.pretrained, robust, objective, [complete], batches).get(complete)


def _better(losses: Sequence[Losses]) -> Kept:
    """Say what is best for some combinations on the mean."""
    frozen, reached = (sum(getattr(one, name) for one in losses) for name in ("frozen", "reached"))
    start = sum(frozen if one.start is None else one.start for one in losses)
    least = min(frozen, start)
    if reached <= least + NOISE * abs(least) or least != least:
        return "trained"
    return "start" if start < frozen else "identity"


def _give_back(robust: RobustModel, combinations: Sequence[Combination], before: Before, kept: Kept) -> None:
    used = sorted(robust.router.rows(combinations))
    with torch.no_grad():
        for site in robust.plan.sites:
            for adapter in site.adapters:
                for name, bank in robust.banks.of(site, adapter).items():
                    start = before.parameters[f"{site.key}:{adapter.name}:{name}"]
                    rows = start[used].cpu()
                    if kept == "identity" and before.acts:
                        adapter.start(name, rows, torch.Generator().manual_seed(0))
                    bank[used] = rows.to(bank)


def _put(robust: RobustModel, parameters: Mapping[str, Tensor]) -> None:
    for name, value in robust.adapter_parameters().items():
        value.copy_(parameters[name])
