"""A full disk, for every writer: one line, nothing half-written under the final name, what was there before stays, and a second
try with room succeeds."""

from __future__ import annotations

import datetime
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch
from pyproj import CRS

from fusion3d.errors import Fusion3DError, InputError
from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import AlsSource, Scene
from tests.prepare.scenes import write_tiles

LAMBERT = CRS.from_epsg(2154)


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes: write(2) fails as on a full disk (Python ignores SIGXFSZ)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def points(path: Path) -> None:
    from fusion3d.io.las_writer import write_points

    x = np.random.default_rng(0).uniform(652000, 652100, (3, 5000)).round(2)
    write_points(path, x[0], x[1] + 6208000, x[2], {}, crs="EPSG:2154", scale=0.01)


def copy_of_points(path: Path) -> None:
    from fusion3d.io.las import open_points
    from fusion3d.io.las_copy import copy_points

    copy_points(open_points(path.with_name("source.laz")), path, [], lambda start, stop: {})


def cog(path: Path) -> None:
    from fusion3d.io.geotiff import write_cog

    values = np.random.default_rng(0).normal(size=(1, 600, 600)).astype(np.float32)
    write_cog(path, values, x0=652000.0, y0=6862000.0, pixel=10.0, crs=LAMBERT)


def geoparquet(path: Path) -> None:
    from fusion3d.mapping.geoparquet import EmbeddingTable

    at = np.arange(5000)
    with EmbeddingTable(path, crs=LAMBERT, names=["emb_000"], sensors=["als"], about={}) as table:
        table.write(x=1.0 * at, y=1.0 * at, row=at, col=at, seen=np.ones((5000, 1), bool),
                    embedding=np.random.default_rng(0).normal(size=(5000, 1)).astype(np.float32))  # fmt: skip


def text(path: Path) -> None:
    from fusion3d.io.whole_file import write_whole

    write_whole(path, "one line of a report\n" * 1000)


def json_file(path: Path) -> None:
    from fusion3d.io.json_file import write_json

    write_json(path, {"values": list(range(5000))})


def csv(path: Path) -> None:
    from fusion3d.io.csv_table import write_csv

    write_csv(path, ["a", "b"], ((at, at * 0.5) for at in range(3000)))


def block(path: Path) -> None:
    from fusion3d.grid import Window
    from fusion3d.mapping.finished_blocks import FinishedBlocks

    blocks = FinishedBlocks(path.parents[1] / "map.tif", {})
    try:
        blocks.save(Window(0, 0, 50, 50), [np.random.default_rng(0).normal(size=(1, 50, 50))])
    finally:
        blocks.close()


def model_arrays(path: Path) -> None:
    from fusion3d.tasks.model_file import write_files

    write_files(path.with_suffix(".json"), {"format": "test"}, {}, {"weights": np.ones((50, 50))})


def encoder(path: Path) -> None:
    from fusion3d.encoders.checkpoint import save_encoder
    from fusion3d.encoders.registry import ENCODERS

    save_encoder(ENCODERS["gedi"](width=16, shared_dim=8, heads=2, point_channels=16), path)


def checkpoint(path: Path) -> None:
    from fusion3d.pretraining.callbacks import AtomicCheckpointIO

    AtomicCheckpointIO().save_checkpoint({"state_dict": {"a": torch.ones(4000)}}, path)


def configuration(path: Path) -> None:
    from types import SimpleNamespace

    from fusion3d.pretraining.callbacks import ConfigurationFile

    ConfigurationFile(path, "model:\n" * 1000).on_train_start(SimpleNamespace(is_global_zero=True), None)


def geojson(path: Path) -> None:
    from fusion3d.simulate.vector_files import write_geojson

    write_geojson(path, ((shapely.Point(652000 + at, 6862000), {"id": at}) for at in range(500)), LAMBERT)


def points_file(path: Path) -> None:
    from fusion3d.simulate.vector_files import PointsFile

    at = np.arange(1000.0)
    file = PointsFile(path, LAMBERT, datetime.date(2024, 7, 1))
    try:
        for piece in (at, at + 1000):
            file.append(652000 + piece, 6862000 + piece, {"height": piece})
        file.close()
    finally:
        file.discard()


def geopackage(path: Path) -> None:
    from fusion3d.simulate.footprint_truth import write_points

    at = np.arange(2000.0)
    write_points(path, {"agbd": at}, 652000 + at, 6862000 + at, LAMBERT, datetime.date(2024, 7, 1))


def tile_index(path: Path) -> None:
    from fusion3d.prepare.archive_files import list_archive
    from fusion3d.prepare.tile_index import read_archive
    from fusion3d.prepare.tile_index_checks import check_archive
    from fusion3d.prepare.tile_index_gpkg import write_index

    archive = read_archive(list_archive([str(path.with_name("source.laz"))])[0])
    write_index(path, archive, check_archive(archive))


