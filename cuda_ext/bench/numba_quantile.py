"""The peer of column_quantile: a counting sort and exact percentiles, compiled by numba, on one core."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=False)
def grouped_quantiles(heights, splits, quantiles):  # type: ignore[no-untyped-def]
    """Quantiles of each column of grouped rows."""
    result = np.full((splits.size - 1, quantiles.size), np.nan, heights.dtype)
    for m in range(splits.size - 1):
        count = splits[m + 1] - splits[m]
        if count == 0:
            continue
        column = np.sort(heights[splits[m] : splits[m + 1]])
        if np.isnan(column[-1]):
            continue
        for q in range(quantiles.size):
            position = (count - 1) * quantiles[q]
            below = int(position)
            above = min(below + 1, count - 1)
            result[m, q] = column[below] + (position - below) * (column[above] - column[below])
    return result


@numba.njit(cache=False)
def scattered_quantiles(heights, cell, columns, quantiles):  # type: ignore[no-untyped-def]
    """The same of rows in any order."""
    splits = np.zeros(columns + 1, np.int64)
    for row in range(cell.size):
        splits[cell[row] + 1] += 1
    for m in range(columns):
        splits[m + 1] += splits[m]
    following = splits[:-1].copy()
    grouped = np.empty_like(heights)
    for row in range(cell.size):
        grouped[following[cell[row]]] = heights[row]
        following[cell[row]] += 1
    return grouped_quantiles(grouped, splits, quantiles)
