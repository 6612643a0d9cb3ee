"""The manifest of a run: what is done, appended line by line, so that a killed run resumes where it was."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from fusion3d.errors import StoreError


class Manifest:
    """Done pieces of work with their results.

    Parameters
    ----------
    path : the manifest file
    key : hash of configuration, inputs and code version; a manifest with another key belongs to other inputs

    Raises
    ------
    StoreError
        The manifest belongs to other inputs or is damaged, or another run is at work on it.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._lock = (path.parent / "lock").open("w")
        try:
            self._done = self._read(key)
        except StoreError:
            self._lock.close()
            raise
        self._file = path.open("ab")

    def _read(self, key: str) -> dict[str, Any]:
        path = self._path
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(path.parent, "another run is making this store", "wait for it, or choose another --out") from None
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        # The last line of a killed run may be cut: only lines that end in a newline count.
        try:
            whole = [json.loads(line) for line in lines[:-1]]
            done = {entry["work"]: entry["result"] for entry in whole[1:]}
        except (ValueError, KeyError, TypeError):
            raise StoreError(path, "a damaged manifest", "pass --overwrite to start again, or choose another --out") from None
        if whole and whole[0] != {"key": key}:
            raise StoreError(
                path.parent,
                "an unfinished store of other inputs, options or version is there",
                "pass --overwrite to start again, or choose another --out",
            )
        with path.open("wb") as file:
            file.write(b"".join(line + b"\n" for line in lines[:-1]) or json.dumps({"key": key}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return done

    def __contains__(self, work: str) -> bool:
        return work in self._done

    def __getitem__(self, work: str) -> Any:
        return self._done[work]

    def results(self, prefix: str) -> list[tuple[str, Any]]:
        """Work and result of every piece whose name starts with `prefix`, in order of name."""
        return sorted((work, result) for work, result in self._done.items() if work.startswith(prefix))

    def done(self, work: str, result: Any) -> None:
        """Record a finished piece; on disk when this returns."""
        self._file.write(json.dumps({"work": work, "result": result}).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._done[work] = result

    def close(self) -> None:
        self._file.close()
        self._lock.close()
