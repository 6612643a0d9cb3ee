"""The readers bear every input that fuzzing has found, and a fixed time of fuzzing finds nothing new."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tools.fuzz.targets import TARGETS, check, corpus

ROOT = Path(__file__).parents[2]
SECONDS = 8


@pytest.mark.parametrize("target", TARGETS)
def test_every_input_of_the_corpus_is_answered(target):
    inputs = corpus(target)
    assert len(inputs) > 10
    for path in inputs:
        signal.alarm(20)  # a loop in C code ends with the process
        check(target, path.read_bytes())
    signal.alarm(0)


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_reach_what_they_are_meant_to(target):
    """A target that refused its own good files would find nothing."""
    good = [path for path in corpus(target) if path.name.startswith("seed_")]
    assert good
    if target != "gedi_contents":
        for path in good:
            TARGETS[target](path.read_bytes())


def test_error_of_another_kind_is_a_finding(monkeypatch):
    def broken(data: bytes) -> None:
        raise IndexError("of the reader")

    monkeypatch.setitem(TARGETS, "las_header", broken)
    with pytest.raises(IndexError):
        check("las_header", b"")


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed (Linux on x86 only)")
@pytest.mark.parametrize("target", TARGETS)
def test_fuzzing_for_a_fixed_time_finds_nothing(target, tmp_path):
    done = subprocess.run(
        [sys.executable, "tools/fuzz/run.py", target, "--seconds", str(SECONDS), "--findings", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=SECONDS + 120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no finding" in done.stdout
    assert int(done.stdout.split(" executions")[0].split()[-1].replace(",", "")) > 50
    assert list(tmp_path.iterdir()) == []
