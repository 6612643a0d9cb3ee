"""Ground under points from their positions alone: a file's own ground class would tell the answer.

Lowest points of 1 m cells; objects are cut off by openings with growing windows, a cell being one where an opening lowers the
surface by more than slope x window (progressive morphological filter: Zhang et al. 2003, IEEE TGRS 41; thresholds as in SMRF,
Pingel et al. 2013, ISPRS 77). Through the cells that are left, planes are fitted by weighted least squares in Gaussian windows,
the smallest that holds enough of them. Each step reaches a bounded number of cells, so that the ground under a point does not
depend on where a tile was cut. Roofs wider than about 49 m are taken for ground.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from fusion3d.tasks.segmentation.cloud import Box, PointSource

Float64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

CELL = 1.0
"""Metres."""
_SIDE = 192
_FILL = 8
_OUTLIER = 2.0
_RADII = (1, 2, 4, 8, 16, 24)
_SLOPE = 0.15
_SIGMAS = (1.0, 4.0, 14.0)
_TRUNCATE = 2.5
_SUPPORT = (0.1, 0.1, 0.01)
"""Least share of a window's weight that must be on ground cells."""
_FIT = round(_SIGMAS[-1] * _TRUNCATE)
_FILTER = _FILL + 2 + 2 * sum(_RADII)
REACH = _FILTER + _FIT
"""Cells by which a point can be away from the ground that it changes."""
assert REACH < _SIDE


