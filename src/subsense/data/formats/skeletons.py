"""Skeleton files of NTU RGB+D: text, a frame after the other, in each the bodies that Kinect v2 tracked.

A file holds the number of frames; each frame the number of bodies; each body its tracking number and nine further
values on a line, the number of joints, and for each joint a line of twelve values, of which the first three are its
place in metres. After the reader published at https://github.com/shahroudy/NTURGB-D; written for subsense.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subsense.data.base import Description

JOINTS = 25
BODY_VALUES = 10
JOINT_VALUES = 12
REACH = 1.0
"""In metres, averaged over the joints: a body that comes up nearer to one just lost is the same one, renumbered."""

Joints = NDArray[Any]
"""Where a body's joints are: (25, 3)."""

Track = dict[int, Joints]
"""Frame -> joints, of one body as long as it can be followed."""


def read_skeletons(path: Path, description: Description, num_bodies: int) -> NDArray[np.float32]:
    """Read the bodies that move most: (frame, body, joint, 3), in metres, zeros where a body is not seen.

    Kinect numbers the bodies that it tracks, and gives the same person another number when it has lost her. So bodies
    are followed from frame to frame: by their number, else the nearest one within `REACH` goes on. In each frame the
    bodies that move most from frame to frame over the clip are taken, and each keeps its slot; a newcomer takes the
    free slot that was last nearest to it. Slots are ordered by how much moves in them. (The authors advise the variance
    of all joints' coordinates, which ranks a wide thing that stands still above a person.)

    Raises:
        DataError: the file is absent, cut off, not of this form, or has no body in any frame.
    """
    try:
        values = iter(path.read_text("utf-8-sig").split())
        num_frames = int(next(values))
        frames = [_bodies(values) for _ in range(num_frames)]
    except (OSError, UnicodeDecodeError, ValueError, StopIteration) as error:
        detail = "it ends too early" if isinstance(error, StopIteration) else error
        raise description.error(f"cannot read {path}: {detail}.") from error
    if next(values, None) is not None:
        raise description.error(f"cannot read {path}: it goes on after its {num_frames} frames.")
    tracks = follow(frames)
    if not tracks:
        raise description.error(f"{path} has no skeleton; leave_out_missing_skeletons=True leaves such samples out.")
    return _fill_slots(tracks, num_frames, num_bodies)


def _bodies(values: Iterator[str]) -> list[tuple[str, Joints]]:
    """Take a frame's bodies: tracking number and joints."""
    bodies = []
    for _ in range(int(next(values))):
        number, *_ = [next(values) for _ in range(BODY_VALUES)]
        bodies.append((number, _joints(values)))
    return bodies


def _joints(values: Iterator[str]) -> Joints:
    if (found := int(next(values))) != JOINTS:
        raise ValueError(f"expected {JOINTS} joints, but found {found}")
    rows = [[float(next(values)) for _ in range(JOINT_VALUES)] for _ in range(JOINTS)]
    places = np.array(rows)[:, :3]
    if not np.isfinite(places).all():
        raise ValueError("a joint's place is not a number")
    return places


# ---- who is who


def follow(frames: Sequence[Sequence[tuple[str, Joints]]]) -> list[Track]:
    """Follow bodies through frames of (tracking number, joints).

    >>> here, there = np.zeros((25, 3)), np.ones((25, 3))
    >>> [sorted(track) for track in follow([[("1", here), ("2", there)], [("7", here)], [("7", here), ("2", there)]])]
    [[0, 1, 2], [0, 2]]
    """
    tracks: list[Track] = []
    numbers: dict[str, int] = {}
    for frame, bodies in enumerate(frames):
        for number, joints in bodies:
            if (known := numbers.get(number)) is not None and frame not in tracks[known]:
                tracks[known][frame] = joints
            else:
                numbers.pop(number, None)
        idle = [number for number, track in enumerate(tracks) if frame not in track]
        new = {number: joints for number, joints in bodies if number not in numbers}
        renumbered = _nearest({number: _last(tracks[number]) for number in idle}, new)
        numbers = {number: track for number, track in numbers.items() if track not in renumbered.values()} | renumbered
        for number, joints in new.items():
            if number not in numbers:
                numbers[number] = len(tracks)
                tracks.append({})
            tracks[numbers[number]][frame] = joints
    return tracks


def _nearest(idle: Mapping[int, Joints], new: Mapping[str, Joints]) -> dict[str, int]:
    """Pair new bodies with tracks that have none, the nearest first, within reach."""
    pairs = sorted((distance(new[body], idle[track]), body, track) for body in new for track in idle)
    found: dict[str, int] = {}
    for far, body, track in pairs:
        if far < REACH and body not in found and track not in found.values():
            found[body] = track
    return found


def _fill_slots(tracks: Sequence[Track], num_frames: int, num_slots: int) -> NDArray[np.float32]:
    """Put in each frame the bodies that move most into slots; who has a slot keeps it."""
    order = sorted(range(len(tracks)), key=lambda number: movement(tracks[number]), reverse=True)
    slots = np.zeros((num_frames, num_slots, JOINTS, 3), np.float32)
    holders: list[int | None] = [None] * num_slots
    moved = [0.0] * num_slots
    for frame in range(num_frames):
        seen = [number for number in order if frame in tracks[number]][:num_slots]
        holders = _hold(holders, seen, tracks, frame)
        for slot, holder in enumerate(holders):
            if holder in seen and holder is not None:
                slots[frame, slot] = tracks[holder][frame]
                moved[slot] += _step(tracks[holder], frame)
    return slots[:, sorted(range(num_slots), key=lambda slot: moved[slot], reverse=True)]


def _hold(holders: list[int | None], seen: list[int], tracks: Sequence[Track], frame: int) -> list[int | None]:
    """Give each body seen a slot: its own, else a free one, those nearest to whom they held last."""
    held = list(holders)
    free = [slot for slot, holder in enumerate(held) if holder not in seen]
    new = [number for number in seen if number not in held]

    def cost(slots: Iterable[int]) -> float:
        return sum(_farness(held[slot], number, tracks, frame) for slot, number in zip(slots, new, strict=True))

    for slot, number in zip(min(permutations(free, len(new)), key=cost), new, strict=True):
        held[slot] = number
    return held


def _farness(holder: int | None, number: int, tracks: Sequence[Track], frame: int) -> float:
    """Say how far a body is from whom a slot held last; one that held nobody is as far as one can reach."""
    if holder is None:
        return REACH
    last = max(seen for seen in tracks[holder] if seen < frame)
    return distance(tracks[number][frame], tracks[holder][last])


def _last(track: Track) -> Joints:
    return track[max(track)]


def distance(one: Joints, other: Joints) -> float:
    """Average how far each joint is from the other body's, in metres."""
    return float(np.linalg.norm(one - other, axis=-1).mean())


def movement(track: Track) -> float:
    """Add up how far a body moves from each frame to the next, in metres.

    >>> movement({0: np.zeros((25, 3)), 1: np.full((25, 3), [3.0, 0.0, 4.0]), 5: np.zeros((25, 3))})
    5.0
    """
    return sum(distance(track[one], track[next_]) for one, next_ in pairwise(sorted(track)) if next_ == one + 1)


def _step(track: Track, frame: int) -> float:
    return distance(track[frame], track[frame - 1]) if frame - 1 in track else 0.0
