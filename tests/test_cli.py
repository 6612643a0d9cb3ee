"""The command line: exit status, one-line errors, what stands on which stream."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.prepare.scenes import write_tiles


def fusion3d(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "fusion3d.cli", *map(str, words)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> list[str]:
    return write_tiles(tmp_path_factory.mktemp("tiles"))


def test_version_is_printed():
    finished = fusion3d("--version")
    assert finished.returncode == 0
    assert finished.stdout.startswith("fusion3d ")


def test_prepare_says_what_it_stored_and_where_last(tiles, tmp_path):
    finished = fusion3d("prepare", *tiles, "--column", 4, "--out", tmp_path / "s.zarr")
    assert finished.returncode == 0, finished.stderr
    assert "points in = points out" in finished.stdout
    assert finished.stdout.strip().splitlines()[-1] == f"store: {tmp_path / 's.zarr'}"
    listed = fusion3d("info", tmp_path / "s.zarr", tiles[0])
    assert listed.returncode == 0, listed.stderr
    assert "Lambert-93" in listed.stdout


def test_a_bad_tile_among_good_ones_makes_the_exit_status_one(tiles, tmp_path):
    (tmp_path / "bad.laz").write_bytes(b"LASF but no more")
    finished = fusion3d("prepare", *tiles, tmp_path / "bad.laz", "--out", tmp_path / "s.zarr", "--quiet")
    assert finished.returncode == 1
    assert "bad.laz" in finished.stdout
    assert (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prepare", "nothing.laz", "--out", "s.zarr"], "nothing.laz"),
        (["prepare", "--out", "s.zarr"], "nothing to prepare"),
        (["prepare", "a.tif", "--out", "s.zarr"], "--ortho"),
        (["prepare", "a.laz", "--raster", "dem", "--out", "s.zarr"], "NAME=PATH"),
        (["info", "nothing.laz"], "nothing.laz"),
        (["embed", "nothing.ckpt", "nothing.zarr", "--out", "a.tif"], "nothing"),
        (["evaluate", "nothing.ckpt", "nothing.zarr"], "nothing"),
        (["fit", "nothing.zarr", "--finetune", "--labels", "a.gpkg", "--target", "agb", "--out", "a"], "--checkpoint RUN"),
        (
            ["fit", "nothing.tif", "--steps", "3", "--labels", "a.gpkg", "--target", "agb", "--out", "a"],
            "--steps is for --finetune",
        ),
    ],
)
def test_errors_are_one_line_and_no_traceback(words, said, tmp_path):
    finished = fusion3d(*words)
    assert finished.returncode != 0
    assert said in finished.stderr
    assert "Traceback" not in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("words", [["prepare", "--column", "2"], ["embed", "a", "b"], ["info", "--no-such-option"]])
def test_a_wrong_command_line_ends_with_its_usage_and_status_two(words):
    finished = fusion3d(*words)
    assert finished.returncode == 2
    assert "Usage" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_place_that_cannot_be_written_is_one_line(tiles, tmp_path):
    (tmp_path / "file").touch()
    finished = fusion3d("prepare", *tiles, "--out", tmp_path / "file" / "s.zarr", "--quiet")
    assert finished.returncode == 2
    assert len(finished.stderr.strip().splitlines()) == 1


def test_doctor_says_what_runs_the_operators_and_the_sparse_convolutions():
    finished = fusion3d("doctor")
    assert finished.returncode == 0, finished.stderr
    starts = ["operators on the CPU: ", "operators on CUDA: ", "sparse convolution: ", "spconv: "]
    assert [line[: line.index(": ") + 2] for line in finished.stdout.splitlines()] == starts
