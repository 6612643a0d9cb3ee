"""Text files that are complete or not there at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from fusion3d.errors import InputError


def write_whole(path: Path, text: str) -> Path:
    """Write a text under a temporary name beside `path`, then rename it.

    Raises
    ------
    InputError
        The folder cannot be written or the disk is full; what was there before stays.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.draft")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        raise InputError(path, f"could not be written ({error.strerror or error})", "write to another folder") from None
    finally:
        draft.unlink(missing_ok=True)
    return path
