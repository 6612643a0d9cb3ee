"""A folder is used for all that can be used without being told what it is, and the rest is told."""

from __future__ import annotations

import pytest

from fusion3d.errors import ConfigError
from fusion3d.prepare.folders import sort_inputs


def test_points_and_footprints_of_a_folder_are_used_and_the_rest_is_told(tmp_path):
    for name in ("a.laz", "b.LAS", "shots.h5", "x.tif", "y.TIF", "notes.txt", "more.csv", "again.csv", ".hidden.csv"):
        (tmp_path / name).touch()
    found = sort_inputs([str(tmp_path), "other/*.laz", "L2A.h5"])
    assert found.tiles == [str(tmp_path), "other/*.laz"]
    assert found.footprints == [str(tmp_path / "shots.h5"), "L2A.h5"]
    rasters, others = found.notes
    assert "2 rasters are left alone (x.tif, y.TIF)" in rasters
    assert "3 files that are no points, footprints or rasters (2 .csv, 1 .txt)" in others


def test_a_folder_of_footprints_alone_is_no_folder_of_tiles(tmp_path):
    (tmp_path / "shots.h5").touch()
    assert sort_inputs([str(tmp_path)]).tiles == []


def test_a_raster_that_is_named_must_say_its_sensor():
    with pytest.raises(ConfigError, match=r"image\.tif is a raster: say of which sensor"):
        sort_inputs(["image.tif"])
