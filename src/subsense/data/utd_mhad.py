"""UTD-MHAD: 27 actions of 8 subjects, by a depth camera, its skeleton tracker and a sensor worn on the body.

861 clips; cross-subject split as in the paper: the odd subjects train (431), the even ones test (430).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from subsense.data.base import Data, Description, Samples, locate, standardise

SHAPES = {"skeleton": (50, 60), "inertial": (100, 6), "depth_motion": (3, 60, 80), "action": (), "subject": ()}
CLASS_NAMES = (
    "swipe left",
    "swipe right",
    "wave",
    "clap",
    "throw",
    "cross arms",
    "basketball shoot",
    "draw x",
    "draw circle clockwise",
    "draw circle counter-clockwise",
    "draw triangle",
    "bowling",
    "boxing",
    "baseball swing",
    "tennis swing",
    "arm curl",
    "tennis serve",
    "push",
    "knock",
    "catch",
    "pick up and throw",
    "jog",
    "walk",
    "sit to stand",
    "stand to sit",
    "lunge",
    "squat",
)
DESCRIPTION = Description(
    name="utd-mhad",
    modalities={"skeleton": "50 60", "accelerometer": "100 3", "gyroscope": "100 3", "depth": "3 60 80"},
    task="classification",
    class_names=CLASS_NAMES,
    metric="accuracy",
    source="https://personal.utdallas.edu/~kehtar/UTD-MHAD.html",
    licence="research data, free to use with citation",
    citation="C. Chen, R. Jafari, N. Kehtarnavaz, UTD-MHAD: A multimodal dataset for human action recognition "
    "utilizing a depth camera and a wearable inertial sensor, ICIP 2015",
    folder="utd_mhad",
)


def utd_mhad(root: str | Path | None = None) -> Data:
    """Load UTD-MHAD's four modalities from `root/utd_mhad/utd_mhad.npz`, its clips resampled to one length.

    Layout::

        utd_mhad/utd_mhad.npz   skeleton (861, 50, 60), inertial (861, 100, 6), depth_motion (861, 3, 60, 80),
                                action (861,) from 0, subject (861,) from 1

    Modalities:

    - `skeleton` "50 60": 50 frames, 20 joints x (x, y, z), centred on the hip, in metres before standardisation
    - `accelerometer` "100 3", `gyroscope` "100 3": 100 instants, three axes
    - `depth` "3 60 80": depth motion maps of three successive time segments, on a logarithmic scale

    Each channel is standardised with mean and deviation of the training subjects alone.

    Raises:
        DataError: the file is absent, damaged, or holds arrays of other shapes.
    """
    folder = locate(DESCRIPTION, root, ["utd_mhad.npz"])
    return make(DESCRIPTION, _read(folder / "utd_mhad.npz"))


def make(
    description: Description,
    arrays: dict[str, Tensor],
    present: Mapping[str, Tensor] | None = None,
    notes: Sequence[str] = (),
) -> Data:
    """Make the data set of the arrays that the file holds: odd subjects train, every channel is standardised.

    `present` is modality -> bool (clip,), where not every clip has everything.
    """
    training = arrays["subject"] % 2 == 1
    there = {name: (has[training], has[~training]) for name, has in (present or {}).items()}
    parts = {
        name: standardise(tensor[training], tensor[~training], axes, there.get(name))
        for name, (tensor, axes) in _modalities(arrays).items()
    }
    return description.with_samples(
        _samples({name: train for name, (train, _) in parts.items()}, arrays, training,
                 {name: train for name, (train, _) in there.items()}),
        _samples({name: test for name, (_, test) in parts.items()}, arrays, ~training,
                 {name: test for name, (_, test) in there.items()}),
        notes=tuple(notes),
    )  # fmt: skip


def _modalities(arrays: dict[str, Tensor]) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
    """Name the four modalities, each with the axes over which its statistics are pooled."""
    return {
        "skeleton": (arrays["skeleton"].float(), (0, 1)),
        "accelerometer": (arrays["inertial"][:, :, :3].float(), (0, 1)),
        "gyroscope": (arrays["inertial"][:, :, 3:].float(), (0, 1)),
        "depth": (arrays["depth_motion"].float().log1p(), (0, 2, 3)),
    }


def _samples(inputs: dict[str, Tensor], arrays: dict[str, Tensor], rows: Tensor, present: dict[str, Tensor]) -> Samples:
    subjects = [f"subject {number}" for number in arrays["subject"][rows].tolist()]
    return Samples(inputs, arrays["action"][rows].long(), subjects, present)


def _read(path: Path) -> dict[str, Tensor]:
    """Read the archive without pickle, and check the shape of every array that is used."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: torch.from_numpy(archive[name]) for name in SHAPES}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DESCRIPTION.error(f"cannot read {path}: {error}.") from error
    for name, shape in SHAPES.items():
        expected, found = (len(arrays["action"]), *shape), tuple(arrays[name].shape)
        if found != expected:
            raise DESCRIPTION.error(f"{path}: expected {name} of shape {expected}, but got {found}.")
    return arrays
