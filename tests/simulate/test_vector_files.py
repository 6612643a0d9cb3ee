"""GeoPackage and GeoJSON files: complete under their names or absent."""

import json
from datetime import date

import geopandas
import numpy as np
import pytest
import shapely
from pyproj import CRS

from fusion3d.errors import InputError
from fusion3d.simulate.vector_files import PointsFile, write_geojson

LAMBERT = CRS.from_epsg(2154)


def columns(count):
    return {"number": np.arange(count), "name": np.array(["a"] * count, object)}


def test_points_are_appended_and_appear_on_closing(tmp_path):
    path = tmp_path / "trees.gpkg"
    file = PointsFile(path, LAMBERT, date(2023, 1, 1))
    for count in (0, 3, 0, 2):
        file.append(9e5 + np.arange(count), 6.5e6 + np.arange(count), columns(count))
        assert not path.exists()
    assert file.close() == path
    read = geopandas.read_file(path)
    assert read.number.tolist() == [0, 1, 2, 0, 1]
    assert read.name.tolist() == ["a"] * 5
    assert read.geometry.x.tolist() == [9e5, 9e5 + 1, 9e5 + 2, 9e5, 9e5 + 1]
    assert read.crs.to_epsg() == 2154
    assert [found.name for found in tmp_path.iterdir()] == ["trees.gpkg"]


def test_the_same_points_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        file = PointsFile(tmp_path / name / "trees.gpkg", LAMBERT, date(2023, 1, 1))
        file.append(np.ones(4), np.arange(4.0), columns(4))
        file.close()
    assert (tmp_path / "one" / "trees.gpkg").read_bytes() == (tmp_path / "two" / "trees.gpkg").read_bytes()


def test_no_points_make_an_empty_layer_with_its_columns(tmp_path):
    file = PointsFile(tmp_path / "trees.gpkg", LAMBERT, date(2023, 1, 1))
    file.append(np.zeros(0), np.zeros(0), columns(0))
    read = geopandas.read_file(file.close())
    assert len(read) == 0
    assert {"number", "name"} <= set(read.columns)


def test_discarding_leaves_nothing(tmp_path):
    file = PointsFile(tmp_path / "trees.gpkg", LAMBERT, date(2023, 1, 1))
    file.append(np.ones(4), np.ones(4), columns(4))
    file.discard()
    assert list(tmp_path.iterdir()) == []


def test_folder_that_does_not_exist_is_named(tmp_path):
    file = PointsFile(tmp_path / "none" / "trees.gpkg", LAMBERT, date(2023, 1, 1))
    with pytest.raises(InputError, match=r"trees\.gpkg: cannot be written"):
        file.append(np.ones(1), np.ones(1), columns(1))
    with pytest.raises(InputError, match=r"map\.geojson: cannot be written"):
        write_geojson(tmp_path / "none" / "map.geojson", [], LAMBERT)


def test_geojson_is_rfc_7946(tmp_path):
    # The origin of Lambert-93 is at 3 degrees east, 46.5 north, with coordinates 700 000, 6 600 000.
    clockwise = shapely.Polygon([(700000, 6600000), (700000, 6600100), (700100, 6600100), (700100, 6600000)])
    line = shapely.LineString([(700000, 6600000), (700500, 6600000)])
    path = write_geojson(tmp_path / "map.geojson", [(clockwise, {"landuse": "forest"}), (line, {"highway": "tertiary"})], LAMBERT)
    read = json.loads(path.read_text())
    assert read["type"] == "FeatureCollection"
    assert "crs" not in read
    first, second = read["features"]
    assert first["properties"] == {"landuse": "forest"}
    assert first["geometry"]["type"] == "Polygon"
    ring = shapely.LinearRing(first["geometry"]["coordinates"][0])
    assert ring.is_ccw
    assert min(ring.coords) == pytest.approx((3.0, 46.5), abs=1e-6)
    assert second["geometry"]["coordinates"][0] == pytest.approx([3.0, 46.5], abs=1e-6)
    # 500 m east at 46.5 degrees north: 500 / (6 388 000 cos 46.5) rad
    assert second["geometry"]["coordinates"][1][0] == pytest.approx(
        3 + np.degrees(500 / (6.388e6 * np.cos(np.radians(46.5)))), abs=2e-5
    )
    assert len(geopandas.read_file(path)) == 2
    assert [found.name for found in tmp_path.iterdir()] == ["map.geojson"]


def test_a_failing_source_of_features_leaves_no_file(tmp_path):
    def features():
        yield shapely.Point(700000, 6600000), {}
        raise ValueError("gone")

    with pytest.raises(ValueError, match="gone"):
        write_geojson(tmp_path / "map.geojson", features(), LAMBERT)
    assert list(tmp_path.iterdir()) == []
