"""Compare what stands in for a missing modality with what the network was trained on, after preprocessing.

Zero is silence only before a logarithm, and black only before a normalisation. And what a preprocessing makes of an
input that wasn't there (-100 dB, 127.5, 0.1, a normalised constant) looks like a measurement, unless `present` says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from subsense.modalities.filling import Filling
from subsense.modalities.inputs import Batch, read

FAR = 5.0
"""Standard deviations from the mean at which a stand-in is far from what is there."""


@dataclass(frozen=True)
class StandIn:
    """Hold what stands in for one floating-point input, beside what is there.

    Attributes:
        modality: its name.
        part: the argument that carries it.
        kind: the fill.
        rows: how many rows had it.
        least: the least number that is there; constant rows don't count.
        most: the greatest.
        mean: of what is there.
        spread: standard deviation of what is there.
        stand_in: the least and the greatest number that stands in.
        constant: number -> how many of the rows that are called present hold nothing else.
    """

    modality: str
    part: str
    kind: str
    rows: int
    least: float
    most: float
    mean: float
    spread: float
    stand_in: tuple[float, float]
    constant: Mapping[float, int] = field(default_factory=dict)

    @property
    def is_outside(self) -> bool:
        """Say whether the network can't have seen it: beyond all that is there, or far from its mean."""
        low, high = self.stand_in
        slack = 1e-6 * max(abs(self.least), abs(self.most))
        away = max(abs(low - self.mean), abs(high - self.mean))
        return low < self.least - slack or high > self.most + slack or away > FAR * self.spread

    @property
    def faults(self) -> list[str]:
        """Say what is odd, and what to do."""
        return [*self._outside(), *self._constant()]

    def _outside(self) -> Iterator[str]:
        if self.rows > sum(self.constant.values()) and self.is_outside:
            low, high = self.stand_in
            value = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
            yield (
                f"{self.modality}: what stands in for {self.part!r} ({self.kind}) is {value}, but what is there lies "
                f"between {self.least:.3g} and {self.most:.3g}, mean {self.mean:.3g}: the network was never meant to "
                f"see that. Fill with what your preprocessing makes of nothing (fill={{{self.modality!r}: "
                "subsense.Constant(...)}), if the network was trained on it, or with subsense.Mean(loader)"
            )

    def _constant(self) -> Iterator[str]:
        for value, count in self.constant.items():
            yield (
                f"{self.modality}: {count} of {self.rows} rows that are called present hold {value:.6g} in "
                f"{self.part!r} and nothing else, as a preprocessing leaves what was never there; say in `present` "
                "that they lack it"
            )


def compare_stand_ins(fill: Filling, data: Iterable[Any], batches: int = 8) -> list[StandIn]:
    """Compare what stands in for each modality with the data, preprocessed as the network gets it.

    Args:
        fill: of the adapted model, ``robust.fill``.
        data: batches ``inputs`` or ``(inputs, target)``, as for training.
        batches: how many of them to read.

    Returns:
        One for each floating-point input but masks; `StandIn.faults` says in words what is odd.

    >>> from subsense.modalities import Modalities
    >>> modalities = Modalities({"rgb": "3", "sound": "4"})
    >>> decibels = torch.linspace(-80, -10, 8).view(2, 4)
    >>> batch = {"rgb": torch.randn(2, 3), "sound": decibels}
    >>> [one.faults[0][:65] for one in compare_stand_ins(Filling(modalities), [batch]) if one.faults]
    ["sound: what stands in for 'sound' (zeros) is 0, but what is there"]
    """
    seen = {(name, part): _Seen() for name, part, _ in _inputs(fill)}
    for item in islice(data, batches):
        inputs = item[0] if isinstance(item, (tuple, list)) else item
        batch = read(fill.modalities, inputs)
        for column, (name, part, place) in ((fill.modalities.names.index(one[0]), one) for one in _inputs(fill)):
            tensors = batch.tensors[name]
            if tensors is None:
                continue
            tensor = tensors[place]
            rows = tensor[batch.present[:, column].to(tensor.device)]
            seen[name, part].add(rows, _standing(fill, inputs, batch, name)[place])
    return [_stand_in(fill, *key, one) for key, one in seen.items() if one.rows]


def _inputs(fill: Filling) -> Iterator[tuple[str, str, int]]:
    """Give the floating-point inputs but masks: modality, part, its place."""
    for name in fill.modalities:
        for place, (part, axes) in enumerate(fill.modalities[name].parts.items()):
            if name not in fill.omitted and axes.torch_dtype.is_floating_point and (name, part) not in fill.masks:
                yield name, part, place


def _standing(fill: Filling, inputs: Any, batch: Batch, name: str) -> tuple[Tensor, ...]:
    """Give what stands in for a modality in rows of the size of a batch's."""
    others = [other for other in fill.modalities if other != name and batch.tensors[other] is not None]
    if not others:
        return tuple(tensor[:0] for tensor in batch.tensors[name] or ())
    present = fill.modalities.present(others).expand(batch.num_rows, -1)
    with torch.no_grad():
        filled: tuple[Tensor, ...] = fill(read(fill.modalities, inputs, present))[name]
    return filled


class _Seen:
    """Gather numbers over batches."""

    def __init__(self) -> None:
        self.rows, self.count, self.total, self.squares = 0, 0, 0.0, 0.0
        self.range, self.stand_in = [float("inf"), -float("inf")], [float("inf"), -float("inf")]
        self.constant: Counter[float] = Counter()

    def add(self, rows: Tensor, stand_in: Tensor) -> None:
        """Take in rows that are there, and what stands in for others."""
        flat = rows.detach().double().reshape(len(rows), -1)
        alike = (flat == flat[:, :1]).all(1) if flat.shape[1] > 1 else torch.zeros(len(flat), dtype=torch.bool)
        self.rows += len(flat)
        self.constant.update(flat[alike, 0].tolist() if len(flat) else [])
        _widen(self.stand_in, stand_in)
        varied = flat[~alike]
        _widen(self.range, varied)
        self.count += varied.numel()
        self.total += float(varied.sum())
        self.squares += float(varied.square().sum())


def _widen(ends: list[float], tensor: Tensor) -> None:
    if tensor.numel():
        ends[:] = [min(ends[0], float(tensor.min())), max(ends[1], float(tensor.max()))]


def _stand_in(fill: Filling, name: str, part: str, seen: _Seen) -> StandIn:
    mean = seen.total / max(1, seen.count)
    spread = sqrt(max(0.0, seen.squares / max(1, seen.count) - mean**2))
    stand_in = (seen.stand_in[0], seen.stand_in[1]) if seen.stand_in[0] <= seen.stand_in[1] else (mean, mean)
    return StandIn(
        name,
        part,
        fill.kinds[name],
        seen.rows,
        least=seen.range[0],
        most=seen.range[1],
        mean=mean,
        spread=spread,
        stand_in=stand_in,
        constant=dict(seen.constant),
    )
