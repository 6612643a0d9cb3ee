"""The layout of a Cloud Optimized GeoTIFF, read from its bytes by the TIFF 6.0 and BigTIFF specifications.

The rules are those of GDAL's validate_cloud_optimized_geotiff.py: directories stand before all pixels, the full image first and
overviews from large to small, each no larger than half of the one before; all of them are tiled; their pixels stand in the
reverse order, so that the head of the file and its smallest overview are read at once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 5: "Q", 11: "f", 12: "d", 16: "Q"}
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT, _OFFSETS, _SIZES = 256, 257, 322, 323, 324, 325


@dataclass(frozen=True)
class Directory:
    """A picture of the file: where its entry stands, its size, that of its tiles, and where these are."""

    at: int
    width: int
    height: int
    tile: tuple[int, int]
    offsets: tuple[int, ...]


def _directories(data: bytes) -> list[Directory]:
    assert data[:2] == b"II", "little-endian"
    big = {42: False, 43: True}[struct.unpack_from("<H", data, 2)[0]]
    word, entry = ("<Q", "<HHQ8s") if big else ("<I", "<HHI4s")
    at, found = struct.unpack_from(word, data, 8 if big else 4)[0], []
    while at:
        count = struct.unpack_from("<Q" if big else "<H", data, at)[0]
        first, tags = at + (8 if big else 2), {}
        for number in range(count):
            place = first + number * struct.calcsize(entry)
            tag, kind, length, inline = struct.unpack_from(entry, data, place)
            code = f"<{length}{_TYPES[kind]}"
            where = place + struct.calcsize(entry) - len(inline)
            if struct.calcsize(code) > len(inline):
                where = struct.unpack(word, inline)[0]
            tags[tag] = struct.unpack_from(code, data, where)
        assert {_TILE_WIDTH, _TILE_HEIGHT, _OFFSETS} <= tags.keys(), "tiled"
        kept = tuple(offset for offset, size in zip(tags[_OFFSETS], tags[_SIZES], strict=True) if size)
        found.append(Directory(at, tags[_WIDTH][0], tags[_HEIGHT][0], (tags[_TILE_WIDTH][0], tags[_TILE_HEIGHT][0]), kept))
        at = struct.unpack_from(word, data, first + count * struct.calcsize(entry))[0]
    return found


def cog_directories(path: Path) -> list[Directory]:
    """The directories of a file, the full image first; AssertionError where the file breaks a rule."""
    data = path.read_bytes()
    found = _directories(data)
    places = [each.at for each in found]
    assert places == sorted(places), "directories from large to small"
    # GDAL's note on how the file is laid out may stand between header and directory
    note = data.find(b"GDAL_STRUCTURAL_METADATA_SIZE=", 0, 64)
    head = 16 if data[2] == 43 else 8
    length = 0 if note < 0 else 43 + int(data[note + 30 : note + 36])
    assert head + length <= places[0] <= head + length + 1, "the first directory follows the header"
    assert places[-1] < min(offset for each in found for offset in each.offsets), "directories before pixels"
    for larger, smaller in pairwise(found):
        assert 2 * smaller.width <= larger.width + 1, "overviews halve"
        assert 2 * smaller.height <= larger.height + 1, "overviews halve"
        assert max(smaller.offsets) < min(larger.offsets), "small pictures before large ones"
    assert max(found[-1].width, found[-1].height) <= max(found[0].tile), "the last overview is one tile"
    return found
