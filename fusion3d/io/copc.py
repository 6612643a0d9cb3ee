"""The octree of a COPC file: which chunks hold the points of a window (COPC 1.0, https://copc.io).

::

    info VLR (first VLR)   centre x y z, half size, spacing: 5 x float64; root page: uint64 offset, uint64 size; ...
    page                   entries of 32 bytes: level x y z: 4 x int32, uint64 offset, int32 size, int32 points
                           points > 0: a LAZ chunk, 0: nothing, -1: another page
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import BinaryIO

from fusion3d.errors import InputError
from fusion3d.io.las_header import LasHeader
from fusion3d.io.laz import MAX_DECODED_RATIO, Chunk, read_chunk_table

_LENIENCE = 0.01
"""Of the octree's size, by which the bounds in a header may lie outside of it."""
_INFO_BYTES = 160
_ENTRY = struct.Struct("<iiiiQii")
_MAX_LEVEL = 32
_DAMAGED = "the file is damaged: download or copy it again, or rewrite it as plain LAZ"


@dataclass(frozen=True)
class Node:
    """A node of the octree: its square (xmin, ymin, xmax, ymax, file units) and its chunk."""

    square: tuple[float, float, float, float]
    chunk: Chunk


def is_copc(header: LasHeader) -> bool:
    """Whether the first VLR is COPC's info record, as the specification asks."""
    first = header.vlrs[0] if header.vlrs else None
    return first is not None and (first.user, first.record) == ("copc", 1) and header.compressed and header.version == (1, 4)


def read_nodes(source: BinaryIO, header: LasHeader, *, check: bool = True, max_ratio: float = MAX_DECODED_RATIO) -> list[Node]:
    """Every node with points, in file order.

    Raises
    ------
    InputError
        The octree is damaged: pages outside of the file or in a circle, nodes that are no chunks, points missing.
    """
    centre_x, centre_y, half, page_start, page_size = _info(header)
    if header.count == 0:
        return []
    chunks = {chunk.start: chunk for chunk in read_chunk_table(source, header, check=check, max_ratio=max_ratio)}
    nodes: dict[int, Node] = {}
    for level, x, y, start, size, points in _entries(source, header, page_start, page_size):
        chunk = chunks.get(start)
        if chunk is None or (chunk.size, chunk.points) != (size, points) or start in nodes:
            raise InputError(header.path, f"its octree points to byte {start}, where no chunk of {points} points is", _DAMAGED)
        side = 2.0 * half / 2.0**level
        west, south = centre_x - half + x * side, centre_y - half + y * side
        nodes[start] = Node((west, south, west + side, south + side), chunk)
    held = sum(node.chunk.points for node in nodes.values())
    if held != header.count:
        raise InputError(header.path, f"its header says {header.count} points, its octree holds {held}", _DAMAGED)
    return [nodes[start] for start in sorted(nodes)]


def nodes_touching(nodes: list[Node], bounds: tuple[float, float, float, float], margin: float) -> list[Node]:
    """The nodes whose squares, grown by `margin`, touch xmin, ymin, xmax, ymax."""
    xmin, ymin, xmax, ymax = bounds
    return [
        node
        for node in nodes
        if node.square[0] - margin <= xmax
        and node.square[2] + margin >= xmin
        and node.square[1] - margin <= ymax
        and node.square[3] + margin >= ymin
    ]


def _info(header: LasHeader) -> tuple[float, float, float, int, int]:
    data = header.vlrs[0].data
    if len(data) < _INFO_BYTES:
        raise InputError(header.path, f"its COPC record has {len(data)} bytes, {_INFO_BYTES} are needed", _DAMAGED)
    x, y, z, half, _, start, size = struct.unpack_from("<5d2Q", data)
    if not all(map(math.isfinite, (x, y, z, half))) or half <= 0:
        raise InputError(header.path, f"its COPC octree around ({x}, {y}) with half size {half} is no cube", _DAMAGED)
    reach = (1 + _LENIENCE) * half
    for centre, low, high in zip((x, y, z), header.bounds[:3], header.bounds[3:], strict=True):
        if low < centre - reach or high > centre + reach:  # never of NaN: a file without points
            raise InputError(header.path, f"its points lie outside of its COPC octree around ({x}, {y}, {z})", _DAMAGED)
    return x, y, half, start, size


def _entries(source: BinaryIO, header: LasHeader, start: int, size: int) -> list[tuple[int, int, int, int, int, int]]:
    pages, found, left = [(start, size)], [], header.size
    while pages:
        start, size = pages.pop()
        left -= size
        # pages that overlap or run in a circle use up more bytes than the file has
        if size <= 0 or size % _ENTRY.size or start + size > header.size or left < 0:
            raise InputError(header.path, f"a page of its octree at byte {start} ({size} bytes) cannot be read", _DAMAGED)
        source.seek(start)
        for level, x, y, z, offset, length, points in _ENTRY.iter_unpack(source.read(size)):
            if not 0 <= level <= _MAX_LEVEL or not all(0 <= key < 1 << level for key in (x, y, z)):
                raise InputError(header.path, f"its octree has an impossible node {level}-{x}-{y}-{z}", _DAMAGED)
            if points == -1:
                pages.append((offset, length))
            elif points > 0:
                found.append((level, x, y, offset, length, points))
            elif points < -1:
                raise InputError(header.path, f"its octree claims {points} points in a node", _DAMAGED)
    return found
