"""Buildings: rectangles with gable roofs, at most one a cell of a lattice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from fusion3d.simulate.keyed import hashed, normal, stream, uniform
from fusion3d.simulate.model import Box

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

LOT = 26.0
"""Side of a cell of the lattice, metres."""
_LONGEST, _WIDEST = 15.0, 10.0


@dataclass(frozen=True)
class Buildings:
    """Buildings as arrays [B].

    Attributes
    ----------
    i, j : indices of the lot
    x, y : of the centre, metres
    length, width : metres, the ridge runs along the length
    angle : of the ridge, radians from east to north
    eaves, ridge : heights above the ground at the centre, metres
    """

    i: Int64
    j: Int64
    x: Float64
    y: Float64
    length: Float64
    width: Float64
    angle: Float64
    eaves: Float64
    ridge: Float64

    def __len__(self) -> int:
        return len(self.x)

    def take(self, which: npt.ArrayLike) -> Buildings:
        """The buildings that a mask or an index picks."""
        index = np.asarray(which)
        return Buildings(**{name: values[index] for name, values in vars(self).items()})

    def corners(self, grow: float = 0.0) -> Float64:
        """[B, 4, 2] corners, counter-clockwise, of the rectangles grown on every side."""
        along, across = self.length / 2 + grow, self.width / 2 + grow
        u = np.stack([-along, along, along, -along], axis=1)
        v = np.stack([-across, -across, across, across], axis=1)
        cosine, sine = np.cos(self.angle)[:, None], np.sin(self.angle)[:, None]
        return np.stack([self.x[:, None] + u * cosine - v * sine, self.y[:, None] + u * sine + v * cosine], axis=2)


class Lots:
    """The lattice on which buildings may stand.

    Parameters
    ----------
    seed : of the scene
    origin : south-western corner of the scene, metres
    """

    def __init__(self, seed: int, origin: tuple[float, float]) -> None:
        self._origin = origin
        self._key = stream(seed, "buildings")

    def index(self, x: Float64, y: Float64) -> tuple[Int64, Int64]:
        """Indices of the lots of points."""
        i, j = (np.floor((at - first) / LOT).astype(np.int64) for at, first in zip((x, y), self._origin))
        return i, j

    def within(self, box: Box) -> tuple[Int64, Int64]:
        """Indices [B] of the lots whose buildings may reach into a box."""
        ends = self.index(np.array([box.xmin - LOT, box.xmax + LOT]), np.array([box.ymin - LOT, box.ymax + LOT]))
        i, j = np.meshgrid(*(np.arange(int(low), int(high) + 1) for low, high in ends), indexing="ij")
        return i.ravel(), j.ravel()

    def centre(self, i: Int64, j: Int64) -> tuple[Float64, Float64]:
        """Of the building that a lot would carry, metres."""
        x, y = (
            first + LOT * (index + 0.5 + 0.11 * (2 * uniform(self._key, i, j, axis) - 1))
            for first, index, axis in zip(self._origin, (i, j), (0, 1))
        )
        return x, y

    def used(self, i: Int64, j: Int64) -> npt.NDArray[np.bool_]:
        """Whether a lot in a settlement is built on."""
        return uniform(self._key, i, j, 2) < 0.85

    def buildings(self, i: Int64, j: Int64, parcel: Int64) -> Buildings:
        """The buildings that lots would carry; those of a parcel face the same way, or at right angles."""
        x, y = self.centre(i, j)
        turn = math.pi * uniform(self._key, hashed(self._key, parcel), 3)
        angle = turn + 0.5 * math.pi * (uniform(self._key, i, j, 4) < 0.5) + 0.06 * normal(self._key, i, j, 5)
        length = 9.0 + (_LONGEST - 9.0) * uniform(self._key, i, j, 6)
        width = 7.0 + (_WIDEST - 7.0) * uniform(self._key, i, j, 7)
        eaves = 3.0 + 4.0 * uniform(self._key, i, j, 8)
        pitch = np.radians(30.0 + 15.0 * uniform(self._key, i, j, 9))
        ridge = np.minimum(np.maximum(eaves + 0.5 * width * np.tan(pitch), 5.0), 12.0)
        return Buildings(i, j, x, y, length, width, angle, eaves, ridge)


def locate(buildings: Buildings, origin: tuple[float, float], x: Float64, y: Float64, grow: float = 0.0) -> tuple[Int64, Float64]:
    """Which building, grown on every side, covers each point, and how far from its ridge the point is.

    Returns
    -------
    index of the building, -1 without; distance from the line of the ridge over half the width, 0 to 1 (NaN without)
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(buildings) == 0 or x.size == 0:
        return np.full(x.shape, -1), np.full(x.shape, np.nan)
    low_i, low_j = int(buildings.i.min()) - 1, int(buildings.j.min()) - 1
    lots = np.full((int(buildings.i.max()) - low_i + 2, int(buildings.j.max()) - low_j + 2), -1)
    lots[buildings.i - low_i, buildings.j - low_j] = np.arange(len(buildings))
    shape = np.stack([buildings.x, buildings.y, buildings.length / 2 + grow, buildings.width / 2 + grow,
                      np.cos(buildings.angle), np.sin(buildings.angle)], axis=1)  # fmt: skip
    corner_x, corner_y = origin[0] + low_i * LOT, origin[1] + low_j * LOT
    index, ridge = _locate(x.ravel(), y.ravel(), lots, corner_x, corner_y, shape)
    return index.reshape(x.shape), ridge.reshape(x.shape)


@njit(cache=True)
def _locate(x: Float64, y: Float64, lots: Int64, corner_x: float, corner_y: float, shape: Float64) -> tuple[Int64, Float64]:
    index = np.full(x.size, -1)
    ridge = np.full(x.size, np.nan)
    for n in range(x.size):
        ci, cj = int(np.floor((x[n] - corner_x) / LOT)), int(np.floor((y[n] - corner_y) / LOT))
        for i in range(max(0, ci - 1), min(lots.shape[0], ci + 2)):
            for j in range(max(0, cj - 1), min(lots.shape[1], cj + 2)):
                b = lots[i, j]
                if b < 0:
                    continue
                east, north = x[n] - shape[b, 0], y[n] - shape[b, 1]
                along = east * shape[b, 4] + north * shape[b, 5]
                across = north * shape[b, 4] - east * shape[b, 5]
                if abs(along) <= shape[b, 2] and abs(across) <= shape[b, 3]:
                    index[n] = b
                    ridge[n] = abs(across) / shape[b, 3]
    return index, ridge
