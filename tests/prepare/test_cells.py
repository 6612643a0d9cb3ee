"""Compiled passes over points give what plain numpy gives."""

from __future__ import annotations

import numpy as np
import pytest

from fusion3d.grid import Grid
from fusion3d.prepare.cells import counts, listed, narrow, numbered, places_of, sorted_by, sums, taken


@pytest.mark.parametrize("crs", ["EPSG:2154", "EPSG:2225"])
def test_places_are_the_cells_of_the_grid_to_the_edge(crs):
    grid = Grid.covering(crs, (652_000.0, 6_860_000.0, 652_330.0, 6_860_210.0), column=2.0, voxel=0.5, block=16)
    random = np.random.default_rng(0)
    # hundredths of a metre: many points lie on edges
    x = 651_990 + np.round(350 * random.random(50_000), 2)
    y = 6_859_990 + np.round(230 * random.random(50_000), 2)
    x, y = np.r_[x, grid.x0 + grid.cell * np.arange(40)], np.r_[y, grid.y0 - grid.cell * np.arange(40)]
    row, col = grid.cell_of(x, y)
    inside = (row >= 0) & (row < grid.rows) & (col >= 0) & (col < grid.cols)
    found = places_of(grid, x, y)
    np.testing.assert_array_equal(found.inside, inside)
    kept = found.kept()
    np.testing.assert_array_equal(kept.block_row, row[inside] // 16)
    np.testing.assert_array_equal(kept.block_col, col[inside] // 16)
    windows = [grid.block_window(*block) for block in zip(kept.block_row.tolist(), kept.block_col.tolist(), strict=True)]
    column = [(r - w.row) * w.cols + c - w.col for r, c, w in zip(row[inside], col[inside], windows, strict=True)]
    np.testing.assert_array_equal(kept.column, column)


@pytest.mark.parametrize("spread", [10, 10_000_000], ids=["dense", "sparse"])
def test_cells_are_numbered_sorted_counted_and_summed(spread):
    random = np.random.default_rng(1)
    rows, cols = random.integers(-spread, spread, (2, 3000))
    rows[:1000], cols[:1000] = rows[1000:2000], cols[1000:2000]
    number, at_row, at_col = numbered(rows, cols)
    np.testing.assert_array_equal(at_row[number], rows)
    np.testing.assert_array_equal(at_col[number], cols)
    cells = np.unique(np.c_[rows, cols], axis=0)
    np.testing.assert_array_equal(np.c_[at_row, at_col], cells)
    order, splits = sorted_by(number, len(at_row))
    np.testing.assert_array_equal(order, np.argsort(number, kind="stable"))
    np.testing.assert_array_equal(np.diff(splits), np.bincount(number))
    np.testing.assert_array_equal(counts(number, len(at_row)), np.bincount(number))
    values = random.integers(-1000, 1000, 3000)
    expected = np.zeros(len(at_row), np.int64)
    np.add.at(expected, number, values)
    np.testing.assert_array_equal(sums(number, values, len(at_row)), expected)


@pytest.mark.parametrize("dtype", ["bool", "u1", "i2", "f4", "i8", "f8", "U16", "(3,)f4"])
def test_values_are_taken_in_order(dtype):
    random = np.random.default_rng(2)
    values = random.integers(0, 2, (500, 3)).astype("f4") if dtype.startswith("(") else random.integers(0, 99, 500).astype(dtype)
    order = random.permutation(500)[:400].astype(np.int32)
    for source in (values, np.repeat(values, 2, axis=0)[::2]):
        found = taken(source, order)
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values[order])


def test_positions_of_listed_classes_are_found():
    classes, wanted = np.array([2, 5, 2, 9, 9, 1], np.uint8), np.zeros(256, bool)
    assert listed(classes, wanted).tolist() == []
    wanted[[2, 9]] = True
    assert listed(classes, wanted).tolist() == [0, 2, 3, 4]
    assert listed(classes[:0], wanted).tolist() == []


@pytest.mark.parametrize(
    ("values", "start", "dtype"),
    [
        ([], 5, "i4"),
        ([10, 12], 10, "i4"),
        ([3 * 2**31, 3 * 2**31 + 2**31 - 1], 3 * 2**31, "i4"),
        ([0, 2**31], 0, "i8"),
        ([-(2**31)], 0, "i4"),
        ([-(2**31)], 1, "i8"),
    ],
)
def test_integers_are_narrowed_where_that_holds_them(values, start, dtype):
    found = narrow(np.array(values, np.int64), start)
    assert found.dtype == np.dtype(dtype)
    assert found.tolist() == [value - start for value in values]
