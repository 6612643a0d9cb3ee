"""Ground from positions alone: closed forms, and the same whatever is computed at once."""

from __future__ import annotations

import numpy as np
import pytest

from fusion3d.tasks.segmentation.cloud import Box, Cloud
from fusion3d.tasks.segmentation.ground import REACH, GroundModel, ground_surface

INNER = slice(REACH, -REACH)


def plane(rows: int, cols: int, steep: float = 0.4) -> np.ndarray:
    row, col = np.mgrid[:rows, :cols]
    return 300.0 + steep * (row - 0.75 * col)


def test_a_slope_is_its_own_ground():
    found = ground_surface(plane(2 * REACH + 30, 2 * REACH + 40))
    assert found.shape == (30, 40)
    np.testing.assert_allclose(found, plane(2 * REACH + 30, 2 * REACH + 40)[INNER, INNER], atol=1e-6)


def test_ground_goes_through_under_houses_trees_and_gaps():
    lowest = plane(2 * REACH + 60, 2 * REACH + 60, 0.1)
    true = lowest.copy()
    lowest[REACH + 5 : REACH + 25, REACH + 5 : REACH + 35] += 6.0
    lowest[REACH + 40 : REACH + 43, REACH + 40 : REACH + 44] += 15.0
    lowest[REACH + 48 : REACH + 54, REACH + 10 : REACH + 20] = np.inf
    found = ground_surface(lowest)
    assert np.abs(found - true[INNER, INNER]).max() < 0.4
    assert np.abs(found - true[INNER, INNER])[10:20, 10:30].max() < 0.1


def test_a_single_low_point_does_not_pull_the_ground_down():
    lowest = plane(2 * REACH + 20, 2 * REACH + 20)
    lowest[REACH + 10, REACH + 10] -= 30.0
    found = ground_surface(lowest)
    assert np.abs(found - plane(*lowest.shape)[INNER, INNER]).max() < 0.3


def test_no_point_means_no_ground():
    lowest = np.full((2 * REACH + 9, 2 * REACH + 9), np.inf)
    assert np.isnan(ground_surface(lowest)).all()


def test_nothing_beyond_the_reach_changes_the_ground():
    rng = np.random.default_rng(0)
    lowest = rng.normal(0, 0.5, (2 * REACH + 3, 2 * REACH + 3)) + 10 * (rng.random((2 * REACH + 3, 2 * REACH + 3)) < 0.3)
    padded = np.pad(lowest, 20, constant_values=-50.0)
    np.testing.assert_array_equal(ground_surface(padded)[20:-20, 20:-20], ground_surface(lowest))


class Held:
    """Points in memory."""

    def __init__(self, east, south, z) -> None:
        count = len(z)
        self.all = Cloud(east, south, z, np.zeros((count, 4), np.float32), np.zeros(count, np.uint8), np.arange(count))

    def points(self, box: Box) -> Cloud:
        return self.all.take(box.holds(self.all.east, self.all.south))


def test_heights_do_not_depend_on_which_points_are_asked_for():
    rng = np.random.default_rng(1)
    east, south = rng.uniform(9_980, 10_050, 20_000), rng.uniform(-5_035, -4_965, 20_000)
    z = 50 + 0.1 * (east - 10_000) + np.where(np.hypot(east - 10_000, south + 5_000) < 12, 7.0, 0.0) + rng.normal(0, 0.02, 20_000)
    source = Held(east, south, z)
    whole = GroundModel(source).height(east, south, z)
    some = rng.random(20_000) < 0.01
    np.testing.assert_array_equal(GroundModel(source).height(east[some], south[some], z[some]), whole[some])
    roof = np.hypot(east - 10_000, south + 5_000) < 11
    assert np.abs(whole[roof] - 7.0).max() < 0.4
    assert np.quantile(np.abs(whole[~roof]), 0.9) < 0.15


@pytest.mark.parametrize("count", [0, 1])
def test_no_point_and_one_point_have_heights_too(count):
    source = Held(np.full(count, 5.0), np.full(count, 5.0), np.full(count, 80.0))
    height = GroundModel(source).height(source.all.east, source.all.south, source.all.z)
    np.testing.assert_allclose(height, np.zeros(count), atol=1e-9)
