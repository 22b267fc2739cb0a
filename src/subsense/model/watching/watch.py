"""`Watch`: gives each row and modality a quality, by what healthy input was learned to look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from subsense.errors import InputError
from subsense.modalities import Modalities
from subsense.modalities.inputs import Batch, read, some
from subsense.model.watching.finding import Finding, examine
from subsense.model.watching.sensor import Sensor
from subsense.support.tables import format_share, format_table

if TYPE_CHECKING:
    from subsense.model.watching.stream import Stream


@dataclass(frozen=True)
class Health:
    """Hold what was found in a batch.

    Attributes:
        quality: what to pass as `present`, float in [0, 1] (batch, modality): 0 is missing or dropped.
        health: share of what a healthy input tells that is left; 1 where nothing is unusual, 0 where it is missing.
        doubted: what is there and unusual, bool (batch, modality).
        reasons: of each row, modality -> why it is doubted.
    """

    quality: Tensor
    health: Tensor
    doubted: Tensor
    reasons: tuple[Mapping[str, str], ...]

    def __str__(self) -> str:
        """Give a line for each row in which something is doubted."""
        lines = [f"row {number}: " + "; ".join(f"{name}: {why}" for name, why in reasons.items())
                 for number, reasons in enumerate(self.reasons) if reasons]  # fmt: skip
        return "\n".join(lines) or "nothing unusual"


@dataclass(frozen=True)
class Watch:
    """Hold what is known of each modality's healthy input. It never changes, so threads may share it.

    Attributes:
        modalities: the declared ones.
        sensors: of those that are watched.
        parts: modality -> which of its tensors is watched.
        false_alarms: how often a healthy row's modality is doubted, at most.
    """

    modalities: Modalities
    sensors: Mapping[str, Sensor]
    parts: Mapping[str, str]
    false_alarms: float

    def __str__(self) -> str:
        """Say what is done about each modality that is doubted."""
        rows = [[name, one.layout or "-", str(one.choice)] for name, one in self.sensors.items()]
        rows += [[name, "-", "not watched: no floats"] for name in self.modalities if name not in self.sensors]
        table = format_table(["modality", "axes", "where it is doubted"], rows, align="lll")
        return f"{table}\n\ndoubted: at most {format_share(self.false_alarms)} of healthy rows, for each modality"

    def __call__(self, inputs: Mapping[str, Any], present: Tensor | None = None) -> Health:
        """Look at a batch, each row for itself; arguments as for `RobustModel.forward`.

        Raises:
            InputError: as `forward`; a row in which nothing finite is there.
        """
        return self.judge(read(self.modalities, inputs, present))

    def stream(self) -> Stream:
        """Begin a stream: rows that come one after the other from the same sensors. One for each; not for two threads.

        What is passed as `present` is the stream, then: ``robust(rows, present=stream)``.
        """
        from subsense.model.watching.stream import Stream

        return Stream(self)

    def judge(self, batch: Batch, stream: Stream | None = None) -> Health:
        """Look at a checked batch."""
        there = batch.present.cpu()
        said = there.float() if batch.quality is None else batch.quality.cpu().float()
        health, quality, finite, doubted = there.float(), said.clone(), there.clone(), torch.zeros_like(there)
        reasons: tuple[dict[str, str], ...] = tuple({} for _ in range(batch.num_rows))
        for column, name in enumerate(self.modalities):
            rows = there[:, column].nonzero().flatten()
            if name not in self.sensors or not len(rows):
                continue
            found = self._look(batch, name, rows, stream)
            rings, own = found.doubted.cpu(), found.health.cpu()
            health[rows, column], doubted[rows, column], finite[rows, column] = own, rings, found.finite.cpu()
            quality[rows, column] *= torch.where(rings, found.sensor.choice.quality(own), 1.0)
            for number in rings.nonzero().flatten().tolist():
                reasons[int(rows[number])][name] = found.reason(number)
        _keep_something(quality, torch.where(finite, health, -1.0), said, reasons)
        return Health(quality, health, doubted, reasons)

    def _look(self, batch: Batch, name: str, rows: Tensor, stream: Stream | None) -> Finding:
        tensors = batch.tensors[name]
        assert tensors is not None
        values = tensors[list(self.modalities[name].parts).index(self.parts[name])]
        found = examine(self.sensors[name], values if len(rows) == len(values) else values[rows.to(values.device)])
        return found if stream is None else stream.followed(name, found)


def _keep_something(quality: Tensor, health: Tensor, said: Tensor, reasons: tuple[Mapping[str, str], ...]) -> None:
    """Keep the healthiest of a row whose every modality would be dropped; what isn't finite has a health of -1."""
    rows = (quality <= 0).all(1).nonzero().flatten()
    best = health[rows].argmax(1)
    if lost := rows[health[rows, best] < 0].tolist():
        why = "; ".join(f"{name}: {one}" for name, one in reasons[lost[0]].items())
        raise InputError(
            f"rows {some(lost)} have nothing that the network could be given ({why}); leave them out, and answer that "
            "there is no answer"
        )
    quality[rows, best] = said[rows, best]
