"""Which quality a health asks for: chosen by how near the network's output stays to what it says of healthy input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from subsense.degradation import DEGRADATIONS, Degrader, find
from subsense.degradation.layout import LAYOUTS
from subsense.errors import UntrainedCombination
from subsense.modalities.loaders import num_rows
from subsense.model.robust import RobustModel
from subsense.model.watching.finding import examine
from subsense.model.watching.sensor import Choice
from subsense.model.watching.watch import Watch

GRID = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
KEPT = Choice(0.0, 0.0, 1.0)
CHOICES = (
    *(Choice(low, low, 1.0) for low in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)),
    *(Choice(low, 1.0, power) for power in (4.0, 3.0, 2.0, 1.5, 1.0) for low in (0.6, 0.5, 0.4, 0.3, 0.2, 0.0)),
    KEPT,
)
"""From the most careful one on, which wins a tie."""
COPIES = 3

Rows = Mapping[str, Any]


def choose(
    robust: RobustModel, watch: Watch, rows: Rows, kinds: Sequence[str], select: Callable[[Any], Tensor], seed: int
) -> Watch:
    """Give the watch with a choice for each sensor; no label is read.

    Copies of healthy rows are degraded, a modality at a time, by kinds and severities drawn for each row. The choice is
    that whose outputs are nearest to those for the healthy rows, on average.

    Args:
        rows: inputs that have everything, healthy.
        kinds: names of degradations, each used where it fits.
    """
    clean = select(robust(rows))
    sensors = dict(watch.sensors)
    for column, (name, sensor) in enumerate(watch.sensors.items()):
        fitting = [kind for kind in kinds if sensor.layout and LAYOUTS[sensor.layout].has(find(kind).form)]
        if not fitting:
            continue
        degrader = Degrader(robust.modalities, [rows], kinds={name: fitting}, layouts={name: str(sensor.layout)})
        health, distance = _tried(robust, watch, rows, name, degrader, clean, select, seed + column)
        if distance is not None:
            sensors[name] = replace(sensor, choice=best(health, distance))
    return replace(watch, sensors=sensors)


def best(health: Tensor, distance: Tensor) -> Choice:
    """Give the choice with the least mean distance.

    Args:
        health: of doubted rows (row,).
        distance: at each quality of `GRID` (quality, row).
    """
    costs = [float(_between(distance, choice.quality(health)).mean()) for choice in CHOICES]
    return CHOICES[min(range(len(costs)), key=costs.__getitem__)]


def _between(distance: Tensor, quality: Tensor) -> Tensor:
    """Read distances (quality, row) at qualities (row,), linear between those of the grid."""
    grid = torch.tensor(GRID)
    upper = torch.searchsorted(grid, quality.contiguous()).clamp(1, len(GRID) - 1)
    share = (quality - grid[upper - 1]) / (grid[upper] - grid[upper - 1])
    row = torch.arange(len(quality))
    return torch.lerp(distance[upper - 1, row], distance[upper, row], share)


def _tried(
    robust: RobustModel, watch: Watch, rows: Rows, name: str, degrader: Degrader, clean: Tensor,
    select: Callable[[Any], Tensor], seed: int,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Give the health of degraded rows that are doubted, and how far the output is at each quality of the grid.

    Where the network has no set for a quality in between, nothing or all of the modality is given; where it has none
    without it, there is nothing to choose.
    """
    modalities, count = robust.modalities, len(clean)
    column = list(modalities).index(name)
    generator = torch.Generator().manual_seed(seed)
    found, distances = [], []
    for copy in range(COPIES):
        drawn = torch.ones(count, len(modalities))
        drawn[:, column] = torch.rand(count, generator=generator).clamp(1e-3, 1 - 1e-3)
        worse = degrader(rows, drawn, seed=seed + copy)
        value = worse[name] if isinstance(worse[name], Tensor) else worse[name][watch.parts[name]]
        seen = examine(watch.sensors[name], value)
        doubted = seen.doubted.cpu()
        try:
            tried = [_distance(_given(robust, worse, column, quality, select), clean) for quality in GRID]
        except UntrainedCombination:
            return torch.empty(0), None
        found.append(seen.health.cpu()[doubted])
        distances.append(torch.stack(tried).cpu()[:, doubted])
    return torch.cat(found), torch.cat(distances, 1)


def _given(robust: RobustModel, rows: Rows, column: int, quality: float, select: Callable[[Any], Tensor]) -> Tensor:
    present = torch.ones(num_rows(rows), len(robust.modalities))
    present[:, column] = quality
    return select(robust(rows, present))


def _distance(found: Tensor, clean: Tensor) -> Tensor:
    """Give how far outputs are (row,): half the sum of differences of probabilities, or the squared error of values."""
    found, clean = found.float(), clean.float()
    if clean.dim() > 1 and clean.shape[1] > 1:
        return (found.softmax(1) - clean.softmax(1)).abs().sum(1).view(len(clean), -1).mean(1) / 2
    return (found - clean).square().view(len(clean), -1).mean(1)


ALL = tuple(DEGRADATIONS)
