"""LAZ files as a source of points by place: decoded once, cut into squares on disk, read back by rectangle.

What a file's points are classified with comes from all files alike, so that nothing changes at the edges of tiles.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusion3d.data.chips import point_attributes
from fusion3d.errors import Fusion3DError
from fusion3d.io.las import PointFile, read_chunks
from fusion3d.tasks.segmentation.cloud import ATTRIBUTES, Box, Cloud

_SIDE = 64.0
"""Metres, of the squares on disk."""
_RECORD = np.dtype(
    [("east", "<f8"), ("south", "<f8"), ("z", "<f8"), ("attributes", "<f4", (4,)), ("class", "u1"), ("key", "<i8")]
)
_FILE_BITS = 40


class PointSpill:
    """Points of files in one CRS.

    Parameters
    ----------
    folder : for the squares; about 50 bytes a point
    unit, height_unit : metres in a unit of the map axes, and of heights
    brightest : intensity that counts as 1
    """

    def __init__(self, folder: Path, unit: float, height_unit: float, brightest: float) -> None:
        self.folder, self.unit, self.height_unit, self.brightest = folder, unit, height_unit, brightest
        self._squares: dict[tuple[int, int], list[Path]] = {}

    def add(self, number: int, file: PointFile) -> Iterator[Cloud]:
        """Decode a file, whose points are given chunk by chunk on the way. Of a file that cannot be decoded nothing stays.

        Parameters
        ----------
        number : of the file: with the place of a point in it, its key
        """
        names = [name for name in (*ATTRIBUTES, "classification", "withheld") if name in file.dimensions]
        place, folder = 0, self.folder / str(number)
        folder.mkdir()
        found: set[tuple[int, int]] = set()
        try:
            for points in read_chunks(file, names):
                kept = ~np.asarray(points.attributes["withheld"], bool) if "withheld" in names else np.ones(len(points), bool)
                cloud = Cloud(
                    points.x[kept] * self.unit,
                    -points.y[kept] * self.unit,
                    points.z[kept] * self.height_unit,
                    point_attributes(points.attributes, kept, self.brightest).astype(np.float32),
                    np.asarray(points.attributes["classification"], np.uint8)[kept],
                    (number << _FILE_BITS) + place + np.flatnonzero(kept),
                )
                place += len(points)
                found |= _write(folder, cloud)
                yield cloud
        except Fusion3DError:
            shutil.rmtree(folder)
            raise
        for square in found:
            self._squares.setdefault(square, []).append(folder / _name(square))

    def points(self, box: Box) -> Cloud:
        rows, cols = (
            range(int(low // _SIDE), int(high // _SIDE) + 1) for low, high in ((box.north, box.south), (box.west, box.east))
        )
        paths = [path for row in rows for col in cols for path in self._squares.get((row, col), ())]
        records = np.concatenate([np.zeros(0, _RECORD), *(np.fromfile(path, _RECORD) for path in paths)])
        records = records[box.holds(records["east"], records["south"])]
        records = records[np.argsort(records["key"])]
        return Cloud(*(np.ascontiguousarray(records[name]) for name in _RECORD.names or ()))


def place_of(key: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Number of the file, and place in it, of points by key."""
    return key >> _FILE_BITS, key & ((1 << _FILE_BITS) - 1)


def _write(folder: Path, cloud: Cloud) -> set[tuple[int, int]]:
    """Append points to their squares; returns those."""
    records = np.empty(len(cloud), _RECORD)
    for name, values in zip(
        _RECORD.names or (), (cloud.east, cloud.south, cloud.z, cloud.attributes, cloud.classes, cloud.key), strict=True
    ):
        records[name] = values
    row, col = (np.floor(part / _SIDE).astype(np.int64) for part in (cloud.south, cloud.east))
    order = np.lexsort((col, row))
    row, col = row[order], col[order]
    first = np.flatnonzero(np.r_[True, (np.diff(row) != 0) | (np.diff(col) != 0)]) if len(row) else np.zeros(0, np.int64)
    squares = [(int(row[at]), int(col[at])) for at in first]
    for square, where in zip(squares, np.split(order, first[1:]) if len(first) else [], strict=True):
        with (folder / _name(square)).open("ab") as stream:
            records[where].tofile(stream)
    return set(squares)


def _name(square: tuple[int, int]) -> str:
    return f"{square[0]}_{square[1]}"
