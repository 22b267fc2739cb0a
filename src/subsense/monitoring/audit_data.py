"""What data hold, seen once and in constant memory: combinations, numbers that say "no value", rows of one value."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from subsense.modalities import Modalities
from subsense.modalities.inputs import HUGE
from subsense.modalities.loaders import available
from subsense.monitoring.audit_report import Fault
from subsense.support.tables import format_share

KNOWN = (0, 255, 4095, 65535, 32767, *(sign * 10**power - sign for sign in (1, -1) for power in range(2, 6)), -32768)
"""Numbers by which files say "no value": a smaller gap to the data than of other numbers gives them away."""
FEWEST = 3
"""A number that stands for "no value" comes at least so often, bit for bit."""
LEAST_SHARE = 0.01
"""Of a modality's rows; fewer may hold one value by chance, such as an empty corner of a picture."""


@dataclass
class _End:
    """Count the three least distinct values; of the negated data, the greatest."""

    counts: Counter[float] = field(default_factory=Counter)

    def update(self, data: Tensor) -> None:
        for _ in range(3):
            if data.numel():
                above = data > (least := data.min())
                self.counts[float(least)] += data.numel() - int(above.sum())
                data = data[above]
        self.counts = Counter({value: self.counts[value] for value in self.values})

    @property
    def values(self) -> list[float]:
        return sorted(self.counts)[:3]


@dataclass
class _Part:
    """Keep what was seen of one tensor of a modality."""

    low: _End = field(default_factory=_End)
    high: _End = field(default_factory=_End)
    num_values: int = 0
    num_not_finite: int = 0
    num_huge: int = 0
    num_constant: int = 0
    constants: Counter[float] = field(default_factory=Counter)

    def update(self, rows: Tensor) -> None:
        values = rows.detach().flatten(1) if rows.dim() > 1 else rows.detach()[:, None]
        values = values.double() if values.dtype != torch.float32 else values
        finite, moderate = values.isfinite(), values.abs() < HUGE
        self.num_values += values.numel()
        self.num_not_finite += int((~finite).any(1).sum())
        self.num_huge += int((finite & ~moderate).any(1).sum())
        if values.shape[1] > 1 and rows.is_floating_point():
            constant = (values == values[:, :1]).all(1)
            self.num_constant += int(constant.sum())
            self.constants.update(values[constant, 0].tolist())
        usual = values[moderate]  # NaN is not moderate either
        if usual.numel():
            self.low.update(usual)
            self.high.update(-usual)

    def sentinels(self) -> Iterator[tuple[float, int]]:
        """Give numbers that lie far from all others and come again and again, and how often."""
        for end, sign, other in ((self.low, 1, self.high), (self.high, -1, self.low)):
            if len(end.values) < 3 or len(other.values) < 2 or end.counts[end.values[0]] < FEWEST:
                continue
            value, (gap, step) = sign * end.values[0], _gaps(end.values)
            rest = -other.values[1] - end.values[1]  # without the other end's outermost, which may be another sentinel
            needed = 0.05 if value in KNOWN else 2.0
            if rest > 0 and gap > 5 * step and gap > needed * rest:
                yield value, end.counts[end.values[0]]


def _gaps(values: list[float]) -> tuple[float, float]:
    return values[1] - values[0], values[2] - values[1]


class DataFacts:
    """Look at the batches of a loader."""

    def __init__(self, modalities: Modalities) -> None:
        self.modalities = modalities
        self.counts: Counter[int] = Counter()
        self.parts = {(name, part): _Part() for name, modality in modalities.items() for part in modality.parts}

    def update(self, inputs: Mapping[str, Any]) -> Tensor:
        """Take in one batch; give what its rows have, bool (batch, modality)."""
        has = available(self.modalities, inputs)
        bits = torch.tensor([1 << bit for bit in range(len(self.modalities))])
        self.counts.update((has * bits).sum(1).tolist())
        for column, (name, modality) in enumerate(self.modalities.items()):
            value = inputs.get(name)
            if value is None or not (rows := has[:, column].nonzero().flatten()).numel():
                continue
            for part in modality.parts:
                tensor = value if modality.is_single else value[part]
                if tensor.dtype != torch.bool and not tensor.is_complex():
                    self.parts[name, part].update(tensor[rows.to(tensor.device)])
        return has

    @property
    def num_rows(self) -> int:
        """Count the rows seen."""
        return sum(self.counts.values())

    @property
    def num_complete(self) -> int:
        """Count the rows that have every modality."""
        return self.counts[self.modalities.code(self.modalities.complete)]

    @property
    def combinations(self) -> dict[str, int]:
        """Give how often each combination was seen, the most frequent first."""
        words = {code: str(self.modalities.from_code(code)) if code else "nothing" for code in self.counts}
        return {words[code]: count for code, count in self.counts.most_common()}

    def num_having(self, modality: str) -> int:
        """Count the rows that have a modality."""
        bit = self.modalities.names.index(modality)
        return sum(count for code, count in self.counts.items() if code >> bit & 1)

    def faults(self) -> Iterator[Fault]:
        """Give what passes as data and is none."""
        for (name, label), part in self.parts.items():
            where = f"{name} ({label})" if label != name else name
            yield from _faults(name, where, part, self.num_having(name))


def _faults(name: str, where: str, part: _Part, rows: int) -> Iterator[Fault]:
    advice = f"say in `present` that they lack {name}"
    for value, count in part.sentinels():
        share = format_share(count / part.num_values)
        text = f"{where}: {value:g} stands {count:,} times ({share} of the values), far from all others; if it means "
        yield Fault("sentinel", name, f"{text}that nothing was measured, {advice} where it fills a row, or repair it")
    if part.num_huge:
        text = f"{where}: numbers beyond {HUGE:.0e} in {part.num_huge:,} of {rows:,} rows, as files write"
        yield Fault("sentinel", name, f"{text} what was never measured; {advice}")
    if part.num_not_finite:
        text = f"{where}: NaN or infinity in {part.num_not_finite:,} of {rows:,} rows that are called present"
        yield Fault("not finite", name, f"{text}; {advice}, or repair it")
    if part.num_constant > LEAST_SHARE * rows:
        value, count = part.constants.most_common(1)[0]
        most = f", mostly {value:g} ({count:,})" if not math.isnan(value) else ""
        text = f"{where}: {part.num_constant:,} of {rows:,} rows hold one value throughout{most}"
        yield Fault("constant", name, f"{text}; if nothing was measured there, {advice}")
