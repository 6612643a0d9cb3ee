from __future__ import annotations

import math

import numpy as np
import pytest

from fusion3d.data.strata import UNKNOWN, Survey, check_strata, class_rasters, slope, survey
from fusion3d.errors import ConfigError
from fusion3d.grid import Window
from fusion3d.io.bands import Band
from fusion3d.store import Store
from fusion3d.store.layout import AlsLayout, PointLattice, RasterLayout, StoreAttributes, block_name
from fusion3d.store.writer import StoreWriter
from tests.data.scene import scene_grid

ROWS, COLS, SIZE = 32, 48, 8
COVER = np.where(np.arange(COLS) < 20, 3, 7)
SLOPE = 20.0


def highest(col: np.ndarray) -> np.ndarray:
    """Canopy by column: 1 m in the west, 30 m in the east."""
    return np.where(col < 24, 1.0, 30.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Ground rising to the south by 20 degrees, canopy low in the west and tall in the east, classes of cover (5 m pixels)."""
    path = tmp_path_factory.mktemp("strata") / "scene.zarr"
    grid, writer = scene_grid(ROWS, COLS), StoreWriter(path)
    blocks = []
    for block_row, block_col in grid.blocks_in(grid.window):
        window = grid.block_window(block_row, block_col)
        row, col = np.divmod(np.arange(window.size), window.cols)
        row, col = row + window.row, col + window.col
        ground = row * 10 * math.tan(math.radians(SLOPE))
        # On the ground, half way, at the top, and noise high above; a column in block 0_0 has no point.
        heights = np.stack([0 * col, highest(col) / 2, highest(col), 0 * col + 90], axis=1)
        full = ~((row == 0) & (col == 0))
        heights, ground = heights[full], ground[full]
        counts = np.where(full, 4, 0)
        arrays = {
            "x": np.zeros(heights.size, np.int32),
            "y": np.zeros(heights.size, np.int32),
            "z": np.round((heights + ground[:, None]) * 100).astype(np.int32).ravel() - 5000,
            "height": heights.astype(np.float32).ravel(),
            "classification": np.tile(np.array([2, 5, 5, 18], np.uint8), len(heights)),
            "offsets": np.concatenate([[0], np.cumsum(counts)]),
        }
        place = {"anchor": [0, 0, 5000], "window": [window.row, window.col, window.rows, window.cols]}
        writer.write_block((block_row, block_col), arrays, place)
        blocks.append(block_name(block_row, block_col))
    lattice = PointLattice((0.0, 0.0, 100.0), (0.01, 0.01, 0.01))
    als = AlsLayout(lattice, ("classification",), {}, tuple(blocks), 1, {}, 1000.0)
    extent = 2 * ROWS, 2 * COLS
    cover = RasterLayout((Band("class"),), (None,), "classes", "uint8", 5.0, 2, 0, 0, 0, *extent, "nearest", (0.0,), (1.0,), 1.0)
    writer.create_raster("landcover", cover)
    values = np.broadcast_to(COVER.repeat(2), (1, *extent)).astype(np.uint8)
    writer.write_raster("landcover", 0, Window(0, 0, *extent), values, np.ones((1, *extent), bool))
    writer.write_attributes(StoreAttributes(grid, als, {"landcover": cover}, None))
    return Store.open(path)


def everywhere() -> np.ndarray:
    return np.ones((ROWS, COLS), bool)


def test_chips_are_classed_by_canopy_slope_and_cover(store):
    known = survey(store, everywhere(), SIZE, ("height", "slope", "cover"))
    origin = np.array([[0, 0], [8, 8], [8, 24], [20, 40]])
    assert known.classes("height", origin, SIZE).tolist() == [0, 0, 4, 4]  # below 2 m, above 25 m
    assert known.classes("slope", origin, SIZE).tolist() == [2] * 4  # 15 to 30 degrees
    assert known.classes("cover", origin, SIZE).tolist() == [3, 3, 7, 7]


def test_a_chip_on_a_border_takes_the_mean_height_and_the_commonest_cover(store):
    known = survey(store, everywhere(), SIZE, ("height", "cover"))
    # Columns 22-29: two of 1 m and six of 30 m have a mean of 22.75 m; columns 17-24 hold three of class 3 and five of 7.
    assert known.classes("height", np.array([[8, 22]]), SIZE).tolist() == [3]
    assert known.classes("cover", np.array([[8, 17]]), SIZE).tolist() == [7]
    assert known.classes("cover", np.array([[8, 14]]), SIZE).tolist() == [3]


def test_columns_that_are_not_allowed_say_nothing(store):
    allowed = everywhere()
    allowed[:, 21:] = False
    known = survey(store, allowed, SIZE, ("height", "slope", "cover"))
    origin = np.array([[8, 18], [8, 32]])  # of the first, all columns together are class 2 and cover 7
    assert known.classes("height", origin, SIZE).tolist() == [0, UNKNOWN]
    assert known.classes("slope", origin, SIZE).tolist() == [2, UNKNOWN]
    assert known.classes("cover", origin, SIZE).tolist() == [3, UNKNOWN]


def test_only_what_is_asked_for_is_looked_at(store):
    known = survey(store, everywhere(), SIZE, ("cover",))
    assert np.isnan(known.canopy).all()
    assert known.cover
    assert not survey(store, everywhere(), SIZE, ("height",)).cover
    assert class_rasters(store) == ("landcover",)


def test_slope_of_an_inclined_plane_is_its_angle_also_at_edges_and_beside_gaps():
    row, col = np.mgrid[:6, :7]
    ground = 3.0 * row + 4.0 * col  # metres in cells of 20 m: 5 in 20
    ground[2, 3] = np.nan
    found = slope(ground, 20.0)
    known = np.isfinite(ground)
    assert found[known] == pytest.approx(math.degrees(math.atan(5 / 20)))


def test_slope_is_unknown_where_no_neighbour_is_known():
    ground = np.full((3, 3), np.nan)
    ground[1, 1] = 5.0
    assert np.isnan(slope(ground, 10.0)).all()


def test_flat_cells_of_a_survey_are_class_0_and_the_edges_belong_to_the_larger_class():
    cells = np.array([[0.0, 2.0], [8.0, np.nan]])
    known = Survey(4, 10.0, cells, np.zeros((2, 2)))
    origin = np.array([[0, 0], [0, 4], [4, 0], [4, 4]])
    assert known.classes("height", origin, 4).tolist() == [0, 1, 2, UNKNOWN]
    assert known.classes("slope", origin, 4).tolist() == [0] * 4


def test_unknown_strata_are_refused():
    assert check_strata(["slope", "height"]) == ("height", "slope")
    with pytest.raises(ConfigError, match=r"--data\.strata biome is not known"):
        check_strata(["biome"])
