"""What any map of a family gets back of what a site loses, on rows that it was not fitted on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subsense.adapters.low_rank import dense_factors
from subsense.adapters.regression import Moments, Normal

WIDEST = 2048
"""Channels up to which a full map is fitted."""


@dataclass(frozen=True)
class Recovery:
    """Hold shares of what one site loses for one combination, on rows that were held out.

    What is lost is the sum of squared differences to what the site gives with everything present, where the sites
    before it are calibrated already. A share of 1 is all of it, one below 0 makes it worse. No set of a family that was
    fitted with less or more ridge does better on the rows that it was fitted on; on others it may.

    Attributes:
        lost: relative to the variance of what the site gives with everything present.
        channels: share that a scale and a shift for each channel get back.
        low_rank: share that a map of the rank gets back, with a shift.
        linear: share that any linear map gets back, with a shift.
    """

    lost: float
    channels: float
    low_rank: float
    linear: float


def measure_recovery(fit: Moments, check: Moments, rank: int, ridge: float) -> Recovery:
    """Fit each family on some rows' moments, and measure it on others'; moments are of one group.

    >>> z = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> moments = Moments.of(z, z.flip(1) - z, 1)
    >>> round(measure_recovery(moments, moments, rank=2, ridge=0.0).linear, 6)
    1.0
    """
    before = float(check.rr.sum())
    spread = _spread(check)
    if before <= float(check.noise) or spread <= 0:
        return Recovery(0.0 if before <= float(check.noise) else float("inf"), 0.0, 0.0, 0.0)
    weights = check.z.new_ones(1, 1)
    dense, narrow = Normal.of([fit], weights, ridge, True), Normal.of([_diagonal(fit)], weights, ridge, True)
    shares = []
    for normal, theta in (
        (narrow, narrow.solve()),
        (dense, dense_factors(*dense.one(0, torch.zeros_like(dense.right)), dense.penalty[0], rank).theta[:, None]),
        (dense, dense.solve()),
    ):
        full = torch.diag_embed(theta.flatten())[None] if normal is narrow else theta[:, 0]
        shares.append(1 - _error(check, full, normal.shift(theta)) / before)
    return Recovery(before / spread, *shares)


def _diagonal(moments: Moments) -> Moments:
    """Give each channel a group of its own."""
    return Moments(
        moments.count,
        moments.z.T,
        moments.r.T,
        moments.zz.diagonal(dim1=1, dim2=2).T[..., None],
        moments.zr.diagonal(dim1=1, dim2=2).T[..., None],
        moments.rr.T,
        moments.noise,
    )


def _error(moments: Moments, theta: Tensor, shift: Tensor) -> float:
    """Give the sum of squares that a map (1, feature, output) and a shift (1, output) leave."""
    mapped = (moments.z @ theta[0])[0]
    left = moments.rr.sum() - 2 * (theta * moments.zr).sum() + (theta * (moments.zz @ theta)).sum()
    left = left + (shift[0] * (2 * mapped - 2 * moments.r[0] + moments.count * shift[0])).sum()
    return float(left)


def _spread(moments: Moments) -> float:
    """Give the sum of squared deviations of the goal, z + r, from its mean."""
    total = moments.zz.diagonal(dim1=1, dim2=2).sum() + 2 * moments.zr.diagonal(dim1=1, dim2=2).sum() + moments.rr.sum()
    mean = (moments.z + moments.r).square().sum() / moments.count.clamp(min=1)
    return float(total - mean)
