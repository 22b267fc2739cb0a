"""What the values of a row look like, in a few numbers for each channel: the traits that tests compare."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subsense.degradation.layout import Layout

BLOCKS = 4
"""Into how many parts each axis is cut whose means are compared."""
FAR = 1e15
"""Standard deviations beyond which a value is no further off: squares stay finite."""
PAIRS = 256
"""Neighbours that are looked at to tell coarse steps from held values."""
FEW_CHANGES = 4


@dataclass(frozen=True)
class Traits:
    """Hold the traits of rows; `run` axes are time, or height and width, or all three of a film.

    Attributes:
        mean: (row, channel).
        block: means of each channel's parts (row, channel, part).
        std: (row, channel); None where a channel has one value, as have the next ones.
        rough: root mean square of half the steps between neighbours (row, channel, run axis): white noise has its
            deviation there.
        held: share of the instants, or pixels, that repeat their neighbours in all channels (row,).
        levels: distinct values / changes of value, 1 where none repeats (row,).
        step: between distinct values (row,).
        beyond: root mean square of what lies beyond the usual range (row,).
        outside: share of values beyond it (row,).
    """

    mean: Tensor
    block: Tensor
    beyond: Tensor
    outside: Tensor
    std: Tensor | None = None
    rough: Tensor | None = None
    held: Tensor | None = None
    levels: Tensor | None = None
    step: Tensor | None = None


def arranged(layout: Layout | None, values: Tensor) -> Tensor:
    """Give values (row, channel, run axes ...); without a layout all of a row is one channel, in no order.

    >>> from subsense.degradation import LAYOUTS
    >>> arranged(LAYOUTS["series"], torch.zeros(8, 100, 3)).shape, arranged(LAYOUTS["vector"], torch.zeros(8, 3)).shape
    (torch.Size([8, 3, 100]), torch.Size([8, 3, 1]))
    """
    if layout is None:
        return values.flatten(1)[:, None]
    values = values.movedim(1 + layout.channel, 1) if layout.channel is not None else values[:, None]
    return values if values.dim() > 2 else values[..., None]


def num_run_axes(layout: Layout | None) -> int:
    """Count the axes along which values have neighbours."""
    return 0 if layout is None else int(layout.time is not None) + 2 * int(layout.space is not None)


def traits(values: Tensor, axes: int, low: Tensor, high: Tensor) -> Traits:
    """Take the traits of values (row, channel, ...) in deviations from the healthy mean.

    Args:
        axes: how many run axes they have.
        low, high: the usual range (channel,).
    """
    flat = values.flatten(2)
    mean = flat.mean(2)
    over = torch.maximum(flat - high[:, None], low[:, None] - flat).clamp_min_(0)
    beyond, outside = over.square().mean((1, 2)).sqrt(), (over > 0).flatten(1).float().mean(1)
    block = _blocks(values, axes)
    if flat.shape[2] == 1:
        return Traits(mean, block, beyond, outside)
    std = (flat.square().mean(2) - mean.square()).clamp_min(0).sqrt()
    if not axes or min(values.shape[2:]) < 2:
        return Traits(mean, block, beyond, outside, std)
    steps = [values.diff(dim=2 + axis) for axis in range(axes)]
    rough = torch.stack([(step.square().flatten(2).mean(2) / 2).sqrt() for step in steps], 2)
    return Traits(mean, block, beyond, outside, std, rough, _held(steps), *_levels(flat))


def longest_run(values: Tensor) -> Tensor:
    """Count the samples of the longest run in which no channel changes, (row,); values are (row, channel, time).

    >>> longest_run(torch.tensor([[[1.0, 2.0, 2.0, 2.0, 3.0, 3.0]]]))
    tensor([3])
    """
    same = (values.diff(dim=2) == 0).all(1)
    places = torch.arange(1, same.shape[1] + 1, device=values.device)
    last = torch.where(same, 0, places).cummax(1).values
    return (places - last).amax(1) + 1


def _blocks(values: Tensor, axes: int) -> Tensor:
    """Give the means of a grid of parts, (row, channel, part)."""
    for axis in range(2, 2 + axes):
        parts = min(BLOCKS, values.shape[axis])
        size = values.shape[axis] // parts
        values = values.narrow(axis, 0, parts * size).unflatten(axis, (parts, size)).mean(axis + 1)
    return values.flatten(2) if axes else values.flatten(2).mean(2, keepdim=True)


def _held(steps: list[Tensor]) -> Tensor:
    """Give the share of instants, or pixels, equal to their neighbours along every axis in all channels."""
    same = [(step == 0).all(1) for step in steps]
    size = [min(one.shape[axis] for one in same) for axis in range(1, same[0].dim())]
    held = same[0].new_ones(())
    for one in same:
        for axis, length in enumerate(size, 1):
            one = one.narrow(axis, 0, length)
        held = held & one
    return held.flatten(1).float().mean(1)


def _levels(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Tell whether values change between a few levels only: distinct values / changes, and the step between them."""
    count = flat.shape[2] - 1
    at = torch.linspace(0, count - 1, min(PAIRS, count), device=flat.device).long()
    here, following = flat[:, :, at], flat[:, :, at + 1]
    changed = here != following
    changes = changed.sum(2)
    found = torch.where(changed, following, torch.inf).sort(2).values
    distinct = 1 + ((found.diff(dim=2) > 0) & found[:, :, 1:].isfinite()).sum(2)
    enough = changes >= FEW_CHANGES
    number = enough.sum(1).clamp_min(1)
    share = torch.where(enough, distinct / changes.clamp_min(1), 1.0)
    levels = torch.where(enough.any(1), (share * enough).sum(1) / number, 1.0)
    top = torch.where(found.isfinite(), found, -torch.inf).amax(2)
    step = torch.where(enough, (top - found[:, :, 0]) / (distinct - 1).clamp_min(1), 0.0)
    return levels, step.nan_to_num(0, 0, 0).sum(1) / number
