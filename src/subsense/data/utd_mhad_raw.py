"""UTD-MHAD from the Matlab files as they are published, one for each clip and sensor.

The clips become the same four modalities as in `utd-mhad`. On the clips that both hold they agree: see `utd_mhad_raw`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from subsense.data import utd_mhad
from subsense.data.base import Data, check_missing, count_missing, locate
from subsense.data.formats.matlab import read_matlab

DESCRIPTION = replace(utd_mhad.DESCRIPTION, name="utd-mhad-raw", folder="utd_mhad/raw")
SENSORS = {"Depth": "d_depth", "Skeleton": "d_skel", "Inertial": "d_iner"}
"""The folder of each sensor, and the array in its files; files end in the folder's name in lower case."""

CARRIERS = {"skeleton": "Skeleton", "accelerometer": "Inertial", "gyroscope": "Inertial", "depth": "Depth"}
"""Modality -> the sensor whose file has it."""

NUM_CLIPS = 861
LENGTHS = {"Skeleton": 50, "Inertial": 100}
NUM_SEGMENTS = 3
BLOCK = 4
CENTRE = 2
"""The joint of the skeleton that is put in the origin: the third, at the spine."""

_Clip = tuple[int, int, int]
"""Action, subject and trial, each counted from 1."""


def utd_mhad_raw(root: str | Path | None = None, *, complete: bool = True, missing: str = "refuse") -> Data:
    """Load UTD-MHAD from its raw files.

    Layout, as published::

        utd_mhad/raw/
          Depth/a1_s1_t1_depth.mat ...         d_depth (240, 320, frames)
          Skeleton/a1_s1_t1_skeleton.mat ...   d_skel (20 joints, 3, frames)
          Inertial/a1_s1_t1_inertial.mat ...   d_iner (instants, 6)

    a: action, 1 to 27; s: subject, 1 to 8; t: trial, 1 to 4. Three of the 864 were never published.

    Modalities, split and standardisation are those of `utd-mhad`. From the files to its arrays: the skeleton less its
    third joint's first position, resampled linearly to 50 frames; inertial signals resampled linearly to 100 instants;
    depth as three depth motion maps, each the sum over a third of the clip of how much every pixel changes from frame
    to frame, averaged over blocks of 4 x 4. On the eight clips of which both forms are at hand, the motion maps are
    equal, and the rest agrees to a float32's rounding. Everything is read once and held in memory, 65 MB for 861 clips.

    Args:
        root: the folder that holds `utd_mhad/raw/`.
        complete: whether all 861 clips have to be there; False takes those that are, and is no published split.
        missing: ``"refuse"``, or ``"present"``: a clip may lack files of some sensors.

    Raises:
        DataError: a clip lacks one of its three files, a file is damaged, clips are missing.
    """
    place = Path(root or "") / DESCRIPTION.folder
    clips = _clips(place)
    check_missing(DESCRIPTION, missing)
    if missing == "refuse" or not clips:
        locate(DESCRIPTION, root, [_file(sensor, clip) for clip in clips or [(1, 1, 1)] for sensor in SENSORS])
    if complete and len(clips) != NUM_CLIPS:
        raise DESCRIPTION.error(
            f"{place}: expected {NUM_CLIPS} clips, but found {len(clips)}. Pass complete=False to use these alone."
        )
    if {subject % 2 for _, subject, _ in clips} != {0, 1}:
        raise DESCRIPTION.error(f"{place}: expected clips of odd subjects, who train, and of even ones, who test.")
    notes: list[str] = []
    for part, odd in (("train", 1), ("test", 0)):
        some = [clip for clip in clips if clip[1] % 2 == odd]
        notes += count_missing(DESCRIPTION, part, [_paths(place, clip) for clip in some], missing)
    there = {sensor: torch.tensor([(place / _file(sensor, clip)).is_file() for clip in clips]) for sensor in SENSORS}
    present = {name: there[sensor] for name, sensor in CARRIERS.items()}
    return utd_mhad.make(DESCRIPTION, _arrays(place, clips), present, notes)


