"""Plot metrics from a store: which returns a plot holds, checked on a real normalised tile and on a written one."""

from __future__ import annotations

import laspy
import numpy as np
import pytest
import shapely
from pyproj import CRS, Transformer

from fusion3d.errors import ConfigError, StoreError
from fusion3d.evaluation.discs import discs
from fusion3d.io.las_writer import write_points
from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import AlsSource, RasterInput, Scene
from fusion3d.store import Store
from fusion3d.tasks.metric_catalogue import CATALOGUE
from fusion3d.tasks.plot_metrics import plot_metrics
from tests.tasks.places import write_map

UTM17 = CRS.from_epsg(26917)


@pytest.fixture(scope="module")
def tile(data_dir) -> laspy.LasData:
    return laspy.read(data_dir / "als_forest" / "Megaplot.laz")


@pytest.fixture(scope="module")
def store(data_dir, tmp_path_factory) -> Store:
    """The real tile in blocks of 80 m."""
    path = tmp_path_factory.mktemp("megaplot") / "m.zarr"
    source = AlsSource((str(data_dir / "als_forest" / "Megaplot.laz"),), normalized=True)
    prepare(Scene(source, {}, None, block=8), path, quiet=True)
    return Store.open(path)


def some_discs(radius: float = 11.28, count: int = 12) -> np.ndarray:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(684790, 684970, count), rng.uniform(5017800, 5017980, count)
    return discs(x, y, np.full(count, radius), UTM17)


def test_metrics_of_discs_are_those_of_the_returns_that_the_file_has_inside(store, tile):
    plots = some_discs()
    found = plot_metrics(store, plots, UTM17, names=["n", "zmax", "zmean", "zsd", "zq95", "pzabove2", "p2th", "imean"])
    x, y, z = (np.asarray(part) for part in (tile.x, tile.y, tile.z))
    for plot, values in zip(plots, found.values, strict=True):
        inside = shapely.contains_xy(plot, x, y)
        height = z[inside]
        expected = [
            inside.sum(), height.max(), height.mean(), height.std(ddof=1), np.percentile(height, 95), 100 * (height > 2).mean(),
            100 * (np.asarray(tile.return_number)[inside] == 2).mean(), np.asarray(tile.intensity)[inside].mean(),
        ]  # fmt: skip
        assert inside.sum() > 300
        assert values == pytest.approx(expected, rel=1e-5)


def test_every_predictor_is_finite_and_plausible_in_real_forest(store):
    found = plot_metrics(store, some_discs(), UTM17)
    values = dict(zip(found.names, found.values.T, strict=True))
    assert found.names == tuple(name for name, metric in CATALOGUE.items() if metric.predictor)
    assert np.isfinite(found.values).all()
    assert found.covered == pytest.approx(1)
    assert ((values["zmax"] > 10) & (values["zmax"] < 30.1)).all()
    closed = values["pzabove2"] > 80
    assert closed.sum() > 6
    assert (values["pfirstabove2"][closed] > values["pzabove2"][closed]).all()
    assert ((values["rumple"] > 1.2) & (values["rumple"] < 8)).all()
    assert ((values["lad_sum"] > 0.3) & (values["lad_sum"] < 10)).all()
    ranks = np.stack([values[f"zq{rank}"] for rank in range(5, 100, 5)])
    assert (np.diff(ranks, axis=0) >= 0).all()


def test_plots_that_share_edges_share_no_return(store, tile):
    """Squares of 7 m cover a rectangle whose edges lie on returns: each of its returns is in one of them."""
    x, y = np.asarray(tile.x), np.asarray(tile.y)
    corner = np.argmin(np.hypot(x - 684850, y - 5017920))
    west, north = x[corner], y[corner]
    col, row = np.meshgrid(np.arange(6), np.arange(5))
    squares = shapely.box(west + 7 * col, north - 7 * row - 7, west + 7 * col + 7, north - 7 * row).ravel()
    rectangle = np.array([shapely.box(west, north - 35, west + 42, north)])
    options = {"names": ["n"], "least": 1}
    parts, whole = (plot_metrics(store, shapes, UTM17, **options).values for shapes in (squares, rectangle))
    assert parts.sum() == whole[0, 0] > 1000
    inside = (x >= west - 1e-6) & (x < west + 42 - 1e-6) & (y > north - 35 + 1e-6) & (y <= north + 1e-6)
    assert whole[0, 0] == inside.sum()


