"""COGs that are complete or not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import CRS

from fusion3d.errors import ConfigError, InputError
from fusion3d.io.geotiff import CogWriter, write_cog

LAMBERT = CRS.from_epsg(2154)


def test_map_has_crs_nodata_names_units_tags_and_overviews(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((2, 600, 1100)).astype(np.float32)
    values[:, :30, :30] = np.nan
    path = write_cog(tmp_path / "map.tif", values, x0=700_000, y0=6_860_000.5, pixel=10, crs=LAMBERT, band_names=["agb", "sd"],
                     units="Mg/ha", tags={"MODEL": "test"})  # fmt: skip
    with rasterio.open(path) as dataset:
        assert np.array_equal(dataset.read(), values, equal_nan=True)
        assert dataset.crs.to_epsg() == 2154
        assert np.isnan(dataset.nodata)
        assert dataset.descriptions == ("agb", "sd")
        assert dataset.units == ("Mg/ha", "Mg/ha")
        assert dataset.tags()["MODEL"] == "test"
        assert dataset.overviews(1) == [2, 4]
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.transform.to_gdal() == (700_000, 10, 0, 6_860_000.5, 0, -10)
    assert os.listdir(tmp_path) == ["map.tif"]


def test_overviews_average_valid_pixels_only(tmp_path: Path) -> None:
    values = np.full((1, 1024, 1024), 4, np.float32)
    values[:, ::2, ::2] = np.nan
    path = write_cog(tmp_path / "map.tif", values, x0=5, y0=9, pixel=1, crs=LAMBERT)
    with rasterio.open(path, overview_level=0) as dataset:
        assert dataset.shape == (512, 512)
        assert (dataset.read() == 4).all()


def test_windows_in_any_order_and_unwritten_pixels_are_nodata(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    expected = np.full((1, 500, 530), -7, np.int16)
    with CogWriter(tmp_path / "map.tif", x0=5, y0=9, pixel=1, width=530, height=500, count=1, dtype="int16", crs=LAMBERT,
                   nodata=-7) as writer:  # fmt: skip
        for row, col in ((300, 200), (0, 0), (100, 450), (250, 255)):
            part = rng.integers(0, 100, (1, 77, 80), dtype=np.int16)
            writer.write(part, row, col)
            expected[:, row : row + 77, col : col + 80] = part
        writer.write(np.zeros((1, 0, 5), np.int16), 0, 0)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert dataset.nodata == -7
        assert np.array_equal(dataset.read(), expected)


def test_one_pixel(tmp_path: Path) -> None:
    path = write_cog(tmp_path / "one.tif", np.ones((1, 1, 1), np.uint8), x0=5, y0=9, pixel=1, crs=LAMBERT, nodata=0)
    with rasterio.open(path) as dataset:
        assert dataset.read().item() == 1


def test_many_bands_keep_blocks_small(tmp_path: Path) -> None:
    values = np.arange(100, dtype=np.float32)[:, None, None] * np.ones((1, 300, 300), np.float32)
    path = write_cog(tmp_path / "emb.tif", values, x0=5, y0=9, pixel=1, crs=LAMBERT)
    with rasterio.open(path) as dataset:
        assert dataset.block_shapes[0] == (128, 128)
        assert np.array_equal(dataset.read(), values)


def test_exception_leaves_nothing_and_keeps_the_old_map(tmp_path: Path) -> None:
    path = write_cog(tmp_path / "map.tif", np.ones((1, 4, 4), np.float32), x0=5, y0=9, pixel=1, crs=LAMBERT)
    before = path.read_bytes()

    def fail_in_the_middle() -> None:
        with CogWriter(path, x0=5, y0=9, pixel=1, width=4, height=4, count=1, crs=LAMBERT) as writer:
            writer.write(np.zeros((1, 4, 4), np.float32), 0, 0)
            raise KeyError("in the middle")

    with pytest.raises(KeyError):
        fail_in_the_middle()
    assert os.listdir(tmp_path) == ["map.tif"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(("row", "col", "shape"), [(0, 0, (2, 2, 2)), (3, 0, (1, 2, 2)), (-1, 0, (1, 1, 1)), (0, 0, (2, 2))])
def test_values_outside_are_refused(tmp_path: Path, row: int, col: int, shape: tuple[int, ...]) -> None:
    writer = CogWriter(tmp_path / "map.tif", x0=5, y0=9, pixel=1, width=4, height=4, count=1, crs=LAMBERT)
    with pytest.raises(ConfigError, match="do not fit"):
        writer.write(np.zeros(shape, np.float32), row, col)
    writer.discard()


@pytest.mark.parametrize(
    "change",
    [{"nodata": float("nan"), "dtype": "uint8"}, {"nodata": 300, "dtype": "uint8"}, {"dtype": "complex64"}, {"band_names": ["a"]},
     {"units": ["m"]}, {"width": 0}, {"pixel": 0.0}],
)  # fmt: skip
def test_contradictory_arguments_are_refused(tmp_path: Path, change: dict) -> None:
    options = {"x0": 5, "y0": 9, "pixel": 1.0, "width": 4, "height": 4, "count": 2, "crs": LAMBERT} | change
    with pytest.raises(ConfigError):
        CogWriter(tmp_path / "map.tif", **options)
    assert os.listdir(tmp_path) == []


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder does not exist"):
        write_cog(tmp_path / "no" / "map.tif", np.zeros((1, 2, 2), np.float32), x0=5, y0=9, pixel=1, crs=LAMBERT)


def test_writing_after_close_is_refused(tmp_path: Path) -> None:
    writer = CogWriter(tmp_path / "map.tif", x0=5, y0=9, pixel=1, width=2, height=2, count=1, crs=LAMBERT)
    writer.close()
    writer.close()
    with pytest.raises(ConfigError, match="already closed"):
        writer.write(np.zeros((1, 2, 2), np.float32), 0, 0)


FULL_DISK = """
import resource, sys
import numpy as np
from pyproj import CRS
from fusion3d.errors import InputError
from fusion3d.io.geotiff import write_cog
values = np.random.default_rng(0).random((1, 600, 600)).astype("float32")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
try:
    write_cog(sys.argv[2], values, x0=5, y0=9, pixel=1, crs=CRS.from_epsg(2154))
except InputError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("limit", [0, 200_000, 1_500_000])
def test_full_disk_leaves_no_corrupt_map(tmp_path: Path, limit: int) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(limit), str(tmp_path / "map.tif")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused:")
    assert "free disk space" in done.stdout
    assert os.listdir(tmp_path) == []
