"""Tiles that lie where their CRS cannot be."""

from __future__ import annotations

import pytest
from pyproj import CRS

from fusion3d.errors import CRSError
from fusion3d.prepare.scene import AlsSource
from fusion3d.prepare.tile_place import check_place, near_tiles, without_degrees
from fusion3d.prepare.tiles import scan_tile
from tests.prepare import bad_files as bad


def tile(folder, name="tile.laz", **options):
    return scan_tile(str(bad.las(folder, name, **options)), AlsSource(()), None)


@pytest.mark.parametrize(("crs", "place"), [
    ("EPSG:2154", (652000.0, 6860000.0)),
    ("EPSG:2225", (6560000.0, 2000000.0)),  # California, US survey feet
    ("EPSG:32601", (400000.0, 7500000.0)),  # beside 180 degrees
    ("EPSG:32631", (1100000.0, 5400000.0)),  # a zone further east than its own
    ("EPSG:3832", (-20000.0, -2000000.0)),  # across the Pacific
    ("EPSG:2154+5720", (652000.0, 6860000.0)),
])  # fmt: skip
def test_tile_in_its_place_is_taken(tmp_path, crs, place):
    check_place(tile(tmp_path, crs=crs, place=place))


def test_degrees_that_are_stated_as_metres_are_refused(tmp_path):
    with pytest.raises(CRSError, match=r"lies at 6\.0 S 1\.4 W, far outside of the area of 'RGF93"):
        check_place(tile(tmp_path, place=(2.34, 48.8)))


def test_tile_of_another_continent_than_the_grid_is_set_aside_unless_all_are(tmp_path):
    california = tile(tmp_path, crs="EPSG:2225", place=(6560000.0, 2000000.0))
    france = tile(tmp_path, "here.laz")
    lambert = CRS.from_epsg(2154)
    kept, aside = near_tiles([california, france], lambert)
    assert kept == [france]
    assert [path for path, _ in aside] == [california.file.path]
    assert "far outside of where RGF93" in aside[0][1]
    assert "it is in NAD83 / California zone 1" in aside[0][1]
    assert near_tiles([california], lambert) == ([california], [])


def test_geocentric_coordinates_are_refused(tmp_path):
    with pytest.raises(CRSError, match="geocentric"):
        check_place(tile(tmp_path, crs="EPSG:4978", place=(4201000.0, 172000.0)))


def test_tile_without_points_lies_nowhere_wrong(tmp_path):
    check_place(tile(tmp_path, count=0))


def test_degrees_among_metres_are_set_aside_and_degrees_alone_are_not(tmp_path):
    metres = tile(tmp_path)
    degrees = tile(tmp_path, "degrees.laz", crs="EPSG:4326", place=(2.34, 48.8), scale=1e-7)
    kept, aside = without_degrees([metres, degrees])
    assert kept == [metres]
    assert [path for path, _ in aside] == [degrees.file.path]
    assert without_degrees([degrees]) == ([degrees], [])
