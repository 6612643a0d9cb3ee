"""Pulses obey Beer-Lambert, the geometry of rays and the bookkeeping of returns."""

from __future__ import annotations

import numpy as np
import pytest

from fusion3d.simulate.flight import HALF_SWATH
from fusion3d.simulate.laser_targets import targets_of
from fusion3d.simulate.model import Box, Cover, Site
from fusion3d.simulate.pulses import MAX_RETURNS, POINT, Strip, trace_strip
from tests.simulate.lands import HandmadeTile, PlaneLand, Slab

SITE = Site(100)
GROUND = 300.0
ALTITUDE = 1300.0
EVERYWHERE = (-(10**9), -(10**9), 10**9, 10**9)


def traced(slab=None, angle=0.0, sweeps=(0, 300), pulses=100, period=0.008, core=EVERYWHERE, key=1, **land):
    """Returns of pulses around one scan angle, in degrees to the north, without the few echoes of noise."""
    tile = HandmadeTile(SITE, PlaneLand(SITE, height=GROUND, **land), SITE.box, slab=slab)
    targets = targets_of(SITE.box, tile.surface(0.5), tile.leaf_voxels(200), tile.trees.species)
    aside = 1000 * np.tan(np.radians(angle))
    across = 0.02
    first = int((aside + HALF_SWATH) / across) - pulses // 2
    # the aircraft flies where the pulses of that angle meet the middle of the scene
    strip = Strip(
        np.uint64(key),
        7,
        50.0 - aside,
        ALTITUDE,
        1000.0,
        0.3,
        across,
        HALF_SWATH,
        *sweeps,
        first,
        first + pulses,
        36_397,
        0.0,
        period,
    )
    out = np.empty(MAX_RETURNS * (sweeps[1] - sweeps[0]) * pulses, POINT)
    points = out[: trace_strip(targets, strip, core, out)]
    return points[~np.isin(points["classification"], (7, 18))]


def firsts(points):
    return points[points["return_number"] == 1]


@pytest.mark.parametrize("leaf_area_index", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("angle", [0.0, 12.0, -19.5])
def test_share_of_first_returns_from_the_ground_is_the_gap_fraction(leaf_area_index, angle):
    points = firsts(traced(Slab(5, 15, leaf_area_index / 10), angle))
    assert len(points) > 29_900
    share = (points["z"] < (GROUND + 1) * 1000).mean()
    expected = np.exp(-0.5 * leaf_area_index / np.cos(np.radians(angle)))
    assert share == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / len(points)))


@pytest.mark.parametrize(("density", "angle"), [(0.1, 0.0), (0.4, 18.0)])
def test_first_returns_inside_leaves_follow_the_truncated_exponential(density, angle):
    points = firsts(traced(Slab(4, 24, density), angle))
    points = points[points["z"] > (GROUND + 1) * 1000]
    cosine = np.cos(np.radians(angle))
    depth = (GROUND + 24 - points["z"] / 1000) / cosine
    rate, whole = 0.5 * density, 20 / cosine
    mean = 1 / rate - whole / (np.exp(rate * whole) - 1)
    assert depth.mean() == pytest.approx(mean, abs=3 * depth.std() / np.sqrt(len(depth)))


def test_returns_of_a_pulse_are_numbered_and_a_metre_apart():
    points = traced(Slab(2, 30, 0.25))
    _, start, count = np.unique(points["gps_time"], return_index=True, return_counts=True)
    pulse = np.repeat(np.arange(len(start)), count)
    assert np.array_equal(points["return_number"], np.arange(len(points)) - start[pulse] + 1)
    assert np.array_equal(points["number_of_returns"], count[pulse])
    assert set(count) == {1, 2, 3, 4, 5, 6}
    same = pulse[1:] == pulse[:-1]
    drop = (points["z"][:-1] - points["z"][1:])[same]
    # the noise of two ranges is 28 mm
    assert drop.min() > 1000 - 6 * 28
    # behind the dead metre comes an exponential distribution of mean 8 m, whose first hundredth is 8 cm
    assert np.quantile(drop, 0.01) == pytest.approx(1080, abs=15)


def test_pulse_leaves_no_return_under_leaves_that_nothing_passes():
    points = traced(Slab(10, 30, 20.0))
    assert points["z"].min() > (GROUND + 10) * 1000
    assert (np.abs(firsts(points)["z"] - (GROUND + 30) * 1000) < 1500).all()


