"""Files that are complete or not there at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fusion3d.errors import InputError, one_line


@contextmanager
def whole_file(path: str | Path, *failures: type[Exception]) -> Iterator[Path]:
    """A temporary name in the folder of `path`, with its ending, that is renamed to `path` when the body ends without an error.

    Whatever goes wrong, what was at `path` before stays, and the temporary file is removed.

    Parameters
    ----------
    failures : errors besides OSError by which the writing library says that it could not write

    Raises
    ------
    InputError
        The folder cannot be written or the disk is full.
    """
    path = Path(path)
    draft = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.draft{path.suffix}")
    known: tuple[type[Exception], ...] = (OSError, *failures)
    try:
        yield draft
        os.replace(draft, path)
    except known as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
        raise InputError(path, f"cannot be written ({reason})", "check the folder and the free space") from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def write_whole(path: str | Path, text: str) -> Path:
    """Write a text in UTF-8 as a `whole_file`."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return Path(path)
