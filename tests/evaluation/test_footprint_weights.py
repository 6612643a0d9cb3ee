"""The cells that a footprint sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyproj import CRS

from fusion3d.errors import ConfigError
from fusion3d.evaluation.discs import discs
from fusion3d.evaluation.footprint_weights import Gaussian, footprint_cells
from fusion3d.evaluation.lattice import Lattice
from fusion3d.ops.footprint_pool import footprint_kernel

LAMBERT = CRS.from_epsg(2154)
X0, Y0, SIZE = 900_000.0, 6_571_000.0, 30
RADIUS = 12.5


def disc(x: float, y: float, crs: CRS = LAMBERT):
    return discs(np.array([x]), np.array([y]), np.array([RADIUS]), crs)[0]


@pytest.mark.parametrize(("cell", "geolocation"), [(10.0, 10.0), (10.0, 0.0), (2.0, 10.0), (40.0, 3.0)])
def test_weights_are_those_of_the_operator(cell, geolocation):
    """In the middle, at the edge, beyond it, and on a corner of four cells."""
    lattice = Lattice(X0, Y0, cell, SIZE, SIZE)
    side = SIZE * cell
    places = [(0.513, 0.487), (0.01, 0.7), (1.02, 0.5), (0.5, 0.5), (0.99, 0.002)]
    position = torch.tensor([[east * side, south * side] for east, south in places], dtype=torch.float64)
    for number in range(len(places)):
        kernel = footprint_kernel(
            1, SIZE, cell, position[number : number + 1], torch.zeros(1, dtype=torch.int64), 6.25, geolocation
        )
        east, south = position[number].tolist()
        window, shares = footprint_cells(disc(X0 + east, Y0 - south), Gaussian(np.hypot(6.25, geolocation), RADIUS), lattice)
        found = np.zeros((SIZE, SIZE))
        found[window.row : window.row_stop, window.col : window.col_stop] = shares
        expected = np.zeros(SIZE * SIZE)
        expected[kernel.column.numpy()] = kernel.weight.numpy()
        np.testing.assert_allclose(found.sum(), kernel.mass.item(), atol=1e-6)
        np.testing.assert_allclose(found, expected.reshape(SIZE, SIZE) * kernel.mass.item(), atol=2e-6)


def test_metres_are_those_of_the_ground_where_the_map_stretches():
    """Web Mercator at 60 degrees north draws a metre as two: the Gaussian's second moment is (2 sigma)^2 map units."""
    mercator = CRS.from_epsg(3857)
    x, y = 1_000_000.0, 8_399_737.89
    lattice = Lattice(x - 150.0, y + 150.0, 1.0, 300, 300)
    window, shares = footprint_cells(disc(x, y, mercator), Gaussian(10.0, RADIUS), lattice)
    east = lattice.x0 + window.col + np.arange(window.cols) + 0.5 - x
    spread = np.sqrt((shares.sum(axis=0) * east**2).sum())
    # of a Gaussian cut off at three sigmas: 1 - 4.5 exp(-4.5) / (1 - exp(-4.5)) of its variance
    cut = 1 - 4.5 * np.exp(-4.5) / (1 - np.exp(-4.5))
    assert spread == pytest.approx(20.0 * np.sqrt(cut), rel=0.01)


def test_a_footprint_far_away_sees_nothing():
    window, shares = footprint_cells(disc(X0 - 1e6, Y0), Gaussian(11.8, RADIUS), Lattice(X0, Y0, 10.0, SIZE, SIZE))
    assert window.size == 0
    assert shares.size == 0


def test_reach_is_what_lies_beyond_the_disc():
    assert Gaussian(10.0, RADIUS).reach == 17.5
    assert Gaussian(1.0, RADIUS).reach == 0.0
    with pytest.raises(ConfigError, match="positive"):
        Gaussian(0.0, RADIUS)
