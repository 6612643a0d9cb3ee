"""LAS, LAZ and COPC: checked, chunked, only the dimensions that are asked for.

A file is opened (`open_points`: everything that can be checked without decoding), then read in chunks (`read_chunks`) or, when it
is COPC, by window (`query_window`). Coordinates stay the file's scaled integers; `coordinates` turns them into float64.
"""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from pyproj import CRS

from fusion3d.errors import InputError
from fusion3d.io import copc, laz
from fusion3d.io.binary_file import SEQUENTIAL, is_url, open_binary
from fusion3d.io.crs import crs_of_records
from fusion3d.io.las_header import LasHeader, header_of
from fusion3d.io.las_writer import write_points

__all__ = [
    "DEFAULT_DIMENSIONS",
    "PointFile",
    "Points",
    "coordinates",
    "open_points",
    "query_window",
    "read_chunks",
    "write_points",
]

DEFAULT_DIMENSIONS = ("intensity", "return_number", "number_of_returns", "classification", "scan_angle", "withheld")
"""What is read when nothing is named."""
_DAMAGED = "the file is damaged: download or copy it again"
_MAX_READ_BYTES = 256 << 20
"""Records held at once, whatever number of points a chunk may have."""
_BOUNDS_SLACK = 1
"""Scale steps by which points may lie outside of the header's bounds: writers round the two differently."""


@dataclass(frozen=True)
class PointFile:
    """What a LAS, LAZ or COPC file holds.

    Attributes
    ----------
    bounds : xmin, ymin, xmax, ymax of the header, CRS units; NaN when there are no points
    z_bounds : zmin, zmax of the header, NaN when there are no points
    crs : as the file states it, None when it states none
    dimensions : names that can be read beside X, Y and Z, extra bytes included
    date : when the file was written (not flown), None when it does not say
    max_ratio : decoded bytes for one byte of file that are believed when it is read
    """

    path: str
    version: tuple[int, int]
    point_format: int
    count: int
    scales: tuple[float, float, float]
    offsets: tuple[float, float, float]
    bounds: tuple[float, float, float, float]
    z_bounds: tuple[float, float]
    crs: CRS | None
    compressed: bool
    copc: bool
    dimensions: tuple[str, ...]
    extra_dimensions: tuple[str, ...]
    date: datetime.date | None
    max_ratio: float = laz.MAX_DECODED_RATIO


@dataclass(frozen=True)
class Points:
    """Some points of a file.

    Attributes
    ----------
    X, Y, Z : [N] int32, scaled integers as stored
    attributes : name -> [N] (extra bytes with several elements: [N, elements]); flags are bool, scan angles float32 degrees
    scales, offsets : of X, Y and Z
    """

    X: npt.NDArray[np.int32]
    Y: npt.NDArray[np.int32]
    Z: npt.NDArray[np.int32]
    attributes: dict[str, np.ndarray]
    scales: tuple[float, float, float]
    offsets: tuple[float, float, float]

    def __len__(self) -> int:
        return len(self.X)

    @property
    def x(self) -> npt.NDArray[np.float64]:
        return coordinates(self.X, self.scales[0], self.offsets[0])

    @property
    def y(self) -> npt.NDArray[np.float64]:
        return coordinates(self.Y, self.scales[1], self.offsets[1])

    @property
    def z(self) -> npt.NDArray[np.float64]:
        return coordinates(self.Z, self.scales[2], self.offsets[2])


def coordinates(raw: npt.NDArray[np.int32], scale: float, offset: float) -> npt.NDArray[np.float64]:
    """Coordinates [N] of scaled integers [N], ``raw * scale + offset``.

    A scale such as 0.01 is not a double, 100 is: when 1 / scale is an integer the division by it gives the double nearest to the
    decimal number that was stored, so that 627755000 is 6277550.0 and a point on an edge of the grid is on it.
    """
    steps = round(1.0 / scale) if scale <= 1.0 else 0
    if steps >= 1 and abs(1.0 / scale - steps) <= 1e-9 * steps:
        return np.asarray(raw, np.float64) / steps + offset
    return np.asarray(raw, np.float64) * scale + offset


