"""What is fuzzed: readers of files that others made. Whatever the bytes, they answer, or raise a `Fusion3DError`.

Each target takes the bytes of one input, writes them under a name where the reader finds them, and reads them as
`fusion3d prepare` does. An error of any other kind, a hang, or memory without bound is a finding.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np
from pyproj import CRS

from fusion3d.errors import Fusion3DError
from fusion3d.io import hdf5_probe
from fusion3d.io.gedi import join_products, open_gedi, read_footprints
from fusion3d.io.gedi_products import BEAMS, FootprintFilter
from fusion3d.io.las import open_points, query_window, read_chunks
from fusion3d.io.las_header import read_header

CORPUS = Path(__file__).parent / "corpus"
_PLACE = CRS.from_epsg(32723)
_SECONDS = 2


def las_header(data: bytes) -> None:
    """Public header, VLRs and EVLRs of LAS and LAZ."""
    with _file(data, "las") as path:
        read_header(path)


def points(data: bytes) -> None:
    """Header, LASzip record, chunk table, octree, and every point with every dimension of LAS, LAZ and COPC."""
    with _file(data, "laz") as path:
        file = open_points(path)
        read = sum(len(chunk) for chunk in read_chunks(file, file.dimensions))
        if read != file.count:
            raise AssertionError(f"{read} points read, the header says {file.count}")
        if file.copc and file.count:
            query_window(file, file.bounds)


def gedi(data: bytes) -> None:
    """GEDI files of damaged bytes."""
    with _file(data, "h5") as path:
        _read_footprints(path)


def gedi_contents(data: bytes) -> None:
    """GEDI files that HDF5 reads well and whose data sets are of any kind, shape and value."""
    draw = _Draw(data)
    with _file(b"", "h5") as path:
        with h5py.File(path, "w") as file:
            _draw_contents(file, draw)
        with patch.object(hdf5_probe, "failure", lambda *_: None):
            _open_and_read(path)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "las_header": las_header,
    "points": points,
    "gedi": gedi,
    "gedi_contents": gedi_contents,
}


def check(target: str, data: bytes) -> None:
    """Run a target on one input; only errors that are findings come out."""
    with contextlib.suppress(Fusion3DError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TARGETS[target](data)


def corpus(target: str) -> list[Path]:
    """The inputs of a target that are kept in the repository."""
    return sorted(path for path in (CORPUS / target).iterdir() if path.is_file())


def _read_footprints(path: str) -> None:
    """As `fusion3d.io.gedi_hdf5` reads a file: after a look at it by another process, here a fork since thousands are started."""
    with patch.object(hdf5_probe, "failure", _failure):
        _open_and_read(path)


def _failure(path: str, size: int, mtime_ns: int, groups: tuple[str, ...]) -> str | None:
    child = os.fork()
    if child == 0:
        for kind in (signal.SIGALRM, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE):
            signal.signal(kind, signal.SIG_DFL)
        signal.alarm(_SECONDS)
        with contextlib.suppress(BaseException):
            hdf5_probe.look(path, list(groups))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else None


def _open_and_read(path: str) -> None:
    open_gedi(path)
    table = join_products([read_footprints(path, _PLACE)])
    FootprintFilter().keep(table)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    memory = "/dev/shm"  # thousands of files a second are nothing for a disk
    return tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory if os.access(memory, os.W_OK) else None)


@contextlib.contextmanager
def _file(data: bytes, ending: str) -> Iterator[str]:
    path = os.path.join(_folder().name, f"GEDI02_A_input.{ending}")
    with open(path, "wb") as file:
        file.write(data)
    yield path


class _Draw:
    """Choices read off the bytes of an input, zeros where they end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self, below: int) -> int:
        """A whole number from 0."""
        self._at += 1
        return (self._data[self._at - 1] if self._at <= len(self._data) else 0) % below

    def raw(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        self._at += count
        return found.ljust(count, b"\0")


# name, and the numbers of a row (0: one, without an axis of its own)
_LISTS = [
    ("shot_number", 0), ("lon_lowestmode", 0), ("lat_lowestmode", 0), ("elev_lowestmode", 0), ("delta_time", 0),
    ("quality_flag", 0), ("degrade_flag", 0), ("sensitivity", 0), ("solar_elevation", 0), ("rh", 101),
    ("rx_sample_count", 0), ("rx_sample_start_index", 0), ("rxwaveform", 40), ("noise_mean_corrected", 0),
    ("geolocation/elevation_bin0", 0), ("geolocation/elevation_lastbin", 0), ("geolocation/longitude_bin0", 0),
    ("geolocation/longitude_lastbin", 0), ("geolocation/latitude_bin0", 0), ("geolocation/latitude_lastbin", 0),
    ("geolocation/digital_elevation_model", 0), ("geolocation/solar_elevation", 0), ("geolocation/degrade", 0),
    ("ancillary/master_time_epoch", 0), ("agbd", 0), ("agbd_se", 0), ("l4_quality_flag", 0), ("cover", 0), ("pai", 0),
]  # fmt: skip
_DTYPES = ("<f4", "<f8", "<u8", "<i8", "<u2", "u1", "i1", ">f4", "S4", "c8", "?")
_PRODUCTS = ("GEDI_L2A", "GEDI_L1B", "GEDI_L2B", "GEDI_L4A", "GEDI_L4B", "ATL03", "")


def _draw_contents(file: h5py.File, draw: _Draw) -> None:
    file.attrs["short_name"] = _PRODUCTS[draw.number(len(_PRODUCTS))]
    for beam in BEAMS[: 1 + draw.number(3)]:
        group = file.create_group(beam)
        rows = draw.number(5)
        for name, width in _LISTS:
            choice = draw.number(16)
            if choice == 0:
                continue
            if choice == 1:
                group.create_group(name)
                continue
            if choice == 2:
                group[name] = "text"
                continue
            shape = _shape(choice, rows, width, draw)
            dtype = np.dtype(_DTYPES[draw.number(len(_DTYPES)) if choice == 6 else 2 * (name == "shot_number")])
            item = group.create_dataset(name, shape, dtype, chunks=None if () in (shape,) or 0 in shape else shape)
            size = int(np.prod(shape, dtype=np.int64))
            if choice != 7 and size:  # 7: never written, all fill values
                values = np.frombuffer(draw.raw(min(size * dtype.itemsize, 64)).ljust(size * dtype.itemsize, b"\x3f"), dtype)
                item[...] = values.reshape(shape)
            if choice == 8:
                item.attrs["_FillValue"] = draw.number(256)
            if choice == 9:
                item.attrs["_FillValue"] = "none"


def _shape(choice: int, rows: int, width: int, draw: _Draw) -> tuple[int, ...]:
    if choice == 3:
        return (rows + 1,)
    if choice == 4:
        return ()
    if choice == 5:
        return (rows, draw.number(4))
    return (rows, width) if width == 101 else (rows * width,) if width else (rows,)
