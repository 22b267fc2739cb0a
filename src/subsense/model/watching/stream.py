"""`Stream`: rows that follow each other; a sensor that repeats its last row is seen over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from subsense.modalities.inputs import Batch, read
from subsense.model.watching.finding import Finding
from subsense.model.watching.watch import Health, Watch

STUCK = 2
"""Copies of a row, one after the other, from which on it is stuck, where healthy rows never repeat."""


@dataclass(frozen=True)
class _Last:
    """Hold the last row of a modality, and of how many before it each channel is the copy."""

    row: Tensor
    copies: Tensor


class Stream:
    """Follow the rows of one stream. Memory doesn't grow with it. Made by `Watch.stream`.

    Attributes:
        watch: what is known of healthy input.
        health: what was found in the rows that came last; None before the first.
        num_rows: rows so far.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.health: Health | None = None
        self.num_rows = 0
        self._last: dict[str, _Last] = {}

    def __call__(self, inputs: Mapping[str, Any], present: Tensor | None = None) -> Health:
        """Take in the next rows, in the order of time; arguments as for `RobustModel.forward`."""
        return self.judge(read(self.watch.modalities, inputs, present))

    def judge(self, batch: Batch) -> Health:
        """Take in a checked batch of rows."""
        self.health = self.watch.judge(batch, self)
        self.num_rows += batch.num_rows
        return self.health

    def followed(self, name: str, found: Finding) -> Finding:
        """Give what was found in the next rows of a modality, in the light of those before."""
        copies = self._copies(name, found.values)
        most = found.sensor.repeats.to(copies.device).clamp_min(STUCK - 1)
        stuck = (copies > most) & found.finite[:, None]
        share = stuck.float().mean(1)
        health = torch.minimum(found.health, 1 - share)
        repeats = torch.where(stuck, copies, 0).amax(1)
        return replace(found, health=health, doubted=found.doubted | (share > 0), repeats=repeats)

    def _copies(self, name: str, rows: Tensor) -> Tensor:
        """Count for each row and channel how many rows before it are the same, int64 (row, channel)."""
        last = self._last.get(name)
        known = last is not None and last.row.shape == rows.shape[1:] and last.row.device == rows.device
        before = torch.cat([last.row[None] if last is not None and known else rows[:1], rows[:-1]])
        same = (rows == before).flatten(2).all(2)
        if not known:
            same[0] = False
        places = torch.arange(1, len(rows) + 1, device=rows.device)[:, None]
        changed = torch.where(same, 0, places).cummax(0).values
        copies = places - changed
        if last is not None and known:
            copies = torch.where(changed == 0, copies + last.copies, copies)
        self._last[name] = _Last(rows[-1].clone(), copies[-1].clone())
        return copies
