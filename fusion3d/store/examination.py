"""The examination of single arrays of a store: metadata, chunk files and their checksums, one chunk in memory at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec

from fusion3d.io.place import Place
from fusion3d.store.damage import DAMAGE, reason

Array = npt.NDArray[Any]
Key = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """Something that is wrong in a store.

    Attributes
    ----------
    where : path inside the store
    problem : in words
    unit : what has to be made again to mend it, a path inside the store; None when the sources cannot help
    """

    where: str
    problem: str
    unit: str | None

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


@dataclass
class StoredArray:
    """An array whose metadata are sound, with the keys of its chunk files.

    Attributes
    ----------
    keys : of every chunk of its shape
    present : keys of those that have a file
    checksummed : its chunks have checksums, and chunks of zeros are written
    """

    where: str
    array: Any
    keys: list[Key]
    present: set[Key]
    checksummed: bool

    def part(self, key: Key) -> tuple[slice, ...]:
        """The indices of a chunk."""
        return tuple(
            slice(position * size, min((position + 1) * size, length))
            for position, size, length in zip(key, self.array.chunks, self.array.shape, strict=True)
        )


def chunk_name(key: Key) -> str:
    return "/".join(("c", *map(str, key)))


@dataclass
class Examination:
    """Findings, and what was looked at.

    Attributes
    ----------
    root : the Zarr group of the store
    found : told each finding
    arrays, without_checksum : number of arrays, and of those written before there were checksums
    unwritten : chunks without a file in arrays without checksums: zeros, or deleted
    """

    path: str
    root: Any
    found: Callable[[Finding], None]
    findings: list[Finding] = field(default_factory=list)
    arrays: int = 0
    without_checksum: int = 0
    unwritten: int = 0

    def __post_init__(self) -> None:
        self.place = Place.of(self.path)

    def wrong(self, where: str, problem: str, unit: str | None) -> None:
        finding = Finding(where, problem, unit)
        self.findings.append(finding)
        self.found(finding)

    def group(self, where: str, unit: str) -> dict[str, Any] | None:
        """Attributes of a group, None (and a finding) when its metadata cannot be read."""
        return self._attempt(lambda: dict(self.root[where].attrs), where, "its metadata cannot be read", unit)

    def _attempt(self, read: Callable[[], T], where: str, problem: str, unit: str) -> T | None:
        """What `read` gives; None, with a finding, when it fails for what is stored and not for the way there."""
        try:
            return read()
        except (ConnectionError, TimeoutError):
            raise
        except (*DAMAGE, OSError) as error:
            self.wrong(where, f"{problem} ({reason(error)})", unit)
            return None

    def open(
        self,
        where: str,
        files: set[str],
        *,
        dtypes: Sequence[str],
        shape: Sequence[int] | None,
        chunks: Sequence[int] | None,
        unit: str,
    ) -> StoredArray | None:
        """Open an array and hold its metadata against what they must be.

        Parameters
        ----------
        files : of the array, relative to it
        dtypes : those allowed, such as ``<i4``; empty: any number
        shape, chunks : None when they are not known; a shape may leave out the last axes

        Returns
        -------
        None, with a finding, when it is missing or its metadata are wrong
        """
        self.arrays += 1
        if "zarr.json" not in files:
            self.wrong(where, "is missing" if not files else "its zarr.json is missing", unit)
            return None
        array = self._attempt(lambda: self.root[where], where, "its metadata cannot be read", unit)
        if array is None:
            return None
        problem = _differences(array, dtypes, shape, chunks)
        if problem:
            self.wrong(where, problem, unit)
            return None
        counts = [-(-length // size) for length, size in zip(array.shape, array.chunks, strict=True)]
        keys = list(itertools.product(*map(range, counts)))
        stored = StoredArray(
            where,
            array,
            keys,
            {key for key in keys if chunk_name(key) in files},
            any(isinstance(codec, Crc32cCodec) for codec in array.metadata.codecs),
        )
        self.without_checksum += not stored.checksummed
        return stored

    def missing(self, stored: StoredArray, unit: str) -> None:
        """A finding for every chunk that must have a file and has none; older arrays do not have those of zeros."""
        for key in stored.keys:
            if key in stored.present:
                continue
            if stored.checksummed:
                self.wrong(f"{stored.where}/{chunk_name(key)}", "the chunk is missing", unit)
            else:
                self.unwritten += 1

    def read(self, stored: StoredArray, key: Key, unit: str) -> Array | None:
        """A chunk; None, with a finding, when it does not decode, and None when `missing` has told that it is not there."""
        if key not in stored.present and stored.checksummed:
            return None
        where, part = f"{stored.where}/{chunk_name(key)}", stored.part(key)
        return self._attempt(lambda: np.asarray(stored.array[part]), where, "the chunk cannot be read", unit)

    def chunks(self, stored: StoredArray, unit: str) -> Iterator[tuple[Key, Array | None]]:
        """Every chunk in order, one at a time; findings as of `missing` and `read`."""
        self.missing(stored, unit)
        for key in stored.keys:
            yield key, self.read(stored, key, unit)

    def whole(self, stored: StoredArray, unit: str) -> Array | None:
        """A small array at once; None, with findings, when a chunk of it is missing or does not decode."""
        parts = [part for _, part in self.chunks(stored, unit)]
        if any(part is None for part in parts):
            return None
        return np.concatenate([part for part in parts if part is not None]) if parts else np.zeros(0, stored.array.dtype)


def _differences(array: Any, dtypes: Sequence[str], shape: Sequence[int] | None, chunks: Sequence[int] | None) -> str | None:
    if not isinstance(array, zarr.Array):
        return "is a group, not an array"
    if dtypes and array.dtype not in [np.dtype(name) for name in dtypes]:
        return f"holds {array.dtype}, not {' or '.join(str(np.dtype(name)) for name in dtypes)}"
    if array.dtype.kind not in "biuf":
        return f"holds {array.dtype}, not numbers"
    if shape is not None and tuple(array.shape[: len(shape)]) != tuple(shape):
        return f"has shape {_size(array.shape)}, not {_size(shape)}"
    if chunks is not None and tuple(array.chunks[: len(chunks)]) != tuple(chunks):
        return f"has chunks of {_size(array.chunks)}, not {_size(chunks)}"
    if array.metadata.fill_value != 0:
        return f"its chunks that are not written stand for {array.metadata.fill_value!r}, not 0"
    return None


def _size(lengths: Sequence[int]) -> str:
    return " x ".join(f"{length:,}" for length in lengths)
