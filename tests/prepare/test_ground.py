"""Ground model: triangulation against closed forms, its edges, its refusals to guess."""

from __future__ import annotations

import numpy as np
import pytest

from fusion3d.prepare.ground import ground_elevation, thin


def plane(x, y):
    return 100.0 + 0.3 * x - 0.1 * y


def test_tin_reproduces_a_plane_from_scattered_points():
    random = np.random.default_rng(0)
    x, y = random.uniform(0, 100, (2, 500))
    query = random.uniform(20, 80, (2, 50))
    elevation = ground_elevation(np.c_[x, y, plane(x, y)], *query, reach=50.0)
    np.testing.assert_allclose(elevation, plane(*query), atol=1e-9)


def test_outside_of_the_hull_the_nearest_ground_counts_within_reach():
    ground = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 2.0], [0.0, 1.0, 3.0]])
    elevation = ground_elevation(ground, np.array([5.0, 100.0]), np.array([0.0, 0.0]), reach=10.0)
    assert elevation[0] == 2.0
    assert np.isnan(elevation[1])


@pytest.mark.parametrize("ground", [[[0.0, 0.0, 7.0]], [[0.0, 0.0, 7.0], [1.0, 1.0, 7.0], [2.0, 2.0, 7.0]]])
def test_too_few_or_collinear_ground_points_still_give_the_nearest(ground):
    assert ground_elevation(np.array(ground), np.array([0.5]), np.array([0.4]), reach=10.0)[0] == 7.0


def test_no_ground_gives_no_height():
    assert np.isnan(ground_elevation(np.zeros((0, 3)), np.array([0.0]), np.array([0.0]), reach=10.0)).all()


def test_thinning_averages_by_cell_and_ignores_order():
    points = np.array([[0.1, 0.1, 1.0], [0.3, 0.3, 3.0], [0.6, 0.1, 9.0]])
    expected = np.array([[0.2, 0.2, 2.0], [0.6, 0.1, 9.0]])
    np.testing.assert_allclose(thin(points), expected)
    np.testing.assert_array_equal(thin(points[::-1]), thin(points))
