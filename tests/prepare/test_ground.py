"""Ground model: triangulation against closed forms and Qhull, its edges, its refusals to guess."""

from __future__ import annotations

import numpy as np
import pytest

from fusion3d.prepare.ground import Terrain, merge, thin
from fusion3d.store.layout import PointLattice

LATTICE = PointLattice((100.0, 200.0, 0.0), (0.1, 0.1, 0.01))


def plane(x, y):
    return 100.0 + 0.3 * x - 0.1 * y


def test_tin_reproduces_a_plane_from_scattered_points():
    random = np.random.default_rng(0)
    x, y = random.uniform(0, 100, (2, 500))
    query = random.uniform(20, 80, (2, 50))
    elevation = Terrain(np.c_[x, y, plane(x, y)], reach=50.0)(*query)
    np.testing.assert_allclose(elevation, plane(*query), atol=1e-9)


def test_outside_of_the_hull_the_nearest_ground_counts_within_reach():
    ground = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 2.0], [0.0, 1.0, 3.0]])
    elevation = Terrain(ground, reach=10.0)(np.array([5.0, 100.0]), np.array([0.0, 0.0]))
    assert elevation[0] == 2.0
    assert np.isnan(elevation[1])


@pytest.mark.parametrize("ground", [[[0.0, 0.0, 7.0]], [[0.0, 0.0, 7.0], [1.0, 1.0, 7.0], [2.0, 2.0, 7.0]]])
def test_too_few_or_collinear_ground_points_still_give_the_nearest(ground):
    assert Terrain(np.array(ground), reach=10.0)(np.array([0.5]), np.array([0.4]))[0] == 7.0


def test_no_ground_gives_no_height():
    assert np.isnan(Terrain(np.zeros((0, 3)), reach=10.0)(np.array([0.0]), np.array([0.0]))).all()


def test_thinning_averages_by_cell_of_a_metre():
    # 100.2, 200.2 and 100.6, 200.4 share a cell, 101.2, 200.2 lies in the next one to the east
    x, y, z = np.array([2, 6, 12]), np.array([2, 4, 2]), np.array([100, 300, 900])
    means = thin((x, y, z), (0, 0, 0), LATTICE, 1.0).means(LATTICE, 1.0)
    np.testing.assert_allclose(means, [[100.4, 200.3, 2.0], [101.2, 200.2, 9.0]])


def test_thinning_of_parts_merges_to_that_of_the_whole_in_any_order_to_the_bit():
    random = np.random.default_rng(1)
    points = random.integers(0, 300, (3, 5000))
    whole = thin(tuple(points), (0, 0, 0), LATTICE, 1.0)
    parts = [thin(tuple(part), (0, 0, 0), LATTICE, 1.0) for part in np.array_split(points, 7, axis=1)]
    moved = thin((points[0] - 17, points[1] + 5, points[2] + 1), (17, -5, -1), LATTICE, 1.0)
    for other in (merge(parts), merge(parts[::-1]), moved):
        for one, two in zip(whole.arrays(), other.arrays(), strict=True):
            np.testing.assert_array_equal(one, two)


def test_no_ground_merges_to_none():
    assert len(merge([]).count) == 0
