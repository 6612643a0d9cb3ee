"""Which tiles of an index an area needs, whoever made the index."""

from __future__ import annotations

import json
import shutil

import geopandas
import numpy as np
import pytest
import shapely
from pyproj import CRS, Transformer

from fusion3d.errors import ConfigError, CRSError, InputError
from fusion3d.prepare.run_index import index_archive
from fusion3d.prepare.selection import Area, TilePlace, area_bounds, named_tiles, read_area, read_index, tiles_within
from tests.prepare.archives import X0, Y0, write_grid, write_tile

BOX = (X0 + 150, Y0 + 150, X0 + 250, Y0 + 190)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_grid(tmp_path_factory.mktemp("selected é") / "tiles", 4, 3)


@pytest.fixture(scope="module")
def index(archive):
    return index_archive([str(archive)], archive.parent / "index.gpkg", quiet=True)


def names(locations):
    return sorted(location.rpartition("/")[2] for location in locations)


@pytest.fixture(params=["geopackage", "vpc"])
def made(request, index):
    return getattr(index, request.param)


def test_an_index_gives_locations_bounds_and_crs(archive, made):
    places = {place.location: place for place in read_index(made)}
    assert set(places) == {str(path) for path in archive.glob("*.laz")}
    place = places[str(archive / "t_2_1.laz")]
    assert place.bounds == pytest.approx((X0 + 200, Y0 + 100, X0 + 299.99, Y0 + 199.99))
    assert place.crs.to_epsg() == 2154


def test_a_box_chooses_the_tiles_that_it_touches(made):
    assert names(tiles_within(read_index(made), read_area(BOX))) == ["t_1_1.laz", "t_2_1.laz"]
    assert names(tiles_within(read_index(made), read_area(" ".join(map(str, BOX)), "EPSG:2154"))) == ["t_1_1.laz", "t_2_1.laz"]


def test_a_box_of_another_crs_is_placed(made):
    west, south, east, north = Transformer.from_crs(2154, 4326, always_xy=True).transform_bounds(*BOX)
    assert names(tiles_within(read_index(made), read_area(f"{west},{south},{east},{north}", "EPSG:4326"))) == [
        "t_1_1.laz",
        "t_2_1.laz",
    ]


@pytest.mark.parametrize("driver", [".gpkg", ".geojson", ".shp"])
def test_polygons_of_a_file_are_reprojected(made, tmp_path, driver):
    triangle = shapely.Polygon([(X0 + 10, Y0 + 10), (X0 + 290, Y0 + 10), (X0 + 290, Y0 + 290)])
    path = tmp_path / f"area{driver}"
    geopandas.GeoDataFrame({"name": ["a"]}, geometry=[triangle], crs=2154).to_crs(4326).to_file(path)
    chosen = names(tiles_within(read_index(made), read_area(path)))
    assert chosen == ["t_0_0.laz", "t_1_0.laz", "t_1_1.laz", "t_2_0.laz", "t_2_1.laz", "t_2_2.laz"]


def test_only_touching_tiles_need_to_exist(archive, index, tmp_path):
    shutil.copytree(archive, tmp_path / "tiles")
    shutil.copy(index.vpc, tmp_path / "moved.vpc")
    for path in (tmp_path / "tiles").glob("t_3_*.laz"):
        path.unlink()
    chosen = tiles_within(read_index(tmp_path / "moved.vpc"), read_area(BOX))
    assert chosen == [str(tmp_path / "tiles" / "t_1_1.laz"), str(tmp_path / "tiles" / "t_2_1.laz")]


def test_an_area_beside_everything_chooses_nothing(made):
    assert tiles_within(read_index(made), read_area((0, 0, 1, 1))) == []


