"""LAZ chunks: the LASzip record and the chunk table checked against the file, then one chunk decoded at a time.

A chunk is decoded from its own bytes alone, so damage is found where it is and a decoder cannot wander into what follows.
LAZ has no checksum: a chunk of formats 6-10 is held against the sizes of its layers, the last chunk of formats 0-5 against the
law that an arithmetic decoder consumes exactly the bytes that its encoder wrote.

::

    points_start   int64    byte of the chunk table, -1 when the writer could not seek: then it is the file's last 8 bytes
                   chunk 0, chunk 1, ...
    chunk table    uint32 version, uint32 chunks, then compressed (points, bytes) of each
    chunk, 6-10    first record as it is, uint32 points, uint32 bytes of each layer, layers

Reference: Isenburg 2013, "LASzip: lossless compression of LiDAR data"; LAZ 1.4 specification.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import lazrs
import numpy as np

from fusion3d.errors import InputError
from fusion3d.io.las_header import LasHeader
from fusion3d.io.las_layout import WAVE_DIMENSIONS

MAX_DECODED_RATIO = 200
"""Decoded bytes for one byte of file that are believed, against decompression bombs: the real tiles in the tests reach 11."""
_FREE_DECODED = 16 << 20
"""Decoded bytes that are harmless whatever the ratio."""
_MAX_CHUNK_BYTES = 1 << 30
_VARIABLE = 0xFFFFFFFF
_DAMAGED = "the file is damaged: download or copy it again"
_REPAIR = "repair the header (for instance with lasinfo -repair) or download the file again"

# LASzip items of each point format: type -> bytes; the layers of the items of formats 6-10
_ITEM_BYTES = {6: 20, 7: 8, 8: 6, 9: 29, 10: 30, 11: 6, 12: 8, 13: 29}
_ITEMS = {0: [6], 1: [6, 7], 2: [6, 8], 3: [6, 7, 8], 4: [6, 7, 9], 5: [6, 7, 8, 9],
          6: [10], 7: [10, 11], 8: [10, 12], 9: [10, 13], 10: [10, 12, 13]}  # fmt: skip
_LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}
_BYTE, _BYTE14 = 0, 14

_LAYER_OF = {
    "classification": lazrs.SELECTIVE_DECOMPRESS_CLASSIFICATION,
    "synthetic": lazrs.SELECTIVE_DECOMPRESS_FLAGS,
    "key_point": lazrs.SELECTIVE_DECOMPRESS_FLAGS,
    "withheld": lazrs.SELECTIVE_DECOMPRESS_FLAGS,
    "overlap": lazrs.SELECTIVE_DECOMPRESS_FLAGS,
    "scan_direction_flag": lazrs.SELECTIVE_DECOMPRESS_FLAGS,
    "edge_of_flight_line": lazrs.SELECTIVE_DECOMPRESS_FLAGS,
    "intensity": lazrs.SELECTIVE_DECOMPRESS_INTENSITY,
    "scan_angle": lazrs.SELECTIVE_DECOMPRESS_SCAN_ANGLE,
    "user_data": lazrs.SELECTIVE_DECOMPRESS_USER_DATA,
    "point_source_id": lazrs.SELECTIVE_DECOMPRESS_POINT_SOURCE_ID,
    "gps_time": lazrs.SELECTIVE_DECOMPRESS_GPS_TIME,
    "red": lazrs.SELECTIVE_DECOMPRESS_RGB,
    "green": lazrs.SELECTIVE_DECOMPRESS_RGB,
    "blue": lazrs.SELECTIVE_DECOMPRESS_RGB,
    "nir": lazrs.SELECTIVE_DECOMPRESS_NIR,
}


def undecodable(point_format: int) -> tuple[str, ...]:
    """Dimensions that lazrs decodes to wrong values: the wave packets of formats 9 and 10 do not survive its own round trip."""
    return WAVE_DIMENSIONS if point_format in (9, 10) else ()


@dataclass(frozen=True)
class Chunk:
    """Where a chunk lies: first byte, bytes, points, and the number of its first point in the file."""

    start: int
    size: int
    points: int
    first: int


def layers(dimensions: tuple[str, ...], extra: tuple[str, ...]) -> int:
    """The lazrs selection that decodes X, Y, Z, returns and the named dimensions; formats 0-5 are always decoded whole."""
    selection = lazrs.SELECTIVE_DECOMPRESS_XY_RETURNS_CHANNEL | lazrs.SELECTIVE_DECOMPRESS_Z
    for name in dimensions:
        if name in extra:
            selection |= lazrs.SELECTIVE_DECOMPRESS_ALL_EXTRA_BYTES
        else:
            selection |= _LAYER_OF.get(name, 0)
    return int(selection)


def laszip_record(header: LasHeader) -> bytes:
    """The LASzip VLR of a compressed file, checked against its point format.

    Raises
    ------
    InputError
        It is missing, damaged, or describes other records than the header.
    """
    record = header.find("laszip encoded", 22204)
    if record is None:
        raise InputError(header.path, "is marked as compressed but has no LASzip record", _DAMAGED)
    if len(record) < 34:
        raise InputError(header.path, f"its LASzip record has {len(record)} bytes, at least 34 are needed", _DAMAGED)
    compressor, coder, count = *struct.unpack_from("<HH", record), struct.unpack_from("<H", record, 32)[0]
    chunk_size = struct.unpack_from("<I", record, 12)[0]
    if len(record) < 34 + 6 * count:
        raise InputError(header.path, f"its LASzip record claims {count} items, its {len(record)} bytes hold fewer", _DAMAGED)
    items = [struct.unpack_from("<HHH", record, 34 + 6 * index) for index in range(count)]
    if compressor not in (2, 3) or coder != 0 or chunk_size == 0:
        raise InputError(
            header.path, f"LASzip compressor {compressor}, coder {coder}, chunks of {chunk_size} are not known",
            "rewrite it with a current LASzip",
        )  # fmt: skip
    _check_items(header, compressor, items)
    return record


def _check_items(header: LasHeader, compressor: int, items: list[tuple[int, int, int]]) -> None:
    point_format, length = header.layout.point_format, header.layout.length
    expected = [(kind, _ITEM_BYTES[kind]) for kind in _ITEMS[point_format]]
    extra = length - sum(size for _, size in expected)
    if extra:
        expected.append((_BYTE if point_format < 6 else _BYTE14, extra))
    if [(kind, size) for kind, size, _ in items] != expected or (compressor == 3) != (point_format >= 6):
        found = sum(size for _, size, _ in items)
        raise InputError(
            header.path,
            f"its LASzip record describes points of {found} bytes that are not point format {point_format} of {length} bytes",
            "rewrite it with a current LASzip, or download it again",
        )


def read_chunk_table(
    source: BinaryIO, header: LasHeader, *, check: bool = True, max_ratio: float = MAX_DECODED_RATIO
) -> tuple[Chunk, ...]:
    """Where the chunks of a compressed file are.

    Parameters
    ----------
    check : also hold every chunk's own header, or the end of the last chunk, against the table
    max_ratio : decoded bytes for one byte of file that are believed

    Raises
    ------
    InputError
        The table is missing, outside of the file, or contradicts the header's number of points or the bytes there are.
    """
    record = laszip_record(header)
    _check_ratio(header, max_ratio)
    if header.count == 0:
        _check_empty(source, header)
        return ()
    table = chunk_table_start(source, header)
    source.seek(table)
    _, number = struct.unpack("<II", source.read(8))
    first = header.points_start + 8
    # each chunk starts with one uncompressed record
    if number == 0 or number * header.layout.length > table - first:
        raise InputError(
            header.path, f"its chunk table claims {number} chunks for {header.count} points in {table - first} bytes", _DAMAGED
        )
    source.seek(header.points_start)
    with decoding(header.path, "its chunk table is truncated or damaged"):
        entries = lazrs.read_chunk_table(source, lazrs.LazVlr(record))
    chunks = _place_chunks(header, [(int(points), int(size)) for points, size in entries], record, table)
    if check:
        _check_chunks(source, header, chunks, record)
    return chunks


def _check_ratio(header: LasHeader, max_ratio: float) -> None:
    decoded = header.count * header.layout.length
    if decoded > _FREE_DECODED and decoded > max_ratio * header.size:
        raise InputError(
            header.path,
            f"its header says {header.count} points, {decoded / 1e6:.6g} MB out of {header.size / 1e6:.3g} MB: damaged or a bomb",
            f"download it again; if so much repetition is meant (above {max_ratio:g} to 1), give it as uncompressed LAS, or "
            "pass --max-ratio with a higher one",
        )


def _check_empty(source: BinaryIO, header: LasHeader) -> None:
    source.seek(header.points_start)
    raw = source.read(8)
    table = struct.unpack("<q", raw)[0] if len(raw) == 8 else 0
    if table - header.points_start - 8 >= header.layout.length:
        raise InputError(header.path, "its header says 0 points, its chunks hold some", _REPAIR)


def chunk_table_start(source: BinaryIO, header: LasHeader) -> int:
    """Byte at which the chunk table of a compressed file with points is.

    Raises
    ------
    InputError
        It would be outside of the file: an upload that was cut, or a writer that was.
    """
    if header.points_start + 8 > header.size:
        raise InputError(header.path, "truncated: it ends before its first point", _DAMAGED)
    source.seek(header.points_start)
    table = struct.unpack("<q", source.read(8))[0]
    if table == -1:
        source.seek(header.size - 8)
        table = struct.unpack("<q", source.read(8))[0]
    if table <= header.points_start + 8 or table + 8 > header.size:
        raise InputError(
            header.path,
            f"truncated: its chunk table should be at byte {table} of {header.size}"
            if table > 0
            else "its writer did not finish it",
            _DAMAGED,
        )
    return int(table)


def _place_chunks(header: LasHeader, entries: list[tuple[int, int]], record: bytes, table: int) -> tuple[Chunk, ...]:
    chunk_size = struct.unpack_from("<I", record, 12)[0]
    chunks, start, done = [], header.points_start + 8, 0
    for points, size in entries:
        if chunk_size != _VARIABLE:
            points = min(chunk_size, header.count - done)
        if points < 0 or size < 0 or (points > 0 and size < header.layout.length) or start + size > table:
            raise InputError(header.path, f"its chunk table is damaged near point {done}", _DAMAGED)
        if points == 0 and size > 0:
            raise InputError(header.path, f"its header says {header.count} points, its chunks hold more", _DAMAGED)
        if points * header.layout.length > _MAX_CHUNK_BYTES:
            raise InputError(
                header.path, f"a chunk of {points} points is too large to decode", "rewrite it in chunks of 50,000 points"
            )
        if points:
            chunks.append(Chunk(start, size, points, done))
        start, done = start + size, done + points
    if done != header.count:
        raise InputError(
            header.path, f"truncated: its header says {header.count} points, its {len(entries)} chunks hold {done}", _DAMAGED
        )
    if start != table:
        raise InputError(header.path, f"its chunks end at byte {start}, their table starts at {table}", _DAMAGED)
    return tuple(chunks)


def _check_chunks(source: BinaryIO, header: LasHeader, chunks: tuple[Chunk, ...], record: bytes) -> None:
    if header.layout.point_format < 6:
        _check_last_chunk(source, header, chunks[-1], record)
        return
    head = header.layout.length + 4 + 4 * _layer_count(header)
    for chunk in chunks:
        source.seek(chunk.start)
        _check_layers(header, chunk, source.read(min(head, chunk.size)))


def _layer_count(header: LasHeader) -> int:
    items = _ITEMS[header.layout.point_format]
    return sum(_LAYERS[kind] for kind in items) + header.layout.length - sum(_ITEM_BYTES[kind] for kind in items)


def _check_layers(header: LasHeader, chunk: Chunk, raw: bytes) -> None:
    """Hold the sizes of a chunk's layers against its size: a decoder allocates whatever they say."""
    length, number = header.layout.length, _layer_count(header)
    if len(raw) < length + 4 + 4 * number:
        raise InputError(header.path, f"truncated or damaged near point {chunk.first} of {header.count} points", _DAMAGED)
    points, *sizes = struct.unpack_from(f"<{1 + number}I", raw, length)
    if points != chunk.points:
        raise InputError(
            header.path,
            f"its header implies {chunk.points} points in the chunk of point {chunk.first}, it holds {points}",
            _DAMAGED,
        )
    if length + 4 + 4 * number + sum(sizes) != chunk.size:
        raise InputError(header.path, f"damaged near point {chunk.first}: its layers do not fill their chunk", _DAMAGED)


