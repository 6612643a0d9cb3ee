"""Maps that are computed block by block: by several threads, stopped, and gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import rasterio

from fusion3d.errors import ConfigError, InputError
from fusion3d.io.geotiff import CogWriter
from fusion3d.mapping.cell_by_cell import CellMap
from fusion3d.mapping.finished_blocks import FinishedBlocks
from fusion3d.mapping.predict import predict
from fusion3d.tasks.model import TargetModel
from fusion3d.tasks.model_file import write_model
from fusion3d.tasks.support import means_of_squares
from tests.mapping.linear_models import with_intervals
from tests.tasks.places import write_map

ROWS, COLS = 130, 110


@pytest.fixture(scope="module")
def embedding(tmp_path_factory):
    rng = np.random.default_rng(0)
    bands = 30 * rng.normal(size=(2, ROWS, COLS))
    bands[:, rng.random((ROWS, COLS)) < 0.3] = np.nan
    bands[:, :40, :40] = np.nan
    return write_map(tmp_path_factory.mktemp("map") / "emb.tif", bands)


def stopped(source, out, **options) -> list:
    """Let a run stop when all blocks are computed; the files of the blocks."""

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(CogWriter, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            predict(with_intervals(), source, out, **options)
    return sorted(out.with_name(f"{out.name}.partial").glob("*.npz"))


def computed(monkeypatch) -> list[int]:
    """Is given the number of cells whenever cells are computed."""
    calls: list[int] = []
    real = TargetModel.predict_bands_uncut

    def count(self: TargetModel, bands: np.ndarray) -> np.ndarray:
        calls.append(bands.shape[1])
        return real(self, bands)

    monkeypatch.setattr(TargetModel, "predict_bands_uncut", count)
    return calls


@pytest.mark.parametrize("resolution", [None, 30])
def test_bytes_do_not_depend_on_blocks_and_workers(embedding, tmp_path, resolution):
    files = []
    for block, workers in ((256, 1), (17, 3), (64, 2)):
        name = f"{block}.tif"
        predict(
            with_intervals(), embedding, tmp_path / name, resolution=resolution, columns=tmp_path / f"{block}.parquet",
            block=block, workers=workers,
        )  # fmt: skip
        files.append(((tmp_path / name).read_bytes(), (tmp_path / f"{block}.parquet").read_bytes()))
    assert files[0] == files[1] == files[2]


def test_workers_run_at_the_same_time(embedding, tmp_path, monkeypatch):
    """Each of two blocks waits until both have begun."""
    from threading import Barrier

    together, real = Barrier(2, timeout=20), CellMap.read

    def read(self: CellMap, window: object) -> object:
        together.wait()
        return real(self, window)

    monkeypatch.setattr(CellMap, "read", read)
    predict(with_intervals(), embedding, tmp_path / "agb.tif", block=COLS, workers=2)
    assert together.broken is False


def test_killed_run_is_gone_on_with_to_the_same_bytes(embedding, tmp_path, monkeypatch):
    out, folder = tmp_path / "agb.tif", tmp_path / "agb.tif.partial"
    write_model(with_intervals(), tmp_path / "model.json")
    words = ["map", tmp_path / "model.json", embedding, "--out", out, "--block", 10, "--quiet"]
    run = subprocess.Popen([sys.executable, "-m", "fusion3d.cli", *map(str, words)])
    try:
        deadline = time.monotonic() + 60
        while len(list(folder.glob("[0-9]*.npz"))) < 5 and time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.002)
        os.kill(run.pid, signal.SIGKILL)
    finally:
        run.wait()
    assert run.returncode == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} == {"model.json", "model.safetensors", folder.name}
    blocks, finished = -(-ROWS // 10) * -(-COLS // 10), len(list(folder.glob("[0-9]*.npz")))
    assert 5 <= finished < blocks
    held = {path.name for path in folder.glob("[0-9]*.npz")}
    with rasterio.open(embedding) as dataset:
        seen = np.isfinite(dataset.read(1))
    left = [
        int(seen[row : row + 10, col : col + 10].sum())
        for row in range(0, ROWS, 10)
        for col in range(0, COLS, 10)
        if f"{row}_{col}.npz" not in held
    ]
    calls = computed(monkeypatch)
    summary = predict(tmp_path / "model.json", embedding, out, block=10)
    assert calls == [count for count in left if count]
    assert f"went on from the {finished} of {blocks} blocks that a run before had finished" in summary.notes
    assert not folder.exists()
    whole = predict(tmp_path / "model.json", embedding, tmp_path / "whole.tif")
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert (summary.mapped, summary.low, summary.high) == (whole.mapped, whole.low, whole.high)


def test_drafts_of_a_killed_run_are_removed(embedding, tmp_path):
    out = tmp_path / "agb.tif"
    stopped(embedding, out)
    for name in (".agb.0123abcd.draft.tif", ".0_0.0123abcd.draft.npz", "agb.tif"):
        (tmp_path / "agb.tif.partial" / name).write_text("half")
    predict(with_intervals(), embedding, out)
    assert list(tmp_path.iterdir()) == [out]


def test_damaged_block_is_computed_again(embedding, tmp_path, monkeypatch):
    out = tmp_path / "agb.tif"
    blocks = stopped(embedding, out, block=60)
    data = bytearray(blocks[3].read_bytes())
    data[len(data) // 2] ^= 0xFF
    blocks[3].write_bytes(data)
    blocks[4].write_bytes(blocks[4].read_bytes()[:-50])
    calls = computed(monkeypatch)
    summary = predict(with_intervals(), embedding, out, block=60)
    assert len(calls) == 2
    assert "went on from the 4 of 6 blocks" in str(summary)
    predict(with_intervals(), embedding, tmp_path / "whole.tif")
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()


@pytest.mark.parametrize(
    ("changed", "options"),
    [
        ("option", {"level": 0.5}),
        ("option", {"uncut": True}),
        ("option", {"resolution": 20}),
        ("option", {"estimate_only": True}),
        ("option", {"block": 20}),
        ("model", {}),
        ("raster", {}),
    ],
)
def test_what_is_left_of_another_map_is_dropped_and_said(changed, options, tmp_path):
    rng = np.random.default_rng(1)
    source, out, fitted = write_map(tmp_path / "emb.tif", rng.normal(size=(2, 40, 40))), tmp_path / "agb.tif", with_intervals()
    stopped(source, out)
    if changed == "model":
        fitted = replace(fitted, residuals=np.array([-2.0, 2.0]))
    if changed == "raster":
        write_map(source, rng.normal(size=(2, 40, 40)))
    summary = predict(fitted, source, out, **options)
    assert f"what a run before left unfinished was made with another {changed}: begun anew" in summary.notes
    assert "went on" not in str(summary)
    predict(fitted, source, tmp_path / "whole.tif", **options)
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_two_runs_do_not_make_one_map(embedding, tmp_path):
    out = tmp_path / "agb.tif"
    first = FinishedBlocks(out, {"model": "other"})
    with pytest.raises(InputError, match="another run is making this map; wait for it, or give another --out"):
        predict(with_intervals(), embedding, out)
    assert not out.exists()
    first.close()
    predict(with_intervals(), embedding, out)


def test_error_of_a_thread_is_the_error_of_the_map(tmp_path):
    source, out = write_map(tmp_path / "emb.tif", np.random.default_rng(0).normal(size=(2, 300, 300))), tmp_path / "agb.tif"
    data = bytearray(source.read_bytes())
    # pixels of the full image stand at the end of the file
    data[-60_000:-1_000] = bytes(59_000)
    source.write_bytes(data)
    with pytest.raises(InputError, match="cannot be decoded"):
        predict(with_intervals(), source, out, block=64, workers=3)
    assert not out.exists()


@pytest.mark.parametrize(("option", "text"), [("workers", "--workers must be at least 1, not 0"), ("block", "--block 0")])
def test_options_out_of_range_are_refused(option, text, embedding, tmp_path):
    with pytest.raises(ConfigError, match=text):
        predict(with_intervals(), embedding, tmp_path / "agb.tif", **{option: 0})
    assert not list(tmp_path.iterdir())


def test_folder_of_something_else_is_left_alone(embedding, tmp_path):
    (tmp_path / "agb.tif.partial").mkdir()
    (tmp_path / "agb.tif.partial" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files that are of no unfinished map; move the folder away"):
        predict(with_intervals(), embedding, tmp_path / "agb.tif")
    assert (tmp_path / "agb.tif.partial" / "thesis.txt").read_text() == "mine"
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(InputError, match="is a folder; give the name of a file"):
        predict(with_intervals(), embedding, tmp_path / "folder.tif")


def test_folder_that_does_not_exist_is_one_line(embedding, tmp_path):
    with pytest.raises(InputError, match="its folder does not exist; create the folder first"):
        predict(with_intervals(), embedding, tmp_path / "none" / "agb.tif")


def test_means_of_squares_are_those_of_plots_of_that_shape():
    """Against a mean of each square on its own, and a square at the border that reaches beyond."""
    rng = np.random.default_rng(2)
    values, seen = rng.normal(size=(3, 14, 11)), rng.random((14, 11)) < 0.6
    values[:, ~seen] = np.nan
    means, enough = means_of_squares(values, seen, 4)
    assert means.shape == (3, 4, 3)
    for row in range(4):
        for col in range(3):
            inside = slice(4 * row, 4 * row + 4), slice(4 * col, 4 * col + 4)
            assert enough[row, col] == (seen[inside].sum() >= 8)
            if enough[row, col]:
                np.testing.assert_allclose(means[:, row, col], np.nanmean(values[(slice(None), *inside)], axis=(1, 2)))
    assert not enough[3, 2]