def _clips(place: Path) -> list[_Clip]:
    """Find every clip of which there is at least one file."""
    names = [path.name for sensor in SENSORS for path in (place / sensor).glob("*.mat")]
    found = {match.groups() for name in names if (match := re.match(r"a(\d+)_s(\d+)_t(\d+)_", name))}
    return sorted((int(action), int(subject), int(trial)) for action, subject, trial in found)


def _file(sensor: str, clip: _Clip) -> str:
    action, subject, trial = clip
    return f"{sensor}/a{action}_s{subject}_t{trial}_{sensor.lower()}.mat"


def _paths(place: Path, clip: _Clip) -> dict[str, Path]:
    return {sensor.lower(): place / _file(sensor, clip) for sensor in SENSORS}


def _arrays(place: Path, clips: list[_Clip]) -> dict[str, torch.Tensor]:
    """Read all clips into the arrays that `utd-mhad` has in its file."""
    skeleton, inertial, depth = (
        np.zeros((len(clips), *utd_mhad.SHAPES[name]), np.float32) for name in ("skeleton", "inertial", "depth_motion")
    )
    for row, clip in enumerate(clips):
        there = {sensor for sensor in SENSORS if (place / _file(sensor, clip)).is_file()}
        if "Skeleton" in there:
            joints = _read(place, "Skeleton", clip, (20, 3, None)).transpose(2, 0, 1)
            skeleton[row] = resample((joints - joints[0, CENTRE]).reshape(len(joints), -1), LENGTHS["Skeleton"])
        if "Inertial" in there:
            inertial[row] = resample(_read(place, "Inertial", clip, (None, 6)), LENGTHS["Inertial"])
        if "Depth" in there:
            depth[row] = depth_motion(_read(place, "Depth", clip, (240, 320, None)).transpose(2, 0, 1))
    actions, subjects, _ = np.array(clips).T
    arrays = {
        "skeleton": skeleton,
        "inertial": inertial,
        "depth_motion": depth,
        "action": actions - 1,
        "subject": subjects,
    }
    return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}


def _read(place: Path, sensor: str, clip: _Clip, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    """Read one file's array; None in the shape is time."""
    path, name = place / _file(sensor, clip), SENSORS[sensor]
    array = read_matlab(DESCRIPTION, path, name)
    fits = array.ndim == len(shape) and all(one in (None, size) for one, size in zip(shape, array.shape, strict=True))
    if not fits or not array.size:
        wanted = ", ".join("time" if size is None else str(size) for size in shape)
        raise DESCRIPTION.error(f"{path}: expected {name} of shape ({wanted}), but found {array.shape}.")
    return array.astype(np.float64)


def resample(signal: NDArray[np.float64], length: int) -> NDArray[np.float32]:
    """Resample (time, channel) linearly to (length, channel); the first and the last instant stay.

    >>> resample(np.array([[0.0], [1.0], [4.0]]), 5).flatten().tolist()
    [0.0, 0.5, 1.0, 2.5, 4.0]
    """
    times = np.linspace(0, len(signal) - 1, length)
    channels = [np.interp(times, np.arange(len(signal)), channel) for channel in signal.T]
    return np.stack(channels, axis=1).astype(np.float32)


def depth_motion(frames: NDArray[np.float64]) -> NDArray[np.float32]:
    """Sum how much each pixel changes from frame to frame, over each third of a clip: (3, H / 4, W / 4).

    Depth motion maps as in X. Yang, C. Zhang, Y. Tian, Recognizing actions using depth motion maps-based histograms of
    oriented gradients, ACM Multimedia 2012, of the front view alone.

    Args:
        frames: (time, H, W), H and W multiples of 4.

    >>> depth_motion(np.arange(4.0).reshape(4, 1, 1) * np.ones((4, 4, 4))).tolist()
    [[[1.0]], [[1.0]], [[1.0]]]
    """
    changes = np.array_split(np.abs(np.diff(frames, axis=0)), NUM_SEGMENTS)
    sums = np.stack([segment.sum(axis=0) for segment in changes])
    segments, height, width = sums.shape
    blocks = sums.reshape(segments, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return np.asarray(blocks.mean(axis=(2, 4)), dtype=np.float32)
