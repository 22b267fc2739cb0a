"""Temperatures: one for each combination, drawn towards a function of what is missing where rows are few."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

WIDEST = math.log(50.0)
"""Temperatures lie between 1/50 and 50: a network without a mistake on these rows asks for 0."""
RULED_OUT = -1e6
"""Stands for -inf, whose gradient would be NaN."""


def fit_temperatures(
    samples: Mapping[tuple[str, ...], tuple[Tensor, Tensor]], modalities: Sequence[str]
) -> tuple[dict[tuple[str, ...], float], dict[str, float]]:
    """Find temperatures that make the truth most likely (Guo et al., arXiv 1706.04599).

    First log T = a + the sum of b of what is missing, one function for all combinations, which also serves those never
    seen. Then each combination has its own log T, with a penalty of half its squared distance to that function, as much
    as about one row says.

    Args:
        samples: what is present -> scores (position, class), and classes (position,).
        modalities: all of them.

    Returns:
        What is present -> temperature; and "" -> a, modality -> b.
    """
    missing = {key: torch.tensor([1.0, *(float(name not in key) for name in modalities)]).double() for key in samples}
    ready = {key: _usable(*sample) for key, sample in samples.items()}
    shared = torch.zeros(1 + len(modalities), dtype=torch.float64, requires_grad=True)

    def of_all() -> Tensor:
        losses = [_surprise(*ready[key], missing[key] @ shared) for key in ready]
        return torch.stack(losses).sum() / len(losses) + 1e-3 * shared.square().sum()

    _minimise(of_all, shared)
    found = {}
    for key, (scores, target) in ready.items():
        goal = (missing[key] @ shared).detach().clamp(-WIDEST, WIDEST)
        own = goal.clone().requires_grad_()
        share = 0.5 / max(1, len(target))

        def of_one(scores: Tensor = scores, target: Tensor = target, own: Tensor = own, goal: Tensor = goal,
                   share: float = share) -> Tensor:  # fmt: skip
            return _surprise(scores, target, own) + share * (own - goal).square()

        _minimise(of_one, own)
        found[key] = math.exp(float(own.detach().clamp(-WIDEST, WIDEST)))
    values = shared.detach().tolist()
    return found, dict(zip(("", *modalities), values, strict=True))


def _usable(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out positions whose scores are not finite; a class ruled out by -inf stays so at every temperature."""
    wide = scores.double()
    true = wide.gather(1, target[:, None])[:, 0]
    fine = wide.amax(1).isfinite() & true.isfinite()
    return wide[fine].clamp(min=RULED_OUT), target[fine]


def _surprise(scores: Tensor, target: Tensor, log_temperature: Tensor) -> Tensor:
    if not len(target):
        return log_temperature * 0
    return torch.nn.functional.cross_entropy(scores / log_temperature.exp(), target)


def _minimise(function: Callable[[], Tensor], parameter: Tensor) -> None:
    optimiser = torch.optim.LBFGS([parameter], max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = function()
        loss.backward()
        return loss

    optimiser.step(closure)
