"""Height above ground from ground-classified points: a triangulated irregular network (Delaunay), linear inside each triangle."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import QhullError, cKDTree

Float64 = npt.NDArray[np.float64]

THINNING = 0.5
"""Ground points are averaged in cells of this size (metres) before triangulation."""


def describe_ground(normalized: bool, classes: tuple[int, ...], buffer: float) -> dict[str, Any]:
    """The ground model in plain types, for the store's metadata."""
    if normalized:
        return {"method": "none: heights in the files are above ground"}
    return {
        "method": "TIN (Delaunay), nearest ground point outside of the hull",
        "classes": list(classes),
        "thinning_m": THINNING,
        "buffer_m": buffer,
    }


def thin(points: Float64, size: float = THINNING) -> Float64:
    """Mean x, y, z of the ground points in each cell of `size`.

    Parameters
    ----------
    points : [N, 3] metres
    """
    if len(points) == 0:
        return points
    # Cells are anchored at zero, so both sides of a block's edge thin the same way.
    cells = np.floor(points[:, :2] / size).astype(np.int64)
    order = np.lexsort((points[:, 2], points[:, 1], points[:, 0], cells[:, 1], cells[:, 0]))
    cells, points = cells[order], points[order]
    first = np.flatnonzero(np.r_[True, (np.diff(cells, axis=0) != 0).any(axis=1)])
    counts = np.diff(np.r_[first, len(points)])
    return np.asarray(np.add.reduceat(points, first, axis=0) / counts[:, None])


def ground_elevation(ground: Float64, x: Float64, y: Float64, reach: float) -> Float64:
    """Elevation of the ground under points.

    Parameters
    ----------
    ground : [G, 3] ground points, metres, near a local origin
    x, y : [N] metres
    reach : ground farther than this from a point outside of the hull does not count, metres

    Returns
    -------
    [N] metres; NaN where no ground point is near
    """
    if len(ground) == 0 or len(x) == 0:
        return np.full(len(x), np.nan)
    elevation = np.full(len(x), np.nan)
    # Fewer than three points, or all on one line, have no triangle: there the nearest one serves.
    with contextlib.suppress(QhullError, ValueError):
        elevation = LinearNDInterpolator(ground[:, :2], ground[:, 2])(x, y)
    outside = np.isnan(elevation)
    if outside.any():
        distance, nearest = cKDTree(ground[:, :2]).query(np.c_[x[outside], y[outside]], distance_upper_bound=reach)
        found = np.isfinite(distance)
        values = np.full(int(outside.sum()), np.nan)
        values[found] = ground[nearest[found], 2]
        elevation[outside] = values
    return elevation
