"""HDF5 files are looked at by a process that may hang, crash or run out of memory in the place of ours."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fusion3d.io import hdf5_probe
from tests.prepare.bad_files import cut, gedi

GROUPS = ("BEAM0101",)


def failure(path: Path) -> str | None:
    about = os.stat(path)
    return hdf5_probe.failure(str(path), about.st_size, about.st_mtime_ns, GROUPS)


def test_good_file_and_one_that_hdf5_refuses_by_itself_pass(tmp_path):
    assert failure(gedi(tmp_path)) is None
    assert failure(cut(gedi(tmp_path, name="GEDI02_A_cut.h5"), 0.5)) is None


def probe_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    """The probe with other code in the place of looking at the file."""
    script = tmp_path / "probe.py"
    text = Path(hdf5_probe.__file__).read_text()
    text = text.replace("        look(sys.argv[1], sys.argv[2:])", f"        {does}").replace(
        "CPU_SECONDS = 20", "CPU_SECONDS = 1"
    )
    script.write_text(text.replace("MEMORY_BYTES = 4 << 30", "MEMORY_BYTES = 1 << 30"))
    monkeypatch.setattr(hdf5_probe, "__file__", str(script))


@pytest.mark.parametrize(("does", "words"), [
    ("while True: pass", "never come to the end"),
    ("import os; os.abort()", "crashes"),
    ("import ctypes; ctypes.string_at(0)", "crashes"),
    ("bytearray(2 << 30)", "asks for more than 4 GB"),
    ("raise OSError('memory allocation failed for heap')", "asks for more"),
    ("raise OSError('bad object header')", None),
    ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", None),  # by the user or the queue: no word on the file
])  # fmt: skip
def test_what_happens_to_the_process_is_told(tmp_path, monkeypatch, does, words):
    probe_that(tmp_path, monkeypatch, does)
    found = failure(gedi(tmp_path))
    assert (found is None) == (words is None)
    assert words is None or words in found


def test_file_that_has_not_changed_is_looked_at_once(tmp_path, monkeypatch):
    path, runs = gedi(tmp_path), []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: runs.append(words) or run(*words, **options))
    assert [failure(path), failure(path)] == [None, None]
    os.utime(path, ns=(1, 1))
    assert failure(path) is None
    assert len(runs) == 2
