"""Laser pulses through leaves down to the ground: the compiled inner loop of aerial LiDAR.

A pulse is a ray. Leaves of density d (m2 per m3, no preferred direction) intercept it along a path of length s with optical depth
d s / 2, so it passes a canopy of leaf area index L at zenith angle t with probability exp(-L / (2 cos t)) (Monsi & Saeki 1953).
The first return lies where the optical depth reaches a draw of the unit exponential distribution, which is that law exactly; it
takes part of the energy, and the rest goes on with a new draw.

All random numbers of a pulse come from splitmix64 (Steele et al. 2014), seeded by the pulse's identity: its returns do not depend
on which pulses were traced before it, nor on the window. x and y are metres from the scene's south-western corner.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit, uint64

from fusion3d.simulate.laser_targets import (
    CEILING_CELL,
    NOISE_KIND,
    columns,
    ground_at,
    ground_between,
    incidence,
    leaf_density,
    leaf_kind,
    roof_at,
    row_col,
)
from fusion3d.simulate.model import Cover

STEP = 0.5
"""Longest piece of the path within which leaves are taken as uniform, metres."""
EXTINCTION = 0.5
"""Projected over one-sided leaf area for leaves that face all directions alike (Ross 1981)."""
DEAD_DISTANCE = 1.0
"""Metres behind a return within which the receiver tells no other apart."""
MAX_RETURNS = 6
LEAST_ENERGY = 0.1
"""Share of a pulse's energy below which nothing is detected."""
RANGE_NOISE = 0.02
POINTING_NOISE = 0.05
"""Standard deviations in metres: along the ray for each return, and of x and of y for a pulse as a whole."""
NOISE_SHARE = 2e-5
"""Share of pulses that record a bird or a droplet above the ground, and of those that record an echo from below it."""
ANGLE_OF_GLINT = 3.0
WATER_KEPT = (0.55, 0.083)
"""Share of pulses on water that come back: within that many degrees of nadir, and elsewhere; 15 % over a swath of 20 degrees."""
GROUND_ERROR, ROOF_ERROR, ROAD_UNCLASSIFIED = 0.015, 0.03, 0.02
"""Shares of ground taken for low vegetation and the reverse, of roofs for high vegetation and (beside roofs) the reverse, of road
left unclassified."""

POINT = np.dtype(
    [
        ("gps_time", "f8"), ("x", "i4"), ("y", "i4"), ("z", "i4"), ("scan_angle", "f4"), ("intensity", "u2"),
        ("point_source_id", "u2"), ("return_number", "u1"), ("number_of_returns", "u1"), ("classification", "u1"), ("kind", "u1"),
        ("red", "u2"), ("green", "u2"), ("blue", "u2"), ("nir", "u2"),
    ],
    align=True,
)  # fmt: skip
"""A return; x, y and z in millimetres, from the scene's corner and above sea level."""

_UNCLASSIFIED, _GROUND, _LOW, _MEDIUM, _HIGH, _BUILDING, _LOW_NOISE, _WATER, _HIGH_NOISE = 1, 2, 3, 4, 5, 6, 7, 9, 18
_LOW_VEGETATION, _MEDIUM_VEGETATION = 0.5, 1.5
_INTENSITY = 40_000.0
_INTENSITY_NOISE = 0.05
_BRIGHTNESS_NOISE = 0.12
_REFERENCE_RANGE = 1000.0
_JITTER = 0.3
_STRIDE = 4
"""Steps over which the height above ground is taken as linear to look up leaves."""
_CLEARANCE = 0.5
"""Metres above the highest roof of the window, from which on ground and roofs need no look; it changes no return."""

_GOLDEN = uint64(0x9E3779B97F4A7C15)
_WATER_COVER, _ROAD, _BUILDING_COVER = int(Cover.WATER), int(Cover.ROAD), int(Cover.BUILDING)


