"""Count, mean, extremes and exact percentiles of values in cells: a counting sort into cells, then one sort in each; compiled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from fusion3d.grid import Grid, Window
from fusion3d.prepare.cells import half_open

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class CellStatistics:
    """Statistics of cells [M], NaN where a cell holds no value.

    Attributes
    ----------
    count, mean, low, high : [M]
    percentiles : [M, Q], linear between order statistics (type 7 of Hyndman and Fan 1996)
    """

    count: Float64
    mean: Float64
    low: Float64
    high: Float64
    percentiles: Float64


def cell_statistics(cell: Int32, values: Float64, cells: int, ranks: Float64) -> CellStatistics:
    """Statistics of values by cell; they do not depend on the order of the values.

    Parameters
    ----------
    cell : [N] in [0, cells); values in other cells do not count
    values : [N] finite
    ranks : [Q] percentiles, 0 to 100
    """
    return CellStatistics(*_statistics(cell, values, cells, ranks / 100.0))


@njit(cache=True)
def _statistics(
    cell: Int32, values: Float64, cells: int, shares: Float64
) -> tuple[Float64, Float64, Float64, Float64, Float64]:  # pragma: no cover - compiled
    splits = np.zeros(cells + 1, np.int64)
    for number in range(len(cell)):
        if 0 <= cell[number] < cells:
            splits[cell[number] + 1] += 1
    for at in range(cells):
        splits[at + 1] += splits[at]
    place = splits[:-1].copy()
    ordered = np.empty(splits[-1])
    for number in range(len(cell)):
        at = cell[number]
        if 0 <= at < cells:
            ordered[place[at]] = values[number]
            place[at] += 1
    count, mean, low, high = np.full(cells, np.nan), np.full(cells, np.nan), np.full(cells, np.nan), np.full(cells, np.nan)
    percentiles = np.full((cells, len(shares)), np.nan)
    for at in range(cells):
        inside = ordered[splits[at] : splits[at + 1]]
        held = len(inside)
        if held == 0:
            continue
        inside.sort()
        total = 0.0
        for value in inside:
            total += value - inside[0]
        count[at], mean[at], low[at], high[at] = held, inside[0] + total / held, inside[0], inside[-1]
        for rank in range(len(shares)):
            position = shares[rank] * (held - 1)
            below = min(int(position), held - 1)
            above = min(below + 1, held - 1)
            percentiles[at, rank] = inside[below] + (inside[above] - inside[below]) * (position - below)
    return count, mean, low, high, percentiles


def cells_in(grid: Grid, window: Window, x: Float64, y: Float64) -> Int32:
    """[N] cell of each point within a window, in row order; a point outside counts to the nearest cell of its edge.

    Rows and columns are those of `Grid.cell_of`, to the bit.
    """
    return np.asarray(_cells(x, y, grid.x0, grid.y0, grid.cell, window.row, window.col, window.rows, window.cols))


@njit(cache=True)
def _cells(
    x: Float64, y: Float64, x0: float, y0: float, cell: float, first_row: int, first_col: int, rows: int, cols: int
) -> Int32:  # pragma: no cover - compiled
    found = np.empty(len(x), np.int32)
    for number in range(len(x)):
        row = min(max(half_open((y0 - y[number]) / cell) - first_row, 0), rows - 1)
        col = min(max(half_open((x[number] - x0) / cell) - first_col, 0), cols - 1)
        found[number] = row * cols + col
    return found
