"""Scene files: what they may say, relative paths, refusals that name the key."""

from __future__ import annotations

import pytest

from fusion3d.errors import ConfigError, InputError
from fusion3d.prepare.scene import RasterInput, Scene, expand, read_scene


def test_paths_are_relative_to_the_scene_file(tmp_path):
    (tmp_path / "scene.yaml").write_text("als: tiles/*.laz\ncolumn: 2\nrasters:\n  ortho: {files: o.tif, kind: reflectance}\n")
    scene = read_scene(tmp_path / "scene.yaml")
    assert scene.als.files == (str(tmp_path / "tiles/*.laz"),)
    assert scene.rasters["ortho"].files == (str(tmp_path / "o.tif"),)
    assert scene.column == 2


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("als: {files: a.laz, colour: red}", "colour"),
        ("rasters: {als: a.tif}", "als"),
        ("- a\n- b", "mapping"),
        ("{", "readable"),
        ("rasters: {x: {kind: classes}}", "files"),
        ("rasters: {x: {files: a.tif, kind: nice}}", "nice"),
        ("crs: EPSG:2154", "nothing"),
        ("als: a.laz\ncolumn: two", "column"),
        ("als: a.laz\nblock: 1.5", "block"),
        ("als: a.laz\nbounds: [1, 2]", "bounds"),
        ("als: {files: a.laz, ground_class: 2}", "ground_class"),
        ("als: {files: a.laz, ground_buffer: near}", "ground_buffer"),
        ("rasters: {ortho: {files: []}}", "files"),
        ("rasters: {ortho: {files: 3}}", "files"),
        ("rasters: [a, b]", "rasters"),
    ],
)
def test_a_wrong_scene_file_is_refused_and_names_what_is_wrong(tmp_path, text, word):
    (tmp_path / "scene.yaml").write_text(text)
    with pytest.raises(InputError, match=word) as caught:
        read_scene(tmp_path / "scene.yaml")
    assert str(tmp_path / "scene.yaml") in str(caught.value)


def test_a_pattern_that_matches_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no such file"):
        expand([str(tmp_path / "*.laz")], (".laz",))


def test_a_folder_a_file_and_a_pattern_give_each_file_once(tmp_path):
    for name in ("a.laz", "b.LAZ", "c.txt"):
        (tmp_path / name).touch()
    found = expand([str(tmp_path), str(tmp_path / "a.laz"), str(tmp_path / "*.laz")], (".laz",))
    assert found == [str(tmp_path / "a.laz"), str(tmp_path / "b.LAZ")]


def test_a_raster_cannot_take_the_name_of_another_sensor():
    with pytest.raises(ConfigError, match="gedi"):
        Scene(rasters={"gedi": RasterInput(("a.tif",))})
