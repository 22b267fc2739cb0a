"""What befalls a series in time: drift, stuck values, dropped samples or frames, lag, gaps, packet loss, silence.

Values are (row, time, the rest), in standard deviations from the healthy mean; the rest are channels, or the pixels of
a frame. What is lost is held (the last value is repeated) or stands at the healthy mean, as each function says.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from subsense.degradation.kinds import OF_AN_ERROR, SHARES, Degradation, by_row, share_of, signs, uniform

PACKETS = 20
"""Packets that a series is sent in."""


def drift(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Add a ramp from 0 to `amount` standard deviations, up or down in each channel: warming up, a clogging filter.

    >>> drift(torch.zeros(1, 3, 1), torch.tensor([1.0]), torch.Generator().manual_seed(1)).flatten()
    tensor([0.0000, 0.5000, 1.0000])
    """
    ramp = torch.linspace(0, 1, values.shape[1], device=values.device)[None, :, None]
    return values + by_row(amount, values) * ramp * signs(generator, values, len(values), 1, values.shape[2])


def stuck(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Repeat one value for the last `amount` of the time: a driver that hands out its last reading, a frozen picture.

    >>> stuck(torch.arange(4.0).view(1, 4, 1), torch.tensor([0.5]), torch.Generator()).flatten()
    tensor([0., 1., 1., 1.])
    """
    steps = values.shape[1]
    last = ((1 - amount) * steps).round().clamp_min(1) - 1
    return _taken(values, torch.minimum(_times(values), last[:, None].long()))


def dropped(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Lose single samples or frames at random, a share of `amount`; the one before is repeated.

    >>> dropped(torch.arange(5.0).view(1, 5, 1), torch.tensor([0.5]), torch.Generator().manual_seed(1)).flatten()
    tensor([0., 0., 0., 3., 3.])
    """
    lost = share_of(generator, amount, values.shape[1])
    lost[:, 0] = False
    return _taken(values, torch.where(lost, 0, _times(values)).cummax(1).values)


def lag(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Come late by `amount` of the window, behind the other sensors; what was before the window is its first value.

    >>> lag(torch.arange(4.0).view(1, 4, 1), torch.tensor([0.5]), torch.Generator()).flatten()
    tensor([0., 0., 0., 1.])
    """
    late = (amount * values.shape[1]).round().long()
    return _taken(values, (_times(values) - late[:, None]).clamp_min(0))


def gap(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Lose `amount` of the time in one piece, somewhere; there stands the healthy mean: a wearable taken off.

    >>> gap(torch.ones(1, 5, 1), torch.tensor([0.4]), torch.Generator().manual_seed(0)).flatten()
    tensor([1., 0., 0., 1., 1.])
    """
    steps = values.shape[1]
    wide = (amount * steps).round()
    start = (uniform(generator, values, len(values)) * (steps - wide + 1)).floor()
    times = _times(values)
    return torch.where(((times >= start[:, None]) & (times < (start + wide)[:, None]))[..., None], 0.0, values)


def packet_loss(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Lose a share of the packets, twenty to a series; there stands the healthy mean: radio, a full buffer.

    >>> lost = packet_loss(torch.ones(1, 40, 1), torch.tensor([0.25]), torch.Generator().manual_seed(0))
    >>> float(lost.mean())
    0.75
    """
    steps = values.shape[1]
    size = math.ceil(steps / PACKETS)
    lost = share_of(generator, amount, math.ceil(steps / size)).repeat_interleave(size, 1)[:, :steps]
    return torch.where(lost[..., None], 0.0, values)


def silence(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Fall silent for the last `amount` of the time; there stands the healthy mean: a microphone that is switched off.

    >>> silence(torch.ones(1, 4, 1), torch.tensor([0.5]), torch.Generator()).flatten()
    tensor([1., 1., 0., 0.])
    """
    last = ((1 - amount) * values.shape[1]).round()
    return torch.where((_times(values) >= last[:, None])[..., None], 0.0, values)


def _times(values: Tensor) -> Tensor:
    """Give the index of each instant, int64 (row, time)."""
    return torch.arange(values.shape[1], device=values.device).expand(len(values), -1)


def _taken(values: Tensor, times: Tensor) -> Tensor:
    """Take what was at other instants."""
    return values.gather(1, times[..., None].expand(values.shape))


_ENDS = tuple(round(math.sqrt(3) * amount, 2) for amount in OF_AN_ERROR)

OF_SERIES = (
    Degradation(
        "drift", "time", "standard deviations at the end", (_ENDS[0], _ENDS[1], _ENDS[2], _ENDS[3], _ENDS[4]), drift
    ),
    Degradation("stuck", "time", "share of the time", SHARES, stuck),
    Degradation("dropped", "time", "share of the samples or frames", SHARES, dropped),
    Degradation("lag", "time", "share of the window", SHARES, lag),
    Degradation("gap", "time", "share of the time", SHARES, gap),
    Degradation("packet-loss", "time", "share of the packets", SHARES, packet_loss),
    Degradation("silence", "time", "share of the time", SHARES, silence),
)
