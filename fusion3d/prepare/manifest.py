"""The manifest of a run: what is done, so that a killed run resumes where it was.

On this machine a file to which lines are appended. Object stores cannot append: there it is a folder of such files, each whole.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from fusion3d.errors import StoreError
from fusion3d.io.lock import take_lock
from fusion3d.io.place import Place

NAME = "manifest.jsonl"
_FIRST = "0"
"""Name of the file with the key: sorts before all others."""
_HELD_BACK = 20.0
"""Seconds of work that a killed run on an object store may have to do again."""


class Manifest:
    """Done pieces of work with their results.

    Parameters
    ----------
    folder : of the unfinished store
    key : hash of configuration, inputs and code version; a manifest with another key belongs to other inputs

    Raises
    ------
    StoreError
        The manifest belongs to other inputs or is damaged, or another run is at work on it. (In an object store nothing tells
        whether another run is at work.)
    """

    def __init__(self, folder: Place, key: str) -> None:
        self._folder, self._place = folder, folder / NAME
        self._lock: TextIO | None = None
        self._file: BinaryIO | None = None
        self._held: list[bytes] = []
        self._flushed = time.monotonic()
        if folder.local is None:
            self._done = self._read(self._segments(), key)
            if not self._done:
                (self._place / _FIRST).write(_line({"key": key}))
            return
        self._lock = take_lock(folder.local / "lock")
        if self._lock is None:
            raise StoreError(folder.local, "another run is making this store", "wait for it, or choose another --out")
        try:
            self._done = self._read_file(folder.local / NAME, key)
        except BaseException:
            self._lock.close()
            raise
        self._file = (folder.local / NAME).open("ab")

    def _read_file(self, path: Path, key: str) -> dict[str, Any]:
        # The last line of a killed run may be cut: only lines that end in a newline count.
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        done = self._read(lines, key)
        with path.open("wb") as file:
            file.write(b"".join(line + b"\n" for line in lines) or _line({"key": key}))
            file.flush()
            os.fsync(file.fileno())
        return done

    def _segments(self) -> list[bytes]:
        """Lines of all files, the one with the key first."""
        return [line for name in self._place.names() for line in (self._place / name).read().split(b"\n") if line]

    def _read(self, lines: list[bytes], key: str) -> dict[str, Any]:
        try:
            whole = [json.loads(line) for line in lines]
            done = {entry["work"]: entry["result"] for entry in whole[1:]}
        except (ValueError, KeyError, TypeError):
            raise StoreError(
                str(self._place), "a damaged manifest", "pass --overwrite to start again, or choose another --out"
            ) from None
        if whole and whole[0] != {"key": key}:
            raise StoreError(
                str(self._folder),
                "an unfinished store of other inputs, options or version is there",
                "pass --overwrite to start again, or choose another --out",
            )
        return done

    def __contains__(self, work: str) -> bool:
        return work in self._done

    def __getitem__(self, work: str) -> Any:
        return self._done[work]

    def done(self, work: str, result: Any) -> None:
        """Record a finished piece; on disk when this returns, in an object store within `_HELD_BACK` seconds."""
        line = _line({"work": work, "result": result})
        if self._file is not None:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        else:
            self._held.append(line)
            if time.monotonic() - self._flushed > _HELD_BACK:
                self._flush()
        self._done[work] = result

    def failed(self, work: str, result: Any) -> None:
        """Remember a piece that failed for this run alone: the next one tries it again."""
        self._done[work] = result

    def _flush(self) -> None:
        if self._held:
            # names in the order of time; what is in two of them is the same
            (self._place / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}").write(b"".join(self._held))
        self._held, self._flushed = [], time.monotonic()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        else:
            self._flush()
        if self._lock is not None:
            self._lock.close()


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"
