"""Tiles cover the map once; cells and reading ahead."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS

from fusion3d.errors import ConfigError
from fusion3d.grid import Grid, Window
from fusion3d.mapping.tiles import MapGrid, read_ahead

WKT = CRS.from_epsg(2154).to_wkt()


def grid(rows: int = 7, cols: int = 10, column: float = 4.0) -> Grid:
    return Grid(WKT, 100.0, 200.0, column, 0.5, 4, rows, cols)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 12), st.sampled_from([1.0, 2.0, 4.0, 8.0, 12.0]))
@settings(max_examples=80, deadline=None)
def test_tiles_write_every_cell_of_the_map_once(rows, cols, side, resolution):
    found = MapGrid.of(grid(rows, cols), resolution)
    written = np.zeros((found.rows, found.cols), int)
    for window in found.tiles(side):
        assert window.row % found.merge == window.rows % found.merge == 0
        cells = found.cells_of(window)
        written[cells.row : cells.row_stop, cells.col : cells.col_stop] += 1
    assert (written == 1).all()


def test_cells_are_counted_in_their_own_size():
    finer, coarser = MapGrid.of(grid(), 2.0), MapGrid.of(grid(), 8.0)
    assert (finer.rows, finer.cols, finer.pixel) == (14, 20, 2.0)
    assert (coarser.rows, coarser.cols, coarser.pixel) == (4, 5, 8.0)
    assert finer.cells_of(Window(2, 4, 2, 2)) == Window(4, 8, 4, 4)
    assert coarser.cells_of(Window(4, 8, 4, 4)) == Window(2, 4, 2, 1)


def test_pixels_are_in_the_units_of_the_crs():
    feet = Grid(CRS.from_epsg(2263).to_wkt(), 0.0, 0.0, 10.0, 0.5, 64, 4, 4)
    assert MapGrid.of(feet).pixel == pytest.approx(10.0 / 0.3048, rel=1e-5)


@pytest.mark.parametrize("resolution", [3.0, 6.0, 0.0, -2.0, float("nan")])
def test_a_resolution_that_does_not_fit_the_columns_is_refused(resolution):
    with pytest.raises(ConfigError, match="cell"):
        MapGrid.of(grid(), resolution)


def test_an_empty_grid_and_an_empty_tile_are_refused():
    with pytest.raises(ConfigError, match="no columns"):
        MapGrid.of(grid(0, 5))
    with pytest.raises(ConfigError, match="--tile 0"):
        MapGrid.of(grid()).tiles(0)


def test_reading_ahead_gives_every_tile_its_own_reading_in_order():
    assert list(read_ahead([3, 1, 2], lambda tile: tile * 10)) == [(3, 30), (1, 10), (2, 20)]
    assert list(read_ahead([], lambda tile: tile)) == []


def test_an_error_while_reading_ahead_reaches_the_reader():
    def read(tile: int) -> int:
        if tile == 2:
            raise ConfigError("tile 2")
        return tile

    tiles = read_ahead([1, 2, 3], read)
    assert next(tiles) == (1, 1)
    with pytest.raises(ConfigError, match="tile 2"):
        next(tiles)
