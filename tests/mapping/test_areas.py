"""Polygons of areas from files."""

from __future__ import annotations

import geopandas
import numpy as np
import pytest
import shapely
from pyproj import CRS

from fusion3d.errors import CRSError, InputError
from fusion3d.mapping.areas import read_areas
from tests.tasks.places import LAMBERT, X0, Y0


def write(path, shapes, crs=2154, **columns):
    geopandas.GeoDataFrame(columns, geometry=shapes, crs=crs).to_file(path)
    return path


def squares(count):
    return [shapely.box(X0 + 100 * at, Y0 - 100, X0 + 100 * at + 50, Y0) for at in range(count)]


def test_names_are_of_the_column_or_the_row(tmp_path):
    path = write(tmp_path / "a.gpkg", squares(3), stand=["a", "b", None], id=[7, 8, 9])
    assert read_areas(path, LAMBERT, name="stand").names == ("a", "b", "3")
    assert read_areas(path, LAMBERT).names == ("7", "8", "9")
    assert read_areas(write(tmp_path / "b.geojson", squares(2), x=[1, 2]), LAMBERT).names == ("1", "2")


def test_repeated_names_are_told_apart_or_joined(tmp_path):
    path = write(tmp_path / "a.gpkg", squares(3), name=["wood", "field", "wood"])
    assert read_areas(path, LAMBERT).names == ("wood (1)", "field", "wood (3)")
    joined = read_areas(path, LAMBERT, merge=True)
    assert joined.names == ("field", "wood")
    assert shapely.area(joined.geometry).tolist() == pytest.approx([5000, 10_000])


def test_what_is_no_polygon_is_set_aside(tmp_path):
    bow = shapely.Polygon([(X0, Y0), (X0 + 100, Y0 - 100), (X0 + 100, Y0), (X0, Y0 - 100)])
    line = shapely.LineString([(X0, Y0), (X0 + 10, Y0)])
    frame = geopandas.GeoDataFrame({"name": list("abcd")}, geometry=[squares(1)[0], line, None, bow], crs=2154)
    frame.to_parquet(tmp_path / "a.parquet")
    found = read_areas(tmp_path / "a.parquet", LAMBERT)
    assert found.names == ("a", "d")
    assert found.set_aside == (("b", "is a linestring, not a polygon"), ("c", "has no geometry"))
    # a bow tie is its two triangles
    assert shapely.area(found.geometry[1]) == pytest.approx(2 * 100 * 50 / 2)


def test_areas_in_degrees_keep_their_size(tmp_path):
    """A square of 1 km carried to degrees and back; its edges are curved there."""
    square = geopandas.GeoSeries([shapely.box(X0, Y0 - 1000, X0 + 1000, Y0)], crs=2154).to_crs(4326)
    found = read_areas(write(tmp_path / "a.geojson", square, crs=4326), LAMBERT)
    assert shapely.area(found.geometry[0]) == pytest.approx(1e6, rel=1e-4)
    np.testing.assert_allclose(shapely.bounds(found.geometry[0]), [X0, Y0 - 1000, X0 + 1000, Y0], atol=0.1)


def test_files_that_cannot_be_used(tmp_path):
    path = write(tmp_path / "a.gpkg", squares(2), name=["a", "b"])
    with pytest.raises(InputError, match="no column 'stand'; it has name"):
        read_areas(path, LAMBERT, name="stand")
    with pytest.raises(InputError, match="no layer 'x'"):
        read_areas(path, LAMBERT, layer="x")
    with pytest.raises(InputError, match="does not exist"):
        read_areas(tmp_path / "none.gpkg", LAMBERT)
    (tmp_path / "text.gpkg").write_text("not a file of polygons")
    with pytest.raises(InputError, match="cannot be read as polygons"):
        read_areas(tmp_path / "text.gpkg", LAMBERT)
    with pytest.raises(InputError, match="holds no polygons"):
        read_areas(write(tmp_path / "p.gpkg", [shapely.Point(X0, Y0)]), LAMBERT)
    with pytest.raises(CRSError):
        read_areas(write(tmp_path / "nowhere.gpkg", squares(1), crs=None), LAMBERT)
    assert read_areas(tmp_path / "nowhere.gpkg", LAMBERT, crs="EPSG:2154").names == ("1",)


def test_layers_are_chosen_by_name(tmp_path):
    path = tmp_path / "two.gpkg"
    for layer in ("one", "other"):
        geopandas.GeoDataFrame({"name": [layer]}, geometry=squares(1), crs=CRS.from_epsg(2154)).to_file(path, layer=layer)
    with pytest.raises(InputError, match="layers one, other; choose one with --layer"):
        read_areas(path, LAMBERT)
    assert read_areas(path, LAMBERT, layer="other").names == ("other",)
