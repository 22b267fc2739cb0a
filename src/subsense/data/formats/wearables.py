"""Tables of worn sensors: text with a time, several sensors and a label in each line, NaN where a sensor sent nothing.

A sensor that is slower than the table's lines, or whose radio lost packets, has gaps. Windows are cut from the table; a
gap no longer than is told is bridged by a straight line between the readings around it, inside the window alone; a
window with a longer gap lacks the sensor altogether, so that `present` says what was really there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subsense.data.base import Description, Item, Part

Table = NDArray[np.float64]


@dataclass(frozen=True)
class Sensor:
    """Say where a sensor is in a table, and how it is read.

    Attributes:
        columns: counted from 0.
        length: readings kept of a window, evenly spaced: fewer than the lines where the sensor is slower.
        gap: the longest gap, in lines, that is bridged.
    """

    columns: tuple[int, ...]
    length: int
    gap: int


class Windows(Part):
    """Hold windows of worn sensors; what a window lacks has no key in its sample."""

    def __init__(self, samples: Sequence[tuple[dict[str, Tensor], int]], groups: Sequence[str]) -> None:
        self.samples, self.groups = list(samples), tuple(groups)

    def __getitem__(self, index: int) -> Item:
        inputs, target = self.samples[index]
        return dict(inputs), torch.tensor(target)

    def scaled(self, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> Windows:
        """Shift and scale each sensor's channels by a mean and a deviation."""
        samples = [
            ({name: (one - statistics[name][0]) / statistics[name][1] for name, one in inputs.items()}, target)
            for inputs, target in self.samples
        ]
        return Windows(samples, self.groups)

    def statistics(self, description: Description, sensors: Iterable[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Give each sensor's mean and deviation by channel; what never varies has deviation 1.

        Raises:
            DataError: no window has the sensor.
        """
        found = {}
        for name in sensors:
            readings = [inputs[name] for inputs, _ in self.samples if name in inputs]
            if not readings:
                raise description.error(
                    f"expected training windows with {name}, but each has a longer gap than is bridged; raise gap."
                )
            every = torch.cat(readings).double()
            deviation = every.std(0, correction=0)
            deviation = torch.where(deviation > 1e-8, deviation, torch.ones_like(deviation))
            found[name] = (every.mean(0).float(), deviation.float())
        return found

    def notes(self, part: str, sensors: Iterable[str]) -> list[str]:
        """Say how many windows lack which sensor."""
        counts = Counter(name for inputs, _ in self.samples for name in sensors if name not in inputs)
        return [f"{part}: {count} of {len(self)} windows lack {name}." for name, count in sorted(counts.items())]


def read_table(description: Description, path: Path, num_columns: int) -> Table:
    """Read a table of numbers parted by spaces, NaN among them: float64 (lines, columns).

    Raises:
        DataError: the file is damaged, empty, or has another number of columns.
    """
    try:
        table = np.loadtxt(path, dtype=np.float64, ndmin=2, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise description.error(f"cannot read {path}: {error}.") from error
    if not table.size or table.shape[1] != num_columns:
        raise description.error(f"{path}: expected lines of {num_columns} numbers, but found {table.shape}.")
    return table


def cut(
    table: Table, labels: NDArray[np.int64], sensors: Mapping[str, Sensor], length: int, step: int
) -> list[tuple[dict[str, Tensor], int]]:
    """Cut windows that have one label throughout, and at least one sensor.

    Args:
        table: (lines, columns).
        labels: (lines,), the class of each line; below 0: no window holds it.
        sensors: name -> where it is.
        length: of a window, in lines.
        step: from one window's first line to the next's.
    """
    windows = []
    for first in range(0, len(table) - length + 1, step):
        label = int(labels[first])
        if label < 0 or (labels[first : first + length] != label).any():
            continue
        inputs = {}
        for name, sensor in sensors.items():
            readings = bridge(table[first : first + length][:, sensor.columns], sensor.gap)
            if readings is not None:
                rows = np.linspace(0, length - 1, sensor.length).round().astype(int)
                inputs[name] = torch.from_numpy(readings[rows].astype(np.float32))
        if inputs:
            windows.append((inputs, label))
    return windows


def bridge(readings: Table, gap: int) -> Table | None:
    """Bridge gaps of at most `gap` lines by straight lines, at the ends by the nearest reading; None: there are longer.

    >>> nan = float("nan")
    >>> table = np.array([[0.0], [nan], [2.0], [nan], [nan]])
    >>> bridge(table, gap=2).ravel().tolist()
    [0.0, 1.0, 2.0, 2.0, 2.0]
    >>> bridge(table, gap=1) is None
    True
    """
    bridged = readings.copy()
    lines = np.arange(len(readings))
    for column in bridged.T:
        there = np.flatnonzero(np.isfinite(column))
        if not len(there) or np.diff(there, prepend=-1, append=len(column)).max() > gap + 1:
            return None
        column[:] = np.interp(lines, there, column[there])
    return bridged
