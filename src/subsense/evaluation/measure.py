"""`Measure`: what a metric makes of batches of outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from subsense.errors import MetricError
from subsense.model.scores import are_finite

if TYPE_CHECKING:
    from torchmetrics import Metric

    from subsense.evaluation.intervals import Bootstrap

Unit = Literal["fraction", "value"]
Prepare = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Measure:
    """Accumulate scores and targets over batches; give one number for all of them.

    One object measures one thing: `fresh` makes an empty one of the same kind. Nothing is exchanged between processes;
    each measures the rows that it saw.

    Attributes:
        name: what tables call it.
        higher_is_better: whether more is better.
        unit: ``"fraction"`` for 0..1, printed in percent, or ``"value"``, printed as it is.
        convention: how it counts, in words, where the name alone leaves that open; results keep it.
        num_not_finite: rows so far whose scores are NaN or infinite, see `are_finite`; with any, nothing is computed.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[int], Metric],
        prepare: Prepare,
        *,
        higher_is_better: bool,
        unit: Unit,
        convention: str = "",
        finish: Callable[[Tensor], float] = float,
        of_classes: bool = False,
        resampled: Callable[[], Bootstrap] | None = None,
    ) -> None:
        self.name = name
        self.higher_is_better = higher_is_better
        self.unit: Unit = unit
        self.convention = convention
        self._make = make
        self._prepare = prepare
        self._finish = finish
        self._of_classes = of_classes
        self._resampled = resampled
        self._bootstrap = resampled() if resampled else None
        self.num_not_finite = 0
        self._metric: Metric | None = None
        self._device = torch.device("cpu")
        self._is_empty = True

    def __repr__(self) -> str:
        return f"Measure({self.name!r})"

    def fresh(self) -> Measure:
        """Make an empty measure of the same kind, on the same device."""
        facts: dict[str, Any] = {"higher_is_better": self.higher_is_better, "unit": self.unit}
        facts |= {"convention": self.convention, "finish": self._finish, "of_classes": self._of_classes}
        facts |= {"resampled": self._resampled}
        return Measure(self.name, self._make, self._prepare, **facts).to(self._device)

    def to(self, device: torch.device | str) -> Measure:
        """Move what was accumulated to a device, to which `update` brings its arguments. Return self."""
        self._device = torch.device(device)
        if self._metric is not None:
            self._metric.to(self._device)
        return self

    @torch.no_grad()
    def update(self, scores: Tensor, target: Tensor) -> None:
        """Take in one batch.

        Args:
            scores: float (batch, class, ...) for measures of classes, or values of any shape.
            target: int64 (batch, ...) of class indices, or as many values as in `scores`.

        Raises:
            MetricError: shapes or class indices that do not fit, with what was expected and found.
        """
        _check_tensors(self.name, scores, target)
        self.num_not_finite += int((~are_finite(scores, self._of_classes)).sum())
        try:
            scores, target = self._prepare(scores.detach().to(self._device), target.to(self._device))
        except MetricError as error:
            shapes = f"scores {tuple(scores.shape)} and target {tuple(target.shape)}, {target.dtype}"
            raise MetricError(f"metric {self.name!r}: {error}; found {shapes}") from None
        self._is_empty = False
        if scores.numel() and not self.num_not_finite:
            self._ready(scores).update(scores, target)
            if self._bootstrap:
                self._bootstrap.update(scores, target)

    def resampled(self) -> Tensor | None:
        """Give the measure on bootstrap draws of the rows; None where it has none, as a metric of the caller's own."""
        return None if self._bootstrap is None or self.num_not_finite else self._bootstrap.resampled()

    def compute(self) -> float:
        """Give the measure over everything since the start or the last `reset`.

        NaN where it is undefined, such as the correlation of a constant, and where scores were NaN or infinite: the
        class of NaN is no answer. Raise `MetricError` after no `update`.
        """
        if self._is_empty:
            raise MetricError(f"metric {self.name!r}: nothing to compute, no batch was passed to `update`")
        if self._metric is None or self.num_not_finite:
            return float("nan")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchmetrics warns of a constant; the NaN says it
            return self._finish(self._metric.compute())

    def reset(self) -> None:
        """Forget all batches."""
        self._metric = None
        self._is_empty = True
        self.num_not_finite = 0
        self._bootstrap = self._resampled() if self._resampled else None

    def _ready(self, scores: Tensor) -> Metric:
        """Give the torchmetrics object, made when the first scores say how many classes there are."""
        if self._metric is None:
            self._metric = self._make(scores.shape[1] if scores.ndim > 1 else 1).to(self._device)
        return self._metric


def _check_tensors(name: str, scores: object, target: object) -> None:
    if not isinstance(scores, Tensor) or not isinstance(target, Tensor):
        found = f"{type(scores).__name__} and {type(target).__name__}"
        raise MetricError(f"metric {name!r}: expected scores and target to be tensors, but found {found}")
