"""`doctor`: every damage is found at its place, and what is mended is byte for byte what it was."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import fsspec
import numpy as np
import pytest
from typer.testing import CliRunner
from zarr.codecs import ZstdCodec

from fusion3d.cli import app
from fusion3d.errors import InputError, StoreError
from fusion3d.prepare import originals
from fusion3d.store import layout, writer
from fusion3d.store.reader import Store
from fusion3d.store.verification import verdict
from tests.prepare.damaged import examined, flip, make, mended, rewrite, same_files, write_sources


@pytest.fixture(scope="module", autouse=True)
def small_raster_chunks():
    """Chunks of 92 x 92 pixels: the image has four."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "RASTER_CHUNK_BYTES", 92 * 92 * 2 * 4)
        yield


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def whole(scene, tmp_path_factory, small_raster_chunks) -> Path:
    return make(scene, tmp_path_factory.mktemp("store") / "whole.zarr")


@pytest.fixture
def store(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "scene.zarr"))


def test_a_whole_store_has_nothing_wrong(whole):
    attributes = Store.open(whole).attributes
    assert attributes.als is not None
    assert len(attributes.als.blocks) == 4
    assert len(attributes.set_aside) == 1
    assert len(list((whole / "ortho" / "values").rglob("c/*/*/*/*"))) == 3
    verification = examined(whole)
    assert verification.findings == ()
    assert verification.without_checksum == 0
    assert verdict(str(whole), verification, mended=False)[-1].startswith(f"{whole}: whole")


def delete(name: str):
    def damage(store: Path) -> None:
        path = store / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def cut(name: str, keep: int):
    return lambda store: os.truncate(store / name, keep)


def flipped(name: str, at: int = -9):
    return lambda store: flip(store / name, at)


def rewritten(name: str, change):
    return lambda store: rewrite(store, name, change)


def edited(name: str, old: str, new: str):
    def damage(store: Path) -> None:
        text = (store / name).read_text()
        assert old in text
        (store / name).write_text(text.replace(old, new, 1))

    return damage


def at(index: int, value):
    """The array with one other value."""

    def change(values):
        values[index] = value
        return values

    return change


def moved_into(source: str, target: str):
    """A block replaced by another one, whose files are all sound."""

    def damage(store: Path) -> None:
        shutil.rmtree(store / target)
        shutil.copytree(store / source, store / target)

    return damage


def without_chunk(*names: str):
    def damage(store: Path) -> None:
        for name in names:
            (store / name).unlink()

    return damage