def picture(path: Path) -> None:
    from fusion3d.mapping.picture import picture

    picture(path.with_name("source.tif"), path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "points.las": points,
    "points.laz": points,
    "copy.las": copy_of_points,
    "copy.laz": copy_of_points,
    "map.tif": cog,
    "cells.parquet": geoparquet,
    "page.html": text,
    "figures.json": json_file,
    "figures.csv": csv,
    "map.tif.partial/0_0.npz": block,
    "model.safetensors": model_arrays,
    "encoder.safetensors": encoder,
    "last.ckpt": checkpoint,
    "config.yaml": configuration,
    "plots.geojson": geojson,
    "truth.gpkg": geopackage,
    "trees.gpkg": points_file,
    "tiles.gpkg": tile_index,
    "picture.png": picture,
}


@pytest.mark.parametrize("name", WRITERS)
def test_full_disk_is_told_in_one_line_and_leaves_what_was_there(tmp_path, name):
    write, path = WRITERS[name], tmp_path / name
    if write in (copy_of_points, tile_index):
        points(tmp_path / "source.laz")
    if write is picture:
        cog(tmp_path / "source.tif")
    write(path)
    before = path.read_bytes()
    held = sorted(tmp_path.rglob("*"))
    for share in (0.0, 0.5, 0.99):
        with pytest.raises(Fusion3DError) as caught, room_for(int(share * len(before))):
            write(path)
        assert "cannot be written" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert path.name.split(".")[0] in str(caught.value)
        assert path.read_bytes() == before
        assert sorted(tmp_path.rglob("*")) == held
    path.unlink()
    with pytest.raises(Fusion3DError), room_for(len(before) // 2):
        write(path)
    assert not path.exists()
    write(path)
    assert path.stat().st_size > 0.9 * len(before)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[int], Path]]:
    """A disk of so many KB; called again, the same one with another size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def sized(kilobytes: int) -> Path:
        how = "remount,size" if folder.is_mount() else "size"
        kind = ["-t", "tmpfs", "tmpfs"] if not folder.is_mount() else []
        done = subprocess.run(["mount", "-o", f"{how}={kilobytes}k", *kind, folder], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("mounting a tmpfs is not allowed here")
        return folder

    yield sized
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)


def command(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "fusion3d.cli", *map(str, arguments), "--quiet"], capture_output=True, text=True, timeout=120,
        check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_prepare_on_a_full_disk_stops_in_one_line_and_resumes_to_the_same_bytes(tmp_path, small_disk):
    tiles = write_tiles(tmp_path / "tiles")
    disk = small_disk(400)
    scene = Scene(AlsSource(tuple(tiles)), column=2.0, block=16)
    with pytest.raises(Fusion3DError, match="No space left on device") as caught:
        prepare(scene, disk / "scene.zarr", quiet=True)
    assert "\n" not in str(caught.value)
    assert not (disk / "scene.zarr").exists()
    small_disk(100_000)
    prepare(scene, disk / "scene.zarr", quiet=True)
    prepare(scene, tmp_path / "undisturbed.zarr", quiet=True)
    names = {path.relative_to(disk) for path in disk.rglob("*") if path.is_file()}
    assert names == {Path("scene.zarr") / path.relative_to(tmp_path / "undisturbed.zarr")
                     for path in (tmp_path / "undisturbed.zarr").rglob("*") if path.is_file()}  # fmt: skip
    for name in names:
        other = tmp_path / "undisturbed.zarr" / Path(*name.parts[1:])
        assert (disk / name).read_bytes() == other.read_bytes(), name


def test_simulate_on_a_full_disk_leaves_no_half_scene(small_disk):
    disk = small_disk(300)
    done = command("simulate", "--size", 100, "--sensors", "gedi", "--out", disk / "scene")
    assert done.returncode == 2
    *noise, line = done.stderr.splitlines()
    assert re.fullmatch(rf"fusion3d: {disk}/scene[^.]*\.?\w*: cannot be written \(.*", line)
    assert len(noise) <= 1, noise
    assert list(disk.iterdir()) == []


def test_pretraining_on_a_full_disk_stops_in_one_line_and_begins_anew_with_room(tmp_path):
    from fusion3d.pretraining.callbacks import last_checkpoint
    from fusion3d.pretraining.command import main
    from tests.data.scene import write_scene

    options = {"data.store": write_scene(tmp_path / "scene.zarr"), "out": tmp_path / "run", "data.size": 8, "data.batch_size": 2,
               "data.max_dates": 2, "data.val_chips": 2, "trainer.max_steps": 2, "trainer.limit_val_batches": 0,
               "trainer.accelerator": "cpu", "trainer.enable_progress_bar": "false", "checkpoint_every": 1}  # fmt: skip
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with pytest.raises(InputError, match=r"last\.ckpt: cannot be written"), room_for(100_000):
        main(arguments)
    assert list(last_checkpoint(tmp_path / "run").parent.iterdir()) == []
    assert main([*arguments, "--resume"]) == 0
    assert last_checkpoint(tmp_path / "run").is_file()
