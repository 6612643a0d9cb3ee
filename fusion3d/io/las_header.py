"""Public header and variable length records of LAS 1.0-1.4, held against the size of the file before anything trusts them.

Nothing here allocates or loops by a number that a file claims before that number is known to fit into the file.
Reference: ASPRS LAS 1.4 R15, sections 2.4-2.7; LASzip keeps the same header and sets bit 7 of the point format.
"""

from __future__ import annotations

import datetime
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fusion3d.errors import InputError
from fusion3d.io.binary_file import open_binary, size_of
from fusion3d.io.las_layout import WAVE_FORMATS, RecordLayout, base_dtype, parse_extra_bytes

_HEADER_SIZE = {0: 227, 1: 227, 2: 227, 3: 235, 4: 375}
_FORMATS = {0: 1, 1: 1, 2: 3, 3: 5, 4: 10}
"""Highest point format that a minor version defines."""
_VLR, _EVLR = 54, 60
_MAX_VLR_BYTES = 64 << 20
"""Variable length records are read into memory up to here; ten thousand times what a CRS takes."""
_MAX_VLRS = 100_000
_FIRST_YEAR = 2002
"""LAS files cannot be older than the format: earlier years are what writers put there by default."""
_DAMAGED = "the file is damaged: download or copy it again"
_REPAIR = "repair the header (for instance with lasinfo -repair) or rewrite the file"


@dataclass(frozen=True)
class Vlr:
    """A variable length record: user, record number and bytes."""

    user: str
    record: int
    data: bytes


@dataclass(frozen=True)
class LasHeader:
    """What a file says of itself, checked.

    Attributes
    ----------
    points_start, points_end : bytes; the point data, LAZ chunk table included, lie between them
    bounds : xmin, ymin, zmin, xmax, ymax, zmax; NaN when there are no points
    """

    path: str
    size: int
    version: tuple[int, int]
    compressed: bool
    wkt: bool
    count: int
    layout: RecordLayout
    scales: tuple[float, float, float]
    offsets: tuple[float, float, float]
    bounds: tuple[float, float, float, float, float, float]
    date: datetime.date | None
    points_start: int
    points_end: int
    vlrs: tuple[Vlr, ...]
    evlrs: tuple[Vlr, ...]

    def find(self, user: str, record: int) -> bytes | None:
        """Bytes of the first record with that user and number, VLRs before EVLRs."""
        for vlr in (*self.vlrs, *self.evlrs):
            if vlr.user == user and vlr.record == record:
                return vlr.data
        return None


def read_header(path: str | Path) -> LasHeader:
    """Read and check the header, VLRs and EVLRs of a LAS or LAZ file.

    Raises
    ------
    InputError
        The file is missing, is no LAS, or its header contradicts itself or the file's size.
    """
    with open_binary(path) as source:
        return header_of(source, os.fspath(path))


def header_of(source: BinaryIO, path: str) -> LasHeader:
    """`read_header` of a file that is open; `path` names it in errors."""
    try:
        return _read(source, path, size_of(source))
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror or error})", "check its permissions and the disk") from None


def _read(source: BinaryIO, path: str, size: int) -> LasHeader:
    raw = source.read(375)
    _check_signature(raw, path, size)
    major, minor = raw[24], raw[25]
    if major != 1 or minor not in _HEADER_SIZE:
        raise InputError(path, f"LAS version {major}.{minor} is not one of 1.0 to 1.4", "rewrite the file as LAS 1.4")
    if len(raw) < _HEADER_SIZE[minor]:
        raise InputError(path, f"has {size} bytes, less than a LAS 1.{minor} header", _DAMAGED)
    encoding, day, year, header_size, points_start, vlr_count, pf_byte, record_length, legacy_count = struct.unpack(
        "<6xH82xHHHIIBHI", raw[:111]
    )
    if header_size < _HEADER_SIZE[minor]:
        raise InputError(path, f"its header claims {header_size} bytes, LAS 1.{minor} needs {_HEADER_SIZE[minor]}", _DAMAGED)
    if not header_size <= points_start <= size:
        raise InputError(
            path,
            f"its points should start at byte {points_start}, the header ends at {header_size} and the file at {size}",
            _DAMAGED,
        )
    vlrs = _read_vlrs(source, path, header_size, vlr_count, points_start)
    evlrs, evlr_start = ((), None) if minor < 4 else _read_evlrs(source, path, raw, points_start, size)
    layout = _read_layout(path, minor, pf_byte, record_length, (*vlrs, *evlrs))
    count = _point_count(path, minor, legacy_count, raw)
    values = struct.unpack("<12d", raw[131:227])
    scales, offsets = values[0:3], values[3:6]
    bounds = (values[7], values[9], values[11], values[6], values[8], values[10])
    if count == 0:
        bounds = (math.nan,) * 6
    _check_scales(path, scales, offsets, bounds, count)
    points_end = size if evlr_start is None else evlr_start
    if minor >= 3 and layout.point_format in WAVE_FORMATS:
        waveforms = struct.unpack("<Q", raw[227:235])[0]
        if points_start < waveforms < points_end:
            points_end = waveforms
    header = LasHeader(
        path, size, (major, minor), bool(pf_byte & 0x80), bool(encoding & 16), count, layout, scales, offsets, bounds,
        _date(day, year), points_start, points_end, vlrs, evlrs,
    )  # fmt: skip
    if not header.compressed:
        _check_room(header)
    return header


