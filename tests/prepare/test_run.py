"""`prepare` from files to store: nothing lost, exact integers, resumable, bad files set aside."""

from __future__ import annotations

import filecmp
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import laspy
import numpy as np
import pytest
import rasterio

from fusion3d.errors import CRSError, Fusion3DError, StoreError
from fusion3d.grid import Window
from fusion3d.io.las_writer import write_points
from fusion3d.io.place import Place
from fusion3d.prepare.manifest import Manifest
from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import AlsSource, RasterInput, Scene
from fusion3d.store.reader import Store
from tests.prepare.scenes import X0, Y0, write_tile, write_tiles


def scene(tiles, **options) -> Scene:
    als = {key: options.pop(key) for key in ("normalized", "attributes", "ground_buffer") if key in options}
    return Scene(als=AlsSource(tuple(map(str, tiles)), **als), **{"column": 2.0, "block": 16, **options})


def same_folder(one: Path, other: Path) -> bool:
    files = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    if files != {path.relative_to(other) for path in other.rglob("*") if path.is_file()}:
        return False
    return all(filecmp.cmp(one / name, other / name, shallow=False) for name in files)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> list[str]:
    return write_tiles(tmp_path_factory.mktemp("tiles"))


@pytest.fixture(scope="module")
def store(tiles, tmp_path_factory) -> Store:
    summary = prepare(scene(tiles, attributes=("user_data",)), tmp_path_factory.mktemp("store") / "scene.zarr", quiet=True)
    return Store.open(summary.out)


def test_every_point_arrives_with_its_exact_coordinates(store, tiles):
    raw = [laspy.read(path) for path in tiles]
    expected = np.sort(
        np.concatenate([np.c_[np.rint(las.x * 100), np.rint(las.y * 100), np.rint(las.z * 100)] for las in raw]), axis=0
    )
    grid = store.grid
    points = store.points(grid.window)
    column = np.repeat(np.arange(grid.window.size), np.diff(points.row_splits))
    x = grid.x0 + column % grid.cols * 2.0 + points.offset[:, 0].astype(np.float64)
    y = grid.y0 - column // grid.cols * 2.0 - points.offset[:, 1].astype(np.float64)
    found = np.sort(np.c_[np.rint(x * 100), np.rint(y * 100), np.rint(points.elevation * 100)], axis=0)
    np.testing.assert_array_equal(found, expected)


def test_heights_are_those_the_scene_was_built_with_also_across_tile_and_block_edges(store):
    points = store.points(store.grid.window)
    error = points.height - points.attributes["user_data"] / 10.0
    # Ground points sit on a plane: what is left is rounding to centimetres, and the hull's edge.
    assert np.percentile(np.abs(error), 99) < 0.03
    assert np.abs(error).max() < 0.5


def test_offsets_lie_inside_the_column(store):
    offset = store.points(store.grid.window).offset
    assert offset.min() >= 0.0
    assert offset.max() < 2.0


def test_a_window_across_blocks_equals_its_columns_one_by_one(store):
    window = Window(10, 12, 9, 11)
    together = store.points(window)
    for row, col in ((0, 0), (5, 3), (6, 4), (8, 10)):
        alone = store.points(Window(10 + row, 12 + col, 1, 1))
        start, stop = together.row_splits[row * 11 + col], together.row_splits[row * 11 + col + 1]
        np.testing.assert_array_equal(together.offset[start:stop], alone.offset)
        np.testing.assert_array_equal(together.attributes["intensity"][start:stop], alone.attributes["intensity"])


def test_a_window_outside_of_the_grid_is_empty_and_one_across_its_edge_keeps_the_inside(store):
    assert len(store.points(Window(-50, -50, 10, 10))) == 0
    grid = store.grid
    assert len(store.points(grid.window.buffered(5))) == len(store.points(grid.window))


