"""Skeleton files of NTU RGB+D: text, a frame after the other, in each the bodies that Kinect v2 tracked.

A file holds the number of frames; each frame the number of bodies; each body its tracking number and nine further
values on a line, the number of joints, and for each joint a line of twelve values, of which the first three are its
place in metres. After the reader published at https://github.com/shahroudy/NTURGB-D; written for subsense.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subsense.data.base import Description

JOINTS = 25
BODY_VALUES = 10
JOINT_VALUES = 12


def read_skeletons(path: Path, description: Description, num_bodies: int) -> NDArray[np.float32]:
    """Read the bodies that move most: (frame, body, joint, 3), in metres, zeros where a body is not seen.

    As the data set's authors advise, bodies are ordered by the variance of their joints' coordinates, summed.

    Raises:
        DataError: the file is absent, cut off, not of this form, or has no body in any frame.
    """
    try:
        values = iter(path.read_text("ascii").split())
        num_frames = int(next(values))
        tracked = _bodies(values, num_frames)
    except (OSError, UnicodeDecodeError, ValueError, StopIteration) as error:
        detail = "it ends too early" if isinstance(error, StopIteration) else error
        raise description.error(f"cannot read {path}: {detail}.") from error
    if next(values, None) is not None:
        raise description.error(f"cannot read {path}: it goes on after its {num_frames} frames.")
    if not tracked:
        raise description.error(f"{path} has no skeleton; leave_out_missing_skeletons=True leaves such samples out.")
    most = sorted(tracked.values(), key=_movement, reverse=True)[:num_bodies]
    bodies = np.zeros((num_frames, num_bodies, JOINTS, 3), np.float32)
    for number, body in enumerate(most):
        for frame, joints in body.items():
            bodies[frame, number] = joints
    return bodies


def _bodies(values: Iterator[str], num_frames: int) -> dict[str, dict[int, NDArray[Any]]]:
    """Gather tracking number -> frame -> joints (25, 3)."""
    tracked: dict[str, dict[int, NDArray[Any]]] = {}
    for frame in range(num_frames):
        for _ in range(int(next(values))):
            number, *_ = [next(values) for _ in range(BODY_VALUES)]
            tracked.setdefault(number, {})[frame] = _joints(values)
    return tracked


def _joints(values: Iterator[str]) -> NDArray[Any]:
    if (found := int(next(values))) != JOINTS:
        raise ValueError(f"expected {JOINTS} joints, but found {found}")
    rows = [[float(next(values)) for _ in range(JOINT_VALUES)] for _ in range(JOINTS)]
    places = np.array(rows)[:, :3]
    if not np.isfinite(places).all():
        raise ValueError("a joint's place is not a number")
    return places


def _movement(body: dict[int, NDArray[Any]]) -> float:
    return float(np.stack(list(body.values())).reshape(-1, 3).var(0).sum())
