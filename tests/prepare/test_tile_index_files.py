"""The files of an index: what GDAL, QGIS and pdal_wrench need of them, and that they appear whole or not at all."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from itertools import pairwise

import geopandas
import pyogrio
import pytest
from pyproj import CRS

from fusion3d.errors import Fusion3DError, InputError
from fusion3d.io.las_writer import write_points
from fusion3d.prepare.run_index import index_archive
from fusion3d.prepare.tile_index_summary import index_lines
from tests.prepare.archives import X0, Y0, write_grid, write_tile

PDAL_SIZES = {"X": 8, "Y": 8, "Z": 8, "Intensity": 2, "Classification": 1, "GpsTime": 8, "PointSourceId": 2, "ReturnNumber": 1}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A grid with a hole, a tile twice as a copy, one of feet, one without CRS, one truncated."""
    folder = tmp_path_factory.mktemp("a b é") / "tiles"
    write_grid(folder, 5, 4, without=((2, 1),))
    (folder / "old").mkdir()
    (folder / "old" / "t_0_0.LAZ").write_bytes((folder / "t_0_0.laz").read_bytes())
    write_tile(folder / "feet.laz", 6_000_000, 2_000_000, crs="EPSG:2225", side=300, created=datetime.date(2019, 2, 3))
    write_tile(folder / "bare.las", X0, Y0 + 900, crs=None)
    (folder / "cut.laz").write_bytes((folder / "t_1_1.laz").read_bytes()[:-30])
    return folder


@pytest.fixture(scope="module")
def index(archive):
    return index_archive([str(archive)], archive.parent / "index.gpkg", quiet=True)


def items(index):
    return json.loads(index.vpc.read_text(encoding="utf-8"))["features"]


def test_tiles_are_a_layer_with_their_facts(archive, index):
    frame = geopandas.read_file(index.geopackage, layer="tiles").set_index("location")
    assert frame.crs.to_epsg() == 2154
    assert len(frame) == 22
    tile = frame.loc[str(archive / "t_3_2.laz")]
    assert tile.geometry.bounds == (X0 + 300, Y0 + 200, X0 + 399.99, Y0 + 299.99)
    assert tile["size"] == (archive / "t_3_2.laz").stat().st_size
    assert tile["modified"].timestamp() == pytest.approx((archive / "t_3_2.laz").stat().st_mtime, abs=0.01)
    assert (tile["name"], tile["version"], tile["point_format"], tile["point_count"]) == ("t_3_2.laz", "1.4", 6, 50)
    assert (tile["compressed"], tile["copc"], tile["crs"], tile["horizontal_unit"]) == (True, False, "EPSG:2154", "metre")
    assert (tile["xmin"], tile["ymax"], tile["x_scale"]) == (X0 + 300, Y0 + 299.99, 0.01)
    assert tile["density"] == pytest.approx(50 / 99.99**2)
    assert str(tile["date"])[:10] == "2021-05-01"
    assert tile["problems"] is None or tile["problems"] != tile["problems"]
    bare = frame.loc[str(archive / "bare.las")]
    assert bare.geometry is None
    assert (bare["problems"], bare["compressed"]) == ("no CRS", False)
    assert "unusual CRS" in frame.loc[str(archive / "feet.laz")]["problems"]
    assert frame.loc[str(archive / "old" / "t_0_0.LAZ")]["problems"] == "duplicate"


def test_gaps_are_a_layer_of_polygons(index):
    frame = geopandas.read_file(index.geopackage, layer="gaps")
    assert len(frame) == 1
    assert frame.crs.to_epsg() == 2154
    assert frame.area_m2[0] == pytest.approx(10_000, rel=0.001)
    assert frame.geometry[0].contains(geopandas.points_from_xy([X0 + 250], [Y0 + 150])[0])


