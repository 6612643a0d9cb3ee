"""The folder of an unfinished map: blocks as they come, and files on their way out of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from fusion3d.errors import Fusion3DError, InputError
from fusion3d.grid import Window
from fusion3d.mapping.finished_blocks import FinishedBlocks
from fusion3d.workers import Lost

WINDOWS = [Window(0, 0, 2, 2), Window(0, 2, 2, 2), Window(2, 0, 2, 2)]


def layers(window: Window) -> list[np.ndarray]:
    return [np.full((1, 2, 2), window.col)]


def test_blocks_that_come_in_any_order_are_all_there(tmp_path):
    work = FinishedBlocks(tmp_path / "a.tif", {"model": 1})
    asked = []

    def compute(pending):
        asked.append(list(pending))
        return [(window, layers(window)) for window in reversed(pending)]

    assert work.fill(WINDOWS, compute, title="map", unit="blocks") == (True, ())
    assert work.load(WINDOWS[1])[0].tolist() == [[[2, 2], [2, 2]]]
    work.close()
    again = FinishedBlocks(tmp_path / "a.tif", {"model": 1})
    said = ("went on from the 3 of 3 blocks that a run before had finished",)
    assert again.fill(WINDOWS, compute, title="map", unit="blocks") == (True, said)
    assert asked == [WINDOWS, []]


def test_block_whose_workers_died_ends_the_map_and_keeps_the_others(tmp_path):
    work = FinishedBlocks(tmp_path / "a.tif", {"model": 1})

    def compute(pending):
        yield pending[0], layers(pending[0])
        yield pending[2], Lost("every worker died")

    with pytest.raises(Fusion3DError, match="embed stopped at row 2, column 0 of the tiles: every worker died; give workers"):
        work.fill(WINDOWS, compute, title="embed", unit="tiles")
    assert work.find(WINDOWS[0]) is not None
    assert work.find(WINDOWS[2]) is None


@pytest.mark.parametrize("elsewhere", [False, True])
def test_files_get_their_names_the_first_one_last_on_other_disks_too(tmp_path, monkeypatch, elsewhere):
    work = FinishedBlocks(tmp_path / "a.tif", {})
    named: list[str] = []
    real = os.replace

    def replace(source, target):
        if elsewhere and Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)
        named.append(Path(target).name)

    for name in ("0_a.tif", "1_b.parquet"):
        (work.folder / name).write_text(name)
    monkeypatch.setattr(os, "replace", replace)
    work.publish({"0_a.tif": tmp_path / "a.tif", "1_b.parquet": tmp_path / "b.parquet"})
    assert named == ["b.parquet", "a.tif"]
    assert [(tmp_path / name).read_text() for name in ("a.tif", "b.parquet")] == ["0_a.tif", "1_b.parquet"]


def test_name_that_cannot_be_given_is_one_line(tmp_path):
    work = FinishedBlocks(tmp_path / "a.tif", {})
    (work.folder / "0").write_text("map")
    (tmp_path / "b.tif").mkdir()
    with pytest.raises(InputError, match=r"b\.tif: cannot be written \(Is a directory\)"):
        work.publish({"0": tmp_path / "b.tif"})
