"""Embeddings by several workers, here and on a cluster, and runs that were killed."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import fsspec
import numpy as np
import pytest
import rasterio
import torch
from typer.testing import CliRunner

from fusion3d import workers
from fusion3d.cli import app
from fusion3d.errors import ConfigError, InputError
from fusion3d.mapping import embedded_tiles
from fusion3d.mapping.embed import embed
from fusion3d.mapping.mapper import Mapper
from fusion3d.mapping.predict import predict
from fusion3d.tasks.model_file import write_model
from tests.data.scene import write_scene
from tests.evaluation.checkpoints import write_checkpoint
from tests.mapping.linear_models import with_intervals
from tests.tasks.places import write_map

SENSORS = ["als", "s2"]
TILES = 4 * 6
"""Of 4 columns, in 16 x 24."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("forêt d'été")
    store = write_scene(folder / "scène 1.zarr", tuple(SENSORS), rows=16, cols=24)
    return str(write_checkpoint(folder / "random.ckpt", store, SENSORS)), store


@pytest.fixture(scope="module")
def whole(scene, tmp_path_factory) -> tuple[bytes, bytes]:
    """Both files of the scene, made in one go by one thread."""
    folder = tmp_path_factory.mktemp("whole")
    return made(scene, folder)[0]


@pytest.fixture(scope="module")
def cluster():
    """Address of a Dask scheduler with two workers, all in this process, that talk as processes do."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address=":0"
    ) as found:
        yield found.scheduler_address


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def made(scene, folder: Path, **options):
    """Bytes of the COG and the table, and the summary."""
    paths = [folder / "emb.tif", folder / "emb.parquet"]
    # the checkpoint's path is a tag of the files
    summary = embed(*scene, paths, tile=4, progress=False, device="cpu", **options)
    assert {path.name for path in folder.iterdir()} == {"emb.tif", "emb.parquet"}
    return (paths[0].read_bytes(), paths[1].read_bytes()), summary


def test_two_processes_give_the_bytes_of_one_thread(scene, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_PATIENCE", 0.0)
    here: list[int] = []
    real = embedded_tiles.layers_of
    monkeypatch.setattr(embedded_tiles, "layers_of", lambda *args: here.append(1) or real(*args))
    assert made(scene, tmp_path, workers=2)[0] == whole
    assert len(here) < TILES / 2


def test_pieces_are_computed_with_one_thread_and_threads_are_given_back(scene, whole, tmp_path, monkeypatch):
    """As in the seconds before a local cluster is there."""
    monkeypatch.setattr(workers, "_PATIENCE", 1e9)
    torch.set_num_threads(2)
    threads = set()
    real = Mapper.embed

    def watched(self, *args):
        threads.add(torch.get_num_threads())
        return real(self, *args)

    monkeypatch.setattr(Mapper, "embed", watched)
    assert made(scene, tmp_path, workers=2)[0] == whole
    assert threads == {1}
    assert torch.get_num_threads() == 2


def test_cluster_of_a_user_gives_the_same_bytes(scene, whole, cluster, tmp_path, monkeypatch):
    # as in another process, which has to open checkpoint and store
    monkeypatch.setattr("fusion3d.mapping.embed.holding", lambda *args: nullcontext())
    loaded = []
    real = embedded_tiles.load_pretraining
    monkeypatch.setattr(embedded_tiles, "load_pretraining", lambda *args: loaded.append(1) or real(*args))
    monkeypatch.chdir(Path(scene[0]).parent)
    found, summary = made((scene[0], "scène 1.zarr"), tmp_path, scheduler=cluster)
    assert found == whole
    assert (summary.tiles, summary.empty) == (TILES, 0)
    assert loaded == [1]


def test_cluster_of_a_user_gives_the_same_map_of_a_variable(cluster, tmp_path, monkeypatch):
    bands = np.random.default_rng(0).normal(size=(2, 60, 50))
    bands[:, 10:30, :40] = np.nan
    write_map(tmp_path / "emb.tif", bands)
    monkeypatch.chdir(tmp_path)
    predict(with_intervals(), "emb.tif", "agb.tif", block=20, scheduler=cluster)
    predict(with_intervals(), "emb.tif", "here.tif")
    assert Path("agb.tif").read_bytes() == Path("here.tif").read_bytes()


def test_killed_run_is_gone_on_with_to_the_same_bytes(scene, whole, tmp_path, monkeypatch):
    out, folder = tmp_path / "emb.tif", tmp_path / "emb.tif.partial"
    words = ["embed", *scene, "--out", out, "--out", tmp_path / "emb.parquet", "--tile", 4, "--workers", 1, "--quiet"]
    words += ["--device", "cpu"]
    run = subprocess.Popen([sys.executable, "-m", "fusion3d.cli", *map(str, words)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = random.randint(1, TILES // 2)
    try:
        deadline = time.monotonic() + 120
        while len(list(folder.glob("[0-9]*.npz"))) < after and time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.001)
        os.kill(run.pid, signal.SIGKILL)
    finally:
        run.wait()
    assert run.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    finished = len(list(folder.glob("[0-9]*.npz")))
    assert after <= finished < TILES
    calls = []
    real = Mapper.embed
    monkeypatch.setattr(Mapper, "embed", lambda self, *args: calls.append(1) or real(self, *args))
    found, summary = made(scene, tmp_path)
    assert found == whole
    assert len(calls) == TILES - finished
    assert summary.notes == (f"went on from the {finished} of {TILES} tiles that a run before had finished",)
    assert str(summary).startswith("note: went on from")


def stopped(scene, out: Path, monkeypatch, **options) -> None:
    """Leave a run whose tiles are all there."""

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("fusion3d.mapping.embed._assemble", stop)
        with pytest.raises(KeyboardInterrupt):
            embed(*scene, out, tile=16, progress=False, device="cpu", **options)


@pytest.mark.parametrize("changed", ["checkpoint", "option"])
def test_what_is_left_of_another_map_is_dropped_and_said(scene, tmp_path, monkeypatch, changed):
    out = tmp_path / "emb.tif"
    stopped(scene, out, monkeypatch, sensors=["s2"])
    checkpoint, options = scene[0], {"sensors": ["s2"]}
    if changed == "checkpoint":
        checkpoint = str(write_checkpoint(tmp_path / "random.ckpt", scene[1], SENSORS, seed=4))
    else:
        options = {"sensors": ["als"]}
    summary = embed(checkpoint, scene[1], out, tile=16, progress=False, device="cpu", **options)
    assert len(summary.notes) == 1
    assert re.search(f"was made with another .*{changed}.*: begun anew", summary.notes[0])
    embed(checkpoint, scene[1], tmp_path / "whole.tif", tile=16, progress=False, device="cpu", **options)
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_worker_that_sees_another_file_says_so(scene, tmp_path):
    recipe = embedded_tiles.Recipe(scene[0], "0" * 64, scene[1], "", ("s2",), None, None, "shared", "cpu")
    with pytest.raises(InputError, match="is another one, where a worker runs; workers must see the same files"):
        embedded_tiles.tile_layers(recipe, None)


# -- as it is typed


def run(*words: object):
    return CliRunner().invoke(app, [*map(str, words)])


def test_workers_and_schedulers_that_cannot_be_are_one_line(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_TIMEOUT", 0.5)
    write_map(tmp_path / "in.tif", np.zeros((2, 4, 4)))
    write_model(with_intervals(), tmp_path / "model.json")
    verbs = (
        ("embed", *scene, "--device", "cpu", "--out", tmp_path / "out.tif", "--quiet"),
        ("map", tmp_path / "model.json", tmp_path / "in.tif", "--out", tmp_path / "out.tif", "--quiet"),
    )
    for verb in verbs:
        for words, text in (
            (("--workers", 0), "--workers must be at least 1, not 0"),
            (("--scheduler", "tcp://127.0.0.1:9"), "no Dask scheduler answers at tcp://127.0.0.1:9"),
            (("--scheduler", "nonsense://x"), "no Dask scheduler answers at nonsense://x"),
        ):
            failed = run(*verb, *words).exception
            assert isinstance(failed, ConfigError), (verb, words, failed)
            assert text in str(failed)
            assert "\n" not in str(failed)
            assert not (tmp_path / "out.tif").exists()


def test_scene_in_a_bucket_is_mapped_into_the_bucket(scene, s3, tmp_path):
    system = fsspec.filesystem("s3")
    system.put(scene[1], f"{s3}/scène 1.zarr", recursive=True)
    emb = f"{s3}/forêt d'été/emb 1.tif"
    done = run(
        "embed", scene[0], f"{s3}/scène 1.zarr", "--out", emb, "--out", f"{s3}/emb.parquet", "--sensors", "s2", "--device", "cpu",
        "--picture", f"{s3}/emb.png", "--workers", 1, "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.exception
    assert emb in done.output
    embed(*scene, tmp_path / "emb.tif", sensors=["s2"], progress=False, device="cpu")
    with rasterio.open(emb) as remote, rasterio.open(tmp_path / "emb.tif") as local:
        np.testing.assert_array_equal(remote.read(), local.read())
    held = {path.rpartition("/")[2] for path in system.find(s3) if ".zarr/" not in path}
    assert held == {"emb 1.tif", "emb.parquet", "emb.png"}
