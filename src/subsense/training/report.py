"""What a training run did: a record of every epoch, and the summary that `train` returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from subsense.injection.banks import site_of
from subsense.support.tables import listed
from subsense.training.gradients import Steep
from subsense.training.safety import Losses

Record = dict[str, Any]


@dataclass(frozen=True)
class Epoch:
    """Hold one pass over the loader.

    Attributes:
        part: which of the parts that train one after the other (`strategy="separate"`); 0 otherwise.
        epoch: counted from 1.
        loss: mean over the rows of the loss while training.
        learning_rate: that of the last step.
        metric: the validation's, mean over combinations; None without validation.
        rows: rows trained on.
        dropped: rows that no combination asked for fits.
    """

    part: int
    epoch: int
    loss: float
    learning_rate: float
    metric: float | None
    rows: int
    dropped: int


@dataclass(frozen=True)
class TrainingReport:
    """Hold what a training run did.

    Attributes:
        combinations: what was trained, a tuple of combinations for each part.
        steps: optimiser steps.
        seconds: wall-clock time, earlier sessions of a resumed run included.
        history: every epoch.
        rows: combination -> rows that it was trained on, over all epochs.
        metric: name of what validation measured; None without validation.
        higher_is_better: its direction.
        idle: parameters that were asked to train and never had a gradient. They are as they were. Nothing that the loss
            saw depends on them (layers whose output the network doesn't use), but for those in `cut`.
        cut: those of them on which the loss depends, with a layer behind that lets no gradient through: one with int8
            activations, ``detach()``, rounding. Not looked for by several processes.
        losses: combination -> its losses before and after, and which set was kept; empty where `safe` was off.
        silent: combination -> sites that the network doesn't call for it, where what is missing is left out.
        steep: site -> the combinations whose first gradients exploded there, and what they are clipped to.
        clip: the largest norm of all gradients that was asked for; with None the steep sites were clipped alone.
    """

    combinations: tuple[tuple[str, ...], ...]
    steps: int
    seconds: float
    history: tuple[Epoch, ...]
    rows: dict[str, int]
    metric: str | None = None
    higher_is_better: bool = False
    idle: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    losses: Mapping[str, Losses] = field(default_factory=dict)
    silent: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    steep: Mapping[str, Steep] = field(default_factory=dict)
    clip: float | None = None

    @property
    def best(self) -> tuple[Epoch, ...]:
        """Give the epoch of each part whose parameters were kept: the best by validation, otherwise the last."""
        return tuple(self._best_of(part) for part in range(len(self.combinations)))

    @property
    def best_metric(self) -> float | None:
        """Give the validation's value of what was kept: mean over parts; None without validation."""
        values = [epoch.metric for epoch in self.best if epoch.metric is not None]
        return sum(values) / len(values) if values else None

    def as_dict(self) -> dict[str, Any]:
        """Give everything as JSON data."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.steps} steps in {self.seconds:.1f} s"
        for names, best in zip(self.combinations, self.best, strict=True):
            what = names[0] if len(names) == 1 else f"{len(names)} combinations"
            metric = "" if best.metric is None else f", {self.metric} {best.metric:.4f}"
            yield f"{what}: loss {best.loss:.4f}{metric}, epoch {best.epoch} of {self._of(best.part)[-1].epoch}"
        if untrained := [name for name, rows in self.rows.items() if not rows]:
            yield f"not trained, since no row was drawn for them: {', '.join(untrained)}"
        if self.cut:
            sites = ", ".join(dict.fromkeys(map(site_of, self.cut)))
            yield (
                "not trained, since a layer behind them lets no gradient through (int8 activations, detach(), "
                f"rounding): {sites}; train before quantising, with int8 weights alone, or calibrate, which needs no "
                "gradient"
            )
        if useless := [name for name in self.idle if name not in self.cut]:
            sites = ", ".join(dict.fromkeys(map(site_of, useless)))
            yield f"without effect, since nothing the loss sees depends on them (exclude them, or leave them): {sites}"
        for name, silent in self.silent.items():
            yield f"{name}: the network doesn't call {listed(silent)}, so its adapters there were not trained"
        for site, found in self.steep.items():
            done = (
                f"clipped there to {found.limit:.1g}"
                if self.clip is None
                else f"clipped with all others to {self.clip:g}"
            )
            yield f"gradients {'exploded' if found.explodes else 'were steep'} at {site}: {found}; {done}"
        yield from self._lines_of_losses()

    def _lines_of_losses(self) -> Iterator[str]:
        if not self.losses:
            return
        frozen, reached = (sum(getattr(one, name) for one in self.losses.values()) / len(self.losses)
                           for name in ("frozen", "reached"))  # fmt: skip
        floors = [one.floor for one in self.losses.values() if one.floor is not None]
        floor = f", floor {floors[0]:.4f}" if floors else ""
        yield f"loss of the frozen network {frozen:.4f}, reached {reached:.4f}{floor} (mean over combinations)"
        for name, one in self.losses.items():
            if one.is_worse:
                yield f"{name}: training ended at {one.reached:.4f}, above the {_before(one)}; {_given_back(one)}"

    def _of(self, part: int) -> list[Epoch]:
        return [epoch for epoch in self.history if epoch.part == part]

    def _best_of(self, part: int) -> Epoch:
        epochs = self._of(part)
        return epochs[-1] if self.metric is None else best_epoch(epochs, self.higher_is_better)


def _before(one: Losses) -> str:
    start = "" if one.start is None else f" and {one.start:.4f} at its start"
    return f"{one.frozen:.4f} of the frozen network{start}"


def _given_back(one: Losses) -> str:
    if one.kept == "trained":
        return "the set was kept, since the combinations share rows and are better on the mean"
    return "the set that training began with was put back" if one.kept == "start" else "the set was put to the identity"


def best_epoch(epochs: list[Epoch], higher_is_better: bool) -> Epoch:
    """Give the first epoch with the best metric; one whose metric is NaN is never better."""

    def worth(epoch: Epoch) -> float:
        value = float("nan") if epoch.metric is None else epoch.metric
        return float("-inf") if value != value else value if higher_is_better else -value

    return max(epochs, key=worth)
