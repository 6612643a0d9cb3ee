"""Flight lines cover every place twice, at the density asked for, and a window gets every pulse that can meet it."""

from __future__ import annotations

import datetime
import itertools

import numpy as np
import pytest

from fusion3d.errors import ConfigError
from fusion3d.simulate.flight import HALF_SWATH, plan_flight, sweep_start, sweeps_over
from fusion3d.simulate.model import Box, Site
from tests.simulate.lands import PlaneLand


def flight_over(size=500, density=8.0, **land):
    site = Site(size)
    return plan_flight(site, PlaneLand(site, **land), density)


@pytest.mark.parametrize("density", [0.05, 1.0, 8.0, 20.0])
def test_two_lattices_together_have_the_density_asked_for(density):
    flight = flight_over(density=density)
    assert 2 / (flight.along * flight.across) == pytest.approx(density, rel=1e-12)
    assert flight.pulses * flight.across == pytest.approx(2 * 1000 * np.tan(np.radians(20)))
    assert flight.along == pytest.approx(flight.across, rel=0.25)


@pytest.mark.parametrize("size", [100, 500, 10_000])
def test_every_place_lies_in_exactly_two_swaths(size):
    lines = np.array([line.y for line in flight_over(size).lines])
    places = np.linspace(0, size, 4001)
    assert set((np.abs(places[:, None] - lines) <= HALF_SWATH).sum(axis=1)) == {2}


def test_lines_of_a_larger_scene_go_on_where_those_of_a_smaller_end():
    small, large = flight_over(500).lines, flight_over(5000).lines
    assert [(line.number, line.y) for line in large[: len(small)]] == [(line.number, line.y) for line in small]
    assert len(large) > len(small)


def test_lines_alternate_and_follow_each_other_in_time():
    flight = flight_over(2000)
    assert [line.number for line in flight.lines] == list(range(1, len(flight.lines) + 1))
    assert all(one.eastward != other.eastward for one, other in zip(flight.lines, flight.lines[1:], strict=False))
    spans = []
    for line in flight.lines:
        start, period = sweep_start(flight, line)
        west, east = start, start + 2000 / flight.along * period
        assert (west < east) == line.eastward
        spans.append((min(west, east), max(west, east)))
    assert all(one[1] < other[0] for one, other in itertools.pairwise(spans))


def test_times_are_adjusted_gps_time_of_the_flight_day():
    # 19 July is day 200 of 2023; GPS runs 18 s ahead of UTC since 2017
    since = datetime.datetime(2023, 7, 19, 9) - datetime.datetime(1980, 1, 6)
    assert flight_over().lines[0].start == since.total_seconds() + 18 - 1e9


def test_reference_plane_is_the_mean_ground():
    flight = flight_over(height=412.0, slope=(0.2, -0.1))
    assert flight.reference == pytest.approx(412.0)
    assert flight.altitude == pytest.approx(1412.0)


@pytest.mark.parametrize("density", [0.0, -3.0, 5000.0, float("nan")])
def test_density_that_no_scanner_reaches_is_refused(density):
    with pytest.raises(ConfigError, match="density"):
        flight_over(density=density)


def test_window_gets_every_pulse_whose_ray_crosses_it_between_the_heights():
    flight = flight_over(1000, density=0.5)
    box, low, high = Box(300, 420, 350, 470), flight.reference - 80, flight.reference + 150
    rng = np.random.default_rng(0)
    crossings = 0
    for line in flight.lines:
        share = sweeps_over(flight, line, box, low, high)
        sweep = rng.integers(-20, 1000, 200_000)
        pulse = rng.integers(0, flight.pulses, 200_000)
        x = (sweep + rng.uniform(0, 1, len(sweep))) * flight.along
        aim = (pulse + rng.uniform(0, 1, len(sweep))) * flight.across - HALF_SWATH
        z = rng.uniform(low, high, len(sweep))
        y = line.y + aim * (flight.altitude - z) / 1000.0
        crosses = (x > box.xmin) & (x < box.xmax) & (y > box.ymin) & (y < box.ymax)
        inside = (sweep >= share.first_sweep) & (sweep < share.stop_sweep)
        inside &= (pulse >= share.first_pulse) & (pulse < share.stop_pulse)
        assert inside[crosses].all()
        crossings += crosses.sum()
    assert crossings > 100
    assert sum(sweeps_over(flight, line, box, low, high).count for line in flight.lines) < 0.05 * 0.5 * 1000**2
