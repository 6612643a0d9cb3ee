from __future__ import annotations

import numpy as np
import pytest
import rasterio
from affine import Affine

from fusion3d.errors import InputError
from fusion3d.report.raster_view import Place, facts, place_of, read_on
from tests.data.scene import scene_grid
from tests.report.runs import write_map

GRID = scene_grid(40, 48)
PLACE = place_of(GRID, GRID.window)
RAMP = np.arange(40 * 48, dtype=np.float32).reshape(1, 40, 48)


@pytest.fixture
def ramp(tmp_path):
    return write_map(tmp_path / "map.tif", GRID, RAMP, ["agb"], "Mg/ha", sensors="als")


def write(path, values, transform, crs="EPSG:2154", **profile):
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1, dtype=values.dtype, crs=crs,
        transform=transform, **profile,
    ) as file:  # fmt: skip
        file.write(values, 1)
    return path


def test_header_tells_band_unit_tags_and_place(ramp):
    header = facts(ramp, 1000)
    assert (header.count, header.names, header.unit, header.tags["sensors"]) == (1, ("agb",), "Mg/ha", "als")
    assert header.place.bounds == PLACE.bounds
    assert (header.place.rows, header.place.cols) == (40, 48)
    small = facts(ramp, 24).place
    assert (small.rows, small.cols, small.pixel) == (20, 24, 20.0)


def test_pixels_of_the_same_place_are_the_files_own(ramp):
    np.testing.assert_array_equal(read_on(ramp, PLACE), RAMP)


def test_part_and_outside_are_in_place(ramp):
    place = Place(GRID.crs, GRID.x0 - 20, GRID.y0 - 30, 10.0, 2, 4)
    np.testing.assert_array_equal(read_on(ramp, place)[0], [[np.nan, np.nan, 144, 145], [np.nan, np.nan, 192, 193]])


def test_larger_pixels_are_means(ramp):
    place = Place(GRID.crs, GRID.x0, GRID.y0, 20.0, 20, 24)
    np.testing.assert_allclose(read_on(ramp, place)[0], RAMP[0].reshape(20, 2, 24, 2).mean(axis=(1, 3)), rtol=1e-6)


def test_means_of_whole_numbers_keep_their_fractions_and_nodata_is_left_out(tmp_path):
    values = np.array([[0, 1, 255, 3], [1, 1, 4, 4]], np.uint8)
    file = write(tmp_path / "classes.tif", values, Affine(5, 0, GRID.x0, 0, -5, GRID.y0), nodata=255)
    place = Place(GRID.crs, GRID.x0, GRID.y0, 10.0, 1, 3)
    np.testing.assert_allclose(read_on(file, place)[0], [[0.75, 11 / 3, np.nan]], rtol=1e-6)


def test_outside_of_a_raster_without_nodata_is_not_zero(tmp_path):
    file = write(tmp_path / "bare.tif", np.full((2, 2), 7, np.uint16), Affine(10, 0, GRID.x0, 0, -10, GRID.y0))
    found = read_on(file, Place(GRID.crs, GRID.x0, GRID.y0, 10.0, 2, 3))[0]
    np.testing.assert_array_equal(found, [[7, 7, np.nan], [7, 7, np.nan]])


def test_raster_that_is_stored_south_up_is_turned(tmp_path):
    file = write(tmp_path / "flipped.tif", RAMP[0][::-1].copy(), Affine(10, 0, GRID.x0, 0, 10, GRID.y0 - 400))
    np.testing.assert_array_equal(read_on(file, PLACE)[0], RAMP[0])
    assert facts(file, 1000).place.bounds == PLACE.bounds


def test_points_find_their_pixel(ramp):
    row, col = PLACE.at(np.array([GRID.x0 + 15.0, GRID.x0 - 5]), np.array([GRID.y0 - 25.0, GRID.y0 - 5000]))
    assert row.tolist() == [2, 39]
    assert col.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path, "no such file"),
        (lambda path: (path.write_bytes(b"II*\0"), path)[1], "cannot be read"),
        (lambda path: write(path, np.zeros((2, 2), np.float32), Affine(1, 0, 5, 0, -1, 5), crs=None), "without a CRS"),
        (lambda path: write(path, np.zeros((2, 2), np.float32), Affine(1, 0, 5, 0, -1, 5), crs="EPSG:4326"), "geographic"),
    ],
)
def test_unusable_raster_is_named(tmp_path, make, says):
    file = make(tmp_path / "bad.tif")
    with pytest.raises(InputError, match=f"bad.tif.*{says}"):
        facts(file, 100)
