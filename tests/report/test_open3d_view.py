from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from fusion3d.report import open3d_view
from fusion3d.report.splatting import Camera, Frame, splat

POINTS = Camera().project(np.random.default_rng(0).random((4000, 3)) * [20, 20, 5])
RED = np.tile(np.uint8([200, 0, 0]), (4000, 1))


def test_without_open3d_there_is_no_picture(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert open3d_view.draw(POINTS, [RED], Frame.around(POINTS, 100)) is None


@pytest.mark.parametrize("script", ["kill -SEGV $$", "exit 1", "exit 0", "sleep 5"])
def test_process_that_dies_hangs_or_draws_nothing_gives_no_picture(tmp_path, monkeypatch, script):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(open3d_view, "_SECONDS", 0.5)
    assert open3d_view.draw(POINTS, [RED], Frame.around(POINTS, 100)) is None


def test_open3d_draws_the_same_outline():
    frame = Frame.around(POINTS, 300)
    pictures = open3d_view.draw(POINTS, [RED], frame)
    if pictures is None:
        pytest.skip("Open3D is not installed, or cannot draw off screen here")
    own = (splat(POINTS, RED, frame, 0.15) < 250).any(axis=2)
    theirs = (pictures[0] < 250).any(axis=2)
    assert (own & theirs).sum() / (own | theirs).sum() > 0.7
