"""Tracks, beams, shot numbers and position errors against the mission's figures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusion3d.errors import ConfigError
from fusion3d.io.gedi_products import BEAMS
from fusion3d.simulate.footprints import Shots, centre, ground_track, passes_over, shot_number, shots_in
from fusion3d.simulate.model import Box, Site, leaf_share

WIDE = Site(10_000, seed=3)


def all_shots(site: Site, passes: int) -> list[Shots]:
    return [shots_in(site, one, site.box) for one in passes_over(site, passes)]


def test_shots_of_a_beam_are_60_m_apart_on_a_straight_line():
    one = passes_over(WIDE, 1)[0]
    shots = shots_in(WIDE, one, WIDE.box)
    for beam in np.unique(shots.beam):
        rows = np.flatnonzero(shots.beam == beam)
        rows = rows[np.argsort(shots.number[rows])]
        steps = np.hypot(np.diff(shots.x[rows]), np.diff(shots.y[rows]))
        assert steps == pytest.approx(60.0)
        assert np.diff(shots.seconds[rows]) == pytest.approx(2 / 242, abs=1e-7)
        azimuth = np.arctan2(np.diff(shots.x[rows]), np.diff(shots.y[rows]))
        assert azimuth == pytest.approx(one.azimuth)


def test_beams_are_600_m_apart_in_the_order_of_their_names():
    one = passes_over(WIDE, 1)[0]
    shots = shots_in(WIDE, one, WIDE.box)
    right = shots.x * math.cos(one.azimuth) - shots.y * math.sin(one.azimuth)
    lines = [right[shots.beam == beam] for beam in range(len(BEAMS)) if (shots.beam == beam).any()]
    assert len(lines) >= 6
    assert all(np.ptp(line) < 1e-6 for line in lines)
    assert np.diff([line[0] for line in lines]) == pytest.approx(600.0)


def test_ground_track_is_that_of_an_orbit_inclined_by_51_6_degrees():
    site = Site(1000)
    _, latitude = centre(site)
    # sin(heading) = cos(inclination) / cos(latitude); the Earth's turning takes about one degree at this latitude
    heading = math.degrees(math.asin(math.cos(math.radians(51.6)) / math.cos(math.radians(latitude))))
    ascending, descending = (math.degrees(ground_track(site, way)) for way in (True, False))
    assert ascending == pytest.approx(heading, abs=4)
    assert ascending < heading
    convergence = (5.6 - 3.0) * math.sin(math.radians(46.5))
    # seen from true north the two directions mirror each other
    assert (ascending + convergence) + (descending + convergence) == pytest.approx(180, abs=0.3)


@pytest.mark.parametrize(("size", "least", "most"), [(100, 4, 12), (300, 12, 32), (500, 18, 50), (1000, 80, 150)])
def test_number_of_footprints_fits_the_area(size, least, most):
    for seed in range(4):
        assert least <= sum(map(len, all_shots(Site(size, seed), 4))) <= most


def test_windows_share_the_shots_out_among_them():
    site = Site(1000, seed=5)
    for one in passes_over(site, 4):
        whole = shots_in(site, one, site.box)
        parts = [shots_in(site, one, box) for box in site.tiles(250)]
        for name in ("number", "x", "y", "x_stated", "y_stated", "seconds", "cloudy", "degraded"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            order = np.argsort(np.concatenate([part.number for part in parts]))
            np.testing.assert_array_equal(joined[order], getattr(whole, name)[np.argsort(whole.number)])


def test_window_without_a_beam_is_empty():
    site = Site(10_000)
    one = passes_over(site, 1)[0]
    assert len(shots_in(site, one, Box(site.box.xmin, site.box.ymin, site.box.xmin + 1, site.box.ymin + 1))) == 0


def test_shot_number_follows_the_scheme_of_the_product():
    # the first shot of the real L4A file: orbit 6515, BEAM0101, sub-granule 2, first shot
    assert int(shot_number(6515, "BEAM0101", 2, 1)) == 65150500200000001
    assert int(shot_number(99_999, "BEAM1011", 4, 99_999_999)) < 2**63


def test_shot_numbers_are_unique_over_passes_and_years():
    numbers = np.concatenate([shots.number for year in (1, 2) for shots in all_shots(Site(2000, seed=1, year=year), 20)])
    assert numbers.dtype == np.uint64
    assert len(np.unique(numbers)) == len(numbers)


def test_position_errors_have_a_part_of_the_pass_and_a_part_of_the_shot():
    own, systematic, total = [], [], []
    for shots in all_shots(WIDE, 120):
        sound = ~shots.degraded
        error = np.stack([shots.x_stated - shots.x, shots.y_stated - shots.y])[:, sound]
        if error.shape[1] < 100:
            continue
        systematic.append(error.mean(axis=1))
        own.append(error - error.mean(axis=1)[:, None])
        total.append(np.hypot(*error))
    assert len(systematic) > 100
    assert np.std(np.concatenate(own, axis=1)) == pytest.approx(5.0, rel=0.03)
    assert np.std(systematic) == pytest.approx(6.0, rel=0.2)
    assert np.sqrt(np.mean(np.concatenate(total) ** 2)) == pytest.approx(11.0, rel=0.15)


def test_degraded_shots_are_few_and_worse():
    shots = all_shots(WIDE, 40)
    degraded = np.concatenate([each.degraded for each in shots])
    dx = np.concatenate([each.x_stated - each.x - np.median(each.x_stated - each.x) for each in shots])
    assert 0.005 < degraded.mean() < 0.08
    assert np.std(dx[degraded]) > 2 * np.std(dx[~degraded])


def test_clouds_take_some_shots_of_most_passes():
    cloudy = np.concatenate([each.cloudy for each in all_shots(WIDE, 20)])
    assert 0.05 < cloudy.mean() < 0.3


@pytest.mark.parametrize("year", [1, 2])
def test_passes_lie_in_the_year_of_the_scene_by_day_and_night_in_leaf_and_without(year):
    site = Site(1000, year=year)
    passes = passes_over(site, 8)
    assert {one.start.year for one in passes} == {site.calendar_year}
    assert [one.start for one in passes] == sorted(one.start for one in passes)
    assert len({one.start.date() for one in passes}) == 8
    leaves = [leaf_share(one.day_of_year, False) for one in passes]
    assert sum(leaf > 0.9 for leaf in leaves) == 6
    assert sum(leaf < 0.2 for leaf in leaves) == 2
    assert {one.night for one in passes} == {one.ascending for one in passes} == {True, False}


def test_single_pass_comes_in_summer():
    assert leaf_share(passes_over(Site(500), 1)[0].day_of_year, False) > 0.9


def test_many_passes_keep_their_orbits_apart():
    orbits = [one.orbit for one in passes_over(Site(500), 200)]
    assert orbits == sorted(set(orbits))
    assert len(orbits) == 200


def test_passes_are_the_same_again_and_others_for_another_seed():
    assert passes_over(Site(500, 1), 4) == passes_over(Site(500, 1), 4)
    assert passes_over(Site(500, 1), 4) != passes_over(Site(500, 2), 4)


def test_no_pass_is_refused():
    with pytest.raises(ConfigError, match="--passes 0"):
        passes_over(Site(500), 0)
