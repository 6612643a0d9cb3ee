"""What has been computed of a map that is not whole yet, block by block on disk: what a run that was killed goes on from.

Beside a map `agb.tif` that is being made stands a folder:

    agb.tif.partial/
        lock             held by the run that is at work
        key.json         what the values depend on: model, raster, options
        <row>_<col>.npz  the layers of a block, none where it holds no data

A block appears under its name when it is complete. The checksums of the archive say whether it still is when it is read.
"""

from __future__ import annotations

import fcntl
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.errors import InputError
from fusion3d.grid import Window
from fusion3d.io.whole_file import whole_file, write_whole

_KEY = "key.json"
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


class FinishedBlocks:
    """The folder of the module's drawing; holds its lock until it is closed.

    Blocks of another key are dropped: they are of another map.

    Parameters
    ----------
    map_file : the map that is being made
    key : what its values depend on, by name, plain types

    Attributes
    ----------
    folder : for the files that the map is put together in
    differing : names of what was different when blocks were dropped

    Raises
    ------
    InputError
        The folder cannot be made, holds something else, or another run is at work in it.
    """

    def __init__(self, map_file: Path, key: Mapping[str, Any]) -> None:
        self.folder = map_file.with_name(f"{map_file.name}.partial")
        if not map_file.parent.is_dir():
            raise InputError(map_file, "cannot be written: its folder does not exist", "create the folder first")
        try:
            self.folder.mkdir(exist_ok=True)
            if any(self.folder.iterdir()) and not (self.folder / "lock").exists():
                raise InputError(self.folder, "holds files that are of no unfinished map", "move the folder away")
            self._lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise InputError(
                self.folder, f"cannot be written ({error.strerror})", "check the folder and the free space"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise InputError(map_file, "another run is making this map", "wait for it, or give another --out") from None
        self.differing = self._prepare(json.loads(json.dumps(dict(key))))

    def _prepare(self, key: dict[str, Any]) -> tuple[str, ...]:
        """Leave in the folder what belongs to the key; names of what was different."""
        for leftover in self._files():
            # drafts of a killed run
            if leftover.suffix != ".npz" or leftover.name.startswith("."):
                leftover.unlink()
        path = self.folder / _KEY
        try:
            held: Any = json.loads(path.read_text(encoding="utf-8")) if path.exists() else key
        except ValueError:
            held = {}
        differing = tuple(name for name in key if not isinstance(held, dict) or held.get(name) != key[name])
        if differing or not path.exists():
            for block in self._files():
                block.unlink()
            write_whole(path, json.dumps(key, indent=1) + "\n")
        return differing

    def _files(self) -> list[Path]:
        """All but the lock and the key."""
        return [path for path in self.folder.iterdir() if path.name not in ("lock", _KEY) and path.is_file()]

    def _path(self, window: Window) -> Path:
        return self.folder / f"{window.row}_{window.col}.npz"

    def find(self, window: Window) -> list[npt.NDArray[Any]] | None:
        """The layers of a block; None where it is not there, or damaged."""
        try:
            return self.load(window)
        except InputError:
            return None

    def save(self, window: Window, layers: Sequence[npt.NDArray[Any]]) -> None:
        """Keep the layers [B, rows, cols] of a block.

        Raises
        ------
        InputError
            The disk is full.
        """
        with whole_file(self._path(window)) as draft:
            np.savez(draft, *layers)

    def load(self, window: Window) -> list[npt.NDArray[Any]]:
        """The layers of a block.

        Raises
        ------
        InputError
            It is not there, or damaged.
        """
        path = self._path(window)
        try:
            with np.load(path, allow_pickle=False) as archive:
                return [archive[f"arr_{number}"] for number in range(len(archive.files))]
        except _DAMAGED:
            raise InputError(path, "is damaged", "run the same command again") from None

    def close(self) -> None:
        """Let another run go on from here."""
        self._lock.close()

    def remove(self) -> None:
        """Drop the folder: the map is there, or there will be none."""
        for path in (*self._files(), self.folder / _KEY, self.folder / "lock"):
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()
        self.close()
