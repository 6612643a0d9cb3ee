"""What the index says of each tile."""

from __future__ import annotations

import laspy
import numpy as np
import pytest
from pyproj import CRS, Transformer

from fusion3d.prepare.archive_files import list_archive
from fusion3d.prepare.selection import read_index
from fusion3d.prepare.tile_index import describe_crs, read_archive
from fusion3d.prepare.tile_index_checks import check_archive
from fusion3d.prepare.tile_index_gpkg import write_index
from fusion3d.prepare.tile_index_vpc import write_vpc
from tests.prepare.archives import X0, Y0, write_grid, write_tile


def indexed(*paths, **options):
    files, aside = list_archive([str(path) for path in paths])
    return read_archive(files, set_aside=aside, **options)


def test_facts_of_real_files_are_those_that_laspy_reads(data_dir):
    archive = indexed(data_dir / "las_formats", data_dir / "als_forest")
    assert len(archive.tiles) + len(archive.set_aside) >= 8
    for tile in archive.tiles:
        with laspy.open(tile.location) as reader:
            header = reader.header
            assert tile.file.count == header.point_count
            assert tile.file.bounds == (*header.mins[:2], *header.maxs[:2])
            assert tile.file.version == (header.version.major, header.version.minor)
            assert tile.file.scales == tuple(header.scales)


def test_density_is_per_square_metre_in_feet_and_in_degrees(tmp_path):
    write_tile(tmp_path / "feet.laz", 6_000_000, 2_000_000, crs="EPSG:2225", side=1000, count=929)
    archive = indexed(tmp_path)
    # a thousand survey feet squared are 92,903.4 m2
    assert archive.tiles[0].density == pytest.approx(0.01, rel=0.001)


def test_tiles_of_another_crs_are_drawn_where_they_lie(tmp_path):
    write_grid(tmp_path, 2, 2)
    east, north = Transformer.from_crs(2154, 32631, always_xy=True).transform(X0 + 500, Y0 + 500)
    write_tile(tmp_path / "utm.laz", east, north, crs="EPSG:32631")
    archive = indexed(tmp_path)
    assert archive.crs == CRS.from_epsg(2154)
    at = [tile.name for tile in archive.tiles].index("utm.laz")
    corner = np.array(archive.footprints[at].exterior.coords)
    assert np.hypot(*(corner - (X0 + 500, Y0 + 500)).T).min() < 0.02


def test_a_tile_without_crs_is_drawn_only_where_no_tile_has_one(tmp_path):
    write_tile(tmp_path / "bare.laz", X0, Y0, crs=None)
    alone = indexed(tmp_path)
    assert alone.crs is None
    assert alone.footprints[0].bounds == (X0, Y0, X0 + 99.99, Y0 + 99.99)
    write_tile(tmp_path / "stated.laz", X0, Y0)
    beside = indexed(tmp_path)
    assert [shape is None for shape in beside.footprints] == [True, False]
    told = indexed(tmp_path, assumed="EPSG:2154")
    assert [shape is None for shape in told.footprints] == [False, False]
    assert told.tiles[0].density == pytest.approx(50 / 99.99**2)


def test_damaged_files_are_set_aside_with_their_reason_and_the_rest_is_read(tmp_path):
    write_grid(tmp_path, 2, 2)
    raw = (tmp_path / "t_0_0.laz").read_bytes()
    (tmp_path / "t_0_0.laz").write_bytes(raw[:-30])
    (tmp_path / "page.laz").write_bytes(b"<!DOCTYPE html><html>gone</html>")
    (tmp_path / "empty.las").write_bytes(b"")
    archive = indexed(tmp_path)
    assert len(archive.tiles) == 3
    reasons = {path.rpartition("/")[2]: reason for path, reason in archive.set_aside}
    assert "truncated" in reasons["t_0_0.laz"]
    assert "web page" in reasons["page.laz"]
    assert "is empty" in reasons["empty.las"]


def test_crs_in_words():
    assert describe_crs(CRS("EPSG:2154+5720")).name == "EPSG:5698"
    feet = describe_crs(CRS("EPSG:2991+6360"))
    assert (feet.horizontal_unit, feet.vertical_unit) == ("metre", "US survey foot")
    assert describe_crs(CRS("EPSG:4326")).horizontal_unit == "degree"
    assert describe_crs(CRS("EPSG:2225")).vertical_unit == "US survey foot"
    assert describe_crs(CRS("EPSG:32631")).vertical_name is None


def test_tiles_far_outside_of_the_map_do_not_stop_the_index(tmp_path):
    """The other side of the earth, the whole earth, a single point."""
    write_grid(tmp_path, 2, 2)
    write_tile(tmp_path / "far.laz", 500_000, 5_000_000, crs="EPSG:32760")
    write_tile(tmp_path / "earth.laz", -180, -90, crs="EPSG:4326", side=179)
    write_tile(tmp_path / "one.laz", X0, Y0, count=2, side=0.01)
    archive = indexed(tmp_path)
    assert archive.crs == CRS.from_epsg(2154)
    assert len(archive.tiles) == 7
    write_index(tmp_path / "i.gpkg", archive, check_archive(archive))
    write_vpc(tmp_path / "i.vpc", archive)
    for name in ("i.gpkg", "i.vpc"):
        assert len(read_index(tmp_path / name)) == 7