@pytest.mark.parametrize("angle", [0.0, 10.0, 19.9])
def test_intensity_falls_with_range_and_incidence(angle):
    points = traced(angle=angle, cover_code=Cover.ROAD)
    slant = 1000 / np.cos(np.radians(angle))
    # a whole pulse on asphalt that reflects 14 %, Lambert's cosine and the inverse square of the range
    expected = 40_000 * 0.14 * (1000 / slant) ** 2 * np.cos(np.radians(angle))
    assert points["intensity"].mean() == pytest.approx(expected, rel=0.002)
    assert points["intensity"].std() / points["intensity"].mean() == pytest.approx(0.05, rel=0.05)


def test_ground_that_faces_the_ray_is_brighter_than_ground_that_turns_away():
    facing = traced(angle=15.0, slope=(0.0, -np.tan(np.radians(15))))
    flat, away = traced(angle=15.0), traced(angle=15.0, slope=(0.0, np.tan(np.radians(15))))
    near = [points[np.abs(points["y"] - 50_000) < 2000]["intensity"].mean() for points in (facing, flat, away)]
    # the same range within 2 m; the ray comes from the south at 15 degrees, the slopes are turned by 15 degrees
    assert near[1] / near[2] == pytest.approx(np.cos(np.radians(15)) / 1.0, rel=0.005)
    assert near[0] / near[1] == pytest.approx(np.cos(np.radians(30)) / np.cos(np.radians(15)), rel=0.005)


def test_scan_angle_is_negative_on_the_left_of_the_aircraft():
    # north of the line is left when flying east, right when flying west
    assert traced(angle=12.0, period=0.008)["scan_angle"].mean() == pytest.approx(-12, abs=0.05)
    assert traced(angle=12.0, period=-0.008)["scan_angle"].mean() == pytest.approx(12, abs=0.05)


def test_returns_do_not_depend_on_what_was_traced_before():
    slab = Slab(3, 20, 0.2)
    whole = traced(slab, sweeps=(0, 60))
    halves = np.concatenate([traced(slab, sweeps=(0, 25)), traced(slab, sweeps=(25, 60))])
    assert whole.tobytes() == halves.tobytes()


def test_flight_to_the_west_records_the_same_points_in_reverse_order():
    east, west = traced(Slab(3, 20, 0.2), sweeps=(0, 60)), traced(Slab(3, 20, 0.2), sweeps=(0, 60), period=-0.008)
    assert (np.diff(east["gps_time"]) >= 0).all()
    assert (np.diff(west["gps_time"]) >= 0).all()
    assert sorted(zip(east["x"], east["y"], east["z"], strict=True)) == sorted(zip(west["x"], west["y"], west["z"], strict=True))


def test_other_key_gives_other_returns_of_the_same_statistics():
    one, other = traced(Slab(3, 20, 0.2), key=1), traced(Slab(3, 20, 0.2), key=2)
    assert one["z"][:1000].tolist() != other["z"][:1000].tolist()
    assert one["z"].mean() == pytest.approx(other["z"].mean(), abs=150)


def test_only_the_core_is_kept_with_its_northern_and_western_edge():
    core = (20_000, 48_000, 20_500, 50_000)
    points = traced(core=core, pulses=600, sweeps=(60, 75))
    assert points["x"].min() >= 20_000
    assert points["x"].max() < 20_500
    assert points["y"].min() > 48_000
    assert points["y"].max() <= 50_000
    apart = [traced(core=part, pulses=600, sweeps=(60, 75)) for part in (core, (20_000, 50_000, 20_500, 52_000))]
    both = traced(core=(20_000, 48_000, 20_500, 52_000), pulses=600, sweeps=(60, 75))
    assert sum(map(len, apart)) == len(both)


def test_ray_from_the_side_meets_the_wall_of_a_house():
    box = SITE.box
    house = Box(box.xmin + 20, box.ymin + 50, box.xmin + 80, box.ymin + 70)
    points = traced(angle=19.0, pulses=500, house=(house, 9.0))
    wall = points[(points["z"] > (GROUND + 0.5) * 1000) & (points["z"] < (GROUND + 8.5) * 1000)]
    assert len(wall) > 500
    # the wall faces south at y = 50, and is met from the south; pointing scatters by 5 cm
    assert wall["y"].mean() == pytest.approx(50_000, abs=30)
    roof = points[points["z"] > (GROUND + 8.9) * 1000]
    assert roof["z"].mean() / 1000 == pytest.approx(GROUND + 9.0, abs=0.005)
    assert roof["y"].min() > 49_700