def open_points(path: str | Path, *, check: bool = True, max_ratio: float = laz.MAX_DECODED_RATIO) -> PointFile:
    """Check a LAS, LAZ or COPC file and tell what it holds; no point is read, but for the last chunk of a LAZ of formats 0-5.

    Parameters
    ----------
    check : also hold chunks and octree of compressed files against the header; the public header is checked in any case. Of a
        remote file only their tables are: a look at every chunk would fetch most of it, and decoding takes that look again
    max_ratio : decoded bytes for one byte of a compressed file that are believed, against decompression bombs

    Raises
    ------
    InputError
        The file is no LAS, damaged, truncated or contradicts itself.
    CRSError
        Its CRS cannot be understood, or its WKT and its GeoTIFF keys contradict each other.
    """
    with open_binary(path) as source:
        header = header_of(source, os.fspath(path))
        if header.compressed and check:
            local = not is_url(path)
            if copc.is_copc(header):
                copc.read_nodes(source, header, check=local, max_ratio=max_ratio)
            else:
                laz.read_chunk_table(source, header, check=local, max_ratio=max_ratio)
    return point_file(header, max_ratio)


def point_file(header: LasHeader, max_ratio: float = laz.MAX_DECODED_RATIO) -> PointFile:
    """What a checked header says, its LASzip record and its CRS understood.

    Raises
    ------
    InputError, CRSError
        As `open_points`.
    """
    if header.compressed:
        laz.laszip_record(header)
    layout = header.layout
    xmin, ymin, zmin, xmax, ymax, zmax = header.bounds
    absent = laz.undecodable(layout.point_format) if header.compressed else ()
    return PointFile(
        header.path,
        header.version,
        layout.point_format,
        header.count,
        header.scales,
        header.offsets,
        (xmin, ymin, xmax, ymax),
        (zmin, zmax),
        _crs(header),
        header.compressed,
        copc.is_copc(header),
        (*(name for name in layout.standard if name not in absent), *layout.extra_names),
        layout.extra_names,
        header.date,
        max_ratio,
    )


def _crs(header: LasHeader) -> CRS | None:
    def find(record: int) -> bytes | None:
        return header.find("LASF_Projection", record)

    directory = find(34735)
    keys = None if directory is None else (directory, find(34736) or b"", find(34737) or b"")
    xmin, ymin, _, xmax, ymax, _ = header.bounds
    # libLAS put WKT under its own name before LAS had a place for it
    return crs_of_records(find(2112) or header.find("liblas", 2112), keys, (xmin, ymin, xmax, ymax), header.path)


