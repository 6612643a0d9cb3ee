"""Locks that tell a run that another one is at work: files, which the system unlocks when their process ends, however it ends."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TextIO


def take_lock(path: Path) -> TextIO | None:
    """A file that is locked for this process until it is closed; None where another process holds it.

    Raises
    ------
    OSError
        The file cannot be made.
    """
    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock
