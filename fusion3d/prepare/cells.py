"""Points by cell: which cell, in what order, summed; compiled passes in place of sorts of whole tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from fusion3d.grid import INTEGER_TOLERANCE, Grid

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]

_DENSE = 1 << 20
"""Cells that may be numbered by their place in the rectangle around them, however few points there are."""


@dataclass(frozen=True)
class Places:
    """Where points lie in a grid.

    Attributes
    ----------
    inside : [N] bool
    block_row, block_col : [N] int64, of points inside
    column : [N] int64, in its block, in row order
    """

    inside: npt.NDArray[np.bool_]
    block_row: Int64
    block_col: Int64
    column: Int64

    def kept(self) -> Places:
        """Those of the points inside."""
        where = self.inside
        return Places(where[where], self.block_row[where], self.block_col[where], self.column[where])


def places_of(grid: Grid, x: Float64, y: Float64) -> Places:
    """Places of points [N]; the columns are those of `Grid.cell_of`, to the bit."""
    return Places(*_places(x, y, grid.x0, grid.y0, grid.cell, grid.rows, grid.cols, grid.block))


@njit(cache=True)
def _places(
    x: Float64, y: Float64, x0: float, y0: float, cell: float, rows: int, cols: int, side: int
) -> tuple[npt.NDArray[np.bool_], Int64, Int64, Int64]:  # pragma: no cover - compiled
    inside = np.empty(len(x), np.bool_)
    block_row, block_col, column = (np.empty(len(x), np.int64), np.empty(len(x), np.int64), np.empty(len(x), np.int64))
    for number in range(len(x)):
        row, col = half_open((y0 - y[number]) / cell), half_open((x[number] - x0) / cell)
        inside[number] = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
        block_row[number], block_col[number] = row // side, col // side
        # blocks at the eastern edge are clipped: their rows are shorter
        width = min(side, cols - block_col[number] * side)
        column[number] = (row - block_row[number] * side) * width + col - block_col[number] * side
    return inside, block_row, block_col, column


@njit(inline="always")
def half_open(cells: float) -> np.int64:  # pragma: no cover - compiled
    """The cell of a coordinate in cells, by the grid's rule."""
    nearest = np.rint(cells)
    return np.int64(nearest if abs(cells - nearest) <= INTEGER_TOLERANCE else np.floor(cells))


@njit(cache=True)
def lattice_cells(values: npt.NDArray[Any], start: float, step: float, size: float) -> Int64:  # pragma: no cover - compiled
    """[N] cells of a size that hold start + step * values; up to a micrometre below an edge counts as on it."""
    found = np.empty(len(values), np.int64)
    for number in range(len(values)):
        found[number] = np.int64(np.floor((start + step * values[number] + INTEGER_TOLERANCE) / size))
    return found


@njit(cache=True)
def counts(values: npt.NDArray[Any], size: int) -> Int64:  # pragma: no cover - compiled
    """[size] how often each integer in [0, size) occurs."""
    found = np.zeros(size, np.int64)
    for number in range(len(values)):
        found[values[number]] += 1
    return found


def numbered(row: Int64, col: Int64) -> tuple[Int64, Int64, Int64]:
    """Number the cells that occur.

    Parameters
    ----------
    row, col : [N] cell of each point

    Returns
    -------
    [N] number of each point's cell, and [K] row and column of the cells, in row order
    """
    if len(row) == 0:
        return (np.zeros(0, np.int64),) * 3
    top, bottom, left, right = _extent(row, col)
    width = right - left + 1
    if (bottom - top + 1) * width <= max(_DENSE, 4 * len(row)):
        number, keys = _number(row, col, top, left, width, (bottom - top + 1) * width)
    else:
        keys, number = np.unique((row - top) * width + (col - left), return_inverse=True)
    return number, keys // width + top, keys % width + left