class GroundModel:
    """Ground of a source of points, computed in squares when it is asked for."""

    def __init__(self, source: PointSource) -> None:
        self.source = source
        # a row of squares and its neighbours stay in memory on the way through a scene
        self._lowest = lru_cache(maxsize=128)(self._compute_lowest)
        self._surface = lru_cache(maxsize=32)(self._compute_surface)

    def height(self, east: Float64, south: Float64, z: Float64) -> Float64:
        """[N] metres above ground of points [N]; NaN where there is none within reach."""
        if not len(z):
            return np.zeros(0)
        # bilinear between the centres of cells
        row, col = south / CELL - 0.5, east / CELL - 0.5
        first = int(np.floor(row.min())), int(np.floor(col.min()))
        last = int(np.floor(row.max())) + 2, int(np.floor(col.max())) + 2
        surface = self._assemble(self._surface, *first, *last)
        row, col = row - first[0], col - first[1]
        top, left = np.floor(row).astype(np.intp), np.floor(col).astype(np.intp)
        down, right = row - top, col - left
        upper = surface[top, left] * (1 - right) + surface[top, left + 1] * right
        lower = surface[top + 1, left] * (1 - right) + surface[top + 1, left + 1] * right
        return np.asarray(z - (upper * (1 - down) + lower * down))

    def _assemble(self, square: Callable[[int, int], Float64], row: int, col: int, row_stop: int, col_stop: int) -> Float64:
        """Cells of squares, joined to the rectangle of rows ``row:row_stop`` and columns ``col:col_stop``."""
        found = np.full((row_stop - row, col_stop - col), np.nan)
        for i in range(row // _SIDE, (row_stop - 1) // _SIDE + 1):
            for j in range(col // _SIDE, (col_stop - 1) // _SIDE + 1):
                part = square(i, j)
                rows = slice(max(row, i * _SIDE), min(row_stop, (i + 1) * _SIDE))
                cols = slice(max(col, j * _SIDE), min(col_stop, (j + 1) * _SIDE))
                inside = part[rows.start - i * _SIDE : rows.stop - i * _SIDE, cols.start - j * _SIDE : cols.stop - j * _SIDE]
                found[rows.start - row : rows.stop - row, cols.start - col : cols.stop - col] = inside
        return found

    def _compute_lowest(self, i: int, j: int) -> Float64:
        side = _SIDE * CELL
        cloud = self.source.points(Box(j * side, i * side, (j + 1) * side, (i + 1) * side))
        found = np.full(_SIDE * _SIDE, np.inf)
        row = np.clip(np.floor(cloud.south / CELL).astype(np.int64) - i * _SIDE, 0, _SIDE - 1)
        col = np.clip(np.floor(cloud.east / CELL).astype(np.int64) - j * _SIDE, 0, _SIDE - 1)
        np.minimum.at(found, row * _SIDE + col, cloud.z)
        return found.reshape(_SIDE, _SIDE)

    def _compute_surface(self, i: int, j: int) -> Float64:
        row, col = i * _SIDE, j * _SIDE
        near = self._assemble(self._lowest, row - REACH, col - REACH, row + _SIDE + REACH, col + _SIDE + REACH)
        if not np.isfinite(near).any():
            return np.full((_SIDE, _SIDE), np.nan)
        return ground_surface(near)


def ground_surface(lowest: Float64) -> Float64:
    """Elevation of the ground in the middle of cells.

    Parameters
    ----------
    lowest : [rows, cols] elevation of the lowest point of each cell, inf where there is none, metres

    Returns
    -------
    [rows - 2 REACH, cols - 2 REACH] metres, of the cells that far from the edges; NaN without ground nearby
    """
    filled = _filled(_without_pits(lowest))
    last, ground = filled, np.isfinite(filled)
    for radius in _RADII:
        opened = _opened(last, radius)
        with np.errstate(invalid="ignore"):
            ground &= ~(last - opened > _SLOPE * radius * CELL)
        last = opened
    inner = slice(_FILTER, -_FILTER)
    filled, ground = filled[inner, inner], ground[inner, inner]
    found = np.full((lowest.shape[0] - 2 * REACH, lowest.shape[1] - 2 * REACH), np.nan)
    for sigma, support in zip(_SIGMAS, _SUPPORT, strict=True):
        wanted = np.isnan(found)
        if not wanted.any():
            break
        found[wanted] = _planes(filled, ground, sigma, support, wanted)
    return found


def _without_pits(lowest: Float64) -> Float64:
    """Single cells far below all of their neighbours (low noise) raised to the lowest neighbour."""
    footprint = np.ones((3, 3), np.bool_)
    footprint[1, 1] = False
    around = ndimage.minimum_filter(lowest, footprint=footprint, mode="constant", cval=np.inf)
    pit = np.isfinite(lowest) & np.isfinite(around) & (lowest < around - _OUTLIER)
    return np.where(pit, around, lowest)


def _filled(lowest: Float64) -> Float64:
    """Empty cells take the lowest of the nearest ring of cells that holds some."""
    found = lowest.copy()
    for radius in range(1, _FILL + 1):
        empty = np.isinf(found)
        if not empty.any():
            break
        found[empty] = ndimage.minimum_filter(lowest, 2 * radius + 1, mode="constant", cval=np.inf)[empty]
    return found


def _opened(surface: Float64, radius: int) -> Float64:
    """Morphological opening with a square window; cells without a value do not take part."""
    size = 2 * radius + 1
    eroded = ndimage.minimum_filter(surface, size, mode="constant", cval=np.inf)
    eroded[np.isinf(eroded)] = -np.inf
    opened = ndimage.maximum_filter(eroded, size, mode="constant", cval=-np.inf)
    opened[np.isinf(surface)] = np.inf
    return opened


def _planes(z: Float64, known: BoolArray, sigma: float, support: float, wanted: BoolArray) -> Float64:
    """Value in the middle of the plane that fits the known cells around each wanted cell, NaN where these weigh too little.

    Parameters
    ----------
    wanted : of the cells `_FIT` and more from the edges of `z`
    """
    reach = round(sigma * _TRUNCATE)
    offset = np.arange(-reach, reach + 1, dtype=np.float64)
    kernels = [np.exp(-(offset**2) / (2 * sigma**2)) * offset**power for power in range(3)]
    inner = slice(_FIT, -_FIT)

    def moment(values: Float64, down: int, right: int) -> Float64:
        along = ndimage.correlate1d(values, kernels[down], axis=0, mode="constant")
        return np.asarray(ndimage.correlate1d(along, kernels[right], axis=1, mode="constant")[inner, inner][wanted])

    weight, value = known.astype(np.float64), np.where(known, z, 0.0)
    found = np.full(int(wanted.sum()), np.nan)
    total = moment(weight, 0, 0)
    enough = total > support * kernels[0].sum() ** 2
    if not enough.any():
        return found
    s = {at: moment(weight, *at)[enough] for at in ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2))}
    total = total[enough]
    # a little stiffness: cells on one line, or on one side alone, do not tilt the plane at will
    stiff = 0.05 * sigma**2 * total
    rows = ((total, s[1, 0], s[0, 1]), (s[1, 0], s[2, 0] + stiff, s[1, 1]), (s[0, 1], s[1, 1], s[0, 2] + stiff))
    matrix = np.stack([np.stack(row, axis=1) for row in rows], axis=1)
    right_side = np.stack([moment(value, *at)[enough] for at in ((0, 0), (1, 0), (0, 1))], axis=1)
    # about the mean of the window, so that the stiffness pulls towards level ground and not towards elevation 0
    mean = right_side[:, 0] / total
    right_side -= mean[:, None] * matrix[:, 0]
    found[enough] = mean + np.linalg.solve(matrix, right_side[:, :, None])[:, 0, 0]
    return found
