from __future__ import annotations

import numpy as np
import pytest

from fusion3d.report.splatting import Camera, Frame, splat

RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_camera_that_looks_north_sees_east_on_the_right_and_height_upwards():
    right, up, _ = Camera(azimuth=0, elevation=0).project(np.eye(3)).T
    np.testing.assert_allclose(right, [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(up, [0, 0, 1], atol=1e-12)


def test_camera_that_looks_down_sees_a_map_with_north_up():
    right, up, near = Camera(azimuth=0, elevation=90).project(np.eye(3)).T
    np.testing.assert_allclose(right, [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(up, [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(near, [0, 0, 1], atol=1e-12)


def test_projection_keeps_lengths():
    points = np.random.default_rng(0).normal(size=(50, 3))
    np.testing.assert_allclose(np.linalg.norm(Camera().project(points), axis=1), np.linalg.norm(points, axis=1))


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_nearer_point_hides_the_one_behind_it(order):
    camera = Camera(azimuth=0, elevation=0)
    points, colours = np.array([[5.0, 0, 5], [5.0, 10, 5]])[order], np.array([RED, BLUE], np.uint8)[order]
    image = splat(camera.project(points), colours, Frame(0, 0, 0.1, 100, 100), 0.5)
    assert tuple(image[50, 50]) == RED
    assert not (image == BLUE).all(axis=2).any()


def test_points_lie_where_they_are_and_the_rest_is_white():
    camera = Camera(azimuth=0, elevation=90)
    points = np.array([[1.0, 9.0, 0.0], [9.0, 1.0, 0.0]])
    image = splat(camera.project(points), np.array([RED, BLUE], np.uint8), Frame(0, 0, 0.1, 100, 100), 0.3)
    # the north-western point is top left
    assert tuple(image[10, 10]) == RED
    assert tuple(image[90, 90]) == BLUE
    coloured = (image != 255).any(axis=2)
    # two discs of radius 3 pixels
    assert 2 * 20 < coloured.sum() < 2 * 50


def test_step_in_depth_darkens_what_lies_behind_its_edge():
    east, north = (axis.ravel() for axis in np.meshgrid(np.arange(0, 10, 0.1), np.arange(0, 10, 0.1)))
    height = np.where(east < 5, 5.0, 0.0)
    projected = Camera(azimuth=0, elevation=90).project(np.stack([east, north, height], axis=1))
    image = splat(projected, np.full((len(east), 3), 200, np.uint8), Frame(0, 0, 0.1, 100, 100), 0.15)
    assert image[50, 20, 0] == 200
    assert image[50, 80, 0] == 200
    assert image[50, 51, 0] < 170


def test_no_point_is_a_white_picture_and_one_point_has_a_frame():
    frame = Frame(0, 0, 1.0, 10, 8)
    assert (splat(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), frame, 1.0) == 255).all()
    one = Frame.around(np.zeros((1, 3)), 10)
    assert splat(np.zeros((1, 3)), np.array([RED], np.uint8), one, 1.0).shape == (one.height, 10, 3)
