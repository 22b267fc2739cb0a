"""OPPORTUNITY: gestures and locomotion of 4 people in a kitchen, with sensors all over the body that lose packets.

Verified in public loaders and copies of column_names.txt and label_legend.txt: files, 250 columns, which are which, 30
lines a second, labels of locomotion and gestures, NaN where packets were lost. The split (subjects 2 and 3, ADL4 and
ADL5, test; ADL3 of both validates) is the challenge's, R. Chavarriaga et al., Pattern Recognition Letters 34, 2013, as
public repositories have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from subsense.data.base import Data, Description, check_missing, locate
from subsense.data.formats.wearables import Sensor, Windows, cut, read_table
from subsense.errors import closest

NUM_COLUMNS = 250
RATE = 30
LENGTH = 30
UNITS = {"back": 37, "right upper arm": 50, "right lower arm": 63, "left upper arm": 76, "left lower arm": 89}
"""Inertial unit -> the first of its nine columns, counted from 0: acceleration, gyroscope, magnetometer."""

SHOES = {"left shoe": 102, "right shoe": 118}
"""Shoe -> the first of its 16 columns: Euler angles, accelerations, angular velocities, compass."""

LOCOMOTION = {0: "null", 1: "stand", 2: "walk", 4: "sit", 5: "lie"}
GESTURES = {
    0: "null",
    406516: "open door 1",
    406517: "open door 2",
    404516: "close door 1",
    404517: "close door 2",
    406520: "open fridge",
    404520: "close fridge",
    406505: "open dishwasher",
    404505: "close dishwasher",
    406519: "open drawer 1",
    404519: "close drawer 1",
    406511: "open drawer 2",
    404511: "close drawer 2",
    406508: "open drawer 3",
    404508: "close drawer 3",
    408512: "clean table",
    407521: "drink from cup",
    405506: "toggle switch",
}
TASKS: Mapping[str, tuple[int, Mapping[int, str]]] = {"gestures": (249, GESTURES), "locomotion": (243, LOCOMOTION)}
"""Task -> the label's column, and its number -> what it is."""

RUNS = ("ADL1", "ADL2", "ADL3", "ADL4", "ADL5", "Drill")
FILES = tuple(f"S{subject}-{run}" for subject in range(1, 5) for run in RUNS)
TEST = ("S2-ADL4", "S2-ADL5", "S3-ADL4", "S3-ADL5")
VALIDATION = ("S2-ADL3", "S3-ADL3")
SENSORS = {name.replace(" ", "_"): 9 for name in UNITS} | {name.replace(" ", "_"): 16 for name in SHOES}

DESCRIPTION = Description(
    name="opportunity",
    modalities={name: f"{LENGTH} {channels}" for name, channels in SENSORS.items()},
    task="classification",
    class_names=tuple(GESTURES.values()),
    metric="weighted-f1",
    source="https://archive.ics.uci.edu/dataset/226/opportunity+activity+recognition",
    licence="CC BY 4.0",
    citation="D. Roggen et al., Collecting complex activity datasets in highly rich networked sensor environments, "
    "INSS 2010; R. Chavarriaga et al., The Opportunity challenge, Pattern Recognition Letters 34(15), 2013",
    folder="OpportunityUCIDataset",
)


