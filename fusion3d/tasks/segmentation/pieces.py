"""Squares of ground to be classified, with the halo that the encoder sees around them.

Squares and voxels lie on one lattice that begins at the CRS's origin. Together with a halo as wide as the encoder's receptive
field, that makes what is said of a point independent of the squares, files and tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fusion3d.data.observation import POINT_ATTRIBUTES
from fusion3d.encoders.als import HIGHEST, LOWEST, AlsEncoder
from fusion3d.tasks.segmentation.cloud import Box, Cloud, PointSource
from fusion3d.tasks.segmentation.ground import GroundModel
from fusion3d.tasks.segmentation.neighbourhood import SHAPE, neighbourhood

SQUARE = 64
"""Side of a square, voxels."""
_PLACE = ("east", "south", "up")
EXTRAS = (*_PLACE, "height", "near_ground", *POINT_ATTRIBUTES, *SHAPE)
"""What a point is told apart by inside of its voxel: place in the voxel, height above ground / 20 m and its hyperbolic tangent
in metres (which resolves the lowest metre), the point's own attributes, and the shape of its neighbourhood."""
WITHOUT_VOXEL = slice(len(_PLACE), None)
"""Of the extras, those that know nothing of voxels: what a random forest is usually given."""
_TALL = 20.0


@dataclass(frozen=True)
class Squares:
    """Which squares there are.

    Attributes
    ----------
    voxel : metres
    side : of a square, voxels
    halo : around it, voxels
    """

    voxel: float
    side: int
    halo: int

    @classmethod
    def of(cls, encoder: AlsEncoder, voxel: float, side: int = SQUARE) -> Squares:
        """Squares for an encoder: side and halo are whole numbers of its coarsest voxels."""
        coarsest = 1 << (encoder.unet.levels - 1)
        side, halo = (-(-length // coarsest) * coarsest for length in (side, encoder.unet.receptive_field))
        return cls(voxel, side, halo)

    @property
    def metres(self) -> float:
        return self.side * self.voxel

    def covering(self, box: Box) -> list[tuple[int, int]]:
        """Rows and columns of the squares that touch a rectangle, in row order."""
        rows, cols = (
            range(int(np.floor(low / self.metres)), int(np.floor(high / self.metres)) + 1)
            for low, high in ((box.north, box.south), (box.west, box.east))
        )
        return [(row, col) for row in rows for col in cols]

    def box(self, row: int, col: int) -> Box:
        """A square with its halo, and a voxel more against rounding."""
        reach = (self.halo + 1) * self.voxel
        side = self.metres
        return Box(col * side - reach, row * side - reach, (col + 1) * side + reach, (row + 1) * side + reach)

    def voxels(self, cloud: Cloud) -> npt.NDArray[np.int64]:
        """[N, 2] row and column of the voxel of each point."""
        plane = np.stack([cloud.south, cloud.east], axis=1)
        return np.floor(plane / self.voxel).astype(np.int64)


@dataclass(frozen=True)
class Piece:
    """A square and its halo, the points of the square first.

    Attributes
    ----------
    coordinates : chip (0), level, row, column of each point's voxel, counted from the corner of the halo
    height : above ground, metres
    attributes : in the order of `POINT_ATTRIBUTES`
    extras : of the square's points, as `EXTRAS` says
    core : the square's points
    """

    coordinates: Int64[Tensor, "points 4"]
    height: Float[Tensor, " points"]
    attributes: Float[Tensor, "points attributes"]
    extras: Float[Tensor, "core extras"]
    core: Cloud

    def __len__(self) -> int:
        return len(self.core)


def read_piece(source: PointSource, ground: GroundModel, squares: Squares, row: int, col: int) -> Piece | None:
    """A square with its halo; None where no point of it can be classified.

    Points that are left out, and so get no class: without ground nearby, or with a height outside of `LOWEST` to `HIGHEST`.
    """
    cloud = source.points(squares.box(row, col))
    place = squares.voxels(cloud) - np.array([row * squares.side, col * squares.side])
    inside = ((place >= 0) & (place < squares.side)).all(axis=1)
    if not inside.any():
        return None
    kept = ((place >= -squares.halo) & (place < squares.side + squares.halo)).all(axis=1)
    height = ground.height(cloud.east, cloud.south, cloud.z)
    with np.errstate(invalid="ignore"):
        kept &= (height >= LOWEST) & (height < HIGHEST)
    order = np.concatenate([np.flatnonzero(kept & inside), np.flatnonzero(kept & ~inside)])
    count = int((kept & inside).sum())
    if count == 0:
        return None
    around, place, height = cloud.take(order), place[order], height[order]
    level = np.floor(height / squares.voxel)
    corner = np.array([row, col]) * squares.side
    fraction = np.stack([around.east, around.south, height], axis=1) / squares.voxel
    fraction -= np.stack([place[:, 1] + corner[1], place[:, 0] + corner[0], level], axis=1) + 0.5
    # near the corner of the square: eigenvalues want small numbers
    local = np.stack([around.east, around.south, height], axis=1) - np.array([*corner[::-1], 0]) * squares.voxel
    shape = neighbourhood(local, count, squares.halo * squares.voxel)
    near_ground = np.tanh(height)[:, None]
    own = np.concatenate([fraction, height[:, None] / _TALL, near_ground, around.attributes.astype(np.float64)], axis=1)
    extras = np.concatenate([own[:count], shape], axis=1)
    chip = np.zeros((len(order), 1), np.int64)
    coordinates = np.concatenate([chip, level[:, None].astype(np.int64), place + squares.halo], axis=1)
    return Piece(
        torch.from_numpy(coordinates),
        torch.from_numpy(height.astype(np.float32)),
        torch.from_numpy(around.attributes),
        torch.from_numpy(extras.astype(np.float32)),
        around.take(np.arange(count)),
    )


def occupied(pieces: list[Piece]) -> int:
    """Points of the squares of pieces."""
    return sum(len(piece) for piece in pieces)
