"""The sun against spherical astronomy, shadows and shading against geometry."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusion3d.simulate.sun import LATITUDE, LONGITUDE, Sun, lit, sun_at, towards


@pytest.mark.parametrize(("day", "declination"), [(172, 23.44), (355, -23.44), (80, 0.0)])
def test_noon_elevation_is_that_of_the_season(day, declination):
    best = max((sun_at(day, hour) for hour in np.arange(10.5, 12.5, 0.01)), key=lambda sun: sun.elevation)
    assert best.elevation == pytest.approx(90 - LATITUDE + declination, abs=0.5)
    assert best.azimuth == pytest.approx(180, abs=1)


def test_noon_is_late_by_the_equation_of_time():
    # Mid-February the sun is 14.2 minutes slow, early November 16.4 minutes fast.
    for day, late in ((43, 14.2), (307, -16.4)):
        hours = np.arange(10.5, 13.0, 0.002)
        noon = hours[np.argmax([sun_at(day, hour).elevation for hour in hours])]
        assert (noon - 12 + LONGITUDE / 15) * 60 == pytest.approx(late, abs=1.0)


def test_sun_rises_in_the_east():
    assert 60 < sun_at(172, 4.5).azimuth < 75
    assert sun_at(172, 23).elevation < 0


@pytest.mark.parametrize("azimuth", [90.0, 135.0, 180.0, 250.0])
def test_shadow_of_a_box_is_as_long_as_geometry_says_and_falls_away_from_the_sun(azimuth):
    cell, high, sun = 0.25, 8.0, Sun(45.0, azimuth)
    top = np.zeros((280, 280), np.float32)
    top[130:150, 130:150] = high
    shadow = lit(top, cell, sun, 20.0) == 0
    rows, cols = np.nonzero(shadow)
    # Metres of each shaded cell from the box's centre, along the way that the shadow falls.
    away = -math.sin(math.radians(azimuth)), -math.cos(math.radians(azimuth))
    along = (cols - 139.5) * cell * away[0] - (rows - 139.5) * cell * away[1]
    half = 20 * cell / 2 * (abs(away[0]) + abs(away[1]))
    assert along.max() - half == pytest.approx(high / math.tan(math.radians(45.0)), abs=2.5 * cell)
    assert along.min() > -half


def test_nothing_is_lit_at_night():
    assert (lit(np.zeros((4, 4), np.float32), 1.0, Sun(-3.0, 0.0), 10.0) == 0).all()


def test_flat_ground_faces_the_sun_as_high_as_it_stands():
    cosine = towards(np.full((5, 6), 300, np.float32), 1.0, Sun(30.0, 77.0).direction)
    np.testing.assert_allclose(cosine, 0.5, atol=1e-6)


def test_slope_that_faces_the_sun_squarely_has_cosine_one():
    rows = np.arange(20.0)[:, None] * np.ones(20)
    # Falls to the south by one metre a metre: row 0, in the north, is the highest.
    cosine = towards((20 - rows).astype(np.float32), 1.0, Sun(45.0, 180.0).direction)
    np.testing.assert_allclose(cosine, 1.0, atol=1e-6)
