"""Labels of columns from rasters, plots and the classes of points."""

from __future__ import annotations

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import CRS, Transformer

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.labels import Samples, majority, open_labels, plot_samples
from fusion3d.grid import Grid, Window
from fusion3d.store import Store
from tests.data.scene import COLS, NO_POINTS, ROWS, X0, Y0, scene_grid, write_scene

LAMBERT = CRS.from_epsg(2154)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store.open(write_scene(tmp_path_factory.mktemp("labels") / "scene.zarr", ("als", "s2")))


def write(path, values, pixel=10.0, x0=X0, y0=Y0, crs="EPSG:2154", nodata=None):
    values = np.asarray(values)
    with rasterio.open(
        path, "w", driver="GTiff", width=values.shape[1], height=values.shape[0], count=1, dtype=values.dtype, crs=crs,
        transform=Affine(pixel, 0, x0, 0, -pixel, y0), nodata=nodata,
    ) as file:  # fmt: skip
        file.write(values, 1)
    return str(path)


def test_fine_values_are_averaged_and_nodata_is_left_out(tmp_path, store):
    fine = np.arange(4.0).reshape(2, 2).repeat(1, 0)
    values = np.tile(fine, (ROWS, COLS)).astype(np.float32)
    values[0:2, 2:4] = [[-9999, 10], [20, -9999]]
    values[0:2, 4:6] = [[-9999, -9999], [20, -9999]]
    source = open_labels(write(tmp_path / "height.tif", values, pixel=5.0, nodata=-9999), store)
    found = source.read(Window(0, 0, 3, 4))[0]
    np.testing.assert_allclose(found[0, :2], [1.5, 15.0])
    assert np.isnan(found[0, 2])
    np.testing.assert_allclose(found[1:], 1.5)
    assert (source.variables[0].name, source.variables[0].kind) == ("height", "values")
    assert source.labelled(Window(0, 0, 1, 4)).tolist() == [[[True, True, False, True]]]


def test_majority_by_hand():
    nothing = np.nan
    values = np.array([[1, 2, 3, 3], [2, 2, nothing, nothing], [5, 4, nothing, 7], [4, 5, nothing, nothing]])
    found = majority(values, 2)
    # half of a square is enough, of equally common classes the least wins
    np.testing.assert_array_equal(found, [[2, 3], [4, nothing]])


def test_integers_of_few_values_are_classes_by_majority(tmp_path, store):
    values = np.full((ROWS * 5, COLS * 5), 6, np.uint8)
    values[:5, :5] = [[1] * 5, [1] * 5, [2] * 5, [2] * 5, [2] * 5]
    values[5:10, :5] = 0
    path = write(tmp_path / "cover.tif", values, pixel=2.0, nodata=0)
    source = open_labels(path, store)
    assert source.variables[0].kind == "classes"
    found = source.read(Window(0, 0, 3, 2))[0]
    np.testing.assert_array_equal(found, [[2, 6], [np.nan, 6], [6, 6]])
    assert open_labels(path, store, kind="values").read(Window(0, 0, 1, 1))[0, 0, 0] == pytest.approx(1.6)


def test_integers_of_many_values_are_values(tmp_path, store):
    values = np.arange(ROWS * COLS, dtype=np.int16).reshape(ROWS, COLS)
    assert open_labels(write(tmp_path / "height.tif", values), store).variables[0].kind == "values"


def test_a_raster_in_degrees_lies_where_it_is(tmp_path, store):
    """A raster of longitude, in degrees: every column has its own longitude."""
    to_degrees = Transformer.from_crs(LAMBERT, 4326, always_xy=True)
    west, north = to_degrees.transform(X0 - 100, Y0 + 100)
    pixel = 2e-4
    longitude = np.tile(west + (np.arange(60) + 0.5) * pixel, (60, 1))
    path = write(tmp_path / "longitude.tif", longitude.astype(np.float64), pixel, west, north, "EPSG:4326")
    found = open_labels(path, store).read(Window(10, 10, 4, 4))[0]
    col, row = np.meshgrid(np.arange(10, 14), np.arange(10, 14))
    expected, _ = to_degrees.transform(X0 + (col + 0.5) * 10, Y0 - (row + 0.5) * 10)
    np.testing.assert_allclose(found, expected, atol=0.1 * pixel)


def test_labels_of_another_place_are_refused_in_one_line(tmp_path, store):
    far = write(tmp_path / "far.tif", np.ones((4, 4), np.float32), x0=X0 + 1e5)
    with pytest.raises(InputError, match=r"far\.tif.*does not overlap"):
        open_labels(far, store)
    utm = write(tmp_path / "utm.tif", np.ones((4, 4), np.float32), x0=5e5, y0=1e6, crs="EPSG:32737")
    with pytest.raises(InputError, match="does not overlap"):
        open_labels(utm, store)


