"""`Confidence`: how far outputs can be trusted with each combination, as plain data, and what it makes of scores.

`subsense.confidence` finds the numbers; a checkpoint keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from subsense.errors import ModalityError
from subsense.modalities import CombinationLike, Modalities
from subsense.support.tables import format_table

Task = Literal["classes", "values"]
NO_CLASS = -1


@dataclass(frozen=True)
class Prediction:
    """Hold what a network says of a batch, and how far it can be trusted.

    Attributes:
        value: the class with the best score, int64 (batch, ...), -1 where the output is NaN or infinite; or the values.
        set: the classes that aren't ruled out, bool (batch, class, ...), which may be none; or the least and greatest
            value, (batch, ..., 2).
        confidence: the probability of `value`, 0 to 1, (batch, ...); None for values.
        abstain: bool (batch, ...): better ask somebody else.
        served: for each row the combination whose adapter set acted.
        guaranteed: bool (batch,): whether the coverage was calibrated on this very combination; otherwise the widest of
            the calibrated limits stands in, which promises nothing.
    """

    value: Tensor
    set: Tensor
    confidence: Tensor | None
    abstain: Tensor
    served: tuple[str, ...]
    guaranteed: Tensor


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Trust(_Frozen):
    """Hold the numbers of one combination.

    Attributes:
        combination: what is present.
        task: whether scores are of classes, (batch, class, ...), or values.
        num_rows: rows that it was calibrated on; 0: it wasn't, others stand in.
        temperature: divides the scores before they become probabilities; 1 for values.
        limit: classes whose -log probability, at temperature 1, is at most this are in the set; values lie within it.
        least: where the greatest probability, at temperature 1, is below this, it abstains.
    """

    combination: str
    task: Task
    num_rows: int = Field(ge=0)
    temperature: float = 1.0
    limit: float
    least: float = 0.0

    def read(self, scores: Tensor) -> Prediction:
        """Say what scores mean, for rows that all have this combination: for a folded or exported network.

        >>> trust = Trust(combination="rgb", task="classes", num_rows=99, temperature=2.0, limit=1.0, least=0.5)
        >>> read = trust.read(torch.tensor([[3.0, 0.0, 0.0], [0.1, 0.0, 0.0]]))
        >>> read.value.tolist(), read.set.int().tolist(), read.abstain.tolist()
        ([0, 0], [[1, 0, 0], [0, 0, 0]], [False, True])
        """
        return read([self] * len(scores), scores, (self.combination,) * len(scores))


class Confidence(_Frozen):
    """Hold the numbers of all combinations; printing it gives a table.

    Attributes:
        task: whether scores are of classes or values.
        coverage: the share of rows whose set is to hold the truth.
        risk: the share of wrong answers that was asked for, among those that aren't abstained from; None: none.
        certainty: of keeping to that risk.
        ignore_index: the label of positions that don't count.
        log_temperature: "" -> a, modality -> b: the temperature of a combination that wasn't calibrated, and of a
            quality, is exp(a + the sum of (1 - quality) b).
        trusts: the calibrated combinations.
    """

    task: Task
    coverage: float = Field(gt=0, lt=1)
    risk: float | None = None
    certainty: float = 0.9
    ignore_index: int | None = None
    log_temperature: dict[str, float] = {}
    trusts: tuple[Trust, ...]

    def __getitem__(self, combination: CombinationLike) -> Trust:
        """Give the numbers of a combination; raise `ModalityError` where it wasn't calibrated."""
        names = combination.split("+") if isinstance(combination, str) else list(combination)
        for trust in self.trusts:
            if set(trust.combination.split("+")) == set(names):
                return trust
        known = ", ".join(trust.combination for trust in self.trusts)
        raise ModalityError(f"confidence: {'+'.join(names)} was not calibrated; calibrated: {known}")

    def read(self, scores: Tensor, present: Tensor, modalities: Modalities, served: Iterable[str]) -> Prediction:
        """Say what scores mean.

        Args:
            scores: (batch, class, ...), or values (batch, ...).
            present: bool or quality, (batch, modality).
            modalities: the declared ones.
            served: for each row the combination whose adapter set acted.
        """
        return read([self.trust(row, modalities) for row in present.double().tolist()], scores, tuple(served))

    def trust(self, quality: list[float], modalities: Modalities) -> Trust:
        """Give the numbers for one row by what it has, or what stands in where that wasn't calibrated."""
        name = "+".join(one for one, value in zip(modalities, quality, strict=True) if value > 0)
        if all(value in (0.0, 1.0) for value in quality):
            for trust in self.trusts:
                if trust.combination == name:
                    return trust
        lost = {one: 1 - value for one, value in zip(modalities, quality, strict=True)}
        power = sum((self.log_temperature.get(one, 0.0) * share for one, share in lost.items()), 0.0)
        return Trust(
            combination=name,
            task=self.task,
            num_rows=0,
            temperature=math.exp(self.log_temperature.get("", 0.0) + power),
            limit=max(trust.limit for trust in self.trusts),
            least=max(trust.least for trust in self.trusts),
        )

    def __str__(self) -> str:
        if self.task == "values":
            cells = [[one.combination, f"{one.num_rows:,}", f"± {one.limit:.3g}"] for one in self.trusts]
            return format_table(["combination", "rows", f"{self.coverage:.0%} interval"], cells)
        header = ["combination", "rows", "temperature", f"in the {self.coverage:.0%} set from", "answers from"]
        return format_table(header, [_cells(one) for one in self.trusts])

    __repr__ = __str__


def _cells(one: Trust) -> list[str]:
    answers = "never" if one.least > 1 else f"{one.least:.3f}"
    return [one.combination, f"{one.num_rows:,}", f"{one.temperature:.2f}", f"{math.exp(-one.limit):.3f}", answers]


def read(trusts: list[Trust], scores: Tensor, served: tuple[str, ...]) -> Prediction:
    """Say what the scores of rows mean, each by numbers of its own."""
    numbers = torch.tensor([[one.temperature, one.limit, one.least] for one in trusts], dtype=torch.float64)
    axes = scores.dim() - 1
    temperature, limit, least = (column.to(scores.device).view(-1, *[1] * axes) for column in numbers.unbind(1))
    guaranteed = torch.tensor([one.num_rows > 0 for one in trusts])
    if trusts[0].task == "values":
        values = scores.detach().double()
        interval = torch.stack([values - limit, values + limit], -1).to(scores)
        abstain = ~values.reshape(len(values), -1).isfinite().all(1)
        return Prediction(scores.detach(), interval, None, abstain, served, guaranteed)
    logs, finite = log_probabilities(scores)
    best, value = logs.max(1)
    sets = (-logs <= limit) | ~finite[:, None]
    sure = (scores.detach().double() / temperature).softmax(1).amax(1)
    abstain = ~finite | (best.exp() < least[:, 0])
    value = value.masked_fill(~finite, NO_CLASS)
    return Prediction(value, sets, sure.masked_fill(~finite, 0.0).float(), abstain, served, guaranteed)


def log_probabilities(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Give log probabilities, float64 (batch, class, ...), and where they are any: bool (batch, ...)."""
    wide = scores.detach().double()
    finite = wide.amax(1).isfinite()
    return torch.where(finite[:, None], wide, 0.0).log_softmax(1), finite
