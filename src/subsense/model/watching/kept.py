"""A watch as files keep it: numbers in the manifest, and one tensor for each modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from subsense.degradation.layout import LAYOUTS
from subsense.errors import DamagedFile
from subsense.modalities import Modalities
from subsense.model.watching.sensor import NUM_COMMON, TESTS, Choice, Sensor
from subsense.model.watching.traits import BLOCKS
from subsense.model.watching.watch import Watch

PREFIX = "watch."
"""Before a modality's name: what its tensor is called among the adapters."""
Share = Annotated[float, Field(ge=0, le=1)]
Some = Annotated[int, Field(ge=1, le=1 << 16)]


class KeptSensor(BaseModel):
    """Hold what is known of a modality, but for its table, of which the shape stands here."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    part: str
    layout: str | None
    parts: Annotated[int, Field(ge=1, le=BLOCKS**3)]
    channels: Some
    usual: dict[str, Share]
    limits: dict[str, float]
    levels: float
    low: Share
    high: Share
    power: float


class KeptWatch(BaseModel):
    """Hold a watch without its tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    false_alarms: Share
    sensors: dict[str, KeptSensor]


def keep(watch: Watch) -> KeptWatch:
    """Give a watch's numbers."""
    sensors = {}
    for name, one in watch.sensors.items():
        parts = (len(one.table) - NUM_COMMON - 2 * one.axes) // 2
        sensors[name] = KeptSensor(
            part=watch.parts[name], layout=one.layout, parts=parts, channels=one.table.shape[1],
            usual=dict(one.usual), limits=dict(one.limits), levels=one.levels, **asdict(one.choice),
        )  # fmt: skip
    return KeptWatch(false_alarms=watch.false_alarms, sensors=sensors)


def tables(watch: Watch) -> dict[str, Tensor]:
    """Give a watch's tensors, by name."""
    return {PREFIX + name: one.table for name, one in watch.sensors.items()}


def shapes(kept: KeptWatch) -> dict[str, tuple[int, int]]:
    """Give the shapes that the tensors must have."""
    return {
        PREFIX + name: (NUM_COMMON + 2 * _bare(one).axes + 2 * one.parts, one.channels)
        for name, one in kept.sensors.items()
    }


def restored(kept: KeptWatch, modalities: Modalities, tensors: Mapping[str, Tensor]) -> Watch:
    """Make the watch again."""
    sensors = {}
    for name, one in kept.sensors.items():
        bare = _bare(one)
        sensors[name] = replace(bare, table=tensors[PREFIX + name])
    parts = {name: one.part for name, one in kept.sensors.items()}
    return Watch(modalities, sensors, parts, kept.false_alarms)


def check(kept: KeptWatch, modalities: Modalities, where: str) -> None:
    """Raise `DamagedFile` where a watch doesn't fit the modalities, or names what there isn't."""
    for name, one in kept.sensors.items():
        known = name in modalities and one.part in modalities[name].parts
        if not known or one.layout not in (None, *LAYOUTS) or not set(one.usual) == set(one.limits) == set(TESTS):
            raise DamagedFile(f"{where}: what it says of watching {name!r} fits no modality of it; save it again")


def _bare(one: KeptSensor) -> Sensor:
    """Give a sensor without its table."""
    choice = Choice(one.low, one.high, one.power)
    return Sensor(one.layout, torch.empty(0), one.usual, one.limits, one.levels, choice)
