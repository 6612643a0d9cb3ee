"""Parcels: a jittered Voronoi lattice, and what each is used for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import shapely
from numba import njit

from fusion3d.simulate.keyed import noise, normal, stream, uniform
from fusion3d.simulate.model import SPECIES, Box

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

SPACING = 100.0
REACH = 160.0
"""No place of a parcel is farther from its seed point, metres."""
_JITTER = 0.32
_BEND, _BEND_LENGTH = 3.0, 45.0
_BLOCK = 5
_OFFSET = 1 << 20


class Use(IntEnum):
    """What a parcel is used for."""

    SETTLEMENT = 0
    SUMMER_CROP = 1
    WINTER_CROP = 2
    GRASS = 3
    FOREST = 4


_SHARES = ((Use.SETTLEMENT, 2), (Use.SUMMER_CROP, 3), (Use.WINTER_CROP, 3), (Use.GRASS, 4))
"""Parcels of each use in a block of 25; the others are forest."""


@dataclass(frozen=True)
class Places:
    """Points and their parcels.

    Attributes
    ----------
    i, j : indices of the parcel
    other_i, other_j : of the nearest other parcel
    edge : distance from the border between the two, metres
    """

    i: Int64
    j: Int64
    other_i: Int64
    other_j: Int64
    edge: Float64


@dataclass(frozen=True)
class _Block:
    use: npt.NDArray[np.int64]
    species: npt.NDArray[np.int64]
    age: Float64


class Parcels:
    """The parcels of a scene.

    Parameters
    ----------
    seed : of the scene
    origin : its south-western corner: blocks of 5 x 5 parcels with fixed shares of the uses start there
    ground : heights, metres; flat land is farmed, steep land is forest
    """

    def __init__(self, seed: int, origin: tuple[float, float], ground: Callable[[Float64, Float64], Float64]) -> None:
        self._origin = origin
        self._ground = ground
        self._seat = stream(seed, "parcels/seat")
        self._bend = (stream(seed, "parcels/bend/x"), stream(seed, "parcels/bend/y"))
        self._order = stream(seed, "parcels/order")
        self._cluster = stream(seed, "parcels/cluster")
        self._blocks: dict[tuple[int, int], _Block] = {}

    def seat(self, i: npt.ArrayLike, j: npt.ArrayLike) -> tuple[Float64, Float64]:
        """x and y of the seed points of parcels."""
        i, j = np.asarray(i, np.int64), np.asarray(j, np.int64)
        x = self._origin[0] + SPACING * (i + 0.5 + _JITTER * (2 * uniform(self._seat, i, j, 0) - 1))
        y = self._origin[1] + SPACING * (j + 0.5 + _JITTER * (2 * uniform(self._seat, i, j, 1) - 1))
        return x, y

    def at(self, x: Float64, y: Float64) -> Places:
        """The parcels of points of any shape."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if x.size == 0:
            empty = np.zeros(x.shape, np.int64)
            return Places(empty, empty, empty, empty, np.zeros(x.shape))
        u = (x - self._origin[0] + _BEND * noise(self._bend[0], x, y, _BEND_LENGTH)) / SPACING
        v = (y - self._origin[1] + _BEND * noise(self._bend[1], x, y, _BEND_LENGTH)) / SPACING
        first_i, first_j = int(np.floor(u.min())) - 2, int(np.floor(v.min())) - 2
        i, j = np.meshgrid(
            np.arange(first_i, int(np.floor(u.max())) + 3), np.arange(first_j, int(np.floor(v.max())) + 3), indexing="ij"
        )
        seat_x, seat_y = self.seat(i, j)
        seat_u, seat_v = (seat_x - self._origin[0]) / SPACING, (seat_y - self._origin[1]) / SPACING
        indices, edge = _nearest(u.ravel(), v.ravel(), seat_u, seat_v, first_i, first_j)
        i1, j1, i2, j2 = (index.reshape(x.shape) for index in indices)
        return Places(i1, j1, i2, j2, edge.reshape(x.shape) * SPACING)

    def within(self, box: Box) -> tuple[Int64, Int64]:
        """Indices of the parcels that may reach into a box, in an order that does not depend on the box."""
        low_i, low_j = (np.floor((low - first - REACH) / SPACING) for low, first in zip((box.xmin, box.ymin), self._origin))
        high_i, high_j = (np.ceil((high - first + REACH) / SPACING) for high, first in zip((box.xmax, box.ymax), self._origin))
        i, j = np.meshgrid(np.arange(int(low_i), int(high_i)), np.arange(int(low_j), int(high_j)), indexing="ij")
        x, y = self.seat(i, j)
        near = (x > box.xmin - REACH) & (x < box.xmax + REACH) & (y > box.ymin - REACH) & (y < box.ymax + REACH)
        return i[near], j[near]

    def outlines(self, i: Int64, j: Int64) -> list[shapely.Polygon]:
        """Areas of parcels, to a few decimetres."""
        wide_i, wide_j = np.meshgrid(np.arange(i.min() - 3, i.max() + 4), np.arange(j.min() - 3, j.max() + 4), indexing="ij")
        seats = shapely.points(*self.seat(wide_i.ravel(), wide_j.ravel()))
        cells = shapely.get_parts(shapely.voronoi_polygons(shapely.multipoints(seats), ordered=True))
        width = wide_i.shape[1]
        own = cells[(i - wide_i[0, 0]) * width + j - wide_j[0, 0]]

        def unbend(points: Float64) -> Float64:
            # The bend is small and smooth, so that this fixed point is near after a few steps.
            bent = points
            for _ in range(4):
                x, y = bent[:, 0], bent[:, 1]
                bent = points - _BEND * np.column_stack([noise(key, x, y, _BEND_LENGTH) for key in self._bend])
            return bent

        return [shapely.transform(shapely.segmentize(cell, 8.0), unbend) for cell in own]

    def use(self, i: Int64, j: Int64) -> npt.NDArray[np.int64]:
        """`Use` of parcels."""
        return self._of("use", i, j)

    def species(self, i: Int64, j: Int64) -> npt.NDArray[np.int64]:
        """Index of the dominant species that would grow there."""
        return self._of("species", i, j)

    def age(self, i: Int64, j: Int64) -> Float64:
        """Age of the stand that would grow there, in year 1."""
        return self._of("age", i, j)

    def _of(self, name: str, i: Int64, j: Int64) -> npt.NDArray:
        i, j = np.asarray(i, np.int64), np.asarray(j, np.int64)
        if i.size == 0:
            return np.zeros(i.shape, getattr(self._block(0, 0), name).dtype)
        first_i, first_j = int(i.min()) // _BLOCK, int(j.min()) // _BLOCK
        table = np.block(
            [
                [getattr(self._block(bi, bj), name) for bj in range(first_j, int(j.max()) // _BLOCK + 1)]
                for bi in range(first_i, int(i.max()) // _BLOCK + 1)
            ]
        )
        return table[i - first_i * _BLOCK, j - first_j * _BLOCK]

    def _block(self, bi: int, bj: int) -> _Block:
        if (bi, bj) not in self._blocks:
            self._blocks[bi, bj] = self._draw(bi, bj)
        return self._blocks[bi, bj]

    def _draw(self, bi: int, bj: int) -> _Block:
        """Uses by rank: villages, fields and meadows where it is flat, forest in one piece where it is not."""
        i, j = (index.ravel() + _BLOCK * block for index, block in zip(np.indices((_BLOCK, _BLOCK)), (bi, bj)))
        x, y = self.seat(i, j)
        slope = np.hypot(
            self._ground(x + 20.0, y) - self._ground(x - 20.0, y), self._ground(x, y + 20.0) - self._ground(x, y - 20.0)
        )
        steepness = slope / 40.0
        order = np.argsort(4.0 * steepness + 0.8 * noise(self._cluster, x, y, 260.0) + 0.5 * normal(self._order, i, j, 0))
        use = np.full(_BLOCK**2, Use.FOREST, np.int64)
        open_land = sum(count for _, count in _SHARES) + int(uniform(self._order, bi, bj, 3) < 0.5)
        # Which of the open parcels is what: by another draw, so that crops and meadows mix.
        open_order = order[:open_land][np.argsort(uniform(self._order, i, j, 1)[order[:open_land]])]
        use[open_order] = Use.GRASS
        first = 0
        for kind, count in _SHARES[:-1]:
            use[open_order[first : first + count]] = kind
            first += count
        forest = np.flatnonzero(use == Use.FOREST)
        species, age = np.zeros(_BLOCK**2, np.int64), np.zeros(_BLOCK**2)
        by_draw = forest[np.argsort(uniform(self._order, i, j, 2)[forest])]
        start = int(uniform(self._order, bi, bj, 4) * len(SPECIES))
        species[by_draw] = (start + np.arange(len(forest))) % len(SPECIES)
        by_age = forest[np.argsort(uniform(self._order, i, j, 5)[forest])]
        rank = (np.arange(len(forest)) + uniform(self._order, i, j, 6)[by_age]) / len(forest)
        age[by_age] = 5.0 + 135.0 * rank**1.15
        shape = (_BLOCK, _BLOCK)
        return _Block(use.reshape(shape), species.reshape(shape), age.reshape(shape))


def identity(i: Int64, j: Int64) -> Int64:
    """Identity of parcels by their indices; both lie within a million of 0."""
    return (np.asarray(i, np.int64) + _OFFSET) * (2 * _OFFSET) + np.asarray(j, np.int64) + _OFFSET


def indices(parcel: Int64) -> tuple[Int64, Int64]:
    """Indices of parcels by their identity."""
    parcel = np.asarray(parcel, np.int64)
    return parcel // (2 * _OFFSET) - _OFFSET, parcel % (2 * _OFFSET) - _OFFSET


@njit(cache=True)
def _nearest(u: Float64, v: Float64, seat_u: Float64, seat_v: Float64, first_i: int, first_j: int) -> tuple[Int64, Float64]:
    indices = np.empty((4, u.size), np.int64)
    edge = np.empty(u.size)
    for n in range(u.size):
        ci, cj = int(np.floor(u[n])) - first_i, int(np.floor(v[n])) - first_j
        best = second = 1e30
        bi = bj = si = sj = 0
        for i in range(ci - 2, ci + 3):
            for j in range(cj - 2, cj + 3):
                du, dv = u[n] - seat_u[i, j], v[n] - seat_v[i, j]
                squared = du * du + dv * dv
                if squared < best:
                    second, si, sj = best, bi, bj
                    best, bi, bj = squared, i, j
                elif squared < second:
                    second, si, sj = squared, i, j
        du, dv = seat_u[bi, bj] - seat_u[si, sj], seat_v[bi, bj] - seat_v[si, sj]
        edge[n] = (second - best) / (2.0 * np.sqrt(du * du + dv * dv))
        indices[0, n], indices[1, n], indices[2, n], indices[3, n] = bi + first_i, bj + first_j, si + first_i, sj + first_j
    return indices, edge
