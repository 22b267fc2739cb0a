"""HHA on synthetic rooms whose geometry is known, and plane fits against numpy's least squares."""

import numpy as np
import pytest

from subsense.data.formats.hha import Camera, encode_hha, find_gravity, fit_normals
from subsense.data.nyudv2 import CAMERA

SIZE = (120, 160)
SMALL = Camera(CAMERA.fx / 4, CAMERA.fy / 4, CAMERA.cx / 4, CAMERA.cy / 4)


def tilted(degrees, roll=0.0):
    """Give gravity as a camera sees it that looks down by so many degrees, and is rolled by so many."""
    pitch, roll = np.radians(degrees), np.radians(roll)
    return np.array([np.cos(pitch) * np.sin(roll), np.cos(pitch) * np.cos(roll), np.sin(pitch)])


def render(*planes, camera=SMALL, size=SIZE):
    """Give the depth in metres of the nearest of some planes, each (normal, distance along it in metres)."""
    rays = camera.points(np.ones(size))
    with np.errstate(divide="ignore"):
        depths = [distance / (rays @ normal) for normal, distance in planes]
    return np.min([np.where(depth > 0, depth, np.inf) for depth in depths], axis=0)


def across(gravity):
    """Give a horizontal direction, away from the camera."""
    ahead = np.array([0.0, 0.0, 1.0])
    ahead = ahead - ahead @ gravity * gravity
    return ahead / np.linalg.norm(ahead)


@pytest.mark.parametrize(("pitch", "roll"), [(0, 0), (10, 0), (25, 0), (20, 12), (35, -8)])
def test_a_floor_and_a_wall_at_known_height_and_angle(pitch, roll):
    gravity = tilted(pitch, roll)
    floor, wall = (gravity, 1.4), (across(gravity), 4.0)
    depth = render(floor, wall)
    disparity, height, angle = np.moveaxis(encode_hha(depth, SMALL).astype(float), -1, 0)
    is_floor = np.isclose(depth, render(floor), atol=1e-9)
    edge = np.zeros(SIZE, dtype=bool)
    edge[4:-4, 4:-4] = True
    for axis in (0, 1):
        for shift in range(-4, 5):
            edge &= is_floor == np.roll(is_floor, shift, axis)
    assert (edge & is_floor).sum() > 500
    assert (edge & ~is_floor).sum() > 500
    assert np.abs(angle[edge & is_floor] - 38).max() <= 1
    assert np.abs(angle[edge & ~is_floor] - 128).max() <= 1
    true_height = 140 - 100 * SMALL.points(depth) @ gravity
    assert np.abs(height - np.minimum(true_height, 255)).max() <= 3  # planes across the corner turn gravity a little
    np.testing.assert_allclose(disparity, np.minimum(np.rint(310 / np.maximum(depth, 1)), 255))


def test_a_ceiling_is_upside_down():
    gravity = tilted(0)
    depth = render((gravity, 1.5), (-gravity, 1.0), (across(gravity), 5.0))
    height, angle = encode_hha(depth, SMALL)[..., 1:].astype(int).transpose(2, 0, 1)
    assert angle[8, 80] == 218
    assert angle[-8, 80] == 38
    assert abs(height[8, 80] - 250) <= 1


def test_a_slope_of_thirty_degrees():
    gravity = tilted(0)
    slope = np.cos(np.radians(30)) * gravity + np.sin(np.radians(30)) * across(gravity)
    angles = np.degrees(
        np.arccos(fit_normals(100 * SMALL.points(render((slope, 1.5))), np.ones(SIZE, bool), 3) @ gravity)
    )
    np.testing.assert_allclose(angles[60:-4, 4:-4], 30, atol=0.01)


def test_without_a_floor_in_sight_it_is_assumed_below():
    depth = render((np.array([0.0, 0.0, 1.0]), 1.5))
    height = encode_hha(depth, SMALL)[..., 1].astype(float)
    assert (100 * SMALL.points(depth)[..., 1]).max() < 90
    np.testing.assert_allclose(height, 130 - 100 * SMALL.points(depth)[..., 1], atol=0.5)


def test_surfaces_are_fitted_to_measured_pixels_alone():
    depth = render((tilted(40), 1.4))
    spoilt, measured = depth.copy(), np.ones(SIZE, dtype=bool)
    spoilt[60:64, 40:48], measured[60:64, 40:48] = 9.0, False
    clean = fit_normals(100 * SMALL.points(depth), measured, 3)
    np.testing.assert_allclose(
        fit_normals(100 * SMALL.points(spoilt), measured, 3)[~measured], clean[~measured], atol=1e-6
    )
    assert not np.allclose(fit_normals(100 * SMALL.points(spoilt), np.ones(SIZE, bool), 3), clean, atol=0.1)


def test_where_nothing_is_measured_there_is_no_surface():
    measured = np.ones(SIZE, dtype=bool)
    measured[:40, :40] = False
    depth = render((tilted(20), 1.4), (across(tilted(20)), 3.0))
    assert (encode_hha(depth, SMALL, measured)[:30, :30, 2] == 218).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 6), (6, 1)])
def test_points_in_a_line_make_no_surface(shape):
    depth, measured = render((tilted(20), 1.4), (across(tilted(20)), 3.0)), np.zeros(SIZE, dtype=bool)
    measured[60 : 60 + shape[0], 80 : 80 + shape[1]] = True
    points = 100 * SMALL.points(depth)
    assert np.isnan(fit_normals(points, measured, 3)).all()
    measured[61, 81] = measured[60, 81] = measured[61, 80] = True
    assert not np.isnan(fit_normals(points, measured, 3)[60, 80]).any()


@pytest.mark.parametrize("radius", [3, 10])
def test_planes_are_those_of_least_squares(radius):
    draw = np.random.default_rng(0)
    depth = render((tilted(15), 1.4), (across(tilted(15)), 3.0)) * draw.uniform(0.97, 1.03, SIZE)
    points, measured = 100 * SMALL.points(depth), draw.random(SIZE) < 0.9
    normals = fit_normals(points, measured, radius)
    for row, column in [(0, 0), (5, 150), (60, 80), (100, 30), (119, 159), (57, 81)]:
        window = (slice(max(0, row - radius), row + radius + 1), slice(max(0, column - radius), column + radius + 1))
        near = points[window][measured[window]]
        expected = np.linalg.lstsq(near / near[:, 2:], 1 / near[:, 2], rcond=None)[0]
        expected *= np.sign(expected @ points[row, column]) / np.linalg.norm(expected)
        np.testing.assert_allclose(normals[row, column], expected, atol=1e-8)


def test_gravity_is_found_among_noise():
    draw = np.random.default_rng(0)
    gravity = tilted(30, 5)
    others = draw.normal(size=(60, 3))
    normals = np.concatenate([np.tile(gravity, (200, 1)), np.tile(across(gravity), (300, 1)), others, [[np.nan] * 3]])
    normals += draw.normal(scale=0.02, size=normals.shape)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    assert np.degrees(np.arccos(find_gravity(normals) @ gravity)) < 2
