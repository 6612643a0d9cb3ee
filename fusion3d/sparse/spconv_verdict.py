"""May spconv be used here? Installed as it must be, and right on this machine: found out in a process of its own.

spconv's builds for a CUDA version other than the driver's can end a process by a signal, and its plain CPU build gives wrong sums
when it has more than one thread. Hence a self-check before the first use. A pass is remembered in the user's cache folder
(``$XDG_CACHE_HOME/fusion3d`` or ``~/.cache/fusion3d``) under everything that it depends on: versions of spconv, cumm, torch,
fusion3d and Python, where they lie, the device and its driver. A failure is not remembered: the next process tries again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

import torch

from fusion3d import __version__
from fusion3d.errors import ConfigError

INSTALL = "pip install 'fusion3d[spconv]'"
NATIVE = "take the native sparse backend (FUSION3D_SPARSE_BACKEND=native)"

_NAME = re.compile(r"(spconv|cumm)(-cu\d+)?")
_SECONDS = 300.0
"""For the child: a cold import of spconv alone was seen to take 80 s."""


def installed(path: Sequence[str] | None = None) -> dict[str, Distribution]:
    """Distributions of spconv and cumm by name, on `path` or `sys.path`."""
    found: dict[str, Distribution] = {}
    for distribution in distributions(path=list(sys.path if path is None else path)):
        try:
            name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        except FileNotFoundError:
            # the package importlib_metadata, which others import, takes the place of Python's own and raises instead
            continue
        if _NAME.fullmatch(name):
            found.setdefault(name, distribution)
    return found


def install_problem(path: Sequence[str] | None = None) -> str:
    """Why what is installed cannot be used, and the remedy; empty where it can."""
    names = sorted(name for name in installed(path) if name.startswith("spconv"))
    remove = f"pip uninstall -y {' '.join(names)}"
    if not names:
        return f"spconv is not installed; {INSTALL}, or {NATIVE}"
    if len(names) > 1:
        return (
            f"{' and '.join(names)} are installed together and overwrite each other's files; "
            f"{remove}, then {INSTALL}, or {NATIVE}"
        )
    if names == ["spconv"]:
        return (
            "the CPU build of spconv (distribution spconv) gives wrong sums when it has more than one thread; "
            f"{remove}, then {INSTALL}, or {NATIVE}"
        )
    return ""


def require_installed() -> None:
    """Raise ConfigError unless one build of spconv that can be used is installed."""
    problem = install_problem()
    if problem:
        raise ConfigError(problem)


def require(device: torch.device) -> None:
    """Raise ConfigError unless spconv is installed and has passed its self-check on a device of this kind."""
    problem = _problem(device.type, device.index)
    if problem:
        raise ConfigError(problem)


@functools.cache
def _problem(kind: str, index: int | None) -> str:
    problem = install_problem()
    if problem:
        return problem
    device = torch.device(kind if index is None else f"{kind}:{index}")
    conditions = _conditions(device)
    if _remembered(conditions):
        return ""
    problem = self_check(device)
    if problem:
        return f"spconv cannot be used on {device}: {problem}; {remedy(device)}"
    _remember(conditions)
    return ""


def remedy(device: torch.device) -> str:
    """What to do about a failed self-check."""
    build = "install the build for this CUDA version" if device.type == "cuda" else "install another build"
    return f"{build} ({INSTALL} gives cu126), or {NATIVE}"


def self_check(device: torch.device, command: Sequence[str] | None = None, seconds: float = _SECONDS) -> str:
    """Run the self-check in a process of its own: what went wrong, or an empty text.

    Parameters
    ----------
    device : to check on
    command : to run in its place; it prints ``{"problem": ""}`` as its last line when all is well
    seconds : until it is ended
    """
    code = f"from fusion3d.sparse.spconv_self_check import main; main({str(device)!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    try:
        finished = subprocess.run(
            list(command or (sys.executable, "-c", code)),
            capture_output=True, text=True, errors="replace", timeout=seconds, env=environment, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"its self-check did not end within {seconds:g} s"
    except OSError as error:
        return f"its self-check could not be started ({error.strerror or error})"
    if finished.returncode < 0:
        return f"its self-check was ended by {_signal(-finished.returncode)}"
    if finished.returncode:
        return f"its self-check failed ({_last_line(finished.stderr) or f'exit status {finished.returncode}'})"
    try:
        return str(json.loads(_last_line(finished.stdout))["problem"])
    except (ValueError, KeyError, TypeError):
        return "its self-check gave no verdict"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip()[:300] if lines else ""


def _conditions(device: torch.device) -> str:
    """Everything that a verdict depends on, as one line."""
    builds = {name: [found.version, str(found.locate_file(""))] for name, found in sorted(installed().items())}
    where = [platform.machine(), platform.processor()]
    if device.type == "cuda":
        driver = Path("/sys/module/nvidia/version")
        version = driver.read_text().strip() if driver.is_file() else ""
        where = [torch.cuda.get_device_name(device), str(torch.cuda.get_device_capability(device)), version]
    versions = [__version__, torch.__version__, torch.version.cuda or "", sys.version]
    return json.dumps([device.type, where, builds, versions])


def _memory(conditions: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fusion3d" / f"spconv-{hashlib.sha256(conditions.encode()).hexdigest()[:16]}.json"


def _remembered(conditions: str) -> bool:
    try:
        return _memory(conditions).read_text() == conditions
    except (OSError, RuntimeError, ValueError):
        return False


def _remember(conditions: str) -> None:
    """Write a pass; a cache that cannot be written costs the next process a self-check, no more."""
    try:
        path = _memory(conditions)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w") as file:
            file.write(conditions)
        os.replace(temporary, path)
    except (OSError, RuntimeError):
        return


def describe() -> str:
    """In plain words, for `fusion3d doctor`: not installed, refused and why, or passed. The self-check is run afresh."""
    names = installed()
    problem = install_problem()
    if not any(name.startswith("spconv") for name in names):
        return f"not installed, and not needed: the native backend runs without it; to try it, {INSTALL}"
    if problem:
        return f"refused: {problem}"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    build = next(f"{name} {found.version}" for name, found in names.items() if name.startswith("spconv"))
    problem = self_check(device)
    if problem:
        return f"{build} refused on {device}: {problem}; {remedy(device)}"
    return f"{build} passed its self-check on {device}; FUSION3D_SPARSE_BACKEND=spconv chooses it"