def _check_last_chunk(source: BinaryIO, header: LasHeader, chunk: Chunk, record: bytes) -> None:
    """Decode the last chunk, then once more without its last byte: that can only work when points are left over in it."""
    everything = int(lazrs.SELECTIVE_DECOMPRESS_ALL)
    decode(source, header, record, chunk, everything)
    # a chunk of a single record holds nothing that is coded
    if chunk.points < 2 or header.count < 2:
        return
    shorter = Chunk(chunk.start, chunk.size - 1, chunk.points, chunk.first)
    try:
        decode(source, header, record, shorter, everything)
    except InputError:
        return
    raise InputError(header.path, f"its header says {header.count} points, its last chunk holds more", _REPAIR)


def decode(source: BinaryIO, header: LasHeader, record: bytes, chunk: Chunk, selection: int) -> np.ndarray:
    """Records [chunk.points] of one chunk, the bytes of `selection` filled in.

    Raises
    ------
    InputError
        The bytes cannot be decoded.
    """
    source.seek(chunk.start)
    raw = source.read(chunk.size)
    if len(raw) < chunk.size:
        raise InputError(header.path, f"truncated near point {chunk.first} of {header.count} points", _DAMAGED)
    if header.layout.point_format >= 6:
        _check_layers(header, chunk, raw)
    out = np.zeros(chunk.points * header.layout.length, np.uint8)
    with decoding(header.path, f"truncated or damaged near point {chunk.first} of {header.count} points"):
        lazrs.decompress_points_with_chunk_table(
            raw, record, out, [(chunk.points, chunk.size)], lazrs.DecompressionSelection(selection)
        )
    return out.view(header.layout.dtype)


def decode_chunks(
    source: BinaryIO, header: LasHeader, chunks: Iterable[Chunk], selection: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Records of some chunks of a compressed file in their order, each with the number of its first point in the file."""
    record = laszip_record(header)
    for chunk in chunks:
        yield chunk.first, decode(source, header, record, chunk, selection)


@contextmanager
def decoding(path: str, problem: str) -> Iterator[None]:
    """Turn whatever lazrs raises, Rust panics included, into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        # pyo3's PanicException derives from BaseException and cannot be imported
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            reason = str(error).removeprefix("IoError: ").splitlines()
            raise InputError(path, f"{problem} ({reason[0][:100] if reason else type(error).__name__})", _DAMAGED) from None
        raise