def test_a_virtual_point_cloud_of_others_is_read(tmp_path):
    """As pdal_wrench, a STAC server and a hand write them."""
    place = shapely.box(X0, Y0, X0 + 100, Y0 + 100)
    degrees = shapely.box(*Transformer.from_crs(2154, 4326, always_xy=True).transform_bounds(*place.bounds))

    def item(href, said, **more):
        return {"type": "Feature", "stac_version": "1.0.0", "assets": {"data": {"href": href}}, "properties": said, **more}

    wkt = CRS.from_epsg(2154).to_wkt()
    features = [
        item("./a.copc.laz", {"proj:wkt2": wkt, "proj:geometry": json.loads(shapely.to_geojson(place))}),
        item("sub/b.laz", {"proj:epsg": 2154, "proj:bbox": [X0, Y0, 0, X0 + 100, Y0 + 100, 30]}),
        item("https://host/c.copc.laz", {"proj:projjson": CRS.from_epsg(2154).to_json_dict(), "proj:bbox": list(place.bounds)}),
        item("/abs/d.laz", {}, geometry=json.loads(shapely.to_geojson(degrees))),
        item("s3://bucket/e.laz", {"proj:code": "EPSG:2154", "proj:bbox": [0, 0, 1, 1]}),
    ]
    features[0]["assets"] = {"overview": {"href": "./o.copc.laz", "roles": ["overview"]}, "x": {"href": "./a.copc.laz"}}
    path = tmp_path / "others.vpc"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    places = read_index(path)
    assert [each.location for each in places] == [
        str(tmp_path / "a.copc.laz"), str(tmp_path / "sub" / "b.laz"), "https://host/c.copc.laz", "/abs/d.laz", "s3://bucket/e.laz",
    ]  # fmt: skip
    chosen = tiles_within(places, read_area((X0 + 20, Y0 + 20, X0 + 30, Y0 + 30), "EPSG:2154"))
    assert chosen == [each.location for each in places[:4]]


def test_quoted_names_are_found(tmp_path):
    write_tile(tmp_path / "a b.laz", X0, Y0)
    said = {"proj:epsg": 2154, "proj:bbox": [X0, Y0, X0 + 1, Y0 + 1]}
    path = tmp_path / "q.json"
    item = {"type": "Feature", "assets": {"data": {"href": "./a%20b.laz"}}, "properties": said}
    path.write_text(json.dumps({"features": [item]}))
    assert read_index(path)[0].location == str(tmp_path / "a b.laz")


def test_any_layer_with_locations_is_an_index(tmp_path):
    frame = geopandas.GeoDataFrame({"Location": ["sub/a.laz"]}, geometry=[shapely.box(0, 0, 10, 10)], crs=32631)
    frame.to_file(tmp_path / "tindex.gpkg", layer="pdal")
    (place,) = read_index(tmp_path / "tindex.gpkg")
    assert place.location == str(tmp_path / "sub" / "a.laz")
    assert place.crs.to_epsg() == 32631


def test_tiles_without_crs_are_taken_to_be_in_that_of_the_area(tmp_path):
    write_grid(tmp_path / "tiles", 2, 1)
    write_tile(tmp_path / "tiles" / "bare.laz", X0 + 500, Y0, crs=None)
    index = index_archive([str(tmp_path / "tiles")], tmp_path / "i.gpkg", quiet=True)
    for path in (index.geopackage, index.vpc):
        chosen = tiles_within(read_index(path), read_area((X0 + 510, Y0, X0 + 520, Y0 + 10), "EPSG:2154"))
        assert names(chosen) == ["bare.laz"]


def test_a_tile_whose_place_nobody_knows_is_kept():
    places = [TilePlace("a.laz", None, None), TilePlace("b.laz", shapely.box(0, 0, 1, 1), CRS.from_epsg(2154))]
    assert tiles_within(places, Area(shapely.box(5, 5, 6, 6), CRS.from_epsg(2154))) == ["a.laz"]


def test_a_box_without_crs_over_tiles_of_several_is_refused():
    places = [TilePlace(name, shapely.box(0, 0, 1, 1), CRS.from_epsg(code)) for name, code in (("a", 2154), ("b", 32631))]
    with pytest.raises(CRSError, match=r"several CRSs.*--crs"):
        tiles_within(places, read_area((0, 0, 1, 1)))


@pytest.mark.parametrize("text", ["1 2 1 3", "5 0 4 1", "nan 0 1 1"])
def test_numbers_that_are_no_box_are_refused(text):
    with pytest.raises((ConfigError, InputError), match=r"no box|does not exist"):
        read_area(text)