def test_block_size_does_not_change_what_is_stored(tiles, tmp_path):
    stores = [Store.open(prepare(scene(tiles, block=block), tmp_path / f"{block}.zarr", quiet=True).out) for block in (17, 64)]
    one, other = (item.points(item.grid.window) for item in stores)
    np.testing.assert_array_equal(one.row_splits, other.row_splits)
    np.testing.assert_array_equal(one.offset, other.offset)
    np.testing.assert_allclose(one.height, other.height, atol=1e-4)


def test_processes_do_not_change_a_byte(tiles, tmp_path):
    prepare(scene(tiles), tmp_path / "one.zarr", quiet=True)
    prepare(scene(tiles), tmp_path / "two.zarr", quiet=True, workers=2)
    assert same_folder(tmp_path / "one.zarr", tmp_path / "two.zarr")


def test_a_second_run_over_the_same_inputs_does_nothing(tiles, tmp_path):
    prepare(scene(tiles), tmp_path / "scene.zarr", quiet=True)
    before = (tmp_path / "scene.zarr" / "zarr.json").stat().st_mtime_ns
    assert prepare(scene(tiles), tmp_path / "scene.zarr", quiet=True).already_done
    assert (tmp_path / "scene.zarr" / "zarr.json").stat().st_mtime_ns == before


def test_other_options_do_not_overwrite_unless_asked(tiles, tmp_path):
    prepare(scene(tiles), tmp_path / "scene.zarr", quiet=True)
    with pytest.raises(StoreError, match="--overwrite"):
        prepare(scene(tiles, column=4.0), tmp_path / "scene.zarr", quiet=True)
    prepare(scene(tiles, column=4.0), tmp_path / "scene.zarr", quiet=True, overwrite=True)
    assert Store.open(tmp_path / "scene.zarr").grid.column == 4.0


