"""Biomass of trees spread over their crowns."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from fusion3d.simulate.model import Box, Trees

Float64 = npt.NDArray[np.float64]

_PART = 0.5
"""Metres: a crown's projection is reckoned in squares of this side."""


def spread_biomass(trees: Trees, box: Box, cell: float) -> Float64:
    """Above-ground biomass [R, C], kg, of the parts of the trees that hang over each cell.

    A tree's biomass lies evenly over its crown's projection, so what hangs beyond the box is left out and totals are kept. The
    projection is the squares of 0.5 m whose centres it holds, at least that of the stem.
    """
    rows, cols = box.shape(cell)
    return _spread(trees.x, trees.y, trees.crown_radius, trees.agb, box.xmin, box.ymax, rows, cols, round(cell / _PART))


@njit(cache=True)
def _spread(
    x: Float64, y: Float64, radius: Float64, agb: Float64, left: float, top: float, rows: int, cols: int, parts: int
) -> Float64:
    result = np.zeros((rows, cols))
    for t in range(x.size):
        u, v, reach = (x[t] - left) / _PART, (top - y[t]) / _PART, radius[t] / _PART
        stem_row, stem_col = math.ceil(v) - 1, math.floor(u)
        first_row, last_row = math.floor(v - reach), math.floor(v + reach)
        first_col, last_col = math.floor(u - reach), math.floor(u + reach)
        count = 0
        for spreading in (False, True):
            for row in range(first_row, last_row + 1):
                for col in range(first_col, last_col + 1):
                    own = row == stem_row and col == stem_col
                    if not own and (row + 0.5 - v) ** 2 + (col + 0.5 - u) ** 2 > reach * reach:
                        continue
                    if not spreading:
                        count += 1
                    elif 0 <= row < rows * parts and 0 <= col < cols * parts:
                        result[row // parts, col // parts] += agb[t] / count
    return result