def opportunity(
    root: str | Path | None = None,
    *,
    folder: str | None = None,
    task: str = "gestures",
    subjects: Sequence[int] = (1, 2, 3),
    length: int = LENGTH,
    step: int = LENGTH // 2,
    gap: int = 5,
    missing: str = "refuse",
) -> Data:
    """Load OPPORTUNITY's runs as published, cut into windows of one label.

    Layout::

        OpportunityUCIDataset/
          dataset/S1-ADL1.dat ... S4-ADL5.dat, S1-Drill.dat ...   250 numbers a line, 30 lines a second, NaN where lost

    Modalities: `back`, `right_upper_arm`, `right_lower_arm`, `left_upper_arm`, `left_lower_arm` "30 9": acceleration,
    gyroscope, magnetometer, three axes each; `left_shoe`, `right_shoe` "30 16". The twelve accelerometers of the radio
    that loses most, and sensors of objects and the room, aren't read. Gaps of at most `gap` lines are bridged by a
    straight line; a window with a longer gap lacks that sensor, and `notes` says how many do. Each channel is
    standardised with mean and deviation of the training runs. ADL4 and ADL5 of subjects 2 and 3 test, their ADL3
    validates, everything else trains.

    Args:
        root: the folder that holds `OpportunityUCIDataset/`.
        folder: what the data set's folder is called, where it isn't that.
        task: ``"gestures"``, 17 and none, or ``"locomotion"``, 4 and none.
        subjects: whose runs are read; 2 or 3 among them. The challenge leaves out 4, whose sensors were turned.
        length, step: of a window, and from one to the next, in lines of 33 ms.
        gap: the longest gap that is bridged, in lines.
        missing: ``"refuse"``, or ``"present"``: runs may be absent, and are counted.

    Raises:
        DataError: a file is absent or damaged, a label that can't be, a part without windows, an option can't be.
    """
    check_missing(DESCRIPTION, missing)
    if task not in TASKS:
        raise DESCRIPTION.error(f"expected task among {', '.join(TASKS)}, but got {task!r}.{closest(task, TASKS)}")
    if min(length, step) < 1 or gap < 0 or not {2, 3} & set(subjects) or not set(subjects) <= {1, 2, 3, 4}:
        raise DESCRIPTION.error(
            "expected length and step from 1, gap from 0, subjects among 1 to 4 with 2 or 3 among them, but got "
            f"{length}, {step}, {gap} and {list(subjects)}."
        )
    runs = [run for run in FILES if int(run[1]) in subjects]
    inside = Path(root or "") / (folder or DESCRIPTION.folder)
    there = [run for run in runs if missing == "refuse" or (inside / f"dataset/{run}.dat").is_file()]
    place = locate(DESCRIPTION, root, [f"dataset/{run}.dat" for run in there or runs], folder)
    notes = [f"{len(runs) - len(there)} of {len(runs)} runs have no file."] if len(there) < len(runs) else []
    sensors = _sensors(length, gap)
    parts = {
        "train": [run for run in there if run not in TEST + VALIDATION],
        "test": [run for run in there if run in TEST],
        "val": [run for run in there if run in VALIDATION],
    }
    windows = {part: _windows(place, some, sensors, task, length, step) for part, some in parts.items()}
    for part, one in windows.items():
        if not len(one):
            raise DESCRIPTION.error(f"{place}: expected windows of one label in {part}, but found none.")
        notes += one.notes(part, sensors)
    statistics = windows["train"].statistics(DESCRIPTION, sensors)
    return DESCRIPTION.with_samples(
        **{part: one.scaled(statistics) for part, one in windows.items()},
        modalities={name: f"{length} {channels}" for name, channels in SENSORS.items()},
        class_names=tuple(TASKS[task][1].values()),
        notes=tuple(notes),
    )


def _sensors(length: int, gap: int) -> dict[str, Sensor]:
    places = {name: (first, 9) for name, first in UNITS.items()} | {name: (first, 16) for name, first in SHOES.items()}
    return {
        name.replace(" ", "_"): Sensor(tuple(range(first, first + channels)), length, gap)
        for name, (first, channels) in places.items()
    }


def _windows(
    place: Path, runs: Sequence[str], sensors: Mapping[str, Sensor], task: str, length: int, step: int
) -> Windows:
    column, names = TASKS[task]
    numbers = {label: number for number, label in enumerate(names)}
    samples, groups = [], []
    for run in runs:
        path = place / "dataset" / f"{run}.dat"
        table = read_table(DESCRIPTION, path, NUM_COLUMNS)
        found = table[:, column]
        if not set(found.tolist()) <= set(numbers):
            wrong = sorted(set(found.tolist()) - set(numbers))[:3]
            raise DESCRIPTION.error(f"{path}: expected labels of {task} in column {column + 1}, but found {wrong}.")
        windows = cut(table, np.array([numbers[int(one)] for one in found], np.int64), sensors, length, step)
        samples += windows
        groups += [run] * len(windows)
    return Windows(samples, groups)
