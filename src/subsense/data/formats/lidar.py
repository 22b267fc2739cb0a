"""Lidar as a picture: the points of a scan where a camera sees them, by KITTI's files of points and calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subsense.data.base import Description

Matrix = NDArray[np.float64]
FARTHEST = 80.0
LOWEST, HIGHEST = -3.0, 3.0
"""In metres, from the scanner: what becomes 0 and 1 of a point's height."""


def read_projection(description: Description, path: Path, camera: str = "P2") -> Matrix:
    """Read a calibration's way from the scanner to a camera's pixels: (3, 4), P R0_rect Tr_velo_to_cam.

    Raises:
        DataError: a line that is needed is absent or has other numbers.
    """
    try:
        lines = [line.partition(":") for line in path.read_text("utf-8-sig").splitlines()]
        numbers = {name.strip(): np.array(values.split(), np.float64) for name, colon, values in lines if colon}
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise description.error(f"cannot read {path}: {error}.") from error
    for name, count in ((camera, 12), ("R0_rect", 9), ("Tr_velo_to_cam", 12)):
        if name not in numbers or len(numbers[name]) != count:
            raise description.error(f"{path}: expected a line {name!r} of {count} numbers, but there is none.")
    turn, move = np.eye(4), np.eye(4)
    turn[:3, :3] = numbers["R0_rect"].reshape(3, 3)
    move[:3] = numbers["Tr_velo_to_cam"].reshape(3, 4)
    return np.asarray(numbers[camera].reshape(3, 4) @ turn @ move)


def read_points(description: Description, path: Path) -> Matrix:
    """Read a scan: (point, 4), x forwards, y to the left, z up in metres, and reflectance from 0 to 1."""
    try:
        values = np.fromfile(path, "<f4")
    except OSError as error:
        raise description.error(f"cannot read {path}: {error}.") from error
    if not values.size or values.size % 4 or not np.isfinite(values).all():
        raise description.error(f"{path}: expected four finite float32 for each point, but found {values.size} values.")
    return values.reshape(-1, 4).astype(np.float64)


def project(points: Matrix, projection: Matrix, height: int, width: int) -> Tensor:
    """Draw points as a camera sees them: float32 (3, H, W), depth / 80 m, height from -3 to 3 m, reflectance, in 0..1.

    Of the points at a pixel the nearest is drawn; 0 where there is none.

    >>> camera = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]])
    >>> project(np.array([[8.0, 4.0, 8.0, 0.5], [2.0, 1.0, 2.0, 0.1]]), camera, 2, 3)[:, 0, 1]
    tensor([0.0250, 0.8333, 0.1000])
    """
    seen = np.c_[points[:, :3], np.ones(len(points))] @ projection.T
    ahead = seen[:, 2] > 0
    points, seen = points[ahead], seen[ahead]
    columns, rows = np.floor(seen[:, :2] / seen[:, 2:]).T
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    order = np.flatnonzero(inside)[np.argsort(-seen[inside, 2], kind="stable")]
    drawn = np.zeros((3, height, width), np.float32)
    values = np.stack([
        seen[order, 2] / FARTHEST, (points[order, 2] - LOWEST) / (HIGHEST - LOWEST), points[order, 3]
    ])  # fmt: skip
    drawn[:, rows[order].astype(int), columns[order].astype(int)] = np.clip(values, 0, 1)
    return torch.from_numpy(drawn)
