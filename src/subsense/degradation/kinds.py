"""`Degradation`: one thing that goes wrong with a sensor, at a severity of 0 to 5, drawn from a seed.

Severities are comparable between kinds: at severity s about s / 5 of what a healthy input tells is lost, so that
1 - s / 5 is the quality that goes with it. For what is added to the signal (noise, bias, gain, drift) that is the share
of variance which is no signal any more: an error of `a` standard deviations leaves 1 / (1 + a^2) of it, so a is 0.5,
0.82, 1.22 and 2 at severities 1 to 4, and at 5, where the formula has no end, 4. For what is taken away (samples,
pixels, channels, words) it is the share taken. How much that matters to a task is the network's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from subsense.errors import InputError

MOST = 5
"""The highest severity: nothing is left, a quality of 0."""
OF_AN_ERROR = (0.5, 0.82, 1.22, 2.0, 4.0)
"""Standard deviations of an error that leaves 80, 60, 40, 20 and 6 % of the variance to the signal."""
SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)

Form = Literal["channels", "time", "space", "words"]
Change = Callable[[Tensor, Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Degradation:
    """Say what goes wrong, and how much of it each severity is.

    Attributes:
        name: what recipes and tables call it.
        form: the axes that it needs: ``"channels"`` (row, place, channel), ``"time"`` (row, time, the rest),
            ``"space"`` (row, the rest, H, W) or ``"words"`` (row, place).
        unit: of the amounts, in words.
        amounts: at severities 1 to 5, linear between them and from `none` to the first.
        change: ``(values, amount (row,), generator) -> values``. Values are in standard deviations from the healthy
            mean, so 0 is what an average input has; words are token indices.
        none: the amount at severity 0.
    """

    name: str
    form: Form
    unit: str
    amounts: tuple[float, float, float, float, float]
    change: Change
    none: float = 0.0

    def amount(self, severity: Tensor) -> Tensor:
        """Give the amount of severities in [0, 5].

        >>> from subsense.degradation import find
        >>> find("noise").amount(torch.tensor([0.0, 0.5, 1.0, 5.0]))
        tensor([0.0000, 0.2500, 0.5000, 4.0000])
        """
        knots = torch.tensor([self.none, *self.amounts], device=severity.device)
        low = severity.long().clamp(0, MOST - 1)
        return torch.lerp(knots[low], knots[low + 1], severity.to(knots) - low)

    def __str__(self) -> str:
        return self.name


def composed(degradations: Sequence[Degradation]) -> Degradation:
    """Make one of several that need the same axes: they act in turn, each at the whole severity.

    Raises:
        InputError: none, or kinds for inputs of different forms.

    >>> from subsense.degradation import find
    >>> foggy = composed([find("fog"), find("blur")])
    >>> foggy.name, foggy.form
    ('fog+blur', 'space')
    """
    forms = sorted({one.form for one in degradations})
    if len(forms) != 1:
        raise InputError(f"composed: expected degradations of one form, but found {forms or 'none'}")
    members = tuple(degradations)

    def change(values: Tensor, severity: Tensor, generator: torch.Generator) -> Tensor:
        for one in members:
            values = one.change(values, one.amount(severity), generator)
        return values

    name, unit = "+".join(map(str, members)), "severity"
    return Degradation(name, members[0].form, unit, (1.0, 2.0, 3.0, 4.0, 5.0), change)


def quality_of(severity: Tensor) -> Tensor:
    """Give the quality that goes with a severity: 1 - severity / 5.

    >>> quality_of(torch.tensor([0.0, 1.0, 5.0]))
    tensor([1.0000, 0.8000, 0.0000])
    """
    return 1 - severity / MOST


def severity_of(quality: Tensor) -> Tensor:
    """Give the severity that goes with a quality: 5 (1 - quality)."""
    return MOST * (1 - quality)


def by_row(amount: Tensor, values: Tensor) -> Tensor:
    """Give (row,) as (row, 1, ..., 1), to be multiplied with values."""
    return amount.view(-1, *[1] * (values.dim() - 1))


def uniform(generator: torch.Generator, like: Tensor, *shape: int) -> Tensor:
    """Draw from [0, 1), on the generator's device, and bring it to another one: the same on every device."""
    return torch.rand(shape, generator=generator).to(like.device)


def normal(generator: torch.Generator, like: Tensor, *shape: int) -> Tensor:
    """Draw from a normal distribution, the same on every device."""
    return torch.randn(shape, generator=generator).to(like.device)


def signs(generator: torch.Generator, like: Tensor, *shape: int) -> Tensor:
    """Draw -1 or 1."""
    return torch.where(uniform(generator, like, *shape) < 0.5, -1.0, 1.0)


def share_of(generator: torch.Generator, amount: Tensor, count: int) -> Tensor:
    """Draw a share of `count` places in each row, bool (row, place): as near to the share as whole places can be.

    >>> share_of(torch.Generator().manual_seed(0), torch.tensor([0.25, 1.0]), 4).sum(1)
    tensor([1, 4])
    """
    ranks = uniform(generator, amount, len(amount), count).argsort(1).argsort(1)
    return ranks < (amount[:, None] * count + uniform(generator, amount, len(amount), 1) - 1e-6).floor()