def test_overwrite_never_removes_a_folder_that_is_not_a_store(tiles, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(StoreError, match="not a fusion3d store"):
        prepare(scene(tiles), tmp_path / "thesis", quiet=True, overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").exists()


@pytest.mark.parametrize("work", [1, 3, 6])
def test_killed_run_resumes_to_the_same_bytes(tiles, tmp_path, work):
    """kill -9 after `work` pieces of work, then the same command again."""
    prepare(scene(tiles), tmp_path / "whole.zarr", quiet=True)
    command = [
        sys.executable,
        "-m",
        "fusion3d.cli",
        "prepare",
        *tiles,
        "--column",
        "2",
        "--block",
        "16",
        "--out",
        str(tmp_path / "cut.zarr"),
        "--quiet",
    ]
    manifest = tmp_path / "cut.zarr.partial" / "manifest.jsonl"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if manifest.exists() and manifest.read_bytes().count(b"\n") > work:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait()
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert not (tmp_path / "cut.zarr.partial").exists()
    assert same_folder(tmp_path / "cut.zarr" / "als", tmp_path / "whole.zarr" / "als")


def test_a_bad_tile_is_set_aside_and_the_rest_goes_on(tiles, tmp_path):
    (tmp_path / "truncated.laz").write_bytes(Path(tiles[0]).read_bytes()[:-1000])
    (tmp_path / "page.laz").write_text("<html>Not found</html>")
    summary = prepare(scene([*tiles[1:], tmp_path / "truncated.laz", tmp_path / "page.laz"]), tmp_path / "scene.zarr", quiet=True)
    assert {Path(path).name for path, _ in summary.set_aside} == {"truncated.laz", "page.laz"}
    assert summary.attributes.als.points == sum(laspy.open(path).header.point_count for path in tiles[1:])
    assert len(json.loads((tmp_path / "scene.zarr" / "zarr.json").read_text())["attributes"]["fusion3d"]["set_aside"]) == 2


def test_only_bad_tiles_make_no_store_and_the_reason_is_told(tmp_path):
    (tmp_path / "page.laz").write_text("<html>Not found</html>")
    with pytest.raises(Fusion3DError, match=r"page\.laz"):
        prepare(scene([tmp_path / "page.laz"]), tmp_path / "scene.zarr", quiet=True)
    assert not (tmp_path / "scene.zarr").exists()


def test_a_tile_without_crs_is_refused_with_the_remedy_and_accepted_with_it(tmp_path):
    tile = write_tile(tmp_path / "a.laz", X0, Y0, crs=None)
    with pytest.raises(Fusion3DError, match="--crs"):
        prepare(scene([tile]), tmp_path / "scene.zarr", quiet=True)
    summary = prepare(scene([tile], crs="EPSG:2154"), tmp_path / "scene.zarr", quiet=True)
    assert summary.attributes.grid.pyproj_crs.to_epsg() == 2154


def test_a_geographic_tile_is_refused_with_the_remedy_and_reprojected_with_it(tmp_path):
    random = np.random.default_rng(0)
    lon, lat = 2.34 + random.uniform(0, 1e-3, 500), 48.85 + random.uniform(0, 1e-3, 500)
    tile = write_points(
        tmp_path / "a.laz",
        lon,
        lat,
        np.full(500, 35.0),
        {"classification": np.full(500, 2, np.uint8)},
        crs="EPSG:4326",
        scale=1e-7,
    )
    with pytest.raises(CRSError, match=r"a\.laz.*--crs"):
        prepare(scene([tile]), tmp_path / "scene.zarr", quiet=True)
    summary = prepare(scene([tile], crs="EPSG:2154"), tmp_path / "scene.zarr", quiet=True)
    assert summary.attributes.als.points == 500
    # The Panthéon's neighbourhood in Lambert-93, from the published conversion of its coordinates.
    assert summary.attributes.grid.x0 == pytest.approx(651600, abs=300)
    assert summary.attributes.grid.y0 == pytest.approx(6861700, abs=300)


def test_heights_of_a_scene_in_feet_are_metres(tmp_path):
    random = np.random.default_rng(0)
    x, y = 636000 + random.uniform(0, 300, (2, 3000))
    up = np.where(np.arange(3000) % 3 == 0, 32.8084, 0.0)
    tile = write_points(
        tmp_path / "a.laz",
        x,
        y,
        500.0 + up,
        {"classification": np.where(up > 0, 5, 2).astype(np.uint8)},
        crs="EPSG:2992",
        scale=0.01,
    )
    opened = Store.open(prepare(scene([tile]), tmp_path / "scene.zarr", quiet=True).out)
    points = opened.points(opened.grid.window)
    tall = points.attributes["classification"] == 5
    assert points.height[tall].mean() == pytest.approx(10.0, abs=0.01)
    assert opened.grid.cols == pytest.approx(300 * 0.3048 / 2, abs=2)


def test_tiles_on_other_lattices_stay_exact_or_are_said_to_be_rounded(tmp_path):
    x = np.array([X0 + 1.2345, X0 + 5.0])
    classes = {"classification": np.array([2, 2], np.uint8)}
    fine = write_points(tmp_path / "fine.laz", x, np.full(2, Y0), np.zeros(2), classes, crs="EPSG:2154", scale=0.0001)
    coarse = write_points(
        tmp_path / "coarse.laz",
        np.array([X0 + 3.25]),
        np.array([Y0]),
        np.zeros(1),
        {"classification": np.array([2], np.uint8)},
        crs="EPSG:2154",
        scale=0.01,
        offsets=(X0 - 7.0, 0.0, 0.0),
    )
    summary = prepare(scene([fine, coarse]), tmp_path / "scene.zarr", quiet=True)
    assert not summary.notes
    opened = Store.open(summary.out)
    points = opened.points(opened.grid.window)
    columns = np.repeat(np.arange(opened.grid.window.size) % opened.grid.cols, np.diff(points.row_splits))
    np.testing.assert_allclose(np.sort(columns * 2.0 + points.offset[:, 0]), [1.2345, 3.25, 5.0], atol=1e-6)


def test_without_ground_points_the_remedy_is_named(tmp_path):
    tile = write_points(
        tmp_path / "a.laz",
        np.array([X0]),
        np.array([Y0]),
        np.array([5.0]),
        {"classification": np.array([5], np.uint8)},
        crs="EPSG:2154",
    )
    with pytest.raises(Fusion3DError, match="--normalized"):
        prepare(scene([tile]), tmp_path / "scene.zarr", quiet=True)
    opened = Store.open(prepare(scene([tile], normalized=True), tmp_path / "n.zarr", quiet=True).out)
    assert opened.points(opened.grid.window).height[0] == pytest.approx(5.0)


def write_ramp(path: Path, pixel: float, north: float, side: float, crs: str = "EPSG:2154", nodata: float | None = None) -> str:
    """Pixels hold the distance of their centre from the northern edge."""
    count = round(side / pixel)
    values = np.repeat((np.arange(count) + 0.5)[:, None] * pixel, count, axis=1).astype(np.float32)
    if nodata is not None:
        values[: count // 4] = nodata
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=count,
        width=count,
        count=1,
        dtype="float32",
        crs=crs,
        nodata=nodata,
        transform=rasterio.transform.from_origin(X0, north, pixel, pixel),
    ) as file:
        file.write(values, 1)
    return str(path)


@pytest.mark.parametrize(("pixel", "fine", "coarse"), [(0.5, 4, 0), (2.0, 1, 1), (10.0, 0, 5)])
def test_rasters_share_the_columns_with_north_up(tiles, tmp_path, pixel, fine, coarse):
    ortho = write_ramp(tmp_path / "o.tif", pixel, Y0 + 80, 80.0)
    opened = Store.open(
        prepare(scene(tiles, rasters={"ortho": RasterInput((ortho,), kind="continuous")}), tmp_path / "s.zarr", quiet=True).out
    )
    info = opened.raster_info("ortho")
    assert (info.pixels_per_column, info.columns_per_pixel) == (fine, coarse)
    grid = opened.grid
    window = Window(round((grid.y0 - (Y0 + 80)) / 2) + 10, 0, 1, 1)  # the column from 20 to 22 m south of the edge
    raster = opened.raster("ortho", window)
    assert raster.valid.all()
    expected = {0.5: 21.0, 2.0: 21.0, 10.0: 25.0}[pixel]
    assert raster.values.mean() == pytest.approx(expected, abs=1e-4)


def test_nodata_is_not_valid_and_never_averaged_in(tiles, tmp_path):
    ortho = write_ramp(tmp_path / "o.tif", 0.4, Y0 + 80, 80.0, nodata=-9999.0)
    opened = Store.open(
        prepare(
            scene(tiles, rasters={"ortho": RasterInput((ortho,), kind="continuous", pixel=2.0)}), tmp_path / "s.zarr", quiet=True
        ).out
    )
    raster = opened.raster("ortho", opened.grid.window)
    assert raster.values[raster.valid].min() > 19.0
    assert not raster.valid[0, 0, :10].any()
    assert 0 < raster.values.max() < 80.0
    assert opened.statistics("ortho")["mean"][0] == pytest.approx(50.0, abs=1.0)


def test_a_corrupt_raster_is_set_aside_and_the_points_are_prepared(tiles, tmp_path):
    (tmp_path / "o.tif").write_text("<html>")
    summary = prepare(scene(tiles, rasters={"ortho": RasterInput((str(tmp_path / "o.tif"),))}), tmp_path / "s.zarr", quiet=True)
    assert summary.set_aside[0][0].endswith("o.tif")
    assert Store.open(summary.out).sensors == ("als",)


def test_what_is_not_a_store_is_refused_in_words(tmp_path):
    with pytest.raises(StoreError, match="no column store"):
        Store.open(tmp_path / "nothing.zarr")
    (tmp_path / "half.zarr.partial").mkdir()
    with pytest.raises(StoreError, match="not finished"):
        Store.open(tmp_path / "half.zarr")


def test_a_folder_named_old_beside_the_store_is_the_users(tiles, tmp_path):
    prepare(scene(tiles), tmp_path / "scene.zarr", quiet=True)
    (tmp_path / "scene.zarr.old").mkdir()
    prepare(scene(tiles, column=4.0), tmp_path / "scene.zarr", quiet=True, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene.zarr", "scene.zarr.old"]


def test_a_folder_in_the_place_of_the_unfinished_store_is_not_deleted(tiles, tmp_path):
    (tmp_path / "scene.zarr.partial").mkdir()
    (tmp_path / "scene.zarr.partial" / "mine.txt").touch()
    with pytest.raises(StoreError, match="unfinished work"):
        prepare(scene(tiles), tmp_path / "scene.zarr", quiet=True, overwrite=True)
    assert (tmp_path / "scene.zarr.partial" / "mine.txt").exists()


def test_very_fine_scales_do_not_wrap_around(tmp_path):
    """A block of 1280 m holds 1.28e10 steps of 1e-7 m: more than 32 bits."""
    x = X0 + np.array([5.0, 95.0])
    ground = {"classification": np.full(2, 2, np.uint8)}
    tile = write_points(tmp_path / "a.laz", x, np.full(2, Y0), np.zeros(2), ground, crs="EPSG:2154", scale=1e-7)
    bounds = (X0 - 600, Y0 - 100, X0 + 400, Y0 + 100)
    opened = Store.open(prepare(scene([tile], column=10.0, block=128, bounds=bounds), tmp_path / "s.zarr", quiet=True).out)
    points = opened.points(opened.grid.window)
    column = np.repeat(np.arange(opened.grid.window.size) % opened.grid.cols, np.diff(points.row_splits))
    np.testing.assert_allclose(opened.grid.x0 + column * 10.0 + points.offset[:, 0], x, atol=1e-4)


def test_a_tile_given_twice_is_set_aside_once(tiles, tmp_path):
    (tmp_path / "copy.laz").write_bytes(Path(tiles[0]).read_bytes())
    summary = prepare(scene([*tiles, tmp_path / "copy.laz"]), tmp_path / "scene.zarr", quiet=True)
    assert len(summary.set_aside) == 1
    assert "same file" in summary.set_aside[0][1]
    assert summary.attributes.als.points == sum(laspy.open(path).header.point_count for path in tiles)


def test_bounds_that_miss_the_tiles_are_the_reason_that_is_told(tiles, tmp_path):
    with pytest.raises(Fusion3DError, match="--bounds"):
        prepare(scene(tiles, bounds=(0.0, 0.0, 10.0, 10.0)), tmp_path / "scene.zarr", quiet=True)


def test_a_second_run_on_the_same_store_is_refused_while_the_first_is_at_work(tiles, tmp_path):
    (tmp_path / "scene.zarr.partial").mkdir()
    first = Manifest(Place.of(tmp_path / "scene.zarr.partial"), "key")
    with pytest.raises(StoreError, match="another run"):
        prepare(scene(tiles), tmp_path / "scene.zarr", quiet=True)
    first.close()


def test_a_raster_beside_the_tiles_is_set_aside(tiles, tmp_path):
    ortho = write_ramp(tmp_path / "o.tif", 1.0, Y0 + 9000, 80.0)
    summary = prepare(scene(tiles, rasters={"ortho": RasterInput((ortho,))}), tmp_path / "s.zarr", quiet=True)
    assert "no valid pixel" in summary.set_aside[0][1]
    assert Store.open(summary.out).sensors == ("als",)


def test_tiles_without_ground_are_named(tiles, tmp_path):
    at = (np.array([X0 + 90.0]), np.array([Y0 + 10.0]), np.array([230.0]))
    bare = write_points(tmp_path / "bare.laz", *at, {"classification": np.array([5], np.uint8)}, crs="EPSG:2154")
    summary = prepare(scene([*tiles, bare]), tmp_path / "s.zarr", quiet=True)
    assert any("bare.laz" in note for note in summary.notes)