def test_polygons_in_degrees_are_carried_to_the_store(store):
    plots = some_discs()
    to_degrees = Transformer.from_crs(UTM17, 4326, always_xy=True).transform
    moved = shapely.transform(plots, to_degrees, interleaved=False)
    expected = plot_metrics(store, plots, names=["zmean", "n"])
    found = plot_metrics(store, moved, CRS.from_epsg(4326), names=["zmean", "n"])
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-3)


def test_a_plot_outside_has_no_metrics_and_one_across_the_edge_is_covered_in_part(store):
    xmin, ymin, _, ymax = store.grid.bounds(store.grid.window)
    middle = (ymin + ymax) / 2
    shapes = np.array(
        [shapely.box(0, 0, 50, 50), shapely.box(xmin - 30, middle, xmin + 30, middle + 30), shapely.from_wkt("POLYGON EMPTY")]
    )
    found = plot_metrics(store, shapes, names=["zmax"])
    assert np.isnan(found.values[[0, 2]]).all()
    assert found.covered == pytest.approx([0, 0.5, 0], abs=0.1)
    assert not found.usable[[0, 2]].any()


def test_a_plot_with_too_few_returns_has_no_metrics(store):
    tiny = discs(np.array([684880.0]), np.array([5017890.0]), np.array([1.2]), UTM17)
    number = plot_metrics(store, tiny, names=["n"], least=1).values[0, 0]
    assert 1 < number < 10
    assert np.isnan(plot_metrics(store, tiny, names=["n", "zmax", "rumple"]).values).all()


def test_only_the_blocks_under_plots_are_read(store, monkeypatch):
    read = []
    whole = Store._block_points
    monkeypatch.setattr(Store, "_block_points", lambda self, block, *rest: read.append(block) or whole(self, block, *rest))
    plot_metrics(store, discs(np.array([684800.0]), np.array([5017970.0]), np.array([8.0]), UTM17), names=["zmax"])
    assert read == [(0, 0)]
    assert len(store.attributes.als.blocks) == 9


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> Store:
    """Returns at 0 and 10 m by turns, and above them noise and withheld points at 50 to 90 m."""
    folder = tmp_path_factory.mktemp("noisy")
    rng = np.random.default_rng(1)
    x, y = 652000 + rng.uniform(0, 40, 2000), 6860000 + rng.uniform(0, 40, 2000)
    z, kind, withheld = np.where(np.arange(2000) % 2, 10.0, 0.0), np.where(np.arange(2000) % 2, 5, 2), np.zeros(2000)
    for first, (height, number, flag) in enumerate([(50, 7, 0), (70, 18, 0), (90, 5, 1)]):
        z[first:100:10], kind[first:100:10], withheld[first:100:10] = height, number, flag
    attributes = {"classification": kind.astype(np.uint8), "withheld": withheld.astype(np.uint8)}
    attributes |= {name: np.ones(2000, np.uint8) for name in ("return_number", "number_of_returns")}
    write_points(folder / "noisy.laz", x, y, z, attributes, crs="EPSG:2154")
    source = AlsSource((str(folder / "noisy.laz"),), normalized=True)
    prepare(Scene(source, {}, None), folder / "n.zarr", quiet=True)
    return Store.open(folder / "n.zarr")


def test_noise_and_withheld_points_do_not_count(noisy):
    found = plot_metrics(noisy, np.array([shapely.box(652000, 6860000, 652040, 6860040)]), names=["n", "zmax"])
    assert found.values[0].tolist() == [2000 - 30, 10]


def test_options_out_of_range_are_one_line(noisy):
    plots = np.array([shapely.box(652000, 6860000, 652040, 6860040)])
    with pytest.raises(ConfigError, match="--min-height -1"):
        plot_metrics(noisy, plots, min_height=-1)
    with pytest.raises(ConfigError, match="--min-returns 0"):
        plot_metrics(noisy, plots, least=0)
    with pytest.raises(ConfigError, match="no metric zz"):
        plot_metrics(noisy, plots, names=["zz"])


def test_a_store_without_lidar_is_refused(tmp_path):
    raster = write_map(tmp_path / "r.tif", np.ones((1, 4, 4)))
    prepare(Scene(None, {"r": RasterInput((str(raster),), kind="continuous")}, None), tmp_path / "r.zarr", quiet=True)
    with pytest.raises(StoreError, match="no aerial LiDAR"):
        plot_metrics(tmp_path / "r.zarr", np.array([shapely.box(0, 0, 1, 1)]))
