"""PAMAP2: 12 activities of 9 people with three inertial sensors and a heart rate belt, ten times slower.

Verified in public loaders and copies of the data set's readme: files, 54 columns and what they are, 100 Hz and about
9 Hz, numbers of the activities, that lost packets are NaN, that orientation is invalid. The split (subject 106 tests,
105 validates) is that of N. Y. Hammerla, S. Halloran, T. Plötz, IJCAI 2016, as public repositories have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from subsense.data.base import Data, Description, check_missing, locate
from subsense.data.formats.wearables import Sensor, Windows, cut, read_table

ACTIVITIES = {
    1: "lying",
    2: "sitting",
    3: "standing",
    4: "walking",
    5: "running",
    6: "cycling",
    7: "Nordic walking",
    12: "ascending stairs",
    13: "descending stairs",
    16: "vacuum cleaning",
    17: "ironing",
    24: "rope jumping",
}
"""The number in the files -> what it is; what isn't here, 0 above all, is in no window."""

NUM_COLUMNS = 54
HEART = 2
PLACES = {"hand": 3, "chest": 20, "ankle": 37}
"""Sensor -> the first of its 17 columns: temperature, acceleration (+-16 g), (+-6 g), gyroscope, magnetometer, ..."""

CHANNELS = (1, 2, 3, 7, 8, 9, 10, 11, 12)
RATE, HEART_RATE = 100, 9
LENGTH = 512
HEART_LENGTH = 46
SUBJECTS = tuple(range(101, 110))

DESCRIPTION = Description(
    name="pamap2",
    modalities={**dict.fromkeys(PLACES, f"{LENGTH} 9"), "heart": f"{HEART_LENGTH} 1"},
    task="classification",
    class_names=tuple(ACTIVITIES.values()),
    metric="accuracy",
    source="https://archive.ics.uci.edu/dataset/231/pamap2+physical+activity+monitoring",
    licence="CC BY 4.0",
    citation="A. Reiss and D. Stricker, Introducing a New Benchmarked Dataset for Activity Monitoring, ISWC 2012",
    folder="PAMAP2_Dataset",
)


def pamap2(
    root: str | Path | None = None,
    *,
    folder: str | None = None,
    test_subjects: Sequence[int] = (106,),
    val_subjects: Sequence[int] = (105,),
    length: int = LENGTH,
    step: int = LENGTH // 2,
    gap: int = 25,
    missing: str = "refuse",
) -> Data:
    """Load PAMAP2's protocol as published, cut into windows of one activity.

    Layout::

        PAMAP2_Dataset/
          Protocol/subject101.dat ... subject109.dat   54 numbers a line, 100 lines a second, NaN where nothing came

    `Optional/` isn't read. Modalities: `hand`, `chest`, `ankle` "512 9": acceleration (16 g), gyroscope, magnetometer,
    three axes each; `heart` "46 1": beats per minute, at its own nine readings a second. Temperature, the second
    acceleration and orientation, which is invalid, aren't read. Gaps of at most `gap` lines are bridged by a straight
    line; a window with a longer gap lacks that sensor, and `notes` says how many do. Each channel is standardised with
    mean and deviation of the training subjects.

    Args:
        root: the folder that holds `PAMAP2_Dataset/`.
        folder: what the data set's folder is called, where it isn't that.
        test_subjects, val_subjects: who tests and who validates; the others train. Without `val_subjects` there is no
            such part.
        length, step: of a window, and from one to the next, in lines of 10 ms.
        gap: the longest gap of an inertial sensor that is bridged, in lines; for the heart rate 100 more.
        missing: ``"refuse"``, or ``"present"``: subjects' files may be absent, and are counted.

    Raises:
        DataError: a file is absent or damaged, a subject that isn't or is in two parts, a part without windows.
    """
    check_missing(DESCRIPTION, missing)
    if min(length, step) < 1 or gap < 0:
        raise DESCRIPTION.error(f"expected length and step from 1, gap from 0, but got {length}, {step} and {gap}.")
    place, there, notes = _subjects(root, folder, missing)
    sensors = {name: Sensor(tuple(first + one for one in CHANNELS), length, gap) for name, first in PLACES.items()}
    sensors["heart"] = Sensor((HEART,), max(1, length * HEART_RATE // RATE), gap + RATE)
    parts = _parts(there, test_subjects, val_subjects)
    windows = {part: _windows(place, some, sensors, length, step) for part, some in parts.items()}
    for part, one in windows.items():
        if not len(one):
            raise DESCRIPTION.error(f"{place}: expected windows of one activity in {part}, but found none.")
        notes += one.notes(part, sensors)
    statistics = windows["train"].statistics(DESCRIPTION, sensors)
    changes = {name: f"{sensor.length} {len(sensor.columns)}" for name, sensor in sensors.items()}
    scaled = {part: one.scaled(statistics) for part, one in windows.items()}
    return DESCRIPTION.with_samples(**scaled, modalities=changes, notes=tuple(notes))


def _subjects(root: str | Path | None, folder: str | None, missing: str) -> tuple[Path, list[int], list[str]]:
    files = {subject: f"Protocol/subject{subject}.dat" for subject in SUBJECTS}
    inside = Path(root or "") / (folder or DESCRIPTION.folder)
    there = [subject for subject, file in files.items() if missing == "refuse" or (inside / file).is_file()]
    place = locate(DESCRIPTION, root, [files[subject] for subject in there or SUBJECTS], folder)
    lost = len(SUBJECTS) - len(there)
    return place, there, [f"{lost} of {len(SUBJECTS)} subjects have no file."] if lost else []


def _parts(there: Sequence[int], test: Sequence[int], val: Sequence[int]) -> dict[str, list[int]]:
    for subject in (*test, *val):
        if subject not in there or (subject in test and subject in val):
            raise DESCRIPTION.error(f"expected test_subjects and val_subjects among {list(there)}, each in one part, "
                                    f"but got {list(test)} and {list(val)}.")  # fmt: skip
    parts = {"train": [one for one in there if one not in (*test, *val)], "test": list(test)}
    return parts | ({"val": list(val)} if val else {})


def _windows(place: Path, subjects: Sequence[int], sensors: dict[str, Sensor], length: int, step: int) -> Windows:
    numbers = {activity: number for number, activity in enumerate(ACTIVITIES)}
    samples, groups = [], []
    for subject in subjects:
        table = read_table(DESCRIPTION, place / "Protocol" / f"subject{subject}.dat", NUM_COLUMNS)
        labels = np.array([numbers.get(int(one), -1) if one == one else -1 for one in table[:, 1]], np.int64)
        windows = cut(table, labels, sensors, length, step)
        samples += windows
        groups += [f"subject {subject}"] * len(windows)
    return Windows(samples, groups)
