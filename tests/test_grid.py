"""The column grid: half-open cells, anchors, units, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS, Transformer

from fusion3d.errors import ConfigError, CRSError
from fusion3d.grid import Grid, Window, map_crs, moved_bounds, parse_crs, rough_unit, same_map_crs, vertical_unit

LAMBERT_93 = "EPSG:2154"


def cell(grid: Grid, x: float, y: float) -> tuple[int, int]:
    row, col = grid.cell_of(np.array([x]), np.array([y]))
    return int(row[0]), int(col[0])


def test_point_on_shared_edge_belongs_to_larger_index():
    grid = Grid(LAMBERT_93, 0.0, 100.0, column=10, rows=10, cols=10)
    assert cell(grid, 10.0, 90.0) == (1, 1)
    assert cell(grid, 9.99, 90.01) == (0, 0)


def test_point_on_block_edge_belongs_to_one_block_only():
    grid = Grid(LAMBERT_93, 0.0, 0.0, column=10, block=4, rows=8, cols=8)
    row, col = cell(grid, 40.0, -40.0)
    owners = [(r, c) for r in range(2) for c in range(2) if grid.block_window(r, c).intersection(Window(row, col, 1, 1)).size]
    assert owners == [(1, 1)]


def test_centimetres_survive_at_a_northing_where_float32_steps_by_half_a_metre():
    grid = Grid(LAMBERT_93, 652000.0, 6860010.0, column=2, rows=5, cols=5)
    assert np.float32(6860000.24) == np.float32(6860000.01)  # why float32 is not an option
    assert cell(grid, 652001.99, 6860008.01) == (0, 0)
    assert cell(grid, 652001.99, 6860008.00) == (1, 0)
    assert cell(grid, 652001.99, 6860007.99) == (1, 0)


def test_products_of_scaled_integers_land_on_the_edge_they_mean():
    grid = Grid(LAMBERT_93, 0.0, 1.0, column=0.1, voxel=0.1, rows=10, cols=10)
    assert 3 * 0.1 != 0.3
    assert cell(grid, 3 * 0.1, 1.0 - 3 * 0.1) == (3, 3)
    assert cell(grid, 0.3, 0.7) == (3, 3)


def test_negative_coordinates_floor_towards_the_west_and_north():
    grid = Grid.covering(LAMBERT_93, (-25.0, -25.0, -5.0, -5.0), column=10)
    assert (grid.x0, grid.y0) == (-30.0, 0.0)
    assert cell(grid, -25.0, -25.0) == (2, 0)
    assert cell(grid, -30.001, 0.001) == (-1, -1)


def test_covering_grid_holds_its_own_far_corner():
    grid = Grid.covering(LAMBERT_93, (0.0, 0.0, 100.0, 100.0), column=10)
    assert (grid.rows, grid.cols) == (11, 11)
    assert cell(grid, 100.0, 0.0) == (10, 10)


def test_covering_an_area_adds_no_column_beyond_it():
    grid = Grid.covering(LAMBERT_93, (0.0, 0.0, 100.0, 95.0), column=10, closed=False)
    assert (grid.rows, grid.cols) == (10, 10)


def test_neighbouring_scenes_share_column_edges():
    one = Grid.covering(LAMBERT_93, (770503.2, 6277501.0, 770549.0, 6277549.0))
    other = Grid.covering(LAMBERT_93, (770551.7, 6277501.0, 770599.0, 6277549.0))
    assert (other.x0 - one.x0) % 10 == 0
    assert one.y0 == other.y0


def test_columns_of_a_grid_in_feet_are_metres_wide():
    grid = Grid.covering("EPSG:2992", (636001.8, 848935.2, 637179.2, 849497.9), column=10)
    assert grid.unit == pytest.approx(0.3048)
    xmin, _, xmax, _ = grid.bounds(Window(0, 0, 1, 1))
    assert (xmax - xmin) * 0.3048 == pytest.approx(10.0)


def test_vertical_unit_of_a_compound_crs_is_its_own():
    assert vertical_unit(parse_crs("EPSG:2993+6360")) == pytest.approx(1200 / 3937)
    assert vertical_unit(parse_crs("EPSG:2992")) == pytest.approx(0.3048)


def test_compound_crs_is_the_same_map_as_its_horizontal_part():
    assert same_map_crs(parse_crs("EPSG:2154+5720"), parse_crs("EPSG:2154"))
    assert map_crs(parse_crs("EPSG:2154+5720")).to_epsg() == 2154
    assert not same_map_crs(parse_crs("EPSG:2154"), parse_crs("EPSG:3949"))


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:4979", "EPSG:4978"])
def test_geographic_and_geocentric_crs_are_refused_with_the_remedy(crs):
    with pytest.raises(CRSError, match="--crs"):
        Grid.covering(crs, (0, 0, 1, 1))


@pytest.mark.parametrize(("column", "voxel"), [(0, 0.5), (-1, 0.5), (float("nan"), 0.5), (10, 0), (10, 0.3), (1, 2)])
def test_sizes_that_do_not_fit_are_refused(column, voxel):
    with pytest.raises(ConfigError):
        Grid(LAMBERT_93, 0.0, 0.0, column=column, voxel=voxel)


def test_nonsense_crs_is_refused_in_one_line():
    with pytest.raises(CRSError, match="is not a CRS") as caught:
        parse_crs("Lambert something")
    assert "\n" not in str(caught.value)


def test_blocks_in_a_window_outside_of_the_grid_are_none():
    grid = Grid(LAMBERT_93, 0.0, 0.0, column=10, block=4, rows=8, cols=8)
    assert grid.blocks_in(Window(-10, -10, 5, 5)) == []
    assert grid.blocks_in(Window(-1, 3, 3, 2)) == [(0, 0), (0, 1)]


def test_blocks_partition_a_ragged_grid():
    grid = Grid(LAMBERT_93, 0.0, 0.0, column=10, block=4, rows=7, cols=9)
    rows, cols = grid.block_shape
    assert sum(grid.block_window(r, c).size for r in range(rows) for c in range(cols)) == 63


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9), st.sampled_from([0.5, 1.0, 2.0, 10.0, 12.5]))
def test_every_point_lies_in_the_half_open_cell_it_is_given(x_cm, y_cm, column):
    grid = Grid(LAMBERT_93, 700000.0, 6600000.0, column=column)
    x, y = 700000.0 + x_cm / 100, 6600000.0 + y_cm / 100
    row, col = cell(grid, x, y)
    xmin, ymin, xmax, ymax = grid.bounds(Window(row, col, 1, 1))
    slack = 1e-6 * column + 1e-8
    assert xmin - slack <= x < xmax
    assert ymin < y <= ymax + slack


def test_bounds_in_another_crs_hold_the_bulge_of_their_edges():
    lambert, degrees = CRS.from_epsg(2154), CRS.from_epsg(4326)
    to_degrees = Transformer.from_crs(2154, 4326, always_xy=True)
    _, corner = to_degrees.transform(300_000, 6_900_000)
    _, middle = to_degrees.transform(700_000, 6_900_000)
    assert middle > corner + 0.1
    assert moved_bounds((300_000, 6_200_000, 1_100_000, 6_900_000), lambert, degrees)[3] == pytest.approx(middle, abs=1e-3)


def test_heights_of_a_crs_leave_bounds_as_they_are():
    bounds = (651_000.0, 6_861_000.0, 652_000.0, 6_862_000.0)
    assert moved_bounds(bounds, CRS.from_user_input("EPSG:2154+5720"), CRS.from_epsg(2154)) == bounds


def test_unit_of_a_map_in_degrees_is_that_of_the_equator():
    # WGS84 has a radius of 6,378,137 m there
    assert rough_unit(CRS.from_epsg(4326)) == pytest.approx(2 * math.pi * 6_378_137 / 360, rel=1e-5)
    assert rough_unit(CRS.from_epsg(2263)) == pytest.approx(1200 / 3937)
