"""What befalls pictures: blur, fog, occlusion, dead lines.

Values are (row, the rest, H, W), in standard deviations from the healthy mean; the rest are channels, and the frames of
a film. Photographs' own corruptions, JPEG and snow and the like, are those of the package `imagecorruptions` (Hendrycks
and Dietterich, arXiv 1903.12261). It isn't used here: it takes pictures of 8 bits and at least 32 pixels, one by one,
whole severities, and draws from numpy's global state.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from subsense.degradation.kinds import SHARES, Degradation, by_row, share_of, uniform

BRIGHT, DARK = 2.0, -2.0
"""Standard deviations from the mean of fog, and of a line that gives nothing."""


def blur(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Blur with a Gaussian whose deviation is `amount` of the shorter side: out of focus, a wet lens.

    >>> dot = torch.zeros(1, 1, 5, 5)
    >>> dot[..., 2, 2] = 1
    >>> blur(dot, torch.tensor([0.2]), torch.Generator())[0, 0, 2]
    tensor([0.0311, 0.1035, 0.1621, 0.1035, 0.0311])
    """
    width = amount * min(values.shape[-2:])
    high, wide = (_gaussian(width, size).to(values.dtype) for size in values.shape[-2:])
    return high[:, None] @ values @ wide[:, None].transpose(-1, -2)


def fog(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Mix in a bright veil, `amount` of it on the mean of a picture, in banks: 2 deviations above each channel's mean.

    >>> foggy = fog(torch.zeros(1000, 1, 4, 4), torch.full((1000,), 0.5), torch.Generator().manual_seed(0))
    >>> round(float(foggy.mean()), 2)
    1.0
    """
    banks = uniform(generator, values, len(values), 1, 3, 3)
    banks = interpolate(banks, values.shape[-2:], mode="bilinear", align_corners=False) - 0.5
    amount = by_row(amount, values)
    return values + (amount + amount * (1 - amount) * banks).clamp(0, 1) * (BRIGHT - values)


def occlusion(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Cover `amount` of the area by a rectangle of one brightness, somewhere: dirt, a hand, a wall.

    >>> occlusion(torch.ones(1, 1, 4, 4), torch.tensor([0.25]), torch.Generator().manual_seed(0)).count_nonzero()
    tensor(16)
    """
    shade = by_row(2 * uniform(generator, values, len(values)) - 1, values)
    places = uniform(generator, values, 2, len(values))
    down, right = (_inside(amount.sqrt(), place, size) for place, size in zip(places, values.shape[-2:], strict=True))
    return torch.where((down[:, :, None] & right[:, None, :])[:, None], shade, values)


def dead_lines(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Put a share of the lines at black: a broken readout.

    >>> dead_lines(torch.ones(1, 1, 4, 2), torch.tensor([0.5]), torch.Generator().manual_seed(0))[0, 0, :, 0]
    tensor([ 1.,  1., -2., -2.])
    """
    dead = share_of(generator, amount, values.shape[-2])
    return torch.where(dead[:, None, :, None], DARK, values)


def _inside(share: Tensor, place: Tensor, size: int) -> Tensor:
    """Say what lies in a span of a share of `size`, bool (row, size); `place` in [0, 1) is where it may lie."""
    wide = (share * size).round()
    start = (place * (size - wide + 1)).floor()
    at = torch.arange(size, device=share.device)
    return (at >= start[:, None]) & (at < (start + wide)[:, None])


def _gaussian(width: Tensor, size: int) -> Tensor:
    """Give the matrix (row, size, size) that blurs an axis; what lies beyond the edge has no say."""
    at = torch.arange(size, device=width.device, dtype=width.dtype)
    kernel = torch.exp(-0.5 * ((at[:, None] - at) / width.clamp_min(1e-3)[:, None, None]) ** 2)
    return kernel / kernel.sum(-1, keepdim=True)


OF_IMAGES = (
    Degradation("blur", "space", "deviation, as a share of the shorter side", (0.004, 0.01, 0.025, 0.06, 0.16), blur),
    Degradation("fog", "space", "share of the veil", (0.11, 0.23, 0.37, 0.55, 0.95), fog),
    Degradation("occlusion", "space", "share of the area", SHARES, occlusion),
    Degradation("dead-lines", "space", "share of the lines", SHARES, dead_lines),
)