def test_problems_are_a_layer_and_name_files_set_aside(archive, index):
    frame = geopandas.read_file(index.geopackage, layer="problems")
    assert set(frame.kind) == {"duplicate", "no CRS", "mixed CRS", "mixed units", "mixed dates", "set aside"}
    aside = frame[frame.kind == "set aside"].iloc[0]
    assert aside.locations == str(archive / "cut.laz")
    assert "truncated" in aside.text


def test_items_have_what_stac_asks_for(index):
    found = items(index)
    assert len({item["id"] for item in found}) == len(found) == 22
    for item in found:
        assert item["type"] == "Feature"
        assert item["stac_version"] == "1.0.0"
        assert isinstance(item["links"], list)
        assert all(isinstance(asset["href"], str) for asset in item["assets"].values())
        assert datetime.datetime.fromisoformat(item["properties"]["datetime"]).tzinfo is not None
        # "bbox: required if geometry is not null, prohibited if geometry is null"
        assert ("bbox" in item) == (item["geometry"] is not None)
        if item["geometry"] is not None:
            west, south, low, east, north, high = item["bbox"]
            assert -180 <= west < east <= 180
            assert -90 <= south < north <= 90
            assert low <= high
            ring = item["geometry"]["coordinates"][0]
            assert ring[0] == ring[-1]
            # counter-clockwise: the shoelace sum is positive
            assert sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)) > 0


def test_items_have_what_qgis_and_pdal_wrench_read(archive, index):
    for item in items(index):
        said = item["properties"]
        assert said["pc:count"] == 50
        assert isinstance(said["proj:wkt2"], str)
        assert len(said["proj:bbox"]) == 6
        assert said["proj:geometry"]["type"] == "Polygon"
        href = item["assets"]["data"]["href"]
        assert href.startswith("./")
        assert (index.vpc.parent / href).samefile(archive / href.removeprefix("./tiles/"))
        sizes = {each["name"]: each["size"] for each in said["pc:schemas"]}
        assert PDAL_SIZES.items() <= sizes.items()
        assert {each["type"] for each in said["pc:schemas"]} == {"floating", "unsigned"}
    found = {item["id"]: item for item in items(index)}
    assert CRS.from_wkt(found["t_1_1"]["properties"]["proj:wkt2"]).to_epsg() == 2154
    assert found["t_1_1"]["properties"]["proj:bbox"][:2] == [X0 + 100, Y0 + 100]
    assert found["t_1_1"]["properties"]["datetime"] == "2021-05-01T00:00:00Z"
    assert found["bare"]["geometry"] is None


def test_both_files_show_the_tiles_at_one_place(index):
    tiles = geopandas.read_file(index.geopackage, layer="tiles").set_index("name").to_crs(4326)
    for item in items(index):
        name = item["assets"]["data"]["href"].rpartition("/")[2]
        if item["geometry"] is not None:
            west, south, _, east, north, _ = item["bbox"]
            assert tiles.loc[name].geometry.bounds == pytest.approx((west, south, east, north), abs=1e-5)


def test_heights_of_a_bounding_box_are_metres(index):
    feet = next(item for item in items(index) if item["id"] == "feet")
    assert feet["bbox"][5] == pytest.approx(feet["properties"]["proj:bbox"][5] * 1200 / 3937)


def test_gdal_opens_the_virtual_point_cloud_as_geojson(index):
    assert pyogrio.read_info(index.vpc)["features"] == 22
    assert str(pyogrio.list_drivers()["GeoJSON"]).startswith("r")


def test_summary_says_everything_in_lines(archive, index):
    text = "\n".join(index_lines(index.archive, index.findings))
    assert "tiles    22 files" in text
    assert "1,100 points" in text
    assert "gaps in the coverage: 1" in text
    assert "(1 ha)" in text
    assert "mixed CRS: EPSG:2154 (20), EPSG:2225 (1)" in text
    assert "mixed units: metre (20), US survey foot (1)" in text
    assert "mixed dates: 2021 (21), 2019 (1)" in text
    assert "groups of copies: 1" in text
    assert f"set aside: {archive / 'cut.laz'}: truncated" in text