def _check_signature(raw: bytes, path: str, size: int) -> None:
    if raw[:4] == b"LASF":
        if len(raw) < 227:
            raise InputError(path, f"has {size} bytes, less than a LAS header", _DAMAGED)
        return
    start = raw.lstrip().lower()
    if not raw:
        problem, remedy = "is empty", "download or copy it again"
    elif start.startswith((b"<!doctype", b"<html", b"<?xml", b"http/")) or b"<html" in start:
        problem, remedy = (
            "is a web page, not a point cloud",
            "the download failed: open the file to read why, then fetch it again",
        )
    elif start.startswith(b"version https://git-lfs"):
        problem, remedy = "is a Git LFS pointer, not a point cloud", "fetch the file itself with git lfs pull"
    elif raw[:2] in (b"PK", b"\x1f\x8b") or raw[:4] == b"7z\xbc\xaf":
        problem, remedy = "is a compressed archive, not a point cloud", "unpack it and give the LAS or LAZ files inside"
    else:
        problem, remedy = "is not a LAS or LAZ file (it does not start with LASF)", "give LAS, LAZ or COPC files"
    raise InputError(path, problem, remedy)


def _read_vlrs(source: BinaryIO, path: str, start: int, count: int, end: int) -> tuple[Vlr, ...]:
    if count * _VLR > end - start:
        raise InputError(
            path, f"its header claims {count} variable length records, {end - start} bytes are there for them", _DAMAGED
        )
    return _walk(source, path, start, count, end, _VLR, "<2x16sHH")


def _read_evlrs(source: BinaryIO, path: str, raw: bytes, points_start: int, size: int) -> tuple[tuple[Vlr, ...], int | None]:
    start, count = struct.unpack("<QI", raw[235:247])
    if count == 0:
        return (), None
    if not points_start <= start <= size or count * _EVLR > size - start:
        raise InputError(
            path,
            f"{count} extended records should start at byte {start} of {size}: the file is truncated or its header wrong",
            _DAMAGED,
        )
    return _walk(source, path, start, count, size, _EVLR, "<2x16sHQ"), start


def _walk(source: BinaryIO, path: str, start: int, count: int, end: int, head: int, layout: str) -> tuple[Vlr, ...]:
    if count > _MAX_VLRS:
        raise InputError(path, f"its header claims {count} variable length records, more than any real file has", _DAMAGED)
    found, kept = [], 0
    for index in range(count):
        source.seek(start)
        raw = source.read(head)
        if start + head > end or len(raw) < head:
            raise InputError(path, f"variable length record {index + 1} of {count} runs past its end at byte {end}", _DAMAGED)
        user, record, length = struct.unpack_from(layout, raw)
        if length > end - start - head:
            raise InputError(
                path,
                f"variable length record {index + 1} of {count} claims {length} bytes, {end - start - head} are there",
                _DAMAGED,
            )
        # waveforms can be huge: nobody asks for the bytes of such records
        data = source.read(length) if kept + length <= _MAX_VLR_BYTES else b""
        kept += len(data)
        found.append(Vlr(user.split(b"\0")[0].decode("latin-1").strip(), record, data))
        start += head + length
    return tuple(found)


