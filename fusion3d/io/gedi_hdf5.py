"""Checked access to HDF5 files: what they declare is compared with what they store before anything is read.

HDF5 lets 1 KB declare a terabyte, and a data set subsetted by hand may lack rows; both are found here, in words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from fusion3d.errors import InputError, one_line
from fusion3d.io import hdf5_probe
from fusion3d.io.local_copy import local_copy

DOWNLOAD_AGAIN = "download it again from Earthdata, logged in, and compare its size"

HDF5_ENDINGS = (".h5", ".hdf5", ".he5")

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MAX_CHUNK_BYTES = 1 << 28
_MAX_COMPRESSION = 1100
"""Deflate cannot do better than 1032 to 1."""
_SLACK_BYTES = 1 << 20
"""A small data set of fill values may store nothing at all."""


@contextmanager
def open_hdf5(path: str | Path, groups: Sequence[str] = ()) -> Iterator[h5py.File]:
    """An HDF5 file open for reading; whatever HDF5 raises while it is open becomes an `InputError`.

    Parameters
    ----------
    path : of a file, or its fsspec URL: that file is copied to the temporary folder, HDF5 reads local files alone
    groups : paths of the groups whose data sets will be read; one that HDF5 cannot walk through and live is refused
    """
    with local_copy(path) as local, _opened(local, path, groups) as file:
        yield file


@contextmanager
def _opened(local: Path, path: str | Path, groups: Sequence[str]) -> Iterator[h5py.File]:
    _check_signature(local, path)
    about = local.stat()
    deadly = hdf5_probe.failure(str(local), about.st_size, about.st_mtime_ns, tuple(groups))
    if deadly:
        raise InputError(path, deadly, DOWNLOAD_AGAIN)
    try:
        with h5py.File(local, "r") as file:
            yield file
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = one_line(error).strip("'\"")
        if "truncated file" in str(error):
            raise InputError(path, "the HDF5 file is cut off: its end is missing", DOWNLOAD_AGAIN) from error
        raise InputError(path, f"HDF5 cannot read it ({reason})", DOWNLOAD_AGAIN) from error


def _check_signature(local: Path, path: str | Path) -> None:
    if not local.is_file():
        raise InputError(path, "no such file", "check the path")
    try:
        with local.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise InputError(path, f"it cannot be read ({error.strerror})", "check its permissions") from error
    if head.startswith(_SIGNATURE) or h5py.is_hdf5(local):
        return
    if not head:
        raise InputError(path, "the file is empty", DOWNLOAD_AGAIN)
    if head.lstrip()[:1] == b"<":
        raise InputError(path, "a web page saved under this name, most likely a login page, not HDF5", DOWNLOAD_AGAIN)
    raise InputError(path, "not an HDF5 file", "check that it is the file you meant")


def text_attribute(value: object) -> str:
    """An attribute as text, "" when it is none: GEDI writes str, bytes, or an array with one of them."""
    first = value.ravel()[0] if isinstance(value, np.ndarray) and value.size else value
    if isinstance(first, bytes):
        return first.decode("utf-8", "replace")
    return str(first) if isinstance(first, str) else ""


@dataclass(frozen=True)
class RowGroup:
    """A group whose data sets have one row for each of `rows` things.

    Parameters
    ----------
    path : of the file, for messages
    fills : values that mean "absent" in every data set, beside each data set's own _FillValue
    """

    path: str | Path
    group: h5py.Group
    rows: int
    fills: tuple[float, ...] = ()

    def array(self, name: str) -> h5py.Dataset | None:
        """A numeric data set whose declared size the file can back; None when it is absent.

        Raises
        ------
        InputError
            It is no array of numbers, or declares more than can be stored in what the file holds of it.
        """
        found = self.group.get(name)
        if found is None:
            return None
        if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "iuf" or found.shape is None or found.ndim == 0:
            raise InputError(self.path, f"{self._label(name)} is not an array of numbers", DOWNLOAD_AGAIN)
        stored = found.id.get_storage_size()
        if found.nbytes > _MAX_COMPRESSION * stored + _SLACK_BYTES:
            problem = f"{self._label(name)} declares {found.nbytes:,} bytes, more than the {stored:,} stored of it can hold"
            raise InputError(self.path, problem, DOWNLOAD_AGAIN)
        if found.chunks is not None and math.prod(found.chunks) * found.dtype.itemsize > _MAX_CHUNK_BYTES:
            problem = f"{self._label(name)} is stored in chunks of {math.prod(found.chunks):,} values"
            raise InputError(self.path, problem, "rewrite it with h5repack in smaller chunks")
        return found

    def required(self, name: str) -> h5py.Dataset:
        """The data set, or `InputError` that names what is missing."""
        found = self.array(name)
        if found is None:
            problem = f"the data set {self._label(name)} is missing"
            raise InputError(self.path, problem, "keep it when subsetting, or leave this file out")
        return found

    def column(self, name: str, width: int | None = None) -> h5py.Dataset | None:
        """A data set of one number a row, or of `width` numbers; None when it is absent."""
        found = self.array(name)
        expected = (self.rows,) if width is None else (self.rows, width)
        if found is not None and found.shape != expected:
            problem = f"{self._label(name)} has shape {found.shape}, {expected} was expected"
            raise InputError(self.path, problem, DOWNLOAD_AGAIN)
        return found

    def numbers(self, name: str | None, width: int | None = None, rows: slice = slice(None)) -> npt.NDArray[np.float64]:
        """A column as float64, NaN where it is a fill value and everywhere when there is none."""
        found = None if name is None else self.column(name, width)
        if found is None:
            count = len(range(*rows.indices(self.rows)))
            return np.full(count if width is None else (count, width), np.nan)
        with np.errstate(invalid="ignore"):
            values = found[rows].astype(np.float64)
        values[np.isin(values, [*self.fills, *_own_fills(found.attrs.get("_FillValue"))]) | ~np.isfinite(values)] = np.nan
        return values

    def flags(self, name: str | None, dtype: type, absent: int, unset: int) -> npt.NDArray[Any]:
        """A column of small non-negative integers; `absent` when there is none, `unset` where it is a fill value (255, -9999)."""
        if name is None or self.column(name) is None:
            return np.full(self.rows, absent, dtype)
        values = self.numbers(name)
        values[~((values >= 0) & (values < 255))] = unset
        return values.astype(dtype)

    def _label(self, name: str) -> str:
        return f"{self.group.name.strip('/')}/{name}"


def _own_fills(fill: object) -> Sequence[float]:
    values = np.ravel(np.asarray(fill))
    return [float(value) for value in values] if values.dtype.kind in "iuf" else []
