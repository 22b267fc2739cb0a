"""Measure what is being trained on data that it isn't trained on: mean over the combinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from warnings import warn

import torch
from torch import Tensor

from subsense.errors import InputError, TrainingError
from subsense.evaluation.measure import Measure
from subsense.modalities import Combination, Modalities
from subsense.modalities.loaders import available, graded, split, take
from subsense.model.scores import select_scores
from subsense.training.distributed import Processes
from subsense.training.losses import Objective, Select
from subsense.training.seeding import seed_everything, seed_loader
from subsense.training.trainee import Trainee


@dataclass(frozen=True)
class Validation:
    """Measure combinations on a loader.

    Args:
        loader: batches ``(inputs, target)``; read in whole by every process, and once for all combinations.
        objective: what training minimises; measured where `measure` is None.
        measure: what to compute from the output's scores; None: the objective's loss.
        select: picks the scores of the output.
    """

    loader: Any
    objective: Objective
    measure: Measure | None = None
    select: Select | None = None

    @property
    def name(self) -> str:
        """Name what is measured."""
        return "loss" if self.measure is None else self.measure.name

    @property
    def higher_is_better(self) -> bool:
        """Say whether more is better."""
        return self.measure is not None and self.measure.higher_is_better

    def evaluate(self, trainee: Trainee, combinations: Sequence[Combination], processes: Processes, seed: int) -> float:
        """Give the mean over combinations; each process measures its share of them.

        Raises:
            TrainingError: no row of the loader has a combination.
        """
        trainee.measure()
        tallies = {combination: _Tally(self) for combination in combinations[processes.index :: processes.count]}
        seed_everything(seed, "validation")
        seed_loader(self.loader, 0, seed, "validation")
        with torch.no_grad():
            for batch in self.loader:
                inputs, target = split(processes.place(batch))
                for combination, tally in tallies.items():
                    _measure(trainee, combination, inputs, target, tally, processes)
        values = {combination: tally.compute(combination) for combination, tally in tallies.items()}
        return processes.total(sum(values.values()))[0] / len(combinations)


class _Tally:
    """Accumulate one combination's measure, or its loss."""

    def __init__(self, validation: Validation) -> None:
        self.objective = validation.objective
        self._select = validation.select or select_scores
        self._measure = None if validation.measure is None else validation.measure.fresh()
        self._loss, self._rows = 0.0, 0

    @property
    def needs_complete(self) -> bool:
        """Say whether the loss needs rows that lack nothing."""
        return self._measure is None and self.objective.needs_complete

    def goal(self, inputs: Mapping[str, Any], target: Any) -> Any:
        """Give what an output will be compared with."""
        return target if self._measure else self.objective.goal(inputs, target)

    def update(self, output: Any, goal: Any, rows: int) -> None:
        """Take in the output of a batch."""
        self._rows += rows
        if self._measure is None:
            self._loss += float(self.objective.loss(output, goal)) * rows
        elif not isinstance(goal, Tensor):
            raise InputError(f"a batch of val_loader: the metric needs (inputs, target) with a tensor as target, "
                             f"but found {type(goal).__name__}")  # fmt: skip
        else:
            self._measure.update(self._select(output), goal)

    def compute(self, combination: Combination) -> float:
        """Give the measure over all batches."""
        if not self._rows:
            raise TrainingError(f"val_loader: no row has {combination}, so it can't be measured")
        value = self._loss / self._rows if self._measure is None else self._measure.compute()
        lost = 0 if self._measure is None else self._measure.num_not_finite
        if lost:
            warn(f"val_loader: the output for {combination} is NaN or infinite in {lost} of {self._rows} rows, so this "
                 "epoch has no metric and is not kept as the best", stacklevel=2)  # fmt: skip
        return value


def _measure(
    trainee: Trainee,
    combination: Combination,
    inputs: Mapping[str, Any],
    target: Any,
    tally: _Tally,
    processes: Processes,
) -> None:
    modalities: Modalities = trainee.modalities
    has, present = available(modalities, inputs), modalities.present(combination)
    fits = (has if not tally.needs_complete else has.all(1, keepdim=True)) | ~present
    rows = fits.all(1).nonzero().flatten()
    if not len(rows):
        return
    if len(rows) < len(has):
        inputs, target = take(inputs, rows, len(has), "inputs"), take(target, rows, len(has))
    goal = processes.compute(tally.goal, inputs, target)
    output = processes.compute(trainee.module, inputs, graded(present.expand(len(rows), -1), inputs))
    tally.update(output, goal, len(rows))
