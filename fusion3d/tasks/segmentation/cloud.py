"""Points in a rectangle of ground, from a store or from anything else that offers the same; their classes are labels only.

Positions are metres east and south of the origin of the CRS, in float64: two clouds of one CRS share one lattice of voxels, so a
point falls into the same voxel whichever store, file or tile it is read from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fusion3d.data.chips import point_attributes
from fusion3d.errors import StoreError
from fusion3d.grid import Window
from fusion3d.store import Store

Float64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

ATTRIBUTES = ("intensity", "return_number", "number_of_returns", "scan_angle")
"""Of the files, that the encoder's inputs are made of. The classification is none of them."""


@dataclass(frozen=True)
class Box:
    """A rectangle in metres east and south of the CRS's origin; half-open: edges of smaller numbers belong to it."""

    west: float
    north: float
    east: float
    south: float

    def holds(self, east: Float64, south: Float64) -> BoolArray:
        return (east >= self.west) & (east < self.east) & (south >= self.north) & (south < self.south)


@dataclass(frozen=True)
class Cloud:
    """Points in no order that means something.

    Attributes
    ----------
    east, south : [N] metres from the origin of the CRS
    z : [N] metres, as in the files
    attributes : [N, 4] in the order of `POINT_ATTRIBUTES`
    classes : [N] uint8 of the file: labels, never inputs
    key : [N] what the source knows a point by
    """

    east: Float64
    south: Float64
    z: Float64
    attributes: npt.NDArray[np.float32]
    classes: npt.NDArray[np.uint8]
    key: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.z)

    def take(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Cloud:
        return Cloud(*(getattr(self, name)[which] for name in ("east", "south", "z", "attributes", "classes", "key")))


class PointSource(Protocol):
    """Where points come from."""

    def points(self, box: Box) -> Cloud:
        """The points in a rectangle without withheld ones, in an order that does not depend on the rectangle."""
        ...


class StoreCloud:
    """The points of a store.

    Raises
    ------
    StoreError
        It has no aerial LiDAR.
    """

    def __init__(self, store: Store) -> None:
        if "als" not in store.sensors:
            raise StoreError(store.path, "holds no aerial LiDAR", "prepare it with LAS or LAZ tiles")
        self.store = store
        self.brightest = float(store.statistics("als")["intensity_p95"])

    def points(self, box: Box) -> Cloud:
        grid = self.store.grid
        west, north = grid.x0 * grid.unit, -grid.y0 * grid.unit
        row, col = int((box.north - north) // grid.column), int((box.west - west) // grid.column)
        rows, cols = int((box.south - north) // grid.column) + 1 - row, int((box.east - west) // grid.column) + 1 - col
        window = Window(row, col, rows, cols)
        found = self.store.points(window, (*ATTRIBUTES, "classification", "withheld"))
        column = np.repeat(np.arange(window.size), np.diff(found.row_splits))
        east = np.asarray(west + (col + column % cols) * grid.column + found.offset[:, 0], np.float64)
        south = np.asarray(north + (row + column // cols) * grid.column + found.offset[:, 1], np.float64)
        kept = box.holds(east, south)
        if "withheld" in found.attributes:
            kept &= ~found.attributes["withheld"].astype(bool)
        attributes = point_attributes(found.attributes, kept, self.brightest)
        classes = found.attributes["classification"][kept].astype(np.uint8)
        return Cloud(east[kept], south[kept], found.elevation[kept], attributes, classes, np.flatnonzero(kept))
