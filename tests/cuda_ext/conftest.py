"""Fixtures of the compiled kernels: built once a session, skipped with a reason where that cannot be."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fusion3d.ops.native import NATIVE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def replay(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The host replay of the CUDA schedules."""
    if shutil.which("g++") is None:
        pytest.skip("no g++: the host replay of the CUDA schedules is C++")
    library = tmp_path_factory.mktemp("replay") / "replay.so"
    sanitize = os.environ.get("FUSION3D_SANITIZE", "")  # cuda_ext/sanitize.sh
    options = ["--replay", "--output", library, *(["--sanitize", sanitize] if sanitize else [])]
    subprocess.run([sys.executable, ROOT / "cuda_ext/build.py", *options], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture
def compiled() -> None:
    """Skip unless the compiled library is loaded."""
    if not NATIVE.loaded:
        pytest.skip(f"no compiled operators: {NATIVE.problem}; {NATIVE.remedy}")
