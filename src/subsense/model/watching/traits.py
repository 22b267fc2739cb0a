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
PAIRS, SOME = 256, 1024
"""Neighbours that are looked at to tell coarse steps from held values, and to count held ones, at most."""
FEW_CHANGES = 4
ENOUGH = 1 << 13
"""Values by which roughness can be told."""


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
    """

    mean: Tensor
    block: Tensor
    beyond: Tensor
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


def traits(values: Tensor, axes: int, scales: Tensor) -> Traits:
    """Take the traits of finite values (row, channel, ...), in deviations from the healthy mean.

    Args:
        axes: how many run axes they have.
        scales: centre and deviation, in the values' own units; low and high end of the usual range (4, channel).

    The numbers are read about ten times, so that a large input costs little: what is seldom needed is made for the rows
    that need it.
    """
    centre, scale, low, high = scales
    values = _centred(values, centre, scale)
    flat = values.flatten(2)
    mean, block = flat.mean(2) / scale, _blocks(values, axes) / scale[:, None]
    beyond = _beyond(flat, low * scale, high * scale, scale)
    count = flat.shape[2]
    if count == 1:
        return Traits(mean, block, beyond)
    square = (torch.linalg.vector_norm(flat, dim=2) / scale).square() / count
    std = (square - mean.square()).clamp_min(0).sqrt()
    if not axes or min(values.shape[2:]) < 2:
        return Traits(mean, block, beyond, std)
    rough = [_rough(values, axis, axes) / scale for axis in range(axes)]
    return Traits(mean, block, beyond, std, torch.stack(rough, 2), _held(values), *_levels(flat, scale))


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


def _centred(values: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    shape = (-1, *[1] * (values.dim() - 2))
    values = values.float() - centre.view(shape)
    far = (FAR * scale).view(shape)
    least, most = values.aminmax()
    return values.clamp(-far, far) if max(-float(least), float(most)) > float(far.min()) else values


def _rough(values: Tensor, axis: int, axes: int) -> Tensor:
    """Give the root mean square of half the steps along a run axis, (row, channel); of a large input by some lines."""
    every = -(-values[0, 0].numel() // ENOUGH)
    if axes > 1 and every > 1:
        other = 2 + (axis + 1) % axes
        values = values[(slice(None),) * other + (slice(None, None, every),)]
    steps = values.diff(dim=2 + axis).flatten(2)
    square: Tensor = steps.square().mean(2)
    return (square / 2).sqrt()


def _beyond(flat: Tensor, low: Tensor, high: Tensor, scale: Tensor) -> Tensor:
    """Give the root mean square of what lies beyond a range, over channels (row,)."""
    least, most = flat.amin(2), flat.amax(2)  # aminmax along an axis takes ten times as long
    beyond = flat.new_zeros(len(flat))
    if len(rows := ((least < low) | (most > high)).any(1).nonzero().flatten()):
        some = flat[rows]
        over = torch.maximum(some - high[:, None], low[:, None] - some).clamp_min(0) / scale[:, None]
        beyond[rows] = over.square().mean((1, 2)).sqrt()
    return beyond


def _held(values: Tensor) -> Tensor:
    """Give the share of instants, or pixels, that equal their next along every axis in all channels; of many, some."""
    sizes = values.shape[2:]
    inner = torch.tensor([size - 1 for size in sizes])
    number = int(inner.prod())
    at = torch.linspace(0, number - 1, min(SOME, number), dtype=torch.float64).long()
    place, step, stride = torch.zeros_like(at), [], 1
    for size in reversed(sizes):
        place, at = place + at % (size - 1) * stride, at // (size - 1)
        step.append(stride)
        stride *= size
    flat, place = values.flatten(2), place.to(values.device)
    here = flat[:, :, place]
    same = [(here == flat[:, :, place + one]).all(1) for one in step]
    return torch.stack(same).all(0).float().mean(1)


def _levels(flat: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
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
    return levels, (step.nan_to_num(0, 0, 0) / scale).sum(1) / number
