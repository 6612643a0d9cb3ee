"""Discs of a radius on the ground."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from pyproj import CRS, Geod

from fusion3d.evaluation.discs import discs


@pytest.mark.parametrize(
    ("epsg", "x", "y", "unit"),
    [(2154, 900_000.0, 6_570_000.0, 1.0), (32631, 500_000.0, 5e6, 1.0), (2263, 984_000.0, 2e5, 0.3048006096)],
)
def test_area_in_a_projected_crs_is_pi_r_squared_in_its_units(epsg, x, y, unit):
    found = discs(np.array([x, x + 100]), np.array([y, y]), np.array([15.0, 7.5]), CRS.from_epsg(epsg))
    np.testing.assert_allclose(shapely.area(found) * unit**2, math.pi * np.array([15.0, 7.5]) ** 2, rtol=1e-9)
    middle = shapely.centroid(found[1])
    np.testing.assert_allclose([middle.x, middle.y], [x + 100, y], atol=1e-6)


@pytest.mark.parametrize("latitude", [0.0, 45.0, -68.0])
def test_disc_in_degrees_has_the_area_on_the_ellipsoid(latitude):
    (found,) = discs(np.array([5.0]), np.array([latitude]), np.array([15.0]), CRS.from_epsg(4326))
    area, _ = Geod(ellps="WGS84").geometry_area_perimeter(found)
    assert abs(area) == pytest.approx(math.pi * 15**2, rel=1e-4)


def test_disc_in_web_mercator_is_of_true_metres():
    """A metre of the map at 60 degrees north is half a metre of the ground."""
    y = 6_378_137.0 * math.log(math.tan(math.pi / 4 + math.radians(60) / 2))
    (found,) = discs(np.array([0.0]), np.array([y]), np.array([15.0]), CRS.from_epsg(3857))
    assert found.area == pytest.approx(4 * math.pi * 15**2, rel=0.01)
