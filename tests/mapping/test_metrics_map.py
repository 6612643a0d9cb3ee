"""Wall-to-wall plot metrics: a cell is the plot that is its square, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import shapely
from typer.testing import CliRunner

from fusion3d.cli import app
from fusion3d.errors import ConfigError, StoreError
from fusion3d.mapping import metrics_map as module
from fusion3d.mapping.metrics_map import metrics_map
from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import AlsSource, Scene
from fusion3d.store import Store
from fusion3d.tasks.metric_catalogue import CATALOGUE
from fusion3d.tasks.plot_metrics import plot_metrics

ONE_OF_A_GROUP = [
    "zkurt", "zq95", "zentropy", "zpcum5", "Lskew", "pzabove2", "pfirstabove2", "gf2_5", "lad_cv", "p2th", "p_last", "isd",
    "rumple",
]  # fmt: skip


@pytest.fixture(scope="module")
def store(data_dir, tmp_path_factory) -> Store:
    """130 m of a real normalised tile in blocks of 70 m: cells of 20 m fit neither."""
    path = tmp_path_factory.mktemp("megaplot") / "m.zarr"
    source = AlsSource((str(data_dir / "als_forest" / "Megaplot.laz"),), normalized=True)
    prepare(Scene(source, {}, None, block=7, bounds=(684770.0, 5017800.0, 684900.0, 5017930.0)), path, quiet=True)
    return Store.open(path)


@pytest.fixture(scope="module")
def written(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("map") / "metrics.tif"
    return path, metrics_map(store, path)


def squares(path) -> tuple[np.ndarray, np.ndarray]:
    """Values [cells, F] of a map, and the cells as polygons."""
    with rasterio.open(path) as file:
        bands, place = file.read(), file.transform
    row, col = (part.ravel() for part in np.mgrid[: bands.shape[1], : bands.shape[2]])
    west, north, side = place.c + col * place.a, place.f - row * place.a, place.a
    return bands.reshape(len(bands), -1).T, shapely.box(west, north - side, west + side, north)


def test_the_values_of_a_cell_are_the_metrics_of_the_plot_that_is_its_square(store, written):
    values, cells = squares(written[0])
    assert np.isfinite(values).all(axis=1).sum() > 40
    some = np.arange(0, len(cells), 4)
    found = plot_metrics(store, cells[some])
    np.testing.assert_array_equal(values[some], found.values.astype(np.float32))


def test_bands_have_names_units_a_crs_and_nodata(store, written):
    with rasterio.open(written[0]) as file:
        assert list(file.descriptions) == [name for name, metric in CATALOGUE.items() if metric.predictor]
        assert list(file.units) == [CATALOGUE[name].unit for name in file.descriptions]
        assert (file.crs.to_epsg(), file.res, file.dtypes[0]) == (26917, (20.0, 20.0), "float32")
        assert np.isnan(file.nodata)
        assert file.tags()["min_height"] == "0"
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (file.height, file.width) == (written[1].rows, written[1].cols) == (7, 7)


@pytest.mark.parametrize("block", [3, 64])
def test_values_are_the_same_whatever_is_read_at_once(store, written, block, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_POINTS", 3000)
    metrics_map(store, tmp_path / "m.tif", block=block, names=ONE_OF_A_GROUP)
    bands = [list(CATALOGUE).index(name) for name in ONE_OF_A_GROUP]
    np.testing.assert_array_equal(squares(tmp_path / "m.tif")[0], squares(written[0])[0][:, bands])


def test_north_is_up(data_dir, tmp_path):
    """The bcts tiles lie one north of the other; of the northern one alone, the northern part of the grid holds data."""
    tiles = tuple(str(data_dir / "als_forest" / f"bcts_{number}.laz") for number in (1, 2))
    bounds = (885020.0, 629360.0, 885220.0, 629440.0)
    prepare(Scene(AlsSource(tiles[1:], normalized=True), {}, None, bounds=bounds), tmp_path / "b.zarr", quiet=True)
    metrics_map(tmp_path / "b.zarr", tmp_path / "b.tif", names=["zmax"])
    with rasterio.open(tmp_path / "b.tif") as file:
        known = np.isfinite(file.read(1))
    assert known[:2, 1:-1].all()
    assert not known[2:].any()


def test_cells_with_too_few_returns_are_nodata(store, tmp_path):
    summary = metrics_map(store, tmp_path / "m.tif", names=["n", "zmax"], resolution=10, least=150)
    counts, heights = squares(tmp_path / "m.tif")[0].T
    np.testing.assert_array_equal(np.isnan(heights), np.isnan(counts))
    assert 0 < np.isfinite(counts).sum() == summary.mapped < counts.size
    assert np.nanmin(counts) >= 150


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"resolution": 25}, "do not fit columns"),
        ({"resolution": 5}, "finer than the columns"),
        ({"names": ["nothing"]}, "no metric nothing"),
        ({"min_height": float("nan")}, "--min-height"),
    ],
)
def test_options_that_do_not_fit_are_one_line_and_leave_no_file(store, tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        metrics_map(store, tmp_path / "m.tif", **options)
    assert not list(tmp_path.iterdir())


def test_a_map_without_any_value_is_refused_and_leaves_no_file(store, tmp_path):
    with pytest.raises(StoreError, match="no cell holds 100000 returns"):
        metrics_map(store, tmp_path / "m.tif", least=100000, names=["zmax"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"ends in \.tif"):
        metrics_map(store, tmp_path / "m.parquet")


def test_the_command_writes_chosen_metrics_and_says_where(store, tmp_path):
    target = str(tmp_path / "m.tif")
    finished = CliRunner().invoke(app, ["metrics", store.path, "--out", target, "--metrics", "zq95,pzabove2", "--quiet"])
    assert finished.exit_code == 0, finished.output
    assert finished.stdout.startswith(f"{target}: 2 metrics of")
    with rasterio.open(target) as file:
        assert file.descriptions == ("zq95", "pzabove2")
