"""Conformal limits and abstention: numbers of one combination, from the scores of rows that nothing was trained on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

STARTS = 5
"""From so many places the search for what can be answered begins, each with its share of the allowed doubt."""
STEPS = 100


def fewest_rows(coverage: float) -> int:
    """Give how many rows a limit needs: with fewer it is infinite.

    >>> fewest_rows(0.9), fewest_rows(0.95)
    (9, 19)
    """
    return math.ceil(1 / (1 - coverage) - 1 - 1e-9)


def find_limit(losses: Tensor, counted: Tensor, coverage: float) -> float:
    """Give the least limit below which the losses of new rows lie with the asked coverage.

    With one position in a row this is split conformal prediction: the ``ceil((n + 1) coverage)``-th least of n losses.
    With several (pixels) it is conformal risk control (Angelopoulos et al., arXiv 2208.02814) of the share of a row's
    positions beyond the limit; positions of a row depend on one another, rows are what must be exchangeable.

    Args:
        losses: (row, position); NaN and infinity lie beyond every limit.
        counted: bool (row, position); rows without any don't count.
        coverage: 0 to 1.

    >>> losses = torch.arange(1.0, 11.0)[:, None]
    >>> find_limit(losses, torch.ones(10, 1, dtype=torch.bool), coverage=0.8)
    9.0
    """
    sizes = counted.sum(1)
    rows = int((sizes > 0).sum())
    allowed = (1 - coverage) * (rows + 1) - 1 + 1e-9
    if allowed < 0:
        return math.inf
    weights = (counted.double() / sizes.clamp(min=1)[:, None])[counted]
    values, order = losses.double().nan_to_num(math.inf, math.inf)[counted].sort()
    beyond = weights[order].flip(0).cumsum(0).flip(0)  # what lies at a value or above it, ties apart
    above = torch.cat([beyond[1:], beyond.new_zeros(1)])
    last = torch.searchsorted(values, values, right=True) - 1  # of equal values the last: strictly above all of them
    return float(values[above[last] <= allowed][0])


def find_least(sure: Tensor, wrong: Tensor, risk: float, certainty: float) -> float:
    """Give the least confidence from which on answers are wrong at most so often; above 1 where there is none.

    Fixed-sequence tests (Angelopoulos et al., arXiv 2110.01052) with exact binomial bounds: with probability
    `certainty` over the rows calibrated on, the share of wrong ones among new rows' answers is at most `risk`.

    Args:
        sure: (row,), how sure it is.
        wrong: bool (row,).

    >>> find_least(torch.linspace(0, 1, 1000), torch.zeros(1000).bool(), risk=0.05, certainty=0.9)
    0.0
    """
    from scipy.stats import beta

    order = sure.sort(descending=True).values
    count, doubt = len(order), (1 - certainty) / STARTS
    first = math.ceil(math.log(doubt) / math.log(1 - risk))
    best = math.inf
    for start in range(STARTS):
        answered = max(first, count * start // (STARTS - 1))
        while answered <= count:
            least = float(order[answered - 1])
            answers = sure >= least
            num, errors = int(answers.sum()), int((answers & wrong).sum())
            if errors == num or beta.ppf(1 - doubt, errors + 1, num - errors) > risk:
                break
            best = min(best, least)
            answered += max(1, count // STEPS)
    return best


def find_least_of_pixels(sure: Tensor, wrong: Tensor, counted: Tensor, risk: float) -> float:
    """Give the least confidence from which on so few of the answered positions were wrong, rows counting alike.

    Pixels of a picture depend on one another: this is what was seen, and nothing is promised.

    Args:
        sure: (row, position).
        wrong: bool (row, position).
        counted: bool (row, position).
    """
    weights = (counted.double() / counted.sum(1).clamp(min=1)[:, None])[counted]
    values, order = sure[counted].sort(descending=True)
    errors = (weights * wrong[counted])[order].cumsum(0) / weights[order].cumsum(0)
    last = torch.searchsorted(-values, -values, right=True) - 1  # ties are answered together
    good = (errors[last] <= risk).nonzero().flatten()
    return float(values[good[-1]]) if len(good) else math.inf
