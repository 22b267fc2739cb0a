"""What an integration's loop does with a batch: draw, run, and compare, as `subsense.train` does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsense.errors import InputError, OtherNetwork
from subsense.modalities import Combination, CombinationLike
from subsense.modalities.loaders import available, graded, split, take
from subsense.model.robust import RobustModel
from subsense.training.losses import Distill, Loss, Objective, Select, make_objective
from subsense.training.sampling import draw_present
from subsense.training.trainee import Adapters, teacher_of


@dataclass(frozen=True)
class BatchLoss:
    """Give the loss of a batch, for rows that each lack something drawn, or for one combination.

    Attributes:
        robust: the adapted network.
        objective: what is minimised.
        combinations: those that rows draw from, and that are measured.
        weights: combination -> how often it is drawn relative to the others.
    """

    robust: RobustModel
    objective: Objective
    combinations: tuple[Combination, ...]
    weights: Mapping[CombinationLike, float] | None = None

    def drawn(self, batch: Any, seed: int) -> tuple[Tensor, Any]:
        """Give the loss of a batch whose rows draw what they keep, and the network's output."""
        inputs, target = self._parts(batch)
        present = draw_present(
            self.robust.modalities,
            available(self.robust.modalities, inputs),
            seed=seed,
            combinations=self.combinations,
            weights=self.weights,
        )
        goal = self.objective.goal(inputs, target)
        output = self.robust(inputs, graded(present, inputs))
        return self.objective.loss(output, goal), output

    def each(self, batch: Any) -> Iterator[tuple[Combination, Tensor, int]]:
        """Give the loss of each combination on the rows of a batch that have all of it, and how many they are."""
        inputs, target = self._parts(batch)
        has = available(self.robust.modalities, inputs)
        for combination in self.combinations:
            wanted = self.robust.modalities.present(combination)
            rows = has[:, wanted].all(1).nonzero().flatten()
            if len(rows):
                some, goals = take(inputs, rows, len(has)), take(target, rows, len(has))
                with _untrained_is_pretrained(self.robust):
                    output = self.robust(some, graded(wanted.expand(len(rows), -1), some))
                yield combination, self.objective.loss(output, self.objective.goal(some, goals)), len(rows)

    def _parts(self, batch: Any) -> tuple[Mapping[str, Any], Any]:
        inputs, target = split(batch)
        if self.objective.needs_target and target is None:
            raise InputError("a batch of the loader: expected (inputs, target), but found inputs alone; "
                             "without targets, use loss='distill'")  # fmt: skip
        return inputs, target


@contextmanager
def _untrained_is_pretrained(robust: RobustModel) -> Iterator[None]:
    """Let the frozen network answer where nothing was trained yet: Lightning validates two batches before it trains."""
    policy = robust.router.untrained
    robust.router.untrained = "pretrained"
    try:
        yield
    finally:
        robust.router.untrained = policy


def batch_loss(
    robust: RobustModel,
    loss: Loss | Distill | str,
    combinations: Iterable[CombinationLike] | None,
    weights: Mapping[CombinationLike, float] | None,
    select: Select | None,
) -> BatchLoss:
    """Make it from what the user says; arguments as for `subsense.train`."""
    asked = robust.select("all" if combinations is None else combinations)
    objective = make_objective(loss, teacher_of(robust), select)
    return BatchLoss(robust, objective, tuple(asked), weights)


def check_belongs(robust: RobustModel, whose: str) -> None:
    """Raise `OtherNetwork` where a checkpoint's sets were trained on a network with another fingerprint."""
    if whose != (found := robust.network_fingerprint()):
        raise OtherNetwork(
            f"the checkpoint's adapter sets belong to a network with fingerprint {whose}, but this one has {found}; "
            "load the weights on which they were trained, then adapt"
        )


class Unused:
    """Keep what the combinations of a run don't use bit-identical: AdamW moves rows that have a gradient of zero."""

    def __init__(self, robust: RobustModel, combinations: Iterable[Combination]) -> None:
        parameters = robust.adapter_parameters()
        masks = Adapters(robust, dropout=False).fixed(tuple(combinations))
        self._kept = [(parameters[name], mask, parameters[name].detach()[mask]) for name, mask in masks.items()]

    def restore(self) -> None:
        """Put it back after a step."""
        with torch.no_grad():
            for parameter, mask, before in self._kept:
                parameter[mask.to(parameter.device)] = before.to(parameter.device)