def _read_layout(path: str, minor: int, pf_byte: int, length: int, vlrs: tuple[Vlr, ...]) -> RecordLayout:
    if pf_byte & 0x40:
        raise InputError(path, "was compressed by a LASzip from before its first release", "rewrite it with a current LASzip")
    point_format = pf_byte & 0x3F
    if point_format > 10:
        raise InputError(path, f"point format {point_format} is not one of 0 to 10", _DAMAGED)
    if point_format > _FORMATS[minor]:
        raise InputError(path, f"point format {point_format} does not exist in LAS 1.{minor}", _REPAIR)
    spare = length - base_dtype(point_format).itemsize
    if spare < 0:
        raise InputError(
            path,
            f"its records have {length} bytes, point format {point_format} needs {base_dtype(point_format).itemsize}",
            _DAMAGED,
        )
    plain = RecordLayout(point_format, length)
    described = [vlr.data for vlr in vlrs if vlr.user == "LASF_Spec" and vlr.record == 4]
    if not described or spare == 0:
        return plain
    try:
        extra = parse_extra_bytes(described[0], plain.standard)
    except ValueError as error:
        raise InputError(path, str(error), "rewrite the file without its extra bytes") from None
    if sum(item.size for item in extra) > spare:
        raise InputError(
            path,
            f"its extra dimensions need {sum(item.size for item in extra)} bytes a point, the record leaves {spare}",
            _REPAIR,
        )
    return RecordLayout(point_format, length, extra)


def _point_count(path: str, minor: int, legacy: int, raw: bytes) -> int:
    count, by_return = legacy, struct.unpack("<5I", raw[111:131])
    if minor >= 4:
        count = struct.unpack("<Q", raw[247:255])[0]
        if legacy not in (0, count):
            raise InputError(path, f"its header counts {count} points, and {legacy} in the field of older versions", _REPAIR)
        by_return = struct.unpack("<15Q", raw[255:375])
    if sum(by_return) > count:
        raise InputError(path, f"its header counts {count} points, but {sum(by_return)} when added up by return number", _REPAIR)
    return count


def _check_scales(
    path: str, scales: tuple[float, ...], offsets: tuple[float, ...], bounds: tuple[float, ...], count: int
) -> None:
    for axis, scale, offset, low, high in zip("xyz", scales, offsets, bounds[:3], bounds[3:], strict=True):
        if not math.isfinite(scale) or scale <= 0:
            raise InputError(path, f"the scale of {axis} is {scale}: no coordinate can be computed", _REPAIR)
        if not math.isfinite(offset):
            raise InputError(path, f"the offset of {axis} is {offset}: no coordinate can be computed", _REPAIR)
        if count == 0:
            continue
        if not (math.isfinite(low) and math.isfinite(high)) or low > high:
            raise InputError(path, f"its header gives {axis} from {low} to {high}, which is no range", _REPAIR)
        if not math.isfinite(scale * 2.0**31):
            raise InputError(path, f"the scale of {axis} is {scale}: coordinates would be infinite", _REPAIR)
        step = math.ulp(max(abs(low), abs(high), abs(offset)))
        if step > max(scale, 1e-3):
            raise InputError(
                path, f"{axis} near {max(abs(low), abs(high), abs(offset)):.6g} cannot hold the scale {scale}", _REPAIR
            )
        reach = (-(2.0**31) - 1) * scale + offset - step, 2.0**31 * scale + offset + step
        if low < reach[0] or high > reach[1]:
            raise InputError(
                path,
                f"its header gives {axis} from {low} to {high}, scale {scale} and offset {offset} cannot reach that",
                _REPAIR,
            )


def _check_room(header: LasHeader) -> None:
    length, room = header.layout.length, header.points_end - header.points_start
    if header.count * length > room:
        raise InputError(
            header.path, f"truncated: its header says {header.count} points, the file holds {room // length}", _DAMAGED
        )
    if room - header.count * length >= length:
        raise InputError(header.path, f"its header says {header.count} points, the file holds room for {room // length}", _REPAIR)


def _date(day: int, year: int) -> datetime.date | None:
    if not (_FIRST_YEAR <= year <= datetime.MAXYEAR and 1 <= day <= 366):
        return None
    date = datetime.date(year, 1, 1) + datetime.timedelta(day - 1) if year < datetime.MAXYEAR else None
    return date if date is not None and date.year == year else None
