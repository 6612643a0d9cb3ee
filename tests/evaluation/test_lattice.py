"""Cells under polygons, by covered area."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely

from fusion3d.evaluation.discs import discs
from fusion3d.evaluation.lattice import Lattice
from fusion3d.grid import Window
from tests.tasks.places import LAMBERT, X0, Y0


def disc(x: float, y: float, radius: float) -> shapely.Polygon:
    return discs(np.array([x]), np.array([y]), np.array([radius]), LAMBERT)[0]


@pytest.mark.parametrize("cell", [0.5, 2.0, 10.0, 100.0])
def test_areas_of_a_disc_sum_to_pi_r_squared(cell):
    lattice = Lattice(X0, Y0, cell, round(200 / cell), round(200 / cell))
    shape = disc(X0 + 97.3, Y0 - 61.9, 15.0)
    areas = lattice.areas(shape, lattice.covering(shapely.bounds(shape)))
    assert areas.sum() == pytest.approx(math.pi * 15**2, rel=1e-9)
    assert areas.max() <= cell**2 * (1 + 1e-9)


def test_areas_of_a_rectangle_by_hand():
    """Cells of 10 m; a rectangle from 5 to 22 m east and 10 to 14 m south."""
    lattice = Lattice(0.0, 100.0, 10.0, 5, 5)
    found = lattice.areas(shapely.box(5.0, 86.0, 22.0, 90.0), Window(0, 0, 3, 4))
    np.testing.assert_allclose(found, [[0, 0, 0, 0], [20, 40, 8, 0], [0, 0, 0, 0]], atol=1e-12)


def test_half_disc_on_a_corner_gives_a_quarter_to_each_cell():
    lattice = Lattice(0.0, 100.0, 10.0, 10, 10)
    found = lattice.areas(disc(50.0, 50.0, 8.0), Window(4, 4, 2, 2))
    np.testing.assert_allclose(found, math.pi * 64 / 4, rtol=1e-9)


def test_far_away_plots_do_not_overflow():
    lattice = Lattice(X0, Y0, 10.0, 10, 10)
    assert lattice.covering(np.array([1e300, 1e300, 2e300, 2e300])).size == 0
    assert lattice.covering(np.full(4, np.nan)).size == 0
