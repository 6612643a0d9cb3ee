"""The manifest survives a kill in the middle of a line and refuses other inputs."""

from __future__ import annotations

import pytest

from fusion3d.errors import StoreError
from fusion3d.io.place import Place
from fusion3d.prepare.manifest import Manifest


def test_a_line_cut_by_a_kill_is_not_done_and_the_rest_is(tmp_path):
    path = tmp_path / "manifest.jsonl"
    manifest = Manifest(Place.of(tmp_path), "key")
    manifest.done("tile 0", {"points": 3})
    manifest.done("tile 1", {"points": 4})
    manifest.close()
    path.write_bytes(path.read_bytes()[:-5])
    again = Manifest(Place.of(tmp_path), "key")
    assert "tile 0" in again
    assert "tile 1" not in again
    again.done("tile 1", {"points": 4})
    again.close()
    third = Manifest(Place.of(tmp_path), "key")
    assert "tile 0" in third
    assert third["tile 1"] == {"points": 4}


def test_a_manifest_of_other_inputs_is_refused_with_the_remedy(tmp_path):
    Manifest(Place.of(tmp_path), "one").close()
    with pytest.raises(StoreError, match="--overwrite"):
        Manifest(Place.of(tmp_path), "other")


def test_a_damaged_manifest_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "manifest.jsonl").write_text("garbage\nmore\n")
    with pytest.raises(StoreError, match="--overwrite"):
        Manifest(Place.of(tmp_path), "key")