@njit(cache=True)
def _extent(row: Int64, col: Int64) -> tuple[Any, Any, Any, Any]:  # pragma: no cover - compiled
    top, bottom, left, right = row[0], row[0], col[0], col[0]
    for number in range(len(row)):
        top, bottom = min(top, row[number]), max(bottom, row[number])
        left, right = min(left, col[number]), max(right, col[number])
    return top, bottom, left, right


@njit(cache=True)
def _number(row: Int64, col: Int64, top: int, left: int, width: int, size: int) -> tuple[Int64, Int64]:  # pragma: no cover
    found = np.zeros(size, np.int64)
    for number in range(len(row)):
        found[(row[number] - top) * width + col[number] - left] = 1
    keys = np.flatnonzero(found)
    for number in range(len(keys)):
        found[keys[number]] = number
    numbers = np.empty(len(row), np.int64)
    for number in range(len(row)):
        numbers[number] = found[(row[number] - top) * width + col[number] - left]
    return numbers, keys


def sorted_by(number: npt.NDArray[Any], count: int) -> tuple[Int32 | Int64, Int64]:
    """Counting sort, stable.

    Parameters
    ----------
    number : [N] integers in [0, count)

    Returns
    -------
    [N] positions in the order of their numbers, and [count + 1] where each number begins
    """
    return _sorted_by(number, count, np.empty(len(number), np.int32 if len(number) < 1 << 31 else np.int64))


@njit(cache=True)
def _sorted_by(number: Any, count: int, order: Any) -> tuple[Any, Int64]:  # pragma: no cover - compiled
    splits = np.zeros(count + 1, np.int64)
    for position in range(len(number)):
        splits[number[position] + 1] += 1
    for cell in range(count):
        splits[cell + 1] += splits[cell]
    place = splits[:-1].copy()
    for position in range(len(number)):
        order[place[number[position]]] = position
        place[number[position]] += 1
    return order, splits


@njit(cache=True)
def sums(number: Int64, values: npt.NDArray[Any], count: int) -> Int64:  # pragma: no cover - compiled
    """[count] sums of integers [N] by number, exact."""
    total = np.zeros(count, np.int64)
    for position in range(len(number)):
        total[number[position]] += values[position]
    return total


def taken(values: npt.NDArray[Any], order: Int32 | Int64) -> npt.NDArray[Any]:
    """`values[order]`, at a third of the cost where each value is of one, two, four or eight bytes; positions are not checked."""
    size = values.dtype.itemsize
    if values.ndim > 1 or size not in (1, 2, 4, 8):
        return values[order]
    plain = np.ascontiguousarray(values).view(f"u{size}")
    return np.asarray(_taken(plain, order)).view(values.dtype)


@njit(cache=True)
def _taken(values: Any, order: Any) -> Any:  # pragma: no cover - compiled
    found = np.empty(len(order), values.dtype)
    for position in range(len(order)):
        found[position] = values[order[position]]
    return found


@njit(cache=True)
def listed(values: npt.NDArray[np.uint8], wanted: npt.NDArray[np.bool_]) -> Int64:  # pragma: no cover - compiled
    """Positions of the values [N] that `wanted` [256] says yes to."""
    found, count = np.empty(len(values), np.int64), 0
    for position in range(len(values)):
        found[count] = position
        count += wanted[values[position]]
    return found[:count]


def narrow(values: npt.NDArray[Any], start: int) -> npt.NDArray[Any]:
    """`values` [N] - `start` as int32 where that holds them all: a block of fine scales or large columns needs int64."""
    found, fits = _narrow(values, start)
    return found if fits else values.astype(np.int64) - start


@njit(cache=True)
def _narrow(values: Any, start: int) -> tuple[Int32, Any]:  # pragma: no cover - compiled
    found, low, high = np.empty(len(values), np.int32), np.int64(0), np.int64(0)
    for position in range(len(values)):
        value = np.int64(values[position]) - start
        low, high = min(low, value), max(high, value)
        found[position] = value
    return found, low >= -(1 << 31) and high < 1 << 31
