"""What befalls any measured values: noise, bias, gain, saturation, quantisation, dead channels.

Values are (row, place, channel), in standard deviations from the healthy mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from subsense.degradation.kinds import OF_AN_ERROR, SHARES, Degradation, by_row, normal, share_of, signs, uniform


def noise(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Add white Gaussian noise of `amount` standard deviations: an amplifier, a long exposure.

    >>> noisy = noise(torch.zeros(1, 10_000, 1), torch.tensor([2.0]), torch.Generator().manual_seed(0))
    >>> round(float(noisy.std()), 1)
    2.0
    """
    return values + by_row(amount, values) * normal(generator, values, *values.shape)


def bias(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each channel by `amount` standard deviations, up or down: a sensor that lost its zero.

    >>> bias(torch.zeros(1, 2, 3), torch.tensor([0.5]), torch.Generator().manual_seed(0))
    tensor([[[-0.5000,  0.5000, -0.5000],
             [-0.5000,  0.5000, -0.5000]]])
    """
    return values + by_row(amount, values) * signs(generator, values, len(values), 1, values.shape[2])


def gain(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Multiply a row by 1 + `amount`, or divide it by that: a wrong range, a loose plug.

    >>> gain(torch.ones(3, 1, 1), torch.tensor([1.0, 1.0, 1.0]), torch.Generator().manual_seed(0)).flatten()
    tensor([0.5000, 2.0000, 0.5000])
    """
    return values * by_row((1 + amount) ** signs(generator, values, len(values)), values)


def saturation(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Cut everything beyond `amount` standard deviations from the mean: an amplifier at its rails, overexposure.

    >>> saturation(torch.tensor([[[-2.0, 0.1, 0.7]]]), torch.tensor([0.5]), torch.Generator())
    tensor([[[-0.5000,  0.1000,  0.5000]]])
    """
    limit = by_row(amount, values)
    return values.clamp(-limit, limit)


def quantisation(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Round to multiples of `amount` standard deviations: too few bits.

    >>> quantisation(torch.tensor([[[-1.1, 0.4, 2.6]]]), torch.tensor([1.0]), torch.Generator())
    tensor([[[-1.,  0.,  3.]]])
    """
    step = by_row(amount, values)
    return torch.where(step > 0, (values / step.clamp_min(1e-12)).round() * step, values)


def dead_channels(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Put a share of the channels at the healthy mean for good: broken wires.

    >>> dead_channels(torch.ones(1, 1, 4), torch.tensor([0.5]), torch.Generator().manual_seed(0))
    tensor([[[1., 1., 0., 0.]]])
    """
    dead = share_of(generator, amount, values.shape[2])
    return torch.where(dead[:, None], 0.0, values)


def flicker(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Put single values 2 standard deviations off the mean, each with probability `amount`: bit errors, hot pixels.

    >>> flicker(torch.zeros(1, 2, 2), torch.tensor([0.5]), torch.Generator().manual_seed(0))
    tensor([[[-2.,  0.],
             [-2.,  2.]]])
    """
    hit = uniform(generator, values, *values.shape) < by_row(amount, values)
    return torch.where(hit, 2 * signs(generator, values, *values.shape), values)


OF_VALUES = (
    Degradation("noise", "channels", "standard deviations of what is added", OF_AN_ERROR, noise),
    Degradation("bias", "channels", "standard deviations of the shift", OF_AN_ERROR, bias),
    Degradation("gain", "channels", "factor, less 1", OF_AN_ERROR, gain),
    Degradation(
        "saturation", "channels", "standard deviations that are kept", (0.87, 0.52, 0.30, 0.14, 0.03), saturation, 8.0
    ),
    Degradation("quantisation", "channels", "standard deviations of a step", (1.55, 2.2, 2.8, 3.6, 5.0), quantisation),
    Degradation("dead-channels", "channels", "share of the channels", SHARES, dead_channels),
    Degradation("flicker", "channels", "share of the values", SHARES, flicker),
)
