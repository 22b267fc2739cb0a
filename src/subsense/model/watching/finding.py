"""What a watch finds in rows of one modality: health, whether that is unusual, and the reason in words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subsense.modalities.inputs import HUGE
from subsense.model.watching.sensor import TESTS, Sensor
from subsense.model.watching.traits import Traits, longest_run

NOT_FINITE = "not finite"
QUIET = 0.7


@dataclass(frozen=True)
class Finding:
    """Hold what was found in the rows of a modality, all of them there.

    Attributes:
        health: share of what a healthy row tells that is left, float32 in [0, 1] (row,); 1 where nothing is unusual.
        doubted: where it is unusual, bool (row,).
        finite: where every value is finite, bool (row,).
        repeats: of how many rows before this one is the copy, in the channel where most are; None without a stream.
    """

    sensor: Sensor
    values: Tensor
    of: Traits
    excess: Tensor
    health: Tensor
    doubted: Tensor
    finite: Tensor
    repeats: Tensor | None = None

    def reason(self, row: int) -> str:
        """Say why a row is doubted; nothing where it isn't."""
        if not self.finite[row]:
            wrong = int((~_is_finite(self.values[row])).sum())
            return f"{NOT_FINITE}: {wrong} of {self.values[row].numel()} values"
        if not self.doubted[row]:
            return ""
        if self.repeats is not None and self.repeats[row] > 0:
            return f"stuck for {int(self.repeats[row]) + 1} rows"
        test, excess = TESTS[int(self.excess[:, row].argmax())], dict(zip(TESTS, self.excess[:, row], strict=True))
        if test == "soft" and excess["quiet"] > QUIET * excess["soft"]:
            test = "quiet"  # what is quiet has little detail, too
        return self._words(test, row)

    def _words(self, test: str, row: int) -> str:
        of, table = self.of, self.sensor.table
        if test == "held" and of.held is not None:
            return self._held(row, float(of.held[row]))
        if test in ("quiet", "spread") and of.std is not None:
            ratio = (of.std[row].cpu() / table[7].exp()).square()
            return f"variance {_short(ratio.median())} of usual"
        if test == "coarse" and of.step is not None:
            return f"steps of {_short(of.step[row])} deviations"
        if test == "noise" and of.rough is not None:
            return f"noise of {_short(of.rough[row].amax(1).mean())} deviations"
        if test == "soft" and of.rough is not None:
            usual = table[9 : 9 + self.sensor.axes].T.exp()
            return f"detail {_short((of.rough[row].cpu() / usual).mean())} of usual"
        if test == "shift":
            off = (of.mean[row].cpu() - table[5]).abs().amax()
            return f"mean off by {_short(off)} deviations"
        return self._range(row)

    def _held(self, row: int, share: float) -> str:
        values = self.values[row : row + 1]
        if values.dim() == 3 and (run := int(longest_run(values))) >= 0.9 * share * (values.shape[2] - 1):
            return f"stuck for {run} samples"
        return f"{share:.0%} repeat their neighbour"

    def _range(self, row: int) -> str:
        low, high = self.sensor.usual_range
        found = self.values[row]
        worst = max(found.flatten().tolist(), key=lambda one: max(low - one, one - high))
        return f"range: {_short(worst)} where {_short(low)} to {_short(high)} is usual"


def examine(sensor: Sensor, values: Tensor) -> Finding:
    """Look at the rows of a batch, (row, ...)."""
    rows = sensor.arranged(values.detach())
    finite = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    if not _is_finite(torch.stack(rows.aminmax())).all():
        good = _is_finite(rows)
        finite = good.flatten(1).all(1)
        clean = torch.where(good, rows, sensor.table[0].to(rows).view(-1, *[1] * (rows.dim() - 2)))
    else:
        clean = rows
    of = sensor.traits(clean)
    lost = sensor.losses(of)
    doubted = sensor.doubts(lost) | ~finite
    excess = sensor.excess(lost)
    health = torch.where(doubted, 1 - excess.amax(0), 1.0)
    return Finding(sensor, rows, of, excess, torch.where(finite, health, 0.0), doubted, finite)


def _is_finite(values: Tensor) -> Tensor:
    """Say which values are numbers; what files write for "never measured" is none."""
    return values.abs() < HUGE


def _short(number: Tensor | float) -> str:
    return f"{float(number):.2g}"
