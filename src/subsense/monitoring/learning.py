"""Healthy rows -> what is known of a modality: robust moments, and thresholds from rows that were held out."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from subsense.degradation.layout import Layout, layout_of
from subsense.errors import InputError, ModalityError
from subsense.modalities import Axes
from subsense.model.watching.sensor import TESTS, Choice, Sensor, losses
from subsense.model.watching.traits import Traits, arranged, num_run_axes, traits

FOLDS = 5
TOP = 0.99
MOST_CHANNELS = 256
FLOOR = 0.02
"""Share that is lost from which on a test may ring, whatever healthy rows lose."""
LEAST = 1e-3
"""Deviations of a channel that count as none."""


def layout_for(name: str, axes: Axes, given: str | None) -> Layout | None:
    """Give the layout of a modality's tensor; None where its axes suggest none, or channels have no fixed number."""
    try:
        layout = layout_of(name, axes, given)
    except ModalityError:
        if given is not None:
            raise
        return None
    size = 1 if layout.channel is None else axes.sizes[layout.channel]
    return layout if isinstance(size, int) and size <= MOST_CHANNELS else None


def learn(layout: Layout | None, rows: Tensor, false_alarms: float) -> Sensor:
    """Learn a modality from healthy rows (row, ...), in the order in which they came.

    The threshold is a quantile over all rows of how unusual each one is to what the other folds taught: on a healthy
    row that is exchangeable with them it rings with a probability of at most `false_alarms`, but for what cross-fitting
    gives away (Barber et al., arXiv 1905.02928, CV+).

    Raises:
        InputError: too few rows for so few false alarms.
    """
    count = len(rows)
    least = max(math.ceil(1 / false_alarms) - 1, 2 * FOLDS)
    if count < least:
        raise InputError(
            f"loader: expected at least {least} healthy rows, since a threshold that healthy rows pass with a "
            f"probability of {false_alarms:g} can't be told from fewer, but found {count}; pass more rows, or "
            f"false_alarms={math.ceil(1000 / (max(count, 9) + 1)) / 1000:g}"
        )
    values = arranged(layout, rows)
    fold = torch.arange(count) % FOLDS
    scores, top = torch.empty(count), 1 - false_alarms / len(TESTS)
    for number in range(FOLDS):
        sensor, limits = _fitted(layout, values[fold != number], top)
        lost = sensor.losses(sensor.traits(values[fold == number]))
        scores[fold == number] = (lost / limits[:, None]).amax(0)
    rank = min(count, math.ceil((count + 1) * (1 - false_alarms)))
    sensor, limits = _fitted(layout, values, top)
    limits = limits * scores.sort().values[rank - 1]
    table = sensor.table.clone()
    table[4] = _longest_repeats(values)
    return replace(sensor, table=table, limits=dict(zip(TESTS, limits.tolist(), strict=True)))


def _fitted(layout: Layout | None, values: Tensor, top: float) -> tuple[Sensor, Tensor]:
    """Fit everything but the limits; give what a share `top` of the rows lose at most by each test (test,), too."""
    axes = num_run_axes(layout)
    centre, scale = _moments(values)
    least, most = ((end - centre) / scale for end in values.float().flatten(2).aminmax(dim=2))
    scales = torch.stack([centre, scale, least.quantile(1 - TOP, dim=0), most.quantile(TOP, dim=0)])
    found = traits(values, axes, scales)
    table = torch.cat([scales, torch.zeros_like(scales[:1]), *_spread(found, axes)])
    levels = 1.0 if found.levels is None else float(found.levels.median())
    lost = losses(found, table, axes, levels)
    usual = dict(zip(TESTS, lost.quantile(TOP, dim=1).tolist(), strict=True))
    sensor = Sensor(None if layout is None else layout.name, table, usual, {}, levels, Choice())
    return sensor, lost.quantile(top, dim=1).clamp_min(FLOOR)


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Give centre and scale of each channel: medians over rows of their means, and of squares about the centre."""
    flat = values.double().flatten(2)
    centre = flat.mean(2).median(0).values
    scale = (flat - centre[:, None]).square().mean(2).median(0).values.sqrt()
    every = float(scale.median()) or float(scale.max()) or 1.0
    return centre.float(), torch.where(scale > 1e-6 * every, scale, every).float()


def _spread(found: Traits, axes: int) -> list[Tensor]:
    """Give medians and deviations of traits over rows, each (trait, channel)."""
    parts = [*_middle(found.mean), *_middle(_log(found.std, found.mean))]
    rough = _middle(_log(found.rough, found.mean[..., None].expand(-1, -1, axes)))
    return [torch.stack(parts), *(one.T for one in rough), *(one.T for one in _middle(found.block))]


def _log(found: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if found is None else found.clamp_min(LEAST).log()


def _middle(found: Tensor) -> tuple[Tensor, Tensor]:
    """Give median, and deviation by the median of absolute distances, over rows."""
    middle = found.median(0).values
    return middle, 1.4826 * (found - middle).abs().median(0).values


def _longest_repeats(values: Tensor) -> Tensor:
    """Give the longest run of equal rows of each channel, float (channel,): 0 where no row is like the one before."""
    same = (values[1:] == values[:-1]).flatten(2).all(2)
    places = torch.arange(1, len(same) + 1)[:, None]
    last = torch.where(same, 0, places).cummax(0).values
    return (places - last).amax(0).float()
