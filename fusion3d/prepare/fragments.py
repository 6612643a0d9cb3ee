"""Points of decoded tiles, cut by block: written when a tile is decoded, read when a block is built.

::

    parts/<block>/<tile>-<part>.points    fields of the points of one tile in one block, in file order
    parts/<block>/<tile>-<part>.ground    its ground, thinned

A fragment is one array after another as `numpy.save` writes them, each padded to 64 bytes. A tile has more than one part in a
block only when it is too large to be held at once. Fragments are named by what they hold, so a second try writes over what a
first one left; they count when the manifest says that their tile is done.
"""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from collections.abc import Collection, Iterator, Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from fusion3d.errors import StoreError
from fusion3d.store.layout import block_name

Array = npt.NDArray[Any]

POINTS, GROUND = "points", "ground"
_ALIGNMENT = 64


class Fragments:
    """The fragments of a run.

    Parameters
    ----------
    folder : where they lie: a local folder or any fsspec URL
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._system, self._path = url_to_fs(os.fspath(folder))
        self._local = isinstance(self._system, LocalFileSystem)

    def write(self, block: tuple[int, int], tile: int, part: int, kind: str, fields: Sequence[Sequence[Array]]) -> str:
        """Write one fragment, over an older one; returns its path.

        Parameters
        ----------
        fields : pieces of each array, in order

        Raises
        ------
        OSError
            It cannot be written: no fault of the tile.
        """
        folder = f"{self._path}/{block_name(*block)}"
        path = f"{folder}/{tile}-{part}.{kind}"
        # object stores show a file when it is whole; here a process that was thought to be dead may be at the same one
        draft = f"{folder}/.{uuid.uuid4().hex}" if self._local else path
        try:
            if self._local:
                os.makedirs(folder, exist_ok=True)
            with open(draft, "wb") if self._local else self._system.open(path, "wb") as file:
                for pieces in fields:
                    _write_array(file, pieces)
            if self._local:
                os.replace(draft, path)
        except OSError:
            self.remove([draft])
            raise
        return path

    def remove(self, paths: Collection[str]) -> None:
        """Remove fragments that do not count."""
        for path in paths:
            # they are written over or never read: what cannot be removed does no harm
            with contextlib.suppress(OSError):
                self._system.rm_file(path)

    def remove_block(self, block: tuple[int, int], kind: str) -> None:
        """Remove all fragments of a kind in a block."""
        folder = f"{self._path}/{block_name(*block)}"
        self.remove([f"{folder}/{name}" for name in self._names(folder) if name.endswith(f".{kind}")])

    def read(self, block: tuple[int, int], tiles: Collection[int], kind: str) -> Iterator[list[Array]]:
        """Arrays of the fragments of some tiles in a block, tile by tile in rising order.

        Raises
        ------
        StoreError
            One cannot be read.
        """
        for path in self._listed(f"{self._path}/{block_name(*block)}", frozenset(tiles), kind):
            try:
                raw = np.memmap(path, np.uint8, "r") if self._local else np.frombuffer(self._system.cat_file(path), np.uint8)
                yield _arrays(raw)
            except (OSError, ValueError) as error:
                raise StoreError(path, f"cannot be read ({error})", "prepare again with --overwrite") from None

    def _names(self, folder: str) -> list[str]:
        try:
            if self._local:
                return os.listdir(folder)
            # other processes write there: a list that this one remembers may be old
            self._system.invalidate_cache(folder)
            return [path.rsplit("/", 1)[-1] for path in self._system.ls(folder, detail=False)]
        except FileNotFoundError:
            return []

    def _listed(self, folder: str, tiles: frozenset[int], kind: str) -> list[str]:
        found = []
        for name in self._names(folder):
            stem, _, suffix = name.partition(".")
            tile, _, part = stem.partition("-")
            if suffix == kind and tile.isdigit() and part.isdigit() and int(tile) in tiles:
                found.append((int(tile), int(part), f"{folder}/{name}"))
        return [path for _, _, path in sorted(found)]


def _write_array(file: IO[bytes], pieces: Sequence[Array]) -> None:
    dtype, shape = np.result_type(*pieces), (sum(map(len, pieces)), *pieces[0].shape[1:])
    head = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, head)
    written = 0
    for piece in pieces:
        values = np.ascontiguousarray(piece, dtype)
        written += file.write(values.reshape(-1).view(np.uint8).data)
    file.write(bytes(-written % _ALIGNMENT))


def _arrays(raw: npt.NDArray[np.uint8]) -> list[Array]:
    found, start = [], 0
    while start < len(raw):
        head = io.BytesIO(raw[start : start + 4096].tobytes())
        np.lib.format.read_magic(head)
        shape, _, dtype = np.lib.format.read_array_header_1_0(head)
        start += head.tell()
        stop = start + int(np.prod(shape)) * dtype.itemsize
        found.append(raw[start:stop].view(dtype).reshape(shape))
        start = stop + -stop % _ALIGNMENT
    return found
