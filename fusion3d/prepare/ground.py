"""Height above ground from ground-classified points: a triangulated irregular network (Delaunay), linear inside each triangle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from fusion3d.prepare.cells import counts, lattice_cells, numbered, sums
from fusion3d.prepare.triangulation import Triangulation
from fusion3d.store.layout import PointLattice

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

THINNING = 1.0
"""Ground points are averaged in cells of this size (metres) before triangulation."""


def describe_ground(normalized: bool, classes: tuple[int, ...], buffer: float) -> dict[str, Any]:
    """The ground model in plain types, for the store's metadata."""
    if normalized:
        return {"method": "none: heights in the files are above ground"}
    return {
        "method": "TIN (Delaunay), nearest ground point outside of the hull",
        "classes": list(classes),
        "thinning_m": THINNING,
        "buffer_m": buffer,
    }


@dataclass(frozen=True)
class ThinnedGround:
    """Ground points summed up in cells; sums of integers, so that neither order nor borders of tiles and blocks change a bit.

    Attributes
    ----------
    row, col : [K] cells of `THINNING` metres, counted north and east of zero
    count : [K] points in them
    x, y, z : [K] sums of their lattice integers
    """

    row: Int64
    col: Int64
    count: Int64
    x: Int64
    y: Int64
    z: Int64

    def arrays(self) -> list[Int64]:
        """The attributes in order."""
        return [self.row, self.col, self.count, self.x, self.y, self.z]

    def near(self, bounds: tuple[float, float, float, float]) -> ThinnedGround:
        """The cells that touch a rectangle, metres."""
        west, south, east, north = (int(np.floor(value / THINNING)) for value in bounds)
        kept = (self.row >= south) & (self.row <= north) & (self.col >= west) & (self.col <= east)
        return ThinnedGround(*(values[kept] for values in self.arrays()))

    def means(self, lattice: PointLattice, unit: float) -> Float64:
        """[K, 3] mean positions, metres."""
        mean = np.stack([self.x, self.y, self.z], axis=1) / self.count[:, None]
        return np.asarray((np.array(lattice.origin) + mean * lattice.scale) * (unit, unit, 1.0))


def thin(points: Sequence[npt.NDArray[Any]], anchor: tuple[int, int, int], lattice: PointLattice, unit: float) -> ThinnedGround:
    """Sum ground points up by cell.

    Parameters
    ----------
    points : x, y and z, [N] each, integers of the lattice that count from `anchor`
    unit : metres in one CRS unit
    """
    # Cells are anchored at zero, so both sides of a block's edge thin the same way.
    col, row = (
        lattice_cells(points[axis], (lattice.origin[axis] + anchor[axis] * lattice.scale[axis]) * unit,
                      lattice.scale[axis] * unit, THINNING)
        for axis in range(2)
    )  # fmt: skip
    number, rows, cols = numbered(row, col)
    count = counts(number, len(rows))
    x, y, z = (sums(number, values, len(rows)) + start * count for values, start in zip(points, anchor, strict=True))
    return ThinnedGround(rows, cols, count, x, y, z)


def merge(parts: Sequence[ThinnedGround]) -> ThinnedGround:
    """Sums over several tiles, in the order of the cells."""
    if not parts:
        return ThinnedGround(*(np.zeros(0, np.int64) for _ in range(6)))
    row, col, *values = (np.concatenate(arrays) for arrays in zip(*(part.arrays() for part in parts), strict=True))
    number, rows, cols = numbered(row, col)
    return ThinnedGround(rows, cols, *(sums(number, each, len(rows)) for each in values))


class Terrain:
    """Elevation of the ground under points.

    Parameters
    ----------
    ground : [G, 3] ground points, metres, near a local origin
    reach : ground farther than this from a point outside of the hull does not count, metres
    """

    def __init__(self, ground: Float64, reach: float) -> None:
        self._ground, self._reach = ground, reach
        # Fewer than three points, or all on one line, have no triangle: there the nearest one serves.
        self._triangles = Triangulation(ground)

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self._ground[:, :2], balanced_tree=False, compact_nodes=False)

    def __call__(self, x: Float64, y: Float64) -> Float64:
        """[N] metres under places [N]; NaN where no ground point is near."""
        elevation = self._triangles(x, y)
        outside = np.flatnonzero(np.isnan(elevation))
        if len(outside) and len(self._ground):
            distance, nearest = self._tree.query(np.c_[x[outside], y[outside]], distance_upper_bound=self._reach)
            found = np.isfinite(distance)
            elevation[outside[found]] = self._ground[nearest[found], 2]
        return elevation
