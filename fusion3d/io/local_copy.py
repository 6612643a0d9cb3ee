"""Copies of remote files, for libraries that read local files alone: one at a time, in this machine's temporary folder."""

from __future__ import annotations

import atexit
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fusion3d.errors import InputError
from fusion3d.io.binary_file import filesystem, is_url
from fusion3d.io.place import reaching, written_at

_BLOCK = 16 << 20


class _Copy:
    """The remote file that was asked for last: files are read several times in a row."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._version: tuple[object, ...] | None = None
        self._folder = ExitStack()
        self._path = Path()
        atexit.register(self._folder.close)

    def of(self, url: str) -> Path:
        with reaching(url):
            system, name = filesystem(url)
            facts = system.info(name)
        version = url, facts.get("size"), written_at(facts), facts.get("ETag")
        if version != self._version:
            self._version = None
            self._folder.close()
            self._path = Path(self._folder.enter_context(tempfile.TemporaryDirectory(prefix="fusion3d-"))) / Path(name).name
            _fetch(system, name, self._path, url)
            self._version = version
        return self._path


_copy = _Copy()


@contextmanager
def local_copy(path: str | Path) -> Iterator[Path]:
    """The file itself when it is local, else a copy of it, which goes when another file is asked for or the process ends.

    Threads use remote files one after the other.

    Raises
    ------
    InputError
        The file cannot be reached, or there is no room for its copy.
    """
    if not is_url(path):
        yield Path(path)
        return
    with _copy.lock:
        yield _copy.of(str(path))


def _fetch(system: Any, name: str, copy: Path, url: str) -> None:
    with reaching(url):
        source = system.open(name, "rb")
    try:
        with source, copy.open("wb") as file:
            while True:
                with reaching(url):
                    block = source.read(_BLOCK)
                if not block:
                    return
                file.write(block)
    except OSError as error:
        problem = f"there is no room here for a copy of it ({error.strerror})"
        raise InputError(url, problem, "set TMPDIR to a folder with more free space") from None
