"""Where the aircraft flies and where its pulses aim: a lattice that is a function of position, so any window has its own share.

Lines run east-west, in turn towards the east and towards the west. The scanner sweeps across the line, in the plane north-south,
and its aim points fill a swath of a horizontal reference plane, the mean height of the ground. Lines are half a swath apart, so
every place of that plane lies in exactly two swaths. x and y are metres east and north of the scene's south-western corner here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date

import numpy as np

from fusion3d.errors import ConfigError
from fusion3d.simulate.model import Box, Land, Site

FLYING_HEIGHT = 1000.0
"""Metres of the sensor above the reference plane."""
MAX_SCAN_ANGLE = 20.0
"""Degrees on either side of nadir."""
FLIGHT_DAY = 200
"""Day of year: leaves are on."""
HALF_SWATH = FLYING_HEIGHT * math.tan(math.radians(MAX_SCAN_ANGLE))
"""Metres on the reference plane; also the distance of lines, for a side overlap of 50 %."""
LINES_OVER_A_PLACE = 2
_SPEED = 60.0
_TURN = 240.0
_RUN_IN = 500.0
_TAKE_OFF = 9 * 3600.0
"""Seconds of the UTC day."""
_GPS_EPOCH = date(1980, 1, 6)
_LEAP_SECONDS = 18
_ADJUSTMENT = 1e9
_MEAN_SAMPLES = 33
_RELIEF = 1.3
"""Ground below the reference plane sees a wider swath: lines are planned for one wider by this factor."""


@dataclass(frozen=True)
class FlightLine:
    """One strip.

    Attributes
    ----------
    number : from 1, the southernmost; `point_source_id` of its points
    y : of the aircraft, metres north of the scene's corner
    eastward : flown from west to east
    start : adjusted standard GPS time at which it begins, seconds
    """

    number: int
    y: float
    eastward: bool
    start: float


@dataclass(frozen=True)
class Flight:
    """A campaign over a scene.

    Attributes
    ----------
    reference : height of the plane of the aim points, metres above sea level
    along, across : distance of neighbouring aim points along and across a line, metres
    pulses : aim points in one sweep
    size : side of the scene, metres
    lines : all that see the scene, from the south
    """

    reference: float
    along: float
    across: float
    pulses: int
    size: float
    lines: tuple[FlightLine, ...]

    @property
    def altitude(self) -> float:
        """Of the sensor, metres above sea level."""
        return self.reference + FLYING_HEIGHT

    @property
    def sweeps_before(self) -> int:
        """Sweeps that are flown before the scene is reached, on either side of it."""
        return math.ceil(_RUN_IN / self.along)

    @property
    def sweeps(self) -> int:
        """Sweeps of a line over the scene alone."""
        return math.ceil(self.size / self.along)


@dataclass(frozen=True)
class Sweeps:
    """Part of a line's lattice: `first` to before `stop` of its sweeps (counted from the scene's western edge) and aim points."""

    first_sweep: int
    stop_sweep: int
    first_pulse: int
    stop_pulse: int

    @property
    def count(self) -> int:
        return max(0, self.stop_sweep - self.first_sweep) * max(0, self.stop_pulse - self.first_pulse)


def plan_flight(site: Site, land: Land, density: float) -> Flight:
    """Lines over a scene.

    Parameters
    ----------
    density : emitted pulses per m2 of the reference plane, all lines together

    Raises
    ------
    ConfigError
        The density is not a positive number that a scanner can reach.
    """
    if not (0.01 <= density <= 1000):
        raise ConfigError(f"a density of {density:g} pulses per m2 is outside of 0.01 to 1000")
    box = site.box
    per_line = density / LINES_OVER_A_PLACE
    pulses = max(1, round(2 * HALF_SWATH * math.sqrt(per_line)))
    across = 2 * HALF_SWATH / pulses
    along = 1.0 / (per_line * across)
    x, y = (np.linspace(low, high, _MEAN_SAMPLES) for low, high in ((box.xmin, box.xmax), (box.ymin, box.ymax)))
    reference = float(np.mean(land.ground(*np.meshgrid(x, y))))
    first, last = math.ceil(-_RELIEF), math.floor(site.size / HALF_SWATH + _RELIEF)
    # a fixed share of the distance of lines, so that no line lies on the scene's edge
    positions = [(index + 0.37) * HALF_SWATH for index in range(first, last + 1)]
    duration = (site.size + 2 * _RUN_IN) / _SPEED + _TURN
    begin = _gps_seconds(site)
    lines = tuple(FlightLine(k + 1, y, k % 2 == 0, begin + k * duration) for k, y in enumerate(positions))
    return Flight(reference, along, across, pulses, float(site.size), lines)


def _gps_seconds(site: Site) -> float:
    """Adjusted standard GPS time (LAS 1.4 R15, table 5) at which the first line begins."""
    return (site.day(FLIGHT_DAY) - _GPS_EPOCH).days * 86_400.0 + _TAKE_OFF + _LEAP_SECONDS - _ADJUSTMENT


def sweeps_over(flight: Flight, line: FlightLine, box: Box, low: float, high: float) -> Sweeps:
    """The aim points whose rays may cross a window of the map between two heights.

    Parameters
    ----------
    box : metres from the scene's corner
    low, high : metres above sea level
    """
    first = math.floor(box.xmin / flight.along) - 1
    stop = math.ceil(box.xmax / flight.along) + 1
    # a ray through (y, z) aims at the point of the reference plane that it would reach
    aims = [
        (y - line.y) * FLYING_HEIGHT / max(flight.altitude - z, 1.0) + HALF_SWATH
        for y in (box.ymin, box.ymax)
        for z in (low, high)
    ]
    pulse = max(0, math.floor(min(aims) / flight.across) - 1)
    stop_pulse = min(flight.pulses, math.ceil(max(aims) / flight.across) + 1)
    return Sweeps(first, stop, pulse, max(pulse, stop_pulse))


def sweep_start(flight: Flight, line: FlightLine) -> tuple[float, float]:
    """Adjusted GPS time of sweep 0 of a line, and seconds from a sweep to the next one to the east (negative: flown westward)."""
    period = flight.along / _SPEED
    if line.eastward:
        return line.start + flight.sweeps_before * period, period
    return line.start + (flight.sweeps_before + flight.sweeps) * period, -period