DAMAGES = {
    "a flipped byte of points": (flipped("als/1_1/x/c/0"), "als/1_1/x/c/0", "checksum"),
    "an extra attribute": (flipped("als/0_1/user_data/c/0"), "als/0_1/user_data/c/0", "checksum"),
    "an array gone": (delete("als/0_0/height"), "als/0_0/height", "missing"),
    "a chunk of zeros gone": (delete("als/1_0/withheld/c/0"), "als/1_0/withheld/c/0", "missing"),
    "a cut chunk": (cut("als/0_1/offsets/c/0", 20), "als/0_1/offsets/c/0", "checksum"),
    "an empty chunk": (cut("als/0_0/classification/c/0", 0), "als/0_0/classification/c/0", "read"),
    "the metadata of an array": (flipped("als/0_1/y/zarr.json", 0), "als/0_1/y", "metadata"),
    "all chunks of an image gone": (delete("ortho/values/c"), "ortho/values/c/0/0/1/1", "missing"),
    "a block gone": (delete("als/1_0"), "als/1_0", "missing"),
    "the metadata of a block": (flipped("als/1_0/zarr.json", 0), "als/1_0", "metadata"),
    "another type": (edited("als/1_0/y/zarr.json", "int32", "uint32"), "als/1_0/y", "uint32"),
    "another length": (edited("als/1_1/z/zarr.json", '"shape": [\n    ', '"shape": [\n    1'), "als/1_1/z", "shape"),
    "another anchor": (edited("als/1_1/zarr.json", '"anchor": [\n      ', '"anchor": [\n      1'), "als/1_1", "anchor"),
    "another window": (edited("als/1_1/zarr.json", '"window": [\n      32', '"window": [\n      31'), "als/1_1", "window"),
    "offsets that fall": (rewritten("als/1_1/offsets", at(40, 10**6)), "als/1_1/offsets", "rise"),
    "offsets that shift points": (rewritten("als/0_0/offsets", lambda v: np.r_[0, v[2:], v[-1]]), "als/0_0", "column"),
    "offsets that end early": (rewritten("als/0_1/offsets", lambda v: np.minimum(v, v[-1] - 1)), "als/0_1/x", "shape"),
    "points in another column": (rewritten("als/0_0/x", lambda v: v + 30), "als/0_0", "column"),
    "no lowest point": (rewritten("als/0_1/z", lambda v: v + 5), "als/0_1/z", "5 steps"),
    "an infinite height": (rewritten("als/0_0/height", at(3, np.inf)), "als/0_0/height", "1 are infinite"),
    "an array too many": (lambda s: shutil.copytree(s / "als/1_0/z", s / "als/1_0/zz"), "als/1_0/zz", "belong"),
    "another block's points": (moved_into("als/0_1", "als/1_1"), "als/1_1", "anchor"),
    "the group of the blocks": (delete("als/zarr.json"), "als", "metadata"),
    "a flipped byte of an image": (flipped("ortho/values/c/0/0/1/1"), "ortho/values/c/0/0/1/1", "checksum"),
    "a chunk of an image gone": (delete("ortho/values/c/0/0/1/0"), "ortho/values/c/0/0/1/0", "missing"),
    "a chunk of its mask gone": (delete("ortho/valid/c/0/0/1/0"), "ortho/valid/c/0/0/1/0", "missing"),
    "both gone": (without_chunk("ortho/values/c/0/0/1/1", "ortho/valid/c/0/0/1/1"), "ortho", "valid pixels"),
    "a raster gone": (delete("ortho"), "ortho/values", "missing"),
    "the metadata of an image": (delete("ortho/valid/zarr.json"), "ortho/valid", "zarr.json"),
    "pixels where none are valid": (rewritten("ortho/values", lambda v: v + 1), "ortho/values/c/0/0/0/1", "not valid"),
    "another mask": (rewritten("ortho/valid", at((0, 0, 150, 150), False)), "ortho/values/c/0/0/1/1", "1 pixels"),
    "a flipped byte of footprints": (flipped("gedi/heights/c/0"), "gedi/heights/c/0", "checksum"),
    "a column of footprints gone": (delete("gedi/sensitivity"), "gedi/sensitivity", "missing"),
    "the footprints gone": (delete("gedi"), "gedi/row_splits", "missing"),
    "a shot that comes twice": (rewritten("gedi/shot_number", lambda v: v[[0, 0, 2, 3, 4, 5]]), "gedi/shot_number", "twice"),
    "profiles that do not fit": (rewritten("gedi/row_splits", lambda v: v + np.r_[0, [1] * 6]), "gedi/heights", "shape"),
    "footprints elsewhere": (rewritten("gedi/x", lambda v: v + 1e4), "gedi", "outside"),
}  # fmt: skip


def rounds() -> list[list[str]]:
    """The names of damages, so that those of one round hurt different pieces."""
    pieces: dict[str, list[str]] = {}
    for name, (_, where, _) in DAMAGES.items():
        pieces.setdefault(where[:7] if where.startswith("als/") else where.split("/")[0], []).append(name)
    return [[name for name in together if name is not None] for together in zip_longest(*pieces.values())]


@pytest.mark.parametrize("together", rounds(), ids=", ".join)
def test_a_damage_is_found_where_it_is_and_mended_to_the_same_bytes(together, whole, store):
    for damage in together:
        DAMAGES[damage][0](store)
    found = examined(store)
    for damage in together:
        _, where, problem = DAMAGES[damage]
        assert any(item.where == where and problem in item.problem for item in found.findings), [*map(str, found.findings)]
    assert not same_files(whole, store)
    done = mended(store, found)
    assert set(done.outcomes.values()) == {""}, done.outcomes
    assert done.notes == []
    assert done.verification.findings == ()
    assert same_files(whole, store)
    assert [path.name for path in store.parent.iterdir()] == ["scene.zarr"]


def test_a_tile_that_was_set_aside_stays_out_of_a_block_that_is_made_again(whole, store, scene):
    """The fourth tile cannot be decoded; its corner of the scene is empty but for the neighbours' points."""
    for name in Store.open(whole).attributes.als.blocks:  # type: ignore[union-attr]
        flip(store / "als" / name / "x" / "c" / "0")
    outcomes = mended(store).outcomes
    assert set(outcomes.values()) == {""}
    assert same_files(whole, store)