def test_long_lists_are_cut_and_counted(tmp_path):
    write_grid(tmp_path / "tiles", 8, 2, side=100.0)
    for number in range(12):
        write_tile(tmp_path / "tiles" / f"bare{number}.laz", X0, Y0 + 1000 + 200 * number, crs=None)
    index = index_archive([str(tmp_path / "tiles")], tmp_path / "i.gpkg", quiet=True)
    lines = index_lines(index.archive, index.findings)
    assert "tiles without a CRS: 12" in lines
    assert "  and 7 more, in the index" in lines


def test_what_was_there_stays_when_writing_fails(archive, tmp_path, monkeypatch):
    kept = index_archive([str(archive)], tmp_path / "i.gpkg", quiet=True)
    before = kept.geopackage.read_bytes(), kept.vpc.read_bytes()
    write = pyogrio.raw.write

    def full(*arguments, **options):
        if options["layer"] == "gaps":
            raise pyogrio.errors.DataSourceError("disk full")
        return write(*arguments, **options)

    monkeypatch.setattr(pyogrio.raw, "write", full)
    with pytest.raises(InputError, match=r"i\.gpkg: cannot be written \(disk full\)"):
        index_archive([str(archive)], tmp_path / "i.gpkg", quiet=True)
    assert (kept.geopackage.read_bytes(), kept.vpc.read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i.gpkg", "i.vpc"]


def test_an_index_is_replaced_and_nothing_else_is(archive, tmp_path):
    index_archive([str(archive / "t_0_0.laz")], tmp_path / "i.gpkg", quiet=True)
    index_archive([str(archive / "t_*.laz")], tmp_path / "i.gpkg", quiet=True)
    assert pyogrio.read_info(tmp_path / "i.gpkg", layer="tiles")["features"] == 19
    plots = geopandas.GeoDataFrame({"agb": [1.0]}, geometry=geopandas.points_from_xy([0], [0]), crs=2154)
    plots.to_file(tmp_path / "plots.gpkg")
    before = (tmp_path / "plots.gpkg").read_bytes()
    with pytest.raises(InputError, match=r"plots\.gpkg: exists and is not an index"):
        index_archive([str(archive)], tmp_path / "plots.gpkg", quiet=True)
    assert (tmp_path / "plots.gpkg").read_bytes() == before


def test_nothing_usable_is_an_error_and_writes_nothing(tmp_path):
    (tmp_path / "a.laz").write_bytes(b"<html>")
    (tmp_path / "b.laz").write_bytes(b"")
    with pytest.raises(Fusion3DError, match=r"a\.laz: is a web page.*and 1 more"):
        index_archive([str(tmp_path)], tmp_path / "i.gpkg", quiet=True)
    assert not (tmp_path / "i.gpkg").exists()


def test_tiles_without_points_have_a_row_and_no_place(tmp_path):
    write_tile(tmp_path / "a.laz", X0, Y0)
    write_points(tmp_path / "none.las", [], [], [], crs="EPSG:2154")
    index = index_archive([str(tmp_path)], tmp_path / "i.gpkg", quiet=True)
    frame = geopandas.read_file(index.geopackage, layer="tiles").set_index("name")
    assert frame.loc["none.las"].geometry is None
    assert frame.loc["none.las"]["problems"] == "no points"
    assert [item["id"] for item in items(index)] == ["a"]


def test_command_writes_both_and_ends_with_status_one_when_files_are_set_aside(archive, tmp_path):
    command = [sys.executable, "-m", "fusion3d.cli", "index", str(archive), "--out", str(tmp_path / "i.gpkg")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert finished.stdout.strip().splitlines()[-1] == f"index: {tmp_path / 'i.gpkg'}"
    assert "Traceback" not in finished.stderr
    assert (tmp_path / "i.vpc").exists()
    wrong = subprocess.run([*command[:-1], str(tmp_path / "i.txt")], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert len(wrong.stderr.strip().splitlines()) == 1
