"""Values sorted within many cells at once: order statistics, counts and sums of each cell without a loop over cells.

Cell and value go into one 64-bit key, cell above, so that one sort of integers does both::

    bits 63..32   cell
    bits 31..0    the value as float32; of non-negative floats the bit patterns rise as the values do

Sums run over sorted values, so they do not depend on the order in which points are given.
"""

from __future__ import annotations

from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_Number = TypeVar("_Number", bound=np.generic)

_CELL = np.uint64(32)
_MOST_CELLS = 1 << 32


class SortedCells:
    """Non-negative values sorted by cell, then by value.

    Parameters
    ----------
    cell : [N] int64 in [0, cells)
    values : [N], finite and not negative, held as float32
    cells : M
    """

    def __init__(self, cell: Int64, values: npt.NDArray[np.generic], cells: int) -> None:
        assert cells <= _MOST_CELLS
        # adding 0 turns -0.0, whose bit pattern is the greatest, into 0.0
        bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)
        self._key = (cell.astype(np.uint64) << _CELL) | bits
        self._key.sort()
        self.values: Float32 = self._key.astype(np.uint32).view(np.float32)
        self.counts: Int64 = np.bincount(cell, minlength=cells)
        self.splits: Int64 = np.concatenate([[0], np.cumsum(self.counts)])

    @property
    def cells(self) -> int:
        return len(self.counts)

    @cached_property
    def exact(self) -> Float64:
        """[N] sorted values as float64."""
        return self.values.astype(np.float64)

    @cached_property
    def rank(self) -> Int64:
        """[N] place of each value in its cell, from 0."""
        return np.arange(len(self.values)) - self.spread(self.splits[:-1])

    def spread(self, of_cells: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
        """[N] what belongs to the cell of each value."""
        return np.repeat(of_cells, self.counts)

    def sums(self, of_values: npt.NDArray[np.generic]) -> Float64:
        """[M] sums over each cell of [N] terms; 0 for an empty cell."""
        return segment_sums(of_values, self.splits)

    @cached_property
    def mean(self) -> Float64:
        """[M] means, NaN for an empty cell."""
        with np.errstate(invalid="ignore"):
            return self.sums(self.exact) / self.counts

    @property
    def low(self) -> Float64:
        """[M] least values, NaN for an empty cell."""
        return self._at(self.splits[:-1])

    @property
    def high(self) -> Float64:
        """[M] greatest values, NaN for an empty cell."""
        return self._at(self.splits[1:] - 1)

    def _at(self, place: Int64) -> Float64:
        found = np.full(place.shape, np.nan)
        filled = np.broadcast_to(self.counts.reshape(-1, *[1] * (place.ndim - 1)) > 0, place.shape)
        found[filled] = self.values[place[filled]]
        return found

    def quantiles(self, shares: Float64) -> Float64:
        """[M, Q] quantiles, linear between order statistics (type 7 of Hyndman and Fan 1996); NaN for an empty cell."""
        last = np.maximum(self.counts - 1, 0)[:, None]
        position = last * shares
        below = np.floor(position).astype(np.int64)
        start = self.splits[:-1, None]
        low, high = self._at(start + below), self._at(start + np.minimum(below + 1, last))
        return low + (high - low) * (position - below)

    def count_at_most(self, limits: Float64) -> Int64:
        """[M, T] values that are not above limits [T] or [M, T]; limits are not negative."""
        return self._count(limits, closed=True)

    def count_below(self, limits: Float64) -> Int64:
        """[M, T] values below limits [T] or [M, T]; limits are not negative."""
        return self._count(limits, closed=False)

    def _count(self, limits: Float64, closed: bool) -> Int64:
        limits = np.broadcast_to(np.asarray(limits, np.float64), (self.cells, np.shape(limits)[-1]))
        near = limits.astype(np.float32) + np.float32(0)
        # the limit lies between two float32 values unless it is one; then `closed` says on which side of it
        counted = near < limits if not closed else near <= limits
        key = near.view(np.uint32).astype(np.uint64) + counted
        key += np.arange(self.cells, dtype=np.uint64)[:, None] << _CELL
        return np.searchsorted(self._key, key) - self.splits[:-1, None]

    def moments(self) -> tuple[Float64, Float64, Float64, Float64]:
        """[M] each: standard deviation (n - 1), skewness, kurtosis (both with n), mean absolute deviation from the mean."""
        count = self.counts
        apart = self.exact - self.spread(self.mean)
        square = apart * apart
        second, third, fourth = self.sums(square), self.sums(square * apart), self.sums(square * square)
        with np.errstate(invalid="ignore", divide="ignore"):
            deviation = self.sums(np.abs(apart)) / count
            return np.sqrt(second / (count - 1)), third / count / (second / count) ** 1.5, count * fourth / second**2, deviation

    def l_moments(self) -> tuple[Float64, Float64, Float64, Float64]:
        """[M] each: the first four L-moments, unbiased, by probability-weighted moments (Hosking 1990, eq. 3.1)."""
        rank, count = self.rank.astype(np.float64), self.counts.astype(np.float64)
        term, divisor, weighted = self.exact, count, []
        with np.errstate(invalid="ignore", divide="ignore"):
            for order in range(4):
                weighted.append(self.sums(term) / divisor)
                term, divisor = term * (rank - order), divisor * (count - order - 1)
        b0, b1, b2, b3 = weighted
        return b0, 2 * b1 - b0, 6 * b2 - 6 * b1 + b0, 20 * b3 - 30 * b2 + 12 * b1 - b0

    def runs(self, layer: Int64) -> tuple[Int64, Int64]:
        """First places [R + 1] of the runs of equal layer within a cell, the last one past the end, and their cells [R].

        Parameters
        ----------
        layer : [N] int64, rising with the value
        """
        begins = np.ones(len(layer), np.bool_)
        np.not_equal(layer[1:], layer[:-1], out=begins[1:])
        begins[self.splits[:-1][self.counts > 0]] = True
        first = np.flatnonzero(begins)
        return np.append(first, len(layer)), np.searchsorted(self.splits, first, side="right") - 1


def segment_sums(terms: npt.NDArray[np.generic], splits: Int64) -> Float64:
    """[M] sums of the terms between splits [M + 1]; 0 where there are none."""
    found = np.zeros(len(splits) - 1)
    filled = np.diff(splits) > 0
    # empty segments own no terms, so the filled ones begin where the ones before them end
    if filled.any():
        found[filled] = np.add.reduceat(terms, splits[:-1][filled], dtype=np.float64)
    return found
