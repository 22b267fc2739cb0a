"""One modality's healthy input as it was learned, and what rows lose against it: the tests behind a quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from subsense.degradation.layout import LAYOUTS, Layout
from subsense.model.watching.traits import Traits, arranged, num_run_axes, traits

TESTS = ("beyond", "held", "quiet", "coarse", "shift", "noise", "spread", "soft")
"""Of each row, how much of what a healthy one tells is lost. On a tie the first one is the reason."""
SPREADS = 2.0
"""Deviations of healthy rows from their median that are nobody's fault."""
LEVELS = 0.5
"""Share of the usual number of levels below which values are coarse, and what they repeat isn't held."""
NUM_COMMON = 9
"""Rows of a table beside roughness and parts."""


@dataclass(frozen=True)
class Choice:
    """Say what is done about a health in [0, 1]: below `low` it is dropped, above `high` kept, else ``** power``."""

    low: float = 0.3
    high: float = 1.0
    power: float = 2.0

    def quality(self, health: Tensor) -> Tensor:
        """Give the quality.

        >>> Choice(low=0.4, high=0.9, power=1.0).quality(torch.tensor([0.2, 0.5, 0.95, 1.0]))
        tensor([0.0000, 0.5000, 1.0000, 1.0000])
        """
        between = torch.where(health > self.high, 1.0, health**self.power)
        return torch.where(health < self.low, 0.0, between)

    def __str__(self) -> str:
        if not self.high:
            return "kept while it is finite"
        dropped = f"dropped below a health of {self.low:g}, else " if self.low else ""
        if self.low == self.high:
            return f"{dropped}kept"
        return f"{dropped}quality is health" + f" to the power of {self.power:g}" * (self.power != 1)


@dataclass(frozen=True)
class Sensor:
    """Hold what is known of a modality's healthy values, in float32.

    Attributes:
        layout: name of its axes in `subsense.degradation.LAYOUTS`; None: no order among its values.
        table: (9 + 2 axes + 2 parts, channel): centre, scale, low and high end, longest run of equal rows, median and
            deviation of mean, of std, of roughness along each axis, of the parts' means.
        usual: test -> loss that 99 of 100 healthy rows stay below, so that it isn't counted.
        limits: test -> loss from which on a row is doubted: a quantile of healthy rows that were held out.
        levels: distinct values / changes that healthy rows have, their median.
        choice: what is done about a health.
    """

    layout: str | None
    table: Tensor
    usual: Mapping[str, float]
    limits: Mapping[str, float]
    levels: float
    choice: Choice

    @property
    def axes(self) -> int:
        """Count its run axes."""
        return num_run_axes(self._layout)

    @property
    def repeats(self) -> Tensor:
        """Give the longest run of equal rows that was healthy (channel,)."""
        return self.table[4]

    @property
    def usual_range(self) -> tuple[float, float]:
        """Give the ends of the usual range in the input's own units, over all channels."""
        centre, scale, low, high = self.table[:4].double()
        return float((centre + low * scale).min()), float((centre + high * scale).max())

    @cached_property
    def _layout(self) -> Layout | None:
        return None if self.layout is None else LAYOUTS[self.layout]

    def arranged(self, values: Tensor) -> Tensor:
        """Give a batch (row, channel, run axes ...)."""
        return arranged(self._layout, values)

    def traits(self, values: Tensor) -> Traits:
        """Take the traits of finite rows, (row, channel, ...) in the input's own units."""
        return traits(values, self.axes, self.table[:4].to(values.device))

    def losses(self, of: Traits) -> Tensor:
        """Give what rows lose by each test, (test, row) in [0, 1]."""
        return losses(of, self.table.to(of.mean.device), self.axes, self.levels)

    def doubts(self, lost: Tensor) -> Tensor:
        """Say which rows are unusual by some test, bool (row,)."""
        limits = torch.tensor([self.limits[test] for test in TESTS], device=lost.device)
        return (lost > limits[:, None]).any(0)

    def excess(self, lost: Tensor) -> Tensor:
        """Give what rows lose beyond what is usual, (test, row)."""
        usual = torch.tensor([self.usual[test] for test in TESTS], device=lost.device)[:, None]
        return ((lost - usual) / (1 - usual).clamp_min(1e-2)).clamp(0, 1)


def losses(of: Traits, table: Tensor, axes: int, usual_levels: float) -> Tensor:
    """Compare traits with a table: what rows lose by each test, (test, row) in [0, 1].

    What is added to a signal, a deviations of it, takes a^2 / (1 + a^2) of what it tells; what is missing takes its
    share: the scale of `subsense.degradation`.
    """
    none = torch.zeros_like(of.beyond)
    lost = dict.fromkeys(TESTS, none)
    parts = (len(table) - NUM_COMMON - 2 * axes) // 2
    lost["beyond"] = _error(of.beyond.square())
    lost["shift"] = _error(_off(of.mean, table[5], table[6]).square().mean(1))
    if of.block.shape[2] == parts:
        middle, spread = table[-2 * parts : -parts].T, table[-parts:].T
        lost["shift"] = torch.maximum(lost["shift"], _error(_off(of.block, middle, spread).square().flatten(1).mean(1)))
    if of.std is not None:
        more, less = _beside(of.std, table[7], table[8])
        lost["spread"], lost["quiet"] = _error(more.mean(1)), less.mean(1)
    if of.rough is not None and of.held is not None and of.levels is not None and of.step is not None:
        rough = table[NUM_COMMON : NUM_COMMON + 2 * axes].T
        more, less = _beside(of.rough, rough[:, :axes], rough[:, axes:])
        lost["noise"], lost["soft"] = _error(more.amax(2).mean(1)), less.flatten(1).mean(1)
        coarse = of.levels < LEVELS * usual_levels
        lost["held"] = torch.where(coarse, none, of.held)
        lost["coarse"] = torch.where(coarse, _error(of.step.square() / 12), none)
    return torch.stack([lost[test] for test in TESTS])


def _error(square: Tensor) -> Tensor:
    return square / (1 + square)


def _off(found: Tensor, middle: Tensor, spread: Tensor) -> Tensor:
    """Give by how much values are off, beyond what healthy ones are."""
    return ((found - middle).abs() - SPREADS * spread).clamp_min(0)


def _beside(found: Tensor, middle: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Give the variance that is too much, and the share of the deviation that is lacking; the table has logarithms."""
    high, low = (middle + SPREADS * spread).exp(), (middle - SPREADS * spread).exp()
    return (found.square() - high.square()).clamp_min(0), (1 - found / low).clamp_min(0)
