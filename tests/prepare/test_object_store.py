"""Stores and tiles in a bucket, and on a Dask scheduler: the same bytes as in a folder, resumed after an end in the middle."""

from __future__ import annotations

from pathlib import Path

import fsspec
import h5py
import pytest

from fusion3d.errors import ConfigError, InputError, StoreError
from fusion3d.prepare import assembly
from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import AlsSource, GediInput, Scene
from fusion3d.store.reader import Store
from tests.prepare.bad_files import gedi
from tests.prepare.scenes import write_tiles


def scene(tiles, **options) -> Scene:
    return Scene(als=AlsSource(tuple(map(str, tiles))), **{"column": 2.0, "block": 20, **options})


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> list[str]:
    return write_tiles(tmp_path_factory.mktemp("tiles"))[:2]


def in_folder(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_bucket(url: str) -> dict[str, bytes]:
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    root = url.removeprefix("s3://")
    return {name.removeprefix(f"{root}/"): fs.cat_file(name) for name in fs.find(root)}


@pytest.fixture(scope="module")
def blocks(tiles, tmp_path_factory) -> dict[str, bytes]:
    """Files of the store in a folder, the root attributes apart: they hold the hash of the sources."""
    folder = tmp_path_factory.mktemp("store") / "scene.zarr"
    prepare(scene(tiles), folder, quiet=True)
    return without_root(in_folder(folder))


def without_root(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name != "zarr.json"}


def test_a_store_in_a_bucket_holds_the_bytes_of_one_in_a_folder(tiles, blocks, s3):
    out = f"{s3}/forêt d'été/scene 1.zarr"
    summary = prepare(scene(tiles), out, quiet=True)
    assert summary.out == out
    assert without_root(in_bucket(out)) == blocks
    assert Store.open(out).attributes.als.points == summary.attributes.als.points
    assert in_bucket(f"{out}.partial") == {}
    assert prepare(scene(tiles), out, quiet=True).already_done
    with pytest.raises(StoreError, match="cannot replace it at once: remove it first"):
        prepare(scene(tiles[:1]), out, overwrite=True, quiet=True)


def test_tiles_in_a_bucket_are_read_where_they_are(tiles, blocks, s3, tmp_path):
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    for path in tiles:
        fs.put_file(path, f"{s3}/tuiles à lire/{Path(path).name}")
    prepare(scene([f"{s3}/tuiles à lire"]), tmp_path / "folder.zarr", quiet=True)
    assert without_root(in_folder(tmp_path / "folder.zarr")) == blocks
    prepare(scene([f"{s3}/tuiles à lire/tile_*_0.laz"]), tmp_path / "pattern.zarr", quiet=True)
    names = [item["name"] for item in Store.open(tmp_path / "pattern.zarr").attributes.sources]
    assert names == ["tile_0_0.laz"]
    with pytest.raises(InputError, match="no such file"):
        prepare(scene([f"{s3}/nowhere"]), tmp_path / "none.zarr", quiet=True)


def test_a_run_that_ends_in_the_middle_goes_on_in_a_bucket(tiles, blocks, s3, monkeypatch):
    out = f"{s3}/scene.zarr"
    build, built = assembly.build_block, []

    def tired(block, *rest):
        if len(built) == 1:
            raise KeyboardInterrupt
        built.append(block)
        return build(block, *rest)

    monkeypatch.setattr(assembly, "build_block", tired)
    with pytest.raises(KeyboardInterrupt):
        prepare(scene(tiles), out, quiet=True)
    with pytest.raises(StoreError, match="not finished"):
        Store.open(out)
    monkeypatch.setattr(assembly, "build_block", lambda block, *rest: built.append(block) or build(block, *rest))
    monkeypatch.setattr(assembly, "spill_tile", None)
    prepare(scene(tiles), out, quiet=True)
    assert len(built) == len(set(built))
    assert without_root(in_bucket(out)) == blocks


def test_a_scheduler_of_ones_own_makes_the_same_bytes(tiles, blocks, tmp_path):
    from distributed import LocalCluster

    out = tmp_path / "forêt d'été" / "scene 1.zarr"
    out.parent.mkdir()
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster:
        prepare(scene(tiles), out, scheduler=cluster.scheduler_address, quiet=True)
    assert without_root(in_folder(out)) == blocks


def test_a_scheduler_that_is_none_is_told_before_anything_is_made(tiles, tmp_path, monkeypatch):
    monkeypatch.setattr("fusion3d.workers._TIMEOUT", 1.0)
    with pytest.raises(ConfigError, match="no Dask scheduler answers"):
        prepare(scene(tiles), tmp_path / "scene.zarr", scheduler="tcp://127.0.0.1:1", quiet=True)
    assert not (tmp_path / "scene.zarr").exists()


def test_footprints_in_a_bucket_make_the_table_of_those_in_a_folder(tiles, s3, tmp_path):
    (tmp_path / "gedi").mkdir()
    names = [gedi(tmp_path / "gedi", name=f"GEDI02_A_{number}.h5").name for number in range(2)]
    with h5py.File(tmp_path / "gedi" / names[1], "r+") as file:
        file["BEAM0101/shot_number"][:] += 100
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    for name in names:
        fs.put_file(str(tmp_path / "gedi" / name), f"{s3}/granules/{name}")
    found = {}
    for place in (str(tmp_path / "gedi"), f"{s3}/granules"):
        summary = prepare(scene(tiles, gedi=GediInput((place,))), tmp_path / f"{len(found)}.zarr", quiet=True)
        assert summary.set_aside == []
        store = Store.open(summary.out)
        found[place] = store.footprints(store.grid.window)
    here, there = found.values()
    assert there.shot_number.tolist() == here.shot_number.tolist()
    assert len(here.shot_number) == 8
