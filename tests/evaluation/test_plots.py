"""Plots as people deliver them."""

from __future__ import annotations

import json
import math

import geopandas
import numpy as np
import pytest
import shapely
from pyproj import CRS

from fusion3d.errors import ConfigError, CRSError, InputError
from fusion3d.evaluation.plots import read_plots
from tests.tasks.places import LAMBERT, X0, Y0, write_points

X, Y = np.array([X0 + 50, X0 + 150, X0 + 250]), np.array([Y0 - 50, Y0 - 60, Y0 - 70])
DISC = math.pi * 15**2


@pytest.mark.parametrize("name", ["plots.gpkg", "plots.shp", "plots.parquet"])
def test_points_become_discs_in_every_format(tmp_path, name):
    path = tmp_path / name
    frame = geopandas.GeoDataFrame({"agb": [1.5, 2.0, 0.0]}, geometry=geopandas.points_from_xy(X, Y), crs=2154)
    frame.to_parquet(path) if name.endswith("parquet") else frame.to_file(path)
    table = read_plots(path, "agb", radius=15, unit="Mg/ha")
    np.testing.assert_allclose(shapely.area(table.geometry), DISC, rtol=1e-9)
    np.testing.assert_allclose(shapely.get_x(shapely.centroid(table.geometry)), X, atol=1e-6)
    assert table.values.tolist() == [1.5, 2.0, 0.0]
    assert (table.ids, table.unit, table.notes, table.crs.to_epsg()) == (("1", "2", "3"), "Mg/ha", (), 2154)


def test_geojson_is_in_degrees_and_reprojects_to_where_it_is(tmp_path):
    frame = geopandas.GeoDataFrame({"agb": [1.0, 2.0, 3.0]}, geometry=geopandas.points_from_xy(X, Y), crs=2154).to_crs(4326)
    frame.to_file(tmp_path / "plots.geojson")
    table = read_plots(tmp_path / "plots.geojson", "agb", radius=15)
    assert table.crs.is_geographic
    moved = table.to_crs(LAMBERT)
    np.testing.assert_allclose(shapely.get_y(shapely.centroid(moved.geometry)), Y, atol=0.01)
    # Lambert-93 is within 0.1 % of true scale here
    np.testing.assert_allclose(shapely.area(moved.geometry), DISC, rtol=3e-3)


def test_polygons_stay_as_they_are_and_points_among_them_need_a_radius(tmp_path):
    square = shapely.box(X0, Y0 - 20, X0 + 20, Y0)
    frame = geopandas.GeoDataFrame({"agb": [5.0, 6.0]}, geometry=[square, shapely.Point(X0 + 100, Y0 - 100)], crs=2154)
    frame.to_file(tmp_path / "mixed.gpkg")
    with pytest.raises(InputError, match="points without a radius; pass --radius"):
        read_plots(tmp_path / "mixed.gpkg", "agb")
    np.testing.assert_allclose(shapely.area(read_plots(tmp_path / "mixed.gpkg", "agb", radius=15).geometry), [400.0, DISC])


def test_radius_may_be_a_column_and_an_option_overrides_it_with_a_note(tmp_path):
    path = write_points(tmp_path / "plots.gpkg", X, Y, agb=[1.0, 2.0, 3.0], Radius=[10.0, np.nan, 20.0])
    table = read_plots(path, "agb")
    np.testing.assert_allclose(shapely.area(table.geometry), np.pi * np.array([100.0, 400.0]))
    assert table.notes == ("1 plot left out: without a positive radius",)
    overridden = read_plots(path, "agb", radius=5)
    np.testing.assert_allclose(shapely.area(overridden.geometry), np.pi * 25)
    assert "not used" in overridden.notes[0]


def test_rows_that_measure_nothing_are_left_out_and_counted(tmp_path):
    x = X0 + 100 * np.arange(6)
    path = write_points(
        tmp_path / "p.gpkg", x, np.full(6, Y0), agb=[10.0, np.nan, -9999.0, -3.0, -4.0, 20.0], plot=list("abcdef")
    )
    table = read_plots(path, "agb", radius=15)
    assert table.values.tolist() == [10.0, 20.0]
    assert table.ids == ("a", "f")
    np.testing.assert_allclose(shapely.get_x(shapely.centroid(table.geometry)), [x[0], x[5]], atol=1e-6)
    assert table.notes == (
        "1 plot left out: agb is missing or not a number",
        "1 plot left out: agb is -9999",
        "2 plots left out: agb is negative",
    )
    assert read_plots(path, "agb", radius=15, nonnegative=False).values.tolist() == [10.0, -3.0, -4.0, 20.0]


def test_csv_in_metres_needs_a_crs_and_keeps_names_as_written(tmp_path):
    path = tmp_path / "plots.csv"
    path.write_text(
        f"\ufeffplot;X;Y;agb;forest\n007;{X[0]};{Y[0]};12.5;beech\n008;{X[1]};{Y[1]};NA;\n009;;;3;oak\n010;{X[2]};{Y[2]};4;\n"
    )
    with pytest.raises(CRSError, match="has no CRS; pass --crs"):
        read_plots(path, "agb", radius=15)
    table = read_plots(path, "agb", radius=15, crs="EPSG:2154", stratum="forest")
    assert (table.ids, table.values.tolist(), table.strata) == (("007", "010"), [12.5, 4.0], ("beech", ""))
    assert table.notes == (
        "1 plot left out: without a place",
        "1 plot left out: agb is missing or not a number",
        "1 plot without a forest: a stratum of their own",
    )