@pytest.mark.parametrize("numbers", [(0, 0, np.inf, 1), (0, 0, 0, 1), (0, 0, 1)])
def test_bounds_that_are_no_box_are_refused(numbers):
    with pytest.raises(ConfigError, match="no box"):
        read_area(numbers)


def test_areas_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_area(tmp_path / "none.gpkg")
    (tmp_path / "bad.gpkg").write_bytes(b"no database")
    with pytest.raises(InputError, match="cannot be read as polygons"):
        read_area(tmp_path / "bad.gpkg")
    geopandas.GeoDataFrame(geometry=geopandas.points_from_xy([0], [0]), crs=2154).to_file(tmp_path / "points.gpkg")
    with pytest.raises(InputError, match="holds no polygon"):
        read_area(tmp_path / "points.gpkg")
    geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)]).to_file(tmp_path / "bare.gpkg")
    with pytest.raises(CRSError, match="--crs"):
        read_area(tmp_path / "bare.gpkg")
    assert read_area(tmp_path / "bare.gpkg", "EPSG:2154").crs.to_epsg() == 2154


@pytest.mark.parametrize("content", [
    "", "{", "[]", '{"features": 3}', '{"features": [{}]}', '{"features": [{"assets": {"data": {}}}]}',
    '{"features": [{"assets": {"a": {"href": "b"}}, "properties": {"proj:geometry": {"type": "X"}}}]}',
    '{"features": [{"assets": {"a": {"href": "b"}}, "properties": {"proj:bbox": [1]}}]}',
])  # fmt: skip
def test_what_is_no_virtual_point_cloud_is_refused(tmp_path, content):
    (tmp_path / "a.vpc").write_text(content)
    with pytest.raises(InputError, match=r"a\.vpc: is no virtual point cloud"):
        read_index(tmp_path / "a.vpc")


def test_what_is_no_index_is_refused(tmp_path):
    geopandas.GeoDataFrame({"agb": [1.0]}, geometry=[shapely.box(0, 0, 1, 1)], crs=2154).to_file(tmp_path / "plots.gpkg")
    with pytest.raises(InputError, match=r"no column `location`.*fusion3d index"):
        read_index(tmp_path / "plots.gpkg")
    (tmp_path / "none.vpc").write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(InputError, match="names no tile"):
        read_index(tmp_path / "none.vpc")


def test_an_index_among_inputs_becomes_its_tiles(archive, index):
    every = named_tiles(["other.laz", str(index.vpc)])
    assert every[0] == "other.laz"
    assert names(every[1:]) == names(str(path) for path in archive.glob("*.laz"))
    some = named_tiles([str(index.geopackage), "folder/"], read_area(BOX))
    assert names(some[:-1]) == ["t_1_1.laz", "t_2_1.laz"]
    assert some[-1] == "folder/"
    with pytest.raises(InputError, match=r"index\.vpc: none of its 12 tiles touches the area"):
        named_tiles([str(index.vpc)], read_area((0, 0, 1, 1)))


@pytest.mark.parametrize("crs", [2154, 4326, 2225])
def test_a_margin_in_metres_reaches_the_next_tiles(made, crs):
    """From the box to the tiles south of it are 50 m, to those north of it 10 m."""
    area = geopandas.GeoSeries([shapely.box(*BOX)], crs=2154).to_crs(crs).iloc[0]
    places = read_index(made)
    assert len(tiles_within(places, Area(area, CRS.from_epsg(crs)), margin=5)) == 2
    assert len(tiles_within(places, Area(area, CRS.from_epsg(crs)), margin=20)) == 4


def test_bounds_of_an_area_are_those_of_the_grid_it_asks_for():
    west, south, east, north = area_bounds(read_area(BOX, "EPSG:2154"), CRS.from_epsg(4326))
    assert Transformer.from_crs(2154, 4326, always_xy=True).transform_bounds(*BOX) == pytest.approx((west, south, east, north))
    assert area_bounds(read_area(BOX), CRS.from_epsg(4326)) == BOX
    with pytest.raises(CRSError, match="no place"):
        area_bounds(read_area((0, 91, 1, 95), "EPSG:4326"), CRS.from_epsg(2154))
