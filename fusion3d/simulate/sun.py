"""The sun over a simulated scene: where it stands, how it falls on slopes, and what lies in shadow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from fusion3d.simulate.model import Float32

LATITUDE, LONGITUDE = 46.2, 5.6
"""Degrees, of the scenes' south-west corner; the few kilometres of a scene change nothing."""


@dataclass(frozen=True)
class Sun:
    """Elevation above the horizon and azimuth clockwise from north, degrees. Grid north is taken as true north."""

    elevation: float
    azimuth: float

    @property
    def direction(self) -> tuple[float, float, float]:
        """Unit vector to the sun: east, north, up."""
        elevation, azimuth = math.radians(self.elevation), math.radians(self.azimuth)
        across = math.cos(elevation)
        return across * math.sin(azimuth), across * math.cos(azimuth), math.sin(elevation)


def sun_at(day_of_year: float, hour: float) -> Sun:
    """Position of the sun at an hour of UTC; declination and equation of time after Spencer (1971), good to 0.1 degrees."""
    angle = 2 * math.pi * (day_of_year - 1) / 365
    one, two, three = angle, 2 * angle, 3 * angle
    declination = (0.006918 - 0.399912 * math.cos(one) + 0.070257 * math.sin(one) - 0.006758 * math.cos(two)
                   + 0.000907 * math.sin(two) - 0.002697 * math.cos(three) + 0.00148 * math.sin(three))  # fmt: skip
    minutes = 229.18 * (0.000075 + 0.001868 * math.cos(one) - 0.032077 * math.sin(one) - 0.014615 * math.cos(two)
                        - 0.040849 * math.sin(two))  # fmt: skip
    hour_angle = math.radians(15 * (hour + LONGITUDE / 15 + minutes / 60 - 12))
    latitude = math.radians(LATITUDE)
    east = -math.cos(declination) * math.sin(hour_angle)
    north = math.cos(latitude) * math.sin(declination) - math.sin(latitude) * math.cos(declination) * math.cos(hour_angle)
    up = math.sin(latitude) * math.sin(declination) + math.cos(latitude) * math.cos(declination) * math.cos(hour_angle)
    return Sun(math.degrees(math.asin(up)), math.degrees(math.atan2(east, north)) % 360)


def towards(height: Float32, cell: float, direction: tuple[float, float, float]) -> Float32:
    """Cosine between the normals of a surface and a direction; negative where the surface faces away.

    Parameters
    ----------
    height : [R, C] metres, the northernmost row first
    cell : metres
    direction : unit vector: east, north, up
    """
    return _towards(np.asarray(height, np.float32), cell, *direction)


def lit(height: Float32, cell: float, sun: Sun, reach: float, edge: int = 0) -> Float32:
    """1 where the sun sees a surface, 0 where it lies in shadow.

    Parameters
    ----------
    height : [R, C] metres, the northernmost row first
    cell : metres
    reach : metres along the ground beyond which nothing casts a shadow; the result does not depend on the window farther than
        this from its edges
    edge : cells along each side that the result leaves out

    Returns
    -------
    [R - 2 edge, C - 2 edge]

    Notes
    -----
    From every cell a ray is marched towards the sun in steps of a cell.
    """
    if sun.elevation <= 0:
        return np.zeros((height.shape[0] - 2 * edge, height.shape[1] - 2 * edge), np.float32)
    top = np.asarray(height, np.float32)
    azimuth = math.radians(sun.azimuth)
    return _march(top, math.sin(azimuth), -math.cos(azimuth), cell * math.tan(math.radians(sun.elevation)), int(reach / cell),
                  float(top.max()) if top.size else 0.0, edge)  # fmt: skip


@numba.njit(cache=True, fastmath=True)
def _towards(height, cell, east, north, up):  # type: ignore[no-untyped-def]
    rows, cols = height.shape
    cosine = np.empty((rows, cols), np.float32)
    for row in range(rows):
        above, below = max(row - 1, 0), min(row + 1, rows - 1)
        for col in range(cols):
            left, right = max(col - 1, 0), min(col + 1, cols - 1)
            dx = (height[row, right] - height[row, left]) / (max(right - left, 1) * cell)
            dy = (height[above, col] - height[below, col]) / (max(below - above, 1) * cell)
            cosine[row, col] = (up - dx * east - dy * north) / math.sqrt(1.0 + dx * dx + dy * dy)
    return cosine


@numba.njit(cache=True)
def _march(top, right, down, climb, steps, highest, edge):  # type: ignore[no-untyped-def]
    rows, cols = top.shape
    seen = np.ones((rows - 2 * edge, cols - 2 * edge), np.float32)
    shift_row = np.empty(steps + 1, np.int64)
    shift_col = np.empty(steps + 1, np.int64)
    for step in range(steps + 1):
        shift_row[step] = int(np.floor(step * down + 0.5))
        shift_col[step] = int(np.floor(step * right + 0.5))
    for row in range(edge, rows - edge):
        for col in range(edge, cols - edge):
            ray = top[row, col]
            for step in range(1, steps + 1):
                ray += climb
                if ray >= highest:
                    break
                r, c = row + shift_row[step], col + shift_col[step]
                if r < 0 or c < 0 or r >= rows or c >= cols:
                    break
                if top[r, c] > ray:
                    seen[row - edge, col - edge] = 0.0
                    break
    return seen
