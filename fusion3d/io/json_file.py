"""JSON that fusion3d wrote and reads again: whole files, and one line for those that are missing, foreign or damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusion3d.errors import ConfigError, InputError, one_line
from fusion3d.io.whole_file import write_whole

_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RuntimeError, ConfigError)
"""What reading JSON and making arrays, weights and objects of it raises; RuntimeError is also that of recursion."""


def write_json(path: str | Path, plain: Mapping[str, Any], indent: int = 2) -> Path:
    """Write plain types, whole or not at all; ValueError for a number that JSON does not know."""
    return write_whole(path, json.dumps(plain, indent=indent, allow_nan=False) + "\n")


def file_of(path: str | Path, name: str, missing: str, remedy: str) -> Path:
    """A file by its path, or by that of the folder that holds it as `name`; InputError with `missing` where there is none."""
    path = Path(path)
    path = path / name if path.is_dir() else path
    if not path.is_file():
        raise InputError(path, missing, remedy)
    return path


def read_json(path: Path, *formats: str) -> dict[str, Any]:
    """The object of a file, whose key "format" is one of `formats` where any are given; ValueError when it is no such object."""
    plain = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(plain, dict):
        raise ValueError("no JSON object")
    if formats and plain.get("format") not in formats:
        raise ValueError("another format")
    return plain


@contextmanager
def parsing(path: Path, problem: str, remedy: str) -> Iterator[None]:
    """Make whatever goes wrong in reading a file, or in making something of it, an InputError that says `problem` and why."""
    try:
        yield
    except OSError as error:
        raise InputError(path, error.strerror or "cannot be read", remedy) from None
    except _DAMAGED as error:
        reason = one_line(error)
        raise InputError(path, f"{problem} ({type(error).__name__}: {reason})", remedy) from None


def has_format(path: str | Path, name: str, wanted: str) -> bool:
    """Whether a file, or that of a folder by `name`, is of a format; False for what cannot be read."""
    path = Path(path)
    try:
        read_json(path / name if path.is_dir() else path, wanted)
    except (OSError, ValueError, RecursionError):
        return False
    return True