def test_shares_of_point_classes_without_noise_and_withheld_points(store):
    """The scene's points are ground below 0.5 m and vegetation above; noise and withheld points are left out."""
    source = open_labels("als:classes", store)
    window = Window(0, 0, 16, 16)
    vegetation, building, ground = source.read(window)
    points = store.points(window, ["classification", "withheld"])
    kind, withheld = points.attributes["classification"], points.attributes["withheld"]
    column = 9 * 16 + 9
    part = slice(points.row_splits[column], points.row_splits[column + 1])
    counted = [k for k, w in zip(kind[part], withheld[part], strict=True) if k not in (7, 18) and not w]
    assert ground[9, 9] == pytest.approx(counted.count(2) / len(counted))
    assert vegetation[9, 9] == pytest.approx(counted.count(5) / len(counted))
    assert np.nanmax(building) == 0
    assert np.isnan(ground[NO_POINTS]).all()


def test_point_classes_need_points(tmp_path):
    with pytest.raises(ConfigError, match="no aerial LiDAR"):
        open_labels("als:classes", Store.open(write_scene(tmp_path / "s.zarr", ("s2",))))


# -- plots


def test_a_plot_is_the_columns_under_it_by_area():
    grid = Grid(LAMBERT.to_wkt(), 0.0, 100.0, 10.0, 0.5, 16, 10, 10)
    found = plot_samples(np.array([shapely.box(5, 80, 20, 90), shapely.box(500, 0, 510, 10), shapely.box(-15, 0, 3, 8)]),
                         np.array([7.0, 1.0, 2.0]), grid)  # fmt: skip
    # the second lies elsewhere, the third off the grid by more than half
    assert found.values.tolist() == [7.0]
    assert found.columns.tolist() == [10, 11]
    np.testing.assert_allclose(found.weights, [1 / 3, 2 / 3])


def test_what_is_said_of_a_plot_is_the_weighted_mean_of_present_columns():
    samples = Samples(np.array([1.0, 2.0]), np.array([0, 3, 4]), np.array([4, 6, 9, 6]), np.array([0.2, 0.3, 0.5, 1.0]))
    values, present = np.array([[10.0], [20.0], [40.0]]), np.array([True, True, False])
    mean, share = samples.mean(np.array([4, 6, 9]), values, present)
    np.testing.assert_allclose(mean[:, 0], [(0.2 * 10 + 0.3 * 20) / 0.5, 20.0])
    np.testing.assert_allclose(share, [0.5, 1.0])
    np.testing.assert_allclose(samples.weight_on(np.array([6])), [0.3, 1.0])
    assert samples.take(np.array([1])).columns.tolist() == [6]


def test_plots_of_values_and_of_words(tmp_path, store):
    grid = scene_grid()
    x, y = grid.x0 + 10 * np.array([5.5, 20.5, 30.5]), grid.y0 - 10 * np.array([5.5, 10.5, 20.5])
    frame = geopandas.GeoDataFrame(
        {"agb": [1.0, -2.0, -9999.0], "kind": ["oak", "", "beech"], "radius": 4.0},
        geometry=geopandas.points_from_xy(x, y), crs=2154,
    ).to_crs(4326)  # fmt: skip
    frame.to_file(tmp_path / "plots.geojson")
    source = open_labels(str(tmp_path / "plots.geojson"), store, targets=("agb", "kind"))
    assert [(item.name, item.kind) for item in source.variables] == [("agb", "values"), ("kind", "classes")]
    agb, kind = source.samples([grid.window])
    assert agb.values.tolist() == [1.0, -2.0]
    assert [source.variables[1].class_name(code) for code in kind.values] == ["oak", "beech"]
    assert [len(part) for part in source.samples([Window(0, 0, 8, 8)])] == [1, 1]
    assert source.labelled(Window(5, 5, 1, 2)).tolist() == [[[True, False]], [[True, False]]]


def test_plots_without_a_target_and_unknown_kinds_are_refused(tmp_path, store):
    with pytest.raises(ConfigError, match="--target"):
        open_labels("plots.gpkg", store)
    with pytest.raises(ConfigError, match="--label-kind 'colour'"):
        open_labels("als:classes", store, kind="colour")
    with pytest.raises(InputError, match="does not exist"):
        open_labels(str(tmp_path / "none.tif"), store)