def read_chunks(
    file: PointFile,
    dimensions: Sequence[str] | None = None,
    *,
    chunk: int = 1_000_000,
    bounds: tuple[float, float, float, float] | None = None,
) -> Iterator[Points]:
    """The points of a file in file order, at most `chunk` at a time (fewer when records are very long).

    Parameters
    ----------
    dimensions : names out of ``file.dimensions``; None reads those of `DEFAULT_DIMENSIONS` that the file has
    bounds : xmin, ymin, xmax, ymax, CRS units, that the points are wanted for: of a COPC only octree nodes that touch them are
        read. Points outside of them come too, and all points of other files

    Raises
    ------
    InputError
        A dimension is not there, bytes cannot be decoded, points are missing or lie outside of the bounds in the header.
    """
    names = _chosen(file, dimensions)
    window = bounds if file.copc else None
    with open_binary(file.path, ahead=SEQUENTIAL if window is None else 0) as source:
        header = _same_header(file, source)
        limit = max(1, min(chunk, _MAX_READ_BYTES // header.layout.length))
        wanted, done = header.count, 0
        if header.compressed:
            if window is not None:
                nodes = _nodes(source, header, file, window)
                chunks: Sequence[laz.Chunk] = [node.chunk for node in nodes]
                wanted = sum(chunk.points for chunk in chunks)
            else:
                chunks = laz.read_chunk_table(source, header, check=False, max_ratio=file.max_ratio)
            pieces = laz.decode_chunks(source, header, chunks, laz.layers(names, header.layout.extra_names))
        else:
            pieces = _plain_records(source, header, limit)
        for records in _even(_checked(header, pieces), limit):
            done += len(records)
            yield _points(header, records, names)
    if done != wanted:
        raise InputError(file.path, f"truncated: its header says {wanted} points, {done} could be read", _DAMAGED)


def query_window(file: PointFile, bounds: tuple[float, float, float, float], dimensions: Sequence[str] | None = None) -> Points:
    """The points of a COPC file inside a window, decoding only the octree nodes that touch it.

    Parameters
    ----------
    bounds : xmin, ymin, xmax, ymax, CRS units; half-open like the grid's cells: ``xmin <= x < xmax`` and ``ymin < y <= ymax``

    Raises
    ------
    InputError
        The file is not COPC, or damaged.
    """
    names = _chosen(file, dimensions)
    if not file.copc:
        raise InputError(
            file.path,
            "is not COPC and cannot be read by window",
            "read it whole, or make a COPC of it (for instance with untwine)",
        )
    xmin, ymin, xmax, ymax = bounds
    kept = []
    with open_binary(file.path) as source:
        header = _same_header(file, source)
        nodes = _nodes(source, header, file, bounds)
        selection = laz.layers(names, header.layout.extra_names)
        for records in _checked(header, laz.decode_chunks(source, header, [node.chunk for node in nodes], selection)):
            x = coordinates(records["X"], header.scales[0], header.offsets[0])
            y = coordinates(records["Y"], header.scales[1], header.offsets[1])
            kept.append(records[(x >= xmin) & (x < xmax) & (y > ymin) & (y <= ymax)])
    return _points(header, np.concatenate([np.empty(0, header.layout.dtype), *kept]), names)


def _nodes(source: BinaryIO, header: LasHeader, file: PointFile, bounds: tuple[float, float, float, float]) -> list[copc.Node]:
    nodes = copc.read_nodes(source, header, check=False, max_ratio=file.max_ratio)
    return copc.nodes_touching(nodes, bounds, max(header.scales[:2]))


def _chosen(file: PointFile, dimensions: Sequence[str] | None) -> tuple[str, ...]:
    if dimensions is None:
        return tuple(name for name in DEFAULT_DIMENSIONS if name in file.dimensions)
    missing = [name for name in dimensions if name not in file.dimensions]
    if missing:
        raise InputError(file.path, f"has no dimension {', '.join(missing)}", f"it has X, Y, Z, {', '.join(file.dimensions)}")
    return tuple(dict.fromkeys(dimensions))


def _same_header(file: PointFile, source: BinaryIO) -> LasHeader:
    header = header_of(source, file.path)
    if (header.count, header.layout.point_format, header.scales, header.offsets) != (
        file.count, file.point_format, file.scales, file.offsets,
    ):  # fmt: skip
        raise InputError(file.path, "has changed since it was opened", "wait until nothing writes to it, then start again")
    return header


def _plain_records(source: BinaryIO, header: LasHeader, limit: int) -> Iterator[tuple[int, np.ndarray]]:
    source.seek(header.points_start)
    length = header.layout.length
    for start in range(0, header.count, limit):
        wanted = min(limit, header.count - start)
        raw = source.read(wanted * length)
        if len(raw) < wanted * length:
            raise InputError(header.path, f"truncated at point {start + len(raw) // length}", _DAMAGED)
        yield start, np.frombuffer(raw, header.layout.dtype)


def _checked(header: LasHeader, pieces: Iterator[tuple[int, np.ndarray]]) -> Iterator[np.ndarray]:
    for first, records in pieces:
        _check_bounds(header, records, first)
        yield records


def _even(pieces: Iterator[np.ndarray], limit: int) -> Iterator[np.ndarray]:
    """Records in pieces of exactly `limit`, but for the last one."""
    held: list[np.ndarray] = []
    count = 0
    for records in pieces:
        while count + len(records) >= limit:
            take = limit - count
            yield np.concatenate([*held, records[:take]]) if held else records[:take]
            held, count, records = [], 0, records[take:]
        if len(records):
            held.append(records)
            count += len(records)
    if count:
        yield np.concatenate(held)


def _check_bounds(header: LasHeader, records: np.ndarray, first: int) -> None:
    if not len(records):
        return
    for axis, name in enumerate("XYZ"):
        scale, offset = header.scales[axis], header.offsets[axis]
        low = math.floor((header.bounds[axis] - offset) / scale + 1e-3) - _BOUNDS_SLACK
        high = math.ceil((header.bounds[axis + 3] - offset) / scale - 1e-3) + _BOUNDS_SLACK
        raw = records[name]
        if raw.min() < low or raw.max() > high:
            where = int(np.flatnonzero((raw < low) | (raw > high))[0])
            value = float(coordinates(raw[where : where + 1], scale, offset)[0])
            raise InputError(
                header.path,
                f"damaged, or its header is wrong: point {first + where} has {name.lower()} = {value:.10g}, outside of "
                f"{header.bounds[axis]:.10g} to {header.bounds[axis + 3]:.10g}",
                "download or copy it again; if the points are right, repair the header (for instance with lasinfo -repair)",
            )


def _points(header: LasHeader, records: np.ndarray, names: tuple[str, ...]) -> Points:
    layout = header.layout
    x, y, z = (np.ascontiguousarray(records[axis].astype(np.int32)) for axis in "XYZ")
    return Points(x, y, z, {name: layout.attribute(records, name) for name in names}, header.scales, header.offsets)