class Strip(NamedTuple):
    """A flight line and the share of its lattice to trace; see `fusion3d.simulate.flight`.

    Attributes
    ----------
    key : uint64 that the pulses' random numbers start from
    y, altitude : of the aircraft; height : above the plane of the aim points; metres
    along, across, half_swath : of the lattice, metres
    first_sweep, stop_sweep, first_pulse, stop_pulse : the share; pulses : in a whole sweep
    start, period : gps time of sweep 0, seconds to the next sweep to the east
    """

    key: np.uint64
    number: int
    y: float
    altitude: float
    height: float
    along: float
    across: float
    half_swath: float
    first_sweep: int
    stop_sweep: int
    first_pulse: int
    stop_pulse: int
    pulses: int
    start: float
    period: float


@njit(error_model="numpy")
def _mix(value):  # type: ignore[no-untyped-def]
    value = (value ^ (value >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> uint64(27))) * uint64(0x94D049BB133111EB)
    return value ^ (value >> uint64(31))


@njit(cache=True, error_model="numpy")
def pulse_key(one, other):  # type: ignore[no-untyped-def]
    """The uint64 of a pair of integers; chained, of any identity."""
    return _mix(_mix(uint64(one) + _GOLDEN) + uint64(other) * _GOLDEN)


@njit(error_model="numpy")
def _uniform(state):  # type: ignore[no-untyped-def]
    """The next state, and a number between 0 and 1, neither of them included."""
    state = uint64(state + _GOLDEN)
    return state, (float(_mix(state) >> uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)


@njit(error_model="numpy")
def _normals(state):  # type: ignore[no-untyped-def]
    """Two standard normal numbers (Box & Muller 1958)."""
    state, u = _uniform(state)
    state, v = _uniform(state)
    radius = math.sqrt(-2.0 * math.log(u))
    return state, radius * math.cos(2.0 * math.pi * v), radius * math.sin(2.0 * math.pi * v)


@njit(error_model="numpy")
def _class(kind, leaf, height):  # type: ignore[no-untyped-def]
    """The right class: vegetation low, medium and high up to 0.5 m, 1.5 m and above."""
    if leaf:
        return _LOW if height < _LOW_VEGETATION else _MEDIUM if height < _MEDIUM_VEGETATION else _HIGH
    return _BUILDING if kind == _BUILDING_COVER else _WATER if kind == _WATER_COVER else _GROUND


@njit(error_model="numpy")
def _mistaken(right, kind, near_roof, draw):  # type: ignore[no-untyped-def]
    """The class that the producer's classification gives."""
    if right == _GROUND:
        if kind == _ROAD and draw > 1.0 - ROAD_UNCLASSIFIED:
            return _UNCLASSIFIED
        return _LOW if draw < GROUND_ERROR else _GROUND
    if right == _LOW:
        return _GROUND if draw < GROUND_ERROR else _LOW
    if right == _BUILDING:
        return _HIGH if draw < ROOF_ERROR else _BUILDING
    if right == _HIGH and near_roof:
        return _BUILDING if draw < ROOF_ERROR else _HIGH
    return right


@njit(error_model="numpy")
def _surface_crossing(ground, roof, cells, x, y0, north, altitude, down, above, below):  # type: ignore[no-untyped-def]
    """Path length at which a ray meets ground or roof, between one above it and one at or below it."""
    for _ in range(18):
        if below - above < 1e-4:
            break
        middle = 0.5 * (above + below)
        y = y0 + north * middle
        if altitude - down * middle <= ground_at(ground, cells, x, y) + roof_at(roof, cells, x, y):
            below = middle
        else:
            above = middle
    return 0.5 * (above + below)


@njit(cache=True, error_model="numpy")
def _trace(targets, x, y0, north, altitude, down, state, paths, energies, leaf):  # type: ignore[no-untyped-def]
    """Follow one ray (0, north, -down) from the sensor at (x, y0, altitude).

    Fills path length [m], share of the energy and whether it was a leaf, of each return.

    Returns
    -------
    the state of the random numbers and the number of returns
    """
    ground, roof, leaves, ceiling = targets.ground, targets.roof, targets.leaves, targets.ceiling
    cells, leaf_cells, ceiling_cells, per_metre = (
        targets.cells,
        targets.leaf_cells,
        targets.ceiling_cells,
        targets.layers_per_metre,
    )
    highest_roof = targets.highest_roof
    steps_per_drop = 1.0 / (down * STEP)
    # the ceiling holds for a cell around
    most = int(CEILING_CELL / (STEP * max(abs(north), 0.01)))
    step = int(max(0.0, (altitude - targets.highest) * steps_per_drop))
    step -= step % _STRIDE
    west, east, share_east = columns(cells, ground.shape, x)
    found = 0
    energy, depth, dead = 1.0, 0.0, 0.0
    state, u = _uniform(state)
    until = -math.log(u)
    fresh = True
    height = 0.0
    while True:
        start = step * STEP
        y, z = y0 + north * start, altitude - down * start
        row, col = row_col(ceiling_cells, ceiling.shape, x, y)
        free = min(int((z - ceiling[row, col]) * steps_per_drop), most)
        if free >= _STRIDE:
            step += free - free % _STRIDE
            fresh = True
            continue
        if fresh:
            height = z - ground_between(ground, cells, west, east, share_east, y)
            fresh = False
        ahead = start + _STRIDE * STEP
        height_ahead = altitude - down * ahead - ground_between(ground, cells, west, east, share_east, y0 + north * ahead)
        rise = (height_ahead - height) * (1.0 / _STRIDE)
        clear = height_ahead > highest_roof + _CLEARANCE
        over = height
        for _ in range(_STRIDE):
            end = start + STEP
            stop = end
            hit = False
            if not clear:
                y_end = y0 + north * end
                over_end = altitude - down * end - ground_between(ground, cells, west, east, share_east, y_end)
                top = roof_at(roof, cells, x, y_end) if over_end <= highest_roof else 0.0
                hit = over_end <= top
                if hit and top == 0.0:
                    # bilinear ground bends by far less than the range noise within a step
                    stop = start + STEP * over / (over - over_end)
                elif hit:
                    stop = _surface_crossing(ground, roof, cells, x, y0, north, altitude, down, start, end)
                over = over_end
            middle = 0.5 * (start + stop)
            above = height + rise * (middle - start) * (1.0 / STEP)
            density = leaf_density(leaves, leaf_cells, per_metre, x, y0 + north * middle, above)
            begin = max(start, dead)
            if density > 0.0 and begin < stop:
                rate = EXTINCTION * density
                if depth + rate * (stop - begin) >= until:
                    state, u = _uniform(state)
                    taken = energy * (0.25 + 0.5 * u)
                    paths[found] = begin + (until - depth) / rate
                    energies[found], leaf[found] = taken, True
                    dead = paths[found] + DEAD_DISTANCE
                    found += 1
                    energy -= taken
                    if found == MAX_RETURNS or energy < LEAST_ENERGY:
                        return state, found
                    state, u = _uniform(state)
                    until, depth = -math.log(u), 0.0
                else:
                    depth += rate * (stop - begin)
            if hit:
                if stop >= dead:
                    paths[found], energies[found], leaf[found] = stop, energy, False
                    found += 1
                return state, found
            start = end
            height += rise
        height = height_ahead
        step += _STRIDE


@njit(cache=True, error_model="numpy")
def trace_strip(targets: Any, strip: Any, core: Any, out: Any) -> int:
    """Trace part of a flight line, in the order in which it was flown.

    Parameters
    ----------
    targets : `Targets`
    strip : `Strip`
    core : xmin, ymin, xmax, ymax in mm from the scene's corner; half-open, returns elsewhere are left out
    out : [at least `MAX_RETURNS` times the pulses] of `POINT`, is filled from the start

    Returns
    -------
    int
        How many returns there are.
    """
    paths, energies = np.empty(MAX_RETURNS), np.empty(MAX_RETURNS)
    leaf = np.empty(MAX_RETURNS, np.bool_)
    ground, roof, cells, shape = targets.ground, targets.roof, targets.cells, targets.ground.shape
    cover, species, canopy, near_roof = targets.cover, targets.species, targets.canopy, targets.near_roof
    reflectance, colour = targets.reflectance, targets.colour
    count = 0
    eastward = strip.period > 0.0
    for number in range(strip.stop_sweep - strip.first_sweep):
        sweep = strip.first_sweep + number if eastward else strip.stop_sweep - 1 - number
        key = pulse_key(strip.key, sweep)
        for pulse in range(strip.first_pulse, strip.stop_pulse):
            state = pulse_key(key, pulse)
            state, u = _uniform(state)
            state, v = _uniform(state)
            x = (sweep + 0.5 + _JITTER * (2.0 * u - 1.0)) * strip.along
            aside = (pulse + 0.5 + _JITTER * (2.0 * v - 1.0)) * strip.across - strip.half_swath
            slant = math.hypot(aside, strip.height)
            north, down = aside / slant, strip.height / slant
            state, error_x, error_y = _normals(state)
            state, lottery = _uniform(state)
            noise = lottery < 2.0 * NOISE_SHARE
            if noise:
                # a lone echo over or under the aim point itself, so that it needs no ground elsewhere
                state, u = _uniform(state)
                above = 10.0 + 190.0 * u if lottery < NOISE_SHARE else -1.0 - 14.0 * u
                drop = strip.altitude - ground_at(ground, cells, x, strip.y + aside) - above
                if abs(aside) > drop * strip.half_swath / strip.height:
                    continue
                slant = math.hypot(aside, drop)
                north, down = aside / slant, drop / slant
                found = 1
                paths[0], energies[0], leaf[0] = slant, 0.3, False
            else:
                state, found = _trace(targets, x, strip.y, north, strip.altitude, down, state, paths, energies, leaf)
            angle = math.degrees(math.atan2(north, down))
            # LAS 1.4: negative on the left of the aircraft
            scan_angle = -angle if eastward else angle
            if found and not noise and not leaf[found - 1]:
                row, col = row_col(cells, shape, x, strip.y + north * paths[found - 1])
                if cover[row, col] == _WATER_COVER and roof[row, col] <= 0.0:
                    state, u = _uniform(state)
                    found -= u >= (WATER_KEPT[0] if abs(angle) < ANGLE_OF_GLINT else WATER_KEPT[1])
            time = strip.start + sweep * strip.period + (pulse + 0.5) / strip.pulses * abs(strip.period)
            for index in range(found):
                path = paths[index]
                y, z = strip.y + north * path, strip.altitude - down * path
                state, range_error, intensity_error = _normals(state)
                state, brightness = _uniform(state)
                state, draw = _uniform(state)
                measured = path + RANGE_NOISE * range_error
                x_mm = round((x + POINTING_NOISE * error_x) * 1000.0)
                y_mm = round((strip.y + north * measured + POINTING_NOISE * error_y) * 1000.0)
                if x_mm < core[0] or x_mm >= core[2] or y_mm <= core[1] or y_mm > core[3]:
                    continue
                row, col = row_col(cells, shape, x, y)
                height = z - ground_at(ground, cells, x, y)
                cosine = 1.0
                if noise:
                    kind, given = NOISE_KIND, (_HIGH_NOISE if height > 0.0 else _LOW_NOISE)
                else:
                    if leaf[index]:
                        kind = int(leaf_kind(species[row, col], cover[row, col], canopy[row, col], height))
                    else:
                        kind = _BUILDING_COVER if roof[row, col] > 0.0 else int(cover[row, col])
                        cosine = incidence(ground, roof, cells, x, y, north, down)
                    right = _class(kind, leaf[index], height)
                    given = _mistaken(right, kind, near_roof[row, col], draw)
                strength = reflectance[kind] * energies[index] * (_REFERENCE_RANGE / path) ** 2 * cosine
                light = 1.0 + _BRIGHTNESS_NOISE * math.sqrt(3.0) * (2.0 * brightness - 1.0)
                point = out[count]
                point.gps_time = time
                point.x, point.y, point.z = x_mm, y_mm, round((strip.altitude - down * measured) * 1000.0)
                point.scan_angle = scan_angle
                point.intensity = min(65535.0, _INTENSITY * strength * max(0.0, 1.0 + _INTENSITY_NOISE * intensity_error))
                point.point_source_id = strip.number
                point.return_number, point.number_of_returns = index + 1, found
                point.classification, point.kind = given, kind
                point.red, point.green = light * colour[kind, 0], light * colour[kind, 1]
                point.blue, point.nir = light * colour[kind, 2], light * colour[kind, 3]
                count += 1
    return count
