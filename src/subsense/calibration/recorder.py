"""Keep what the report needs while sites are solved and checked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from subsense.adapters.regression import Moments
from subsense.calibration.recovery import WIDEST, Recovery, measure_recovery
from subsense.injection.site import Site

Key = tuple[str, str]
"""(combination, site)."""


@dataclass
class Recorder:
    """Add up each site's own output and what is left of its goal, on fitted and on held-out rows.

    Attributes:
        active: whether anything is to be measured.
    """

    active: bool
    fitted: dict[Key, Moments] = field(default_factory=dict)
    checked: dict[Key, Moments] = field(default_factory=dict)
    not_finite: Counter[Key] = field(default_factory=Counter)
    sites: dict[Key, Recovery] = field(default_factory=dict)

    def fit(self, combination: str, site: Site, own: Tensor, goal: Tensor) -> None:
        """Take in what a site was fitted on."""
        total = own.sum() + goal.sum()
        if not total.isfinite():
            self.not_finite[combination, site.key] += int((~(own.sum(1) + goal.sum(1)).isfinite()).sum())
        if self.active:
            _add(self.fitted, (combination, site.key), site, own, goal)

    def wants(self, combination: str, site: Site) -> bool:
        """Say whether a site loses anything, so that what comes back is to be measured."""
        return (combination, site.key) in self.fitted

    def check(self, combination: str, site: Site, own: Tensor, goal: Tensor) -> None:
        """Take in what a site gives on held-out rows."""
        _add(self.checked, (combination, site.key), site, own, goal)

    def settle(self, rank: int, ridge: float) -> None:
        """Turn sums into shares."""
        for key, check in self.checked.items():
            self.sites[key] = measure_recovery(self.fitted[key], check, rank, ridge)
        self.fitted, self.checked = {}, {}


def _add(sums: dict[Key, Moments], key: Key, site: Site, own: Tensor, goal: Tensor) -> None:
    if site.layer.channels <= WIDEST:
        moments = Moments.of(own, goal - own, 1)
        sums[key] = sums[key] + moments if key in sums else moments


@dataclass
class OutputSums:
    """Add up squared differences at the output.

    Attributes:
        goal, square, count: sums of what the network gives with everything present, of its squares, and their number.
        frozen, calibrated: sums of squared differences to it.
    """

    goal: float = 0.0
    square: float = 0.0
    count: int = 0
    frozen: float = 0.0
    calibrated: float = 0.0

    def add(self, goals: list[Tensor], frozen: list[Tensor], calibrated: list[Tensor]) -> None:
        """Take in the outputs of some rows; tensors that are no floating-point numbers are left out."""
        for goal, before, after in zip(goals, frozen, calibrated, strict=True):
            if not goal.is_floating_point() or not goal.dim():
                continue
            one = goal.double()
            self.goal, self.square = self.goal + float(one.sum()), self.square + float(one.square().sum())
            self.count += one.numel()
            self.frozen += float((before.double() - one).square().sum())
            self.calibrated += float((after.double() - one).square().sum())

    @property
    def lost(self) -> float:
        """Give what the frozen network loses, relative to the output's variance."""
        spread = self.square - self.goal**2 / max(1, self.count)
        return self.frozen / spread if spread > 0 else 0.0

    @property
    def recovered(self) -> float:
        """Give the share of it that comes back; 0 where nothing is lost."""
        return 1 - self.calibrated / self.frozen if self.frozen > 0 else 0.0


def outputs_of(output: object) -> list[Tensor]:
    """Give all tensors of an output."""
    from subsense.support.torch_private import tree_leaves

    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
