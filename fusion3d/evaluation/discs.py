"""Circular plots as polygons: a centre and a radius on the ground, in any CRS."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS, Proj, Transformer
from pyproj.exceptions import ProjError

from fusion3d.grid import map_crs, metric_unit

Float64 = npt.NDArray[np.float64]

_VERTICES = 128
_MOST_DISTORTED = 0.01
"""Scale error of a projection up to which its metres are those of the ground."""


def discs(x: Float64, y: Float64, radius: Float64, crs: CRS) -> npt.NDArray[np.object_]:
    """Polygons [P] of 128 vertices with the area of a disc, pi r^2.

    Parameters
    ----------
    x, y : [P] centres, CRS units (degrees for a geographic CRS)
    radius : [P] metres

    In a projected CRS whose scale is true to 1 % a disc is round on the map, in the map's metres, as cells are. In degrees, and
    where a projection distorts more (Web Mercator does, by a third at 45 degrees), it is round on the ellipsoid.
    """
    angle = 2 * math.pi * np.arange(_VERTICES) / _VERTICES
    # vertices a little outside the circle, so that the polygon has the disc's area
    wide = radius * math.sqrt(2 * math.pi / (_VERTICES * math.sin(2 * math.pi / _VERTICES)))
    flat = map_crs(crs)
    if not flat.is_geographic and true_to_scale(x, y, flat):
        reach = wide[:, None] / metric_unit(flat)
        ring_x, ring_y = x[:, None] + reach * np.cos(angle), y[:, None] + reach * np.sin(angle)
    else:
        ring_x, ring_y = _geodesic_rings(x, y, wide, flat, angle)
    return shapely.polygons(np.stack([ring_x, ring_y], axis=2))


def true_to_scale(x: Float64, y: Float64, crs: CRS) -> bool:
    """Whether a projected CRS keeps lengths to 1 % at each of the points; where it is not meant to be used, it counts as true."""
    try:
        longitude, latitude = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(x, y)
        factors = Proj(crs).get_factors(longitude, latitude, errcheck=False)
    except (ProjError, TypeError):
        return True
    scale = np.array([factors.meridional_scale, factors.parallel_scale])
    known = np.isfinite(scale) & (scale < 1e10)
    if (area := crs.area_of_use) is not None:
        known &= (longitude >= area.west) & (longitude <= area.east) & (latitude >= area.south) & (latitude <= area.north)
    return bool((np.abs(scale[known] - 1) <= _MOST_DISTORTED).all())


def _geodesic_rings(x: Float64, y: Float64, radius: Float64, crs: CRS, angle: Float64) -> tuple[Float64, Float64]:
    geod = crs.get_geod()
    assert geod is not None
    to_degrees = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    longitude, latitude = to_degrees.transform(x, y)
    shape = len(x), len(angle)
    spread = [np.broadcast_to(part, shape).ravel() for part in (longitude[:, None], latitude[:, None])]
    azimuth, distance = (np.broadcast_to(part, shape).ravel() for part in (np.degrees(angle)[None, :], radius[:, None]))
    ring_lon, ring_lat, _ = geod.fwd(*spread, azimuth, distance)
    ring_x, ring_y = to_degrees.transform(ring_lon, ring_lat, direction="INVERSE")
    return np.reshape(ring_x, shape), np.reshape(ring_y, shape)
