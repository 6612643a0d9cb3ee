"""A COPC made by hand, as COPC 1.0 (https://copc.io) describes it: few points in the root, the rest in leaves of one level."""

from __future__ import annotations

import struct
from pathlib import Path

import laspy
import lazrs
import numpy as np
from pyproj import CRS


def write_copc(path: Path, x: np.ndarray, y: np.ndarray, z: np.ndarray, *, level: int = 3, crs: str = "EPSG:2154") -> Path:
    """Points [N] in a cube around them; every hundredth point is in the root."""
    header = laspy.LasHeader(version="1.4", point_format=6)
    header.scales, header.offsets = np.full(3, 0.01), np.floor([x.min(), y.min(), 0.0])
    header.global_encoding.wkt = True
    las = laspy.LasData(header)
    las.x, las.y, las.z = x, y, z
    las.return_number[:] = 1
    las.number_of_returns[:] = 1
    las.intensity[:] = np.arange(len(x)) % 60000
    las.gps_time[:] = np.arange(len(x))
    las.update_header()
    half = max(np.ptp(x), np.ptp(y), np.ptp(z)) / 2 + 1.0
    centre = np.array([(x.min() + x.max()) / 2, (y.min() + y.max()) / 2, (z.min() + z.max()) / 2])
    side = 2 * half / 2**level
    keys = np.floor((np.c_[x, y, z] - (centre - half)) / side).astype(int)
    root = np.arange(len(x)) % 100 == 0
    nodes = {(0, 0, 0, 0): np.flatnonzero(root)}
    order = np.lexsort(keys.T)
    order = order[~root[order]]
    for group in np.split(order, np.flatnonzero(np.diff(keys[order], axis=0).any(axis=1)) + 1):
        nodes[(level, *map(int, keys[group[0]]))] = group
    laszip = lazrs.LazVlr.new_for_compression(6, 0, True)
    header.vlrs.clear()
    header.vlrs.append(laspy.VLR("copc", 1, "", bytes(160)))
    header.vlrs.append(laspy.VLR("laszip encoded", 22204, "", laszip.record_data()))
    header.vlrs.append(laspy.vlrs.known.WktCoordinateSystemVlr(CRS(crs).to_wkt("WKT1_GDAL")))
    with path.open("w+b") as stream:
        header.write_to(stream)
        start = stream.tell()
        compressor = lazrs.LasZipCompressor(stream, laszip)
        for group in nodes.values():
            compressor.compress_many(np.ascontiguousarray(las.points.array[group]).view(np.uint8))
            compressor.finish_current_chunk()
        compressor.done()
        stream.flush()
        stream.seek(start)
        chunks = lazrs.read_chunk_table(stream, laszip)
        entries, at = b"", start + 8
        for key, (points, size) in zip(nodes, chunks, strict=False):
            entries += struct.pack("<4iQii", *key, at, size, points)
            at += size
        # readers that walk down from the root need the nodes between, of no points
        between = {(up, *(int(part) >> (level - up) for part in key[1:])) for key in list(nodes)[1:] for up in range(1, level)}
        entries += b"".join(struct.pack("<4iQii", *key, 0, 0, 0) for key in sorted(between))
        end = stream.seek(0, 2)
        stream.write(struct.pack("<2x16sHQ32x", b"copc", 1000, len(entries)) + entries)
        stream.seek(375 + 54)
        stream.write(struct.pack("<5d2Q2d", *centre, half, side, end + 60, len(entries), 0.0, float(len(x))))
        stream.seek(104)
        stream.write(bytes([6 | 0x80]))
        stream.seek(235)
        stream.write(struct.pack("<QI", end, 1))
    return path