@pytest.fixture
def own(tmp_path, scene):
    """A store with sources of its own, that a test may touch."""
    (tmp_path / "mine").mkdir()
    sources = write_sources(tmp_path / "mine")
    return make(sources, tmp_path / "own.zarr"), [Path(path) for path in sources.als.files]  # type: ignore[union-attr]


def test_sources_that_changed_or_are_gone_are_refused_and_the_rest_is_mended(own):
    store, tiles = own
    for name in ("als/0_0/x/c/0", "gedi/x/c/0", "ortho/valid/c/0/0/1/1"):
        flip(store / name)
    before = (store / "als/0_0/x/c/0").read_bytes()
    times = tiles[0].stat()
    os.utime(tiles[0], ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    (tiles[0].parents[1] / "ortho.tif").unlink()
    outcomes = mended(store).outcomes
    assert "tile_0_0.laz: has changed" in outcomes["als/0_0"]
    assert "ortho.tif" in outcomes["ortho/c/0/0/1/1"]
    assert outcomes["gedi"] == ""
    assert {finding.where for finding in examined(store).findings} == {"als/0_0/x/c/0", "ortho/valid/c/0/0/1/1"}
    assert (store / "als/0_0/x/c/0").read_bytes() == before


def test_a_tile_that_does_not_reach_a_block_is_not_decoded_for_it(own, monkeypatch):
    from fusion3d.prepare import repair as module

    decoded: list[str] = []

    def spill(number, tile, *rest):
        decoded.append(Path(tile.file.path).name)
        return spill_tile(number, tile, *rest)

    spill_tile = module.spill_tile
    monkeypatch.setattr(module, "spill_tile", spill)
    store, _ = own
    flip(store / "als/1_1/x/c/0")  # the south-eastern corner of the scene, 4 m of ground around it
    assert mended(store).outcomes == {"als/1_1": ""}
    assert decoded == ["tile_0_1.laz"]


def test_root_attributes_cannot_be_mended(store):
    text = (store / "zarr.json").read_text()
    for old, new in (('"intensity_p95": ', '"intensity_p95": 1'), ('"rows": ', '"rowz": '), ("{", "")):
        (store / "zarr.json").write_text(text.replace(old, new, 1))
        verification = examined(store)
        assert [finding.unit for finding in verification.findings] == [None]
        assert "prepare the scene again" in verdict(str(store), verification, mended=False)[-1]
        with pytest.raises(StoreError, match="prepare the scene again"):
            mended(store, verification)
    (store / "zarr.json").unlink()
    assert "missing" in str(examined(store).findings[0])


def test_what_is_no_store_is_refused(tmp_path):
    for folder in (tmp_path / "nothing", tmp_path):
        with pytest.raises(StoreError, match="no column store"):
            examined(folder)


def test_a_block_that_is_not_named_is_told_and_left_alone(store):
    shutil.copytree(store / "als/0_0", store / "als/7_7")
    shutil.copytree(store / "gedi", store / "lidar")
    found = [str(finding) for finding in examined(store).findings]
    assert found == ["lidar: is no sensor of this store", "als/7_7: is no block of this store"]
    assert mended(store).outcomes == {}
    assert (store / "als/7_7").exists()


def test_points_exchanged_for_others_in_the_same_columns_are_seen_in_the_sums(store):
    rewrite(store, "als/1_1/classification", at(0, 9))
    (finding,) = examined(store).findings
    assert finding.where == "als"
    assert "class" in finding.problem
    assert "9" in finding.problem


def test_a_store_without_checksums_is_verified_and_that_is_said(scene, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            writer, "_create",
            lambda group, name, shape, chunks, dtype, compressors: group.create_array(
                name, shape=shape, chunks=chunks, dtype=dtype, compressors=(ZstdCodec(level=3),)
            ),
        )  # fmt: skip
        store = make(scene, tmp_path / "old.zarr")
    verification = examined(store)
    assert verification.findings == ()
    assert verification.without_checksum == verification.arrays
    notes = verdict(str(store), verification, mended=False)
    assert "before there were checksums" in notes[0]
    assert "no file" in notes[1]
    (store / "ortho/values/c/0/0/1/1").unlink()
    (store / "als/1_1/classification/c/0").unlink()
    found = {finding.where for finding in examined(store).findings}
    assert found == {"als", "ortho"}


def test_a_program_that_a_store_names_is_not_run(store, monkeypatch):
    verification = examined(store)
    configuration = json.loads(json.dumps(dict(verification.attributes.configuration)))  # type: ignore[union-attr]
    configuration["rasters"]["ortho"]["reader"] = f"{store.parent / 'evil.py'}:run"
    (store.parent / "evil.py").write_text(f"open({str(store.parent / 'ran')!r}, 'w')")
    attributes = replace(verification.attributes, configuration=configuration)
    flip(store / "ortho/values/c/0/0/1/1")
    hurt = replace(examined(store), attributes=attributes)
    outcomes = mended(store, hurt).outcomes
    assert "a repair does not run" in outcomes["ortho/c/0/0/1/1"]
    assert not (store.parent / "ran").exists()


def test_another_version_is_said_to_have_made_the_store(store, monkeypatch):
    flip(store / "gedi/x/c/0")
    monkeypatch.setattr(originals, "__version__", "0.0.0")
    assert "another version" in mended(store).notes[0]


def test_a_folder_of_the_users_in_the_place_of_the_work_is_not_touched(store):
    flip(store / "gedi/x/c/0")
    (store.parent / "scene.zarr.repair").mkdir()
    (store.parent / "scene.zarr.repair" / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="move it away"):
        mended(store)
    assert (store.parent / "scene.zarr.repair" / "thesis.tex").exists()


def test_a_second_repair_at_the_same_time_is_refused(store):
    flip(store / "gedi/x/c/0")
    work = store.parent / "scene.zarr.repair"
    work.mkdir()
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another repair"):
            mended(store)
    assert mended(store).outcomes == {"gedi": ""}  # what a killed repair left is no hindrance


def test_a_store_that_is_not_local_is_verified_and_mended(whole, tmp_path):
    url = "memory://bucket/forêt 1.zarr"
    remote, root = fsspec.url_to_fs(url)
    remote.put(str(whole), root, recursive=True)
    try:
        assert examined(url).findings == ()
        remote.rm(f"{root}/als/1_1/withheld/c/0")
        remote.pipe_file(f"{root}/ortho/values/c/0/0/1/1", b"garbage")
        remote.pipe_file(f"{root}/als/0_1/zz/zarr.json", b"{}")
        found = examined(url)
        assert len(found.findings) == 3
        done = mended(url, found)
        assert set(done.outcomes.values()) == {""}
        assert done.verification.findings == ()
        remote.get(root, str(tmp_path / "back.zarr"), recursive=True)
        assert same_files(whole, tmp_path / "back.zarr")
    finally:
        remote.rm("/bucket", recursive=True)


def test_a_place_that_cannot_be_reached_is_no_damage():
    with pytest.raises(InputError, match="network"):
        examined("http://127.0.0.1:9/scene.zarr")


def test_reading_a_damaged_store_names_the_array_and_the_remedy(store):
    for name in ("als/1_1/x/c/0", "ortho/values/c/0/0/1/1", "gedi/x/c/0"):
        flip(store / name)
    opened = Store.open(store)
    window = opened.grid.window
    for read, name in (
        (opened.points, "als/1_1/x"),
        (lambda window: opened.raster("ortho", window), "ortho/values"),
        (opened.footprints, "gedi/x"),
    ):
        with pytest.raises(StoreError, match=f"{name}: damaged .*fusion3d doctor .* --repair"):
            read(window)


def test_the_command_ends_with_a_verdict_and_its_status(store, whole):
    def doctor(*words: object) -> tuple[int, list[str]]:
        result = CliRunner().invoke(app, ["doctor", *map(str, words), "--quiet"])
        return result.exit_code, result.stdout.splitlines()

    assert doctor(store)[0] == 0
    flip(store / "als/1_1/x/c/0")
    status, lines = doctor(store)
    assert status == 1
    assert lines[0].startswith("als/1_1/x/c/0: ")
    assert f"fusion3d doctor {store} --repair" in lines[-1]
    status, lines = doctor(store, "--repair")
    assert status == 0
    assert "made again: als/1_1" in lines
    assert "whole" in lines[-1]
    assert same_files(whole, store)


def test_a_tile_that_is_gone_elsewhere_is_no_hindrance(own):
    store, tiles = own
    tiles[0].unlink()
    flip(store / "als/1_1/x/c/0")
    flip(store / "als/1_0/x/c/0")
    outcomes = mended(store).outcomes
    assert outcomes["als/1_1"] == ""
    assert "tile_0_0.laz: no such file" in outcomes["als/1_0"]