def test_csv_in_degrees_needs_none(tmp_path):
    (tmp_path / "plots.csv").write_text("lon,lat,agb\n5.0,45.0,1\n5.1,45.0,2\n")
    table = read_plots(tmp_path / "plots.csv", "agb", radius=15)
    assert table.crs == CRS.from_epsg(4326)
    middle = shapely.centroid(table.geometry)
    np.testing.assert_allclose([shapely.get_x(middle), shapely.get_y(middle)], [[5.0, 5.1], [45.0, 45.0]], atol=1e-9)


def test_names_that_are_not_unique_are_replaced_by_row_numbers(tmp_path):
    path = write_points(tmp_path / "plots.gpkg", X, Y, agb=[1.0, 2.0, 3.0], plot=["a", "a", "b"])
    table = read_plots(path, "agb", radius=15)
    assert table.ids == ("1", "2", "3")
    assert "does not name each plot once" in table.notes[0]


def test_the_layer_that_has_the_target_is_read(tmp_path):
    path = write_points(tmp_path / "scene.gpkg", X, Y, species=["a", "b", "c"])
    for name in ("one", "two"):
        frame = geopandas.GeoDataFrame({"agb": [1.0], "age": [2.0]}, geometry=[shapely.Point(X[0], Y[0])], crs=2154)
        frame = frame.drop(columns="age") if name == "one" else frame
        frame.to_file(path, layer=name)
    assert len(read_plots(path, "age", radius=15)) == 1
    with pytest.raises(InputError, match="2 of them with 'agb'; choose one with --layer"):
        read_plots(path, "agb", radius=15)
    assert len(read_plots(path, "agb", radius=15, layer="one")) == 1
    with pytest.raises(InputError, match="no layer 'three'"):
        read_plots(path, "agb", radius=15, layer="three")


def test_bow_tie_is_repaired_and_a_line_is_left_out(tmp_path):
    shapes = [shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)]), shapely.LineString([(0, 0), (5, 5)]), shapely.Polygon()]
    geopandas.GeoDataFrame({"agb": [1.0, 2.0, 3.0]}, geometry=shapes, crs=2154).to_file(tmp_path / "odd.gpkg")
    table = read_plots(tmp_path / "odd.gpkg", "agb")
    assert shapely.area(table.geometry).tolist() == [50.0]
    assert set(table.notes) == {"1 plot left out: without a place", "1 plot left out: neither a point nor a polygon with an area"}


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("x,y,agb\n", "agb", "holds no plots"),
        ("x,y,agb\n1,2,3\n", "AGB", "has no column 'AGB'; it has x, y, agb"),
        ("east,north,agb\n1,2,3\n", "agb", "no columns x and y, nor lon and lat"),
        ('x,y,agb\n1,2,"12,5"\n', "agb", "holds no numbers .*'12,5'"),
        ("x,y,agb\n1,2,-9999\n", "agb", "no plot that can be used .1 plot left out: agb is -9999"),
        ("", "agb", "cannot be read as CSV"),
    ],
)
def test_unusable_csv_is_refused_in_one_line(tmp_path, text, target, message):
    (tmp_path / "plots.csv").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_plots(tmp_path / "plots.csv", target, radius=15, crs="EPSG:2154")
    assert "\n" not in str(caught.value)


def test_other_refusals(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_plots(tmp_path / "none.gpkg", "agb")
    (tmp_path / "bad.gpkg").write_text("<html>")
    with pytest.raises(InputError, match="cannot be read as plots"):
        read_plots(tmp_path / "bad.gpkg", "agb")
    path = write_points(tmp_path / "plots.gpkg", X, Y, agb=[1.0, 2.0, 3.0])
    with pytest.raises(ConfigError, match="--radius"):
        read_plots(path, "agb", radius=-1)
    geometry = {"type": "Point", "coordinates": [X0, Y0]}
    feature = {"type": "Feature", "properties": {"agb": 1.0}, "geometry": geometry}
    (tmp_path / "metres.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    with pytest.raises(CRSError, match="is in degrees, its coordinates are not"):
        read_plots(tmp_path / "metres.geojson", "agb", radius=15)


def test_plot_that_cannot_be_carried_to_the_map_becomes_empty(tmp_path):
    """The south pole is nowhere on Lambert-93."""
    shapes = [shapely.box(5.0, 45.0, 5.1, 45.1), shapely.box(5.0, -90.0, 5.1, -89.9)]
    geopandas.GeoDataFrame({"agb": [1.0, 2.0]}, geometry=shapes, crs=4326).to_file(tmp_path / "plots.gpkg")
    moved = read_plots(tmp_path / "plots.gpkg", "agb").to_crs(LAMBERT)
    assert moved.geometry[0].area > 8e7
    assert moved.geometry[1].is_empty


def test_file_without_a_point_or_polygon_is_refused_in_words(tmp_path):
    lines = [shapely.LineString([(X[0], Y[0]), (X[1], Y[1])])]
    geopandas.GeoDataFrame({"agb": [1.0]}, geometry=lines, crs=2154).to_file(tmp_path / "lines.gpkg")
    with pytest.raises(InputError, match=r"lines\.gpkg: holds no plot that can be used"):
        read_plots(tmp_path / "lines.gpkg", "agb")


def test_labels_of_which_some_look_like_numbers_are_all_names(tmp_path):
    """Stands 1, 2 and 2a: read as numbers, 2a would be lost."""
    points = geopandas.points_from_xy(X[:3], Y[:3])
    geopandas.GeoDataFrame({"stand": ["1", "2", "2a"]}, geometry=points, crs=2154).to_file(tmp_path / "stands.gpkg")
    assert read_plots(tmp_path / "stands.gpkg", "stand", radius=10, text=True).classes == ("1", "2", "2a")
