"""What has been computed of a map that is not whole yet, block by block on disk: what a run that was killed goes on from.

Beside a map `agb.tif` that is being made stands a folder:

    agb.tif.partial/
        lock             held by the run that is at work
        key.json         what the values depend on: model, raster, options
        <row>_<col>.npz  the layers of a block, none where it holds no data

A block appears under its name when it is complete. The checksums of the archive say whether it still is when it is read.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.errors import Fusion3DError, InputError
from fusion3d.grid import Window
from fusion3d.io.lock import take_lock
from fusion3d.io.whole_file import whole_file, write_whole
from fusion3d.progress import progress_bar
from fusion3d.workers import Lost, Workers

Layers = list[npt.NDArray[Any]]
Results = Iterable[tuple[Window, Layers | Lost]]

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
            lock = take_lock(self.folder / "lock")
        except OSError as error:
            raise InputError(
                self.folder, f"cannot be written ({error.strerror})", "check the folder and the free space"
            ) from None
        if lock is None:
            raise InputError(map_file, "another run is making this map", "wait for it, or give another --out")
        self._lock = lock
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

    def fill(
        self, windows: Sequence[Window], compute: Callable[[list[Window]], Results], *, title: str, unit: str,
        progress: bool = False, workers: Workers | None = None,
    ) -> tuple[bool, tuple[str, ...]]:  # fmt: skip
        """Have all blocks in the folder; whether any holds data, and what was found there, in words.

        Parameters
        ----------
        compute : gives the layers of blocks, in any order
        title, unit : for the progress bar
        progress : draw one
        workers : at work, for their dashboard

        Raises
        ------
        Fusion3DError
            Every worker that tried a block died.
        """
        pending, filled, notes = [], False, []
        for window in windows:
            found = self.find(window)
            if found is None:
                pending.append(window)
            else:
                filled |= bool(found)
        done = len(windows) - len(pending)
        if self.differing:
            notes.append(f"what a run before left unfinished was made with another {' and '.join(self.differing)}: begun anew")
        if done:
            notes.append(f"went on from the {done} of {len(windows)} {unit} that a run before had finished")
        with progress_bar(title, len(windows), progress, unit=unit, done=done, workers=workers) as advance:
            for window, layers in compute(pending):
                if isinstance(layers, Lost):
                    where = f"row {window.row}, column {window.col} of the {unit}"
                    raise Fusion3DError(
                        f"{title} stopped at {where}: {layers.reason}; give workers more memory, or make {unit} smaller"
                    )
                self.save(window, layers)
                filled |= bool(layers)
                advance()
        return filled, tuple(notes)

    def _path(self, window: Window) -> Path:
        return self.folder / f"{window.row}_{window.col}.npz"

    def find(self, window: Window) -> Layers | None:
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

    def load(self, window: Window) -> Layers:
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

    def publish(self, files: Mapping[str, Path]) -> None:
        """Give files of the folder their final names, the last one first: when the first is there, all are.

        Raises
        ------
        InputError
            A final name cannot be written.
        """
        for name, path in reversed(files.items()):
            try:
                os.replace(self.folder / name, path)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise InputError(path, f"cannot be written ({error.strerror})", "check the folder") from None
                with whole_file(path) as draft:
                    shutil.copyfile(self.folder / name, draft)

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


def on_workers(
    workers: Workers, title: str, function: Callable[..., Layers], common: tuple[Any, ...]
) -> Callable[[list[Window]], Iterator[tuple[Window, Layers | Lost]]]:
    """What `FinishedBlocks.fill` computes blocks by: `function` of the `common` arguments and a window, on workers.

    Parameters
    ----------
    function : of a module; it and all arguments are pickled where workers are processes
    """

    def compute(pending: list[Window]) -> Iterator[tuple[Window, Layers | Lost]]:
        windows = {f"{title}-{window.row}_{window.col}": window for window in pending}
        pieces = {name: (function, (window,)) for name, window in windows.items()}
        for name, layers in workers.each(pieces, common=common):
            yield windows[name], layers

    return compute
