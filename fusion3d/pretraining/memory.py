"""Sizes of memory in words, and what a computation needs of it at its peak."""

from __future__ import annotations

import ctypes
import gc
import math
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from fusion3d.errors import ConfigError

_UNITS = {"B": 1, **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)}}
_UNITS |= {f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)}
_BY_NAME = {name.lower(): size for name, size in _UNITS.items()}
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def parse_size(text: str, option: str) -> int:
    """Bytes of a size such as ``6GiB``, ``1.5 GB`` or ``800 MiB``.

    Parameters
    ----------
    option : named when the size is refused

    Raises
    ------
    ConfigError
        Not a positive number with a unit.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]+)\s*", text)
    size = float(found[1]) * _BY_NAME.get(found[2].lower(), 0) if found else 0.0
    if not math.isfinite(size) or size < 1:
        raise ConfigError(f"{option} {text} is not a size; give a number and a unit, for instance 6GiB ({', '.join(_UNITS)})")
    return int(size)


def size_text(size: float) -> str:
    """A number of bytes for people: two digits after the point of the largest unit that fits."""
    for name in ("GiB", "MiB", "KiB"):
        if size >= _UNITS[name]:
            return f"{size / _UNITS[name]:.2f} {name}"
    return f"{size:.0f} B"


def used(device: torch.device) -> int:
    """Bytes that this process holds: allocated on a GPU, resident on the CPU."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    give_back_freed_memory()
    return _resident("VmRSS")


def peak(device: torch.device, run: Callable[[], object]) -> int:
    """Bytes beyond those in use that `run` holds at its peak.

    Raises
    ------
    ConfigError
        The system does not tell.
    """
    before = used(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return max(0, torch.cuda.max_memory_allocated(device) - before)
    try:
        _CLEAR.write_text("5")  # sets the high-water mark back to what is resident now: proc(5)
    except OSError as error:
        raise _untold(error) from None
    run()
    return max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError as error:
        raise _untold(error) from None
    if found is None:
        raise _untold(f"{_STATUS} has no {name}")
    return int(found[1]) * 1024


def _untold(reason: object) -> ConfigError:
    return ConfigError(
        f"this system does not tell how much memory a process takes ({reason}); "
        "leave out --model.memory_budget and set --model.chips_at_once"
    )


def give_back_freed_memory() -> None:
    """Give freed memory that the C library keeps for later back to the system (malloc_trim(3)); does nothing without glibc.

    glibc keeps freed blocks of up to 32 MiB between those in use: a process that encodes one piece after the other would grow
    with the number of pieces.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
