"""The triangulation against Qhull, and where points are on lattices, lines and on top of each other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import LinearNDInterpolator

from fusion3d.prepare.triangulation import Triangulation


@pytest.fixture
def random():
    return np.random.default_rng(3)


def test_values_are_those_of_qhull_on_points_in_general_position(random):
    # Lambert-93 coordinates, as large as they come; a Delaunay triangulation is unique there
    points = np.c_[652_000 + 300 * random.random(4000), 6_860_000 + 200 * random.random(4000), 50 * random.random(4000)]
    x, y = 651_990 + 320 * random.random(20_000), 6_859_990 + 220 * random.random(20_000)
    expected = LinearNDInterpolator(points[:, :2] - (652_000, 6_860_000), points[:, 2])(x - 652_000, y - 6_860_000)
    found = Triangulation(points)(x, y)
    both = np.isfinite(expected) & np.isfinite(found)
    assert both.sum() > 0.99 * np.isfinite(expected).sum()
    assert not np.isfinite(found[np.isnan(expected)]).any()
    # snapping to 1/4096 m may flip an edge that is as good either way: a few values in ten thousand
    assert np.mean(np.abs(found[both] - expected[both]) > 0.02) < 0.001


def test_a_plane_stays_a_plane_on_a_lattice_where_every_circle_holds_four_points(random):
    steps = np.arange(60.0)
    points = np.c_[np.tile(steps, 60), np.repeat(steps, 60), np.zeros(3600)]
    points[:, 2] = 3 + 0.25 * points[:, 0] - 0.5 * points[:, 1]
    points = points[random.permutation(3600)]
    x, y = 0.01 + 58.98 * random.random(5000), 0.01 + 58.98 * random.random(5000)
    np.testing.assert_allclose(Triangulation(points)(x, y), 3 + 0.25 * x - 0.5 * y, atol=1e-6)
    np.testing.assert_allclose(Triangulation(points)(points[:, 0], points[:, 1]), points[:, 2], atol=1e-6)


def test_the_order_of_points_changes_nothing(random):
    points = np.c_[100 * random.random((1000, 2)), random.random(1000)]
    x, y = 100 * random.random(2000), 100 * random.random(2000)
    shuffled = points[random.permutation(1000)]
    np.testing.assert_allclose(Triangulation(shuffled)(x, y), Triangulation(points)(x, y), atol=1e-9)


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((0, 3)),
        np.array([[5.0, 5, 1]]),
        np.array([[0.0, 0, 1], [10, 10, 2]]),
        np.c_[np.arange(50.0), 2 * np.arange(50.0), np.ones(50)],
        np.tile([[5.0, 5, 1]], (30, 1)),
    ],
    ids=["none", "one", "two", "on a line", "on one place"],
)
def test_without_a_triangle_there_is_no_value(points):
    assert np.isnan(Triangulation(points)(np.array([5.0, 5.1, 2.0]), np.array([5.0, 5.3, 4.2]))).all()


def test_of_points_in_one_place_the_first_counts():
    corners = np.array([[0.0, 0, 0], [10, 0, 0], [0, 10, 0], [10, 10, 0]])
    points = np.r_[corners, [[5.0, 5, 7], [5, 5, 100]]]
    assert Triangulation(points)(np.array([5.0]), np.array([5.0])) == 7.0


def test_places_far_away_have_no_value():
    points = np.array([[0.0, 0, 0], [10, 0, 0], [0, 10, 0]])
    assert np.isnan(Triangulation(points)(np.array([1e9, -1e9, 11.0]), np.array([0.0, 5.0, 11.0]))).all()
