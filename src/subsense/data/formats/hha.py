"""HHA: depth as three channels that mean something everywhere: disparity, height above the floor, angle with gravity.

S. Gupta, R. Girshick, P. Arbelaez, J. Malik, Learning Rich Features from RGB-D Images for Object Detection and
Segmentation, ECCV 2014; gravity as in S. Gupta, P. Arbelaez, J. Malik, Perceptual Organization and Recognition of
Indoor Scenes from RGB-D Images, CVPR 2013. Written anew; constants, order of channels and what is done where depth is
missing are those of https://github.com/charlesCXK/Depth2HHA-python (MIT), which CMNeXt names as its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DOWN = (0.0, 1.0, 0.0)
"""Where gravity points in an upright camera: x to the right, y down, z away from it."""

NEAREST = 100.0
DISPARITY = 31000.0
UPRIGHT = 128.0
ASSUMED_FLOOR = -130.0
HIGHEST_FLOOR = -90.0
"""In centimetres: no lowest point above this is taken for the floor, which then is assumed at `ASSUMED_FLOOR`."""

ROUNDING = 1e-14
"""The spread of points in a line, of which only rounding is left."""


@dataclass(frozen=True)
class Camera:
    """Hold a pinhole camera: focal lengths and principal point, in pixels counted from 1 as in Matlab."""

    fx: float
    fy: float
    cx: float
    cy: float

    def points(self, depth: Floats) -> Floats:
        """Give where each pixel of a depth picture (H, W) is in space: (H, W, 3), in the unit of the depth.

        >>> Camera(fx=1.0, fy=1.0, cx=1.0, cy=1.0).points(np.full((1, 2), 2.0)).tolist()
        [[[0.0, 0.0, 2.0], [2.0, 0.0, 2.0]]]
        """
        rows, columns = np.indices(depth.shape) + 1
        return np.stack([(columns - self.cx) * depth / self.fx, (rows - self.cy) * depth / self.fy, depth], axis=-1)


def encode_hha(depth: Floats, camera: Camera, measured: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Encode a depth picture as HHA.

    Args:
        depth: (H, W) in metres, without holes: what the camera didn't measure is filled in.
        camera: that took it.
        measured: (H, W) where depth is measured, not filled in; surfaces are fitted to these pixels alone. None: all.

    Returns:
        (H, W, 3): disparity 31000 / depth in cm, from 1 m on; height in cm above the lowest point; angle between the
        surface's normal and gravity in degrees + 38 (floor 38, wall 128, ceiling 218; 218 too where no surface can be
        fitted). Rounded, at most 255.
    """
    points = camera.points(100 * depth)
    measured = np.ones(depth.shape, dtype=bool) if measured is None else measured
    gravity = find_gravity(fit_normals(points, measured, radius=10))
    height = -points @ gravity
    lowest = height.min()
    height -= lowest if lowest <= HIGHEST_FLOOR else ASSUMED_FLOOR
    cosine = np.clip(fit_normals(points, measured, radius=3) @ gravity, -1, 1)
    angle = np.nan_to_num(np.degrees(np.arccos(cosine)), nan=180.0)
    channels = [DISPARITY / np.maximum(points[..., 2], NEAREST), height, angle + UPRIGHT - 90]
    return np.clip(np.rint(np.stack(channels, axis=-1)), 0, 255).astype(np.uint8)


def fit_normals(points: Floats, measured: NDArray[np.bool_], radius: int) -> Floats:
    """Fit a plane to the square around each point; give its normal, turned away from the camera.

    The plane n . (X, Y, Z) = 1 is fitted by least squares to n . (X, Y, Z) / Z = 1 / Z: its error is in disparity.

    Args:
        points: (H, W, 3).
        measured: (H, W) which points count.
        radius: of the square, in pixels; its side is 2 radius + 1.

    Returns:
        (H, W, 3), of length 1; NaN where the points that count lie in a line, seen from the camera (there the published
        code gives what rounding leaves).
    """
    depth = points[..., 2:]
    counts = measured[..., None] & (depth > 0)
    rays = np.divide(points, depth, out=np.zeros_like(points), where=counts)
    inverse = np.divide(1.0, depth, out=np.zeros_like(depth), where=counts)
    moments = _sum_square(rays[..., :, None] * rays[..., None, :], radius)
    right = _sum_square(rays * inverse, radius)
    first, second, third = (moments[..., row, :] for row in range(3))
    adjugate = np.stack([np.cross(second, third), np.cross(third, first), np.cross(first, second)], axis=-1)
    normals = np.einsum("...ij,...j->...i", adjugate, right)  # the solution but for a positive factor
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    outwards = np.where((normals * points).sum(-1, keepdims=True) < 0, -1.0, 1.0)
    spread = (first * adjugate[..., 0]).sum(-1, keepdims=True)  # the determinant
    enough = spread > ROUNDING * moments[..., 2:, 2] ** 3  # the last moment is the number of points
    unit: Floats = np.divide(outwards * normals, length, out=np.full_like(normals, np.nan), where=enough)
    return unit


def find_gravity(normals: Floats, thresholds: Sequence[float] = (45.0, 15.0), num_rounds: int = 5) -> Floats:
    """Find the direction most parallel to the normals of floors and most across those of walls.

    What is floor or wall depends on the direction: begin with an upright camera's, and go on with each finer threshold.
    Where walls alone leave several directions equally good, the one nearest to the last is taken; the published code
    takes any.

    Args:
        normals: (..., 3), NaN where there is none.
        thresholds: in degrees: how far from parallel or across a normal may be to count.
        num_rounds: for each threshold.

    Returns:
        (3,), of length 1, pointing down.
    """
    known = normals[~np.isnan(normals).any(axis=-1)]
    down: Floats = np.array(DOWN)
    for limit in np.repeat(np.radians(thresholds), num_rounds):
        cosine = np.abs(known @ down)
        floor, wall = known[cosine > np.cos(limit)], known[cosine < np.sin(limit)]
        tie = 1e-6 * len(known) * np.outer(down, down)
        _, vectors = np.linalg.eigh(wall.T @ wall - floor.T @ floor - tie)
        down = np.copysign(1.0, vectors[:, 0] @ down) * vectors[:, 0]
    return np.asarray(down)


def _sum_square(values: Floats, radius: int) -> Floats:
    """Sum over the square around each pixel of the first two axes; outside the picture there is nothing."""
    from scipy.ndimage import correlate1d

    ones = np.ones(2 * radius + 1)
    summed = correlate1d(correlate1d(values, ones, axis=0, mode="constant"), ones, axis=1, mode="constant")
    return np.asarray(summed, dtype=np.float64)
