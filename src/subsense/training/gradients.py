"""The first gradients of every combination, by site: where a stand-in makes them explode, and what is done there.

A branch without biases that is fed zeros is zero itself, and dividing by its length there (`F.normalize`, cosine
similarity, RMSNorm) has a gradient of one over the smallest length allowed: 1e3 to 1e12. AdamW divides by the
largest gradients that it remembers, so one such step leaves the site where it was thrown for a thousand steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

import torch
from torch import Tensor, nn

from subsense.injection.banks import site_of
from subsense.support.tables import listed

STEEP = 100.0
"""A gradient's L2 norm beyond this multiple of its scale is steep; others are below 5 in networks of every kind."""
EXPLODING = 1e4
"""From this multiple on clipping was found to matter, and is said in a warning: docs/absent-input.md has the runs."""
WHY = (
    "The likely cause is what stands in for what is missing: a branch that it makes exactly zero, where a norm, a root "
    "or a division by its length has no slope or an enormous one"
)
CURES = (
    "A fill that isn't zero (subsense.Mean, subsense.Constant), an epsilon where the network divides, or leaving these "
    "sites out (exclude=[...]) takes the cause away"
)


@dataclass(frozen=True)
class Steep:
    """Hold what was found at one site.

    Attributes:
        norms: combination -> L2 norm of the site's gradient for the first rows that trained on it.
        limit: the norm to which the gradient of these combinations' bank rows is clipped there.
    """

    norms: Mapping[str, float]
    limit: float

    @property
    def explodes(self) -> bool:
        """Say whether one of them is so steep that training suffers from it where nothing is done."""
        return max(self.norms.values()) > EXPLODING * self.limit

    def __str__(self) -> str:
        return ", ".join(f"{norm:.1e} with {combination}" for combination, norm in self.norms.items())


Rows = Mapping[str, frozenset[int]]
"""Combination -> the bank rows that it uses."""


def scale_of(loss: float) -> float:
    """Give what a gradient's norm is near where nothing is odd, for a loss in whatever unit.

    A squared error that is small has a gradient near its root.
    """
    return max(abs(loss), sqrt(abs(loss)))


def find_steep(
    banks: Mapping[str, nn.Parameter], rows: Rows, drawn: Mapping[str, int], new: Iterable[str], loss: float
) -> dict[str, Steep]:
    """Tell the sites at which the gradient of a batch is steep.

    Args:
        banks: (bank row, ...) with the gradient of the batch's mean loss.
        rows: of every combination that was drawn.
        drawn: combination -> its rows in the batch.
        new: the combinations to look at.
        loss: the batch's mean loss.

    >>> bank = nn.Parameter(torch.zeros(2, 3))
    >>> bank.grad = torch.tensor([[1e9, 0.0, 0.0], [0.1, 0.0, 0.0]])
    >>> rows = {"rgb": frozenset({0}), "depth": frozenset({1})}
    >>> find_steep({"encoder:ssf:shift": bank}, rows, {"rgb": 2, "depth": 2}, rows, loss=1.0)
    {'encoder': Steep(norms={'rgb': 2000000000.0}, limit=1.0)}
    """
    limit, total = scale_of(loss), sum(drawn.values())
    found: dict[str, dict[str, float]] = {}
    for combination in new:
        own = sorted(rows[combination])
        counts = [sum(number for one, number in drawn.items() if row in rows[one]) for row in own]
        weights = torch.tensor([total / count for count in counts], dtype=torch.float64)
        for site, squares in _squares(banks, own).items():
            norm = sqrt(float((squares * weights**2).sum()))
            if norm > STEEP * limit:
                found.setdefault(site, {})[combination] = norm
    return {site: Steep(norms, limit) for site, norms in found.items()}


def clip_steep(banks: Mapping[str, nn.Parameter], rows: Rows, steep: Mapping[str, Steep]) -> None:
    """Shorten the gradients of steep sites, in the bank rows of the combinations where they are, to their limits."""
    for site, found in steep.items():
        own_banks = [one for name, one in banks.items() if site_of(name) == site]
        for combination in found.norms:
            own = sorted(rows[combination])
            norm = sqrt(sum(float(_row_squares(one, own).sum()) for one in own_banks))
            if isfinite(norm) and norm > found.limit:
                for one in (one.grad for one in own_banks if one.grad is not None):
                    one[_within(one, own)] *= found.limit / norm


def where_not_finite(banks: Mapping[str, nn.Parameter], rows: Rows) -> tuple[list[str], list[str]]:
    """Give the sites that have a gradient of NaN or infinity, and the combinations whose bank rows have it."""
    lost = {name: one.grad for name, one in banks.items()
            if one.grad is not None and not bool(one.grad.isfinite().all())}  # fmt: skip
    bad = {row for one in lost.values()
           for row in (~one.isfinite().reshape(len(one), -1).all(1)).nonzero().flatten().tolist()}  # fmt: skip
    return list(dict.fromkeys(map(site_of, lost))), [
        name for name, own in rows.items() if any(bad.intersection(_within(one, sorted(own))) for one in lost.values())
    ]


def _squares(banks: Mapping[str, nn.Parameter], rows: Sequence[int]) -> dict[str, Tensor]:
    """Give each site's squared gradient (bank row,), of the rows asked for."""
    found: dict[str, Tensor] = {}
    for name, one in banks.items():
        found[site_of(name)] = found.get(site_of(name), torch.zeros(())) + _row_squares(one, rows)
    return found


def _row_squares(bank: nn.Parameter, rows: Sequence[int]) -> Tensor:
    if bank.grad is None:
        return torch.zeros(len(rows), dtype=torch.float64)
    own = _within(bank, rows)
    squares = bank.grad[own].reshape(len(own), -1).double().square().sum(1).cpu()
    return torch.cat([squares, squares.new_zeros(len(rows) - len(own))])


def _within(bank: Tensor, rows: Sequence[int]) -> list[int]:
    """Give the rows that a bank has of these; a common one (`subsense.Common`) has one for all."""
    return [0] if len(bank) == 1 else list(rows)


def warn_text(steep: Mapping[str, Steep], clips: bool) -> str:
    """Say which gradients are steep, why, and what was done."""
    sites = "; ".join(f"{site} ({found})" for site, found in steep.items())
    done = "Gradients are clipped there" if clips else "clip=... was given, so they are clipped with all others"
    return f"the first gradients explode at {sites}. {WHY}. {done}. {CURES}"


def nan_text(sites: Sequence[str], combinations: Sequence[str], count: int) -> str:
    """Say where gradients are NaN or infinite though the loss is finite, why, and what to do.

    Args:
        sites, combinations: which have such gradients.
        count: how many combinations train.
    """
    rows = f" for rows with {named(combinations, count)}" if combinations else ""
    return f"the loss is finite, but its gradient is NaN or infinite{rows}, at {listed(sites)}. {WHY}. {CURES}"


def named(combinations: Sequence[str], count: int) -> str:
    """Name combinations, the first of many; where they are all of several that train, say that.

    >>> named(["rgb", "depth", "rgb+depth"], 3), named(["rgb", "depth"], 3)
    ('all 3 combinations', 'rgb, depth')
    """
    return f"all {count} combinations" if len(combinations) == count > 2 else listed(combinations)
