"""Polygons carried from one CRS to another, their edges cut first: what is straight in one is curved in the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS, Transformer

from fusion3d.grid import map_crs, same_map_crs

Polygons = npt.NDArray[np.object_]
"""[N] shapely polygons; None for none."""

_PARTS = 8
"""Into which the longer side of a polygon's bounds is cut."""


def moved(polygons: Polygons, source: CRS, target: CRS, parts: int = _PARTS) -> Polygons:
    """Polygons [N] in another CRS, horizontally; None for those that have no place there.

    Parameters
    ----------
    parts : into which the longer side of each polygon's bounds is cut
    """
    if same_map_crs(source, target):
        return polygons
    bounds = shapely.bounds(polygons)
    longest = np.fmax(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1])
    cut = polygons.copy()
    # a rectangle of one point has nothing to cut
    long = np.isfinite(longest) & (longest > 0)
    cut[long] = shapely.segmentize(polygons[long], longest[long] / parts)
    transformer = Transformer.from_crs(map_crs(source), map_crs(target), always_xy=True)
    coordinates, owner = shapely.get_coordinates(cut, return_index=True)
    x, y = transformer.transform(coordinates[:, 0], coordinates[:, 1])
    bad = np.unique(owner[~(np.isfinite(x) & np.isfinite(y))])
    placed = shapely.set_coordinates(cut, np.c_[x, y])
    placed[bad] = None
    return placed
