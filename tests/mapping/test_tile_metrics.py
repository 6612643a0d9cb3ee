"""Metrics straight from tiles: each cell's values are those of numpy on all points that lie in it, whatever tile holds them."""

from __future__ import annotations

import shutil

import fsspec
import laspy
import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

from fusion3d.cli import app
from fusion3d.errors import ConfigError, CRSError, Fusion3DError
from fusion3d.io.las_writer import write_points
from fusion3d.mapping import tile_metrics as module
from fusion3d.mapping.cell_statistics import cell_statistics
from fusion3d.mapping.metrics_map import metrics_map
from fusion3d.mapping.tile_metrics import DEFAULT_NAMES, height_metrics, tile_metrics
from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import AlsSource, Scene
from tests.prepare.scenes import write_tiles

X0, Y0 = 652000.0, 6860000.0


def write(path, x, y, z, crs="EPSG:2154", **attributes):
    return str(write_points(path, x, y, z, attributes, crs=crs, scale=0.01))


def scattered(folder, seed=0):
    """Nine tiles of 37 m, 5,000 points, whose edges lie inside of cells of 10 m."""
    random = np.random.default_rng(seed)
    x, y = np.round(random.uniform(0, 110.9, (2, 5000)), 2)
    z = np.round(random.uniform(200, 240, 5000), 2)
    kinds = random.choice([2, 5, 7, 18], 5000, p=[0.4, 0.4, 0.1, 0.1]).astype(np.uint8)
    withheld = (random.random(5000) < 0.1).astype(np.uint8)
    number = (y // 37 * 3 + x // 37).astype(int)
    for tile in range(9):
        at = number == tile
        write(folder / f"t{tile}.laz", X0 + x[at], Y0 + y[at], z[at], classification=kinds[at], withheld=withheld[at])
    kept = (kinds != 7) & (kinds != 18) & (withheld == 0)
    return x[kept], y[kept], z[kept]


def expected(x, y, z, cell=10.0, rows=12, cols=12):
    """North up, plainly; a point on an edge belongs to the cell of larger row and column."""
    found = np.full((len(DEFAULT_NAMES), rows, cols), np.nan)
    row, col = np.floor((rows * cell - y) / cell + 1e-9).astype(int), np.floor(x / cell + 1e-9).astype(int)
    for r in range(rows):
        for c in range(cols):
            inside = z[(row == r) & (col == c)]
            if len(inside):
                ranks = np.percentile(inside, [5, 25, 50, 75, 95])
                found[:, r, c] = [inside.max(), inside.mean(), len(inside), *ranks]
    return found


@pytest.fixture(scope="module")
def nine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nine tiles é")
    return folder, scattered(folder)


def test_cells_across_tile_edges_hold_the_points_of_all_tiles_and_north_is_up(nine, tmp_path):
    folder, points = nine
    summary = tile_metrics([str(folder)], tmp_path / "m.tif", resolution=10)
    with rasterio.open(tmp_path / "m.tif") as file:
        values, place = file.read(), file.transform
        assert file.descriptions == DEFAULT_NAMES
        assert file.units == ("m", "m", "1", "m", "m", "m", "m", "m")
        assert (file.crs.to_epsg(), file.dtypes[0]) == (2154, "float32")
        assert np.isnan(file.nodata)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert (place.c, place.f, place.a, place.e) == (X0, Y0 + 120, 10.0, -10.0)
    np.testing.assert_allclose(values, expected(*points), rtol=2e-7, atol=0)
    assert summary.points == len(points[0]) == 5000 - summary.left_out
    assert summary.mapped == np.isfinite(values[0]).sum()


def test_the_order_and_the_cut_of_tiles_change_no_bit(nine, tmp_path):
    folder, _ = nine
    whole = [laspy.read(path) for path in sorted(folder.glob("*.laz"))][::-1]
    x, y, z, kinds, withheld = (
        np.concatenate([np.asarray(las[name]) for las in whole]) for name in ("x", "y", "z", "classification", "withheld")
    )
    one = write(tmp_path / "one.laz", x, y, z, classification=kinds, withheld=withheld)
    tile_metrics([one], tmp_path / "one.tif", resolution=10)
    tile_metrics([str(folder)], tmp_path / "nine.tif", resolution=10)
    with rasterio.open(tmp_path / "one.tif") as first, rasterio.open(tmp_path / "nine.tif") as second:
        np.testing.assert_array_equal(first.read(), second.read())


def test_a_damaged_tile_is_set_aside_and_cells_it_touches_get_what_is_left(nine, tmp_path):
    folder, _ = nine
    for path in folder.glob("*.laz"):
        shutil.copy(path, tmp_path / path.name)
    (tmp_path / "t4.laz").write_bytes((tmp_path / "t4.laz").read_bytes()[:-40])
    result = CliRunner().invoke(
        app, ["metrics", str(tmp_path), "--out", str(tmp_path / "m.tif"), "--resolution", "10", "--quiet"]
    )
    assert result.exit_code == 1
    assert "set aside" in result.output
    assert "t4.laz" in result.output
    (tmp_path / "t4.laz").unlink()
    tile_metrics([str(tmp_path)], tmp_path / "eight.tif", resolution=10)
    with rasterio.open(tmp_path / "m.tif") as first, rasterio.open(tmp_path / "eight.tif") as second:
        np.testing.assert_array_equal(first.read(), second.read())


def test_a_tile_that_fails_while_it_is_decoded_leaves_its_neighbours_points_in_shared_cells(nine, tmp_path, monkeypatch):
    folder, _ = nine
    read = module.read_chunks

    def failing(file, *arguments, **options):
        yield from read(file, *arguments, **options)
        if file.path.endswith("t4.laz"):
            raise Fusion3DError("t4.laz: damaged at its last point")

    monkeypatch.setattr(module, "read_chunks", failing)
    summary = tile_metrics([str(folder)], tmp_path / "m.tif", resolution=10)
    monkeypatch.undo()
    assert [reason for _, reason in summary.set_aside] == ["t4.laz: damaged at its last point"]
    others = [str(path) for path in folder.glob("*.laz") if path.name != "t4.laz"]
    tile_metrics(others, tmp_path / "eight.tif", resolution=10)
    with rasterio.open(tmp_path / "m.tif") as first, rasterio.open(tmp_path / "eight.tif") as second:
        np.testing.assert_array_equal(first.read(), second.read())


def test_a_copy_of_a_tile_counts_once(nine, tmp_path):
    folder, points = nine
    shutil.copy(folder / "t0.laz", tmp_path / "copy.laz")
    summary = tile_metrics([str(folder), str(tmp_path / "copy.laz")], tmp_path / "m.tif", resolution=10, names=["n"])
    assert summary.points == len(points[0])
    assert "same file" in summary.set_aside[0][1]


def test_chosen_metrics_and_least_points(nine, tmp_path):
    folder, (x, y, z) = nine
    tile_metrics([str(folder)], tmp_path / "m.tif", resolution=10, names=["zq33", "zmin", "n"], least=20)
    with rasterio.open(tmp_path / "m.tif") as file:
        third, low, number = file.read()
    inside = z[(x < 10) & (y <= 10) & (y > 0)]
    assert (low[-1, 0], number[-1, 0]) == (np.float32(inside.min()), len(inside))
    assert third[-1, 0] == np.float32(np.percentile(inside, 33))
    assert np.nanmin(number) >= 20
    assert np.isnan(number).any()


def test_heights_above_ground_of_tiles_on_a_slope(tmp_path):
    """Vegetation of known heights up to 15 m above a slope that falls 24 m across the scene."""
    tiles = write_tiles(tmp_path / "tiles")
    out = tmp_path / "m.tif"
    arguments = ["metrics", *tiles, "--out", str(out), "--resolution", "10", "--ground", "--metrics", "zmax,zq50,n", "--quiet"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    with rasterio.open(out) as file:
        top, _, number = file.read()
    heights = np.concatenate([np.asarray(laspy.read(path)["user_data"]) for path in tiles]) / 10
    assert np.nanmax(top) == pytest.approx(heights.max(), abs=0.3)
    assert top[:8, :8].min() > 10
    assert np.nansum(number) == len(heights)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"names": ["rumple"]}, "--ground"),
        ({"names": ["zq100"]}, "zq1 to zq99"),
        ({"names": ["n", "n"]}, "twice"),
        ({"resolution": float("nan")}, "--resolution"),
        ({"resolution": 0}, "--resolution"),
        ({"least": 0}, "--min-returns"),
        ({"least": 10000}, "no cell holds"),
    ],
)
def test_bad_options_are_one_line_and_leave_no_file(nine, tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        tile_metrics([str(nine[0])], tmp_path / "m.tif", **options)
    assert not list(tmp_path.iterdir())


def test_tiles_of_two_crs_or_of_none_are_refused(nine, tmp_path):
    other = write(tmp_path / "utm.laz", [500000.0], [5000000.0], [1.0], crs="EPSG:32631")
    with pytest.raises(CRSError, match="map the tiles of each CRS"):
        tile_metrics([str(nine[0]), other], tmp_path / "m.tif")
    bare = write(tmp_path / "bare.laz", [X0 + 1.0], [Y0 + 1.0], [1.0], crs=None)
    with pytest.raises(Fusion3DError, match="--crs"):
        tile_metrics([bare], tmp_path / "m.tif")
    tile_metrics([bare], tmp_path / "m.tif", crs="EPSG:2154")


def test_points_that_wait_for_other_tiles_are_limited(nine, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST_WAITING", 100)
    with pytest.raises(ConfigError, match="overlap"):
        tile_metrics([str(nine[0])], tmp_path / "m.tif", resolution=10)
    assert not list(tmp_path.iterdir())


def test_elevations_in_feet_become_metres(tmp_path):
    path = write(tmp_path / "feet.laz", [1000000.0], [1000000.0], [328.08], crs="EPSG:2225")
    tile_metrics([path], tmp_path / "m.tif", resolution=10, names=["zmax"])
    with rasterio.open(tmp_path / "m.tif") as file:
        assert np.nanmax(file.read()) == pytest.approx(100.0, abs=0.01)


def test_statistics_of_empty_one_and_tied_values():
    found = cell_statistics(
        np.array([2, 1, 2, -1, 3, 2], np.int32), np.array([5.0, 7.0, 5.0, 9.0, 9.0, 6.0]), 3, np.array([0.0, 50.0, 75.0, 100.0])
    )
    np.testing.assert_array_equal(found.count, [np.nan, 1, 3])
    np.testing.assert_array_equal(found.percentiles, [[np.nan] * 4, [7, 7, 7, 7], [5, 5, 5.5, 6]])
    np.testing.assert_allclose(found.mean, [np.nan, 7, 16 / 3])


@pytest.mark.parametrize("how", ["tiles", "heights", "store"])
def test_maps_are_written_to_urls_too(how, tmp_path):
    tiles = [str(path) for path in write_tiles(tmp_path)]
    if how == "store":
        prepare(Scene(AlsSource(tuple(tiles))), tmp_path / "s.zarr", quiet=True)
    make = {
        "tiles": lambda out: tile_metrics(tiles, out, names=["zmax", "n"]),
        "heights": lambda out: height_metrics(tiles, out, names=["zmax", "n"]),
        "store": lambda out: metrics_map(tmp_path / "s.zarr", out, names=["zmax", "n"], resolution=20),
    }[how]
    url = f"memory://maps {how}/m é.tif"
    found, here = make(url), make(tmp_path / "m.tif")
    assert found.output == url
    assert url in str(found)
    assert here.output == tmp_path / "m.tif"
    system = fsspec.filesystem("memory")
    sent = tmp_path / "sent.tif"
    sent.write_bytes(system.cat_file(url))
    with rasterio.open(sent) as one, rasterio.open(here.output) as other:
        np.testing.assert_array_equal(one.read(), other.read())
    assert [path.rpartition("/")[2] for path in system.find(f"memory://maps {how}")] == ["m é.tif"]
