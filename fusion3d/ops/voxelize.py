"""Points to voxels, and the packed 64-bit key that orders voxels everywhere.

A voxel is named by four integers (chip, level, row, column): level counts voxels upwards, row southwards, column eastwards.
One int64 holds all four, most significant first, so that sorting the keys groups voxels by chip, then by vertical stack::

    bit  63 62         50 49            32 31            14 13           0
        +--+-------------+----------------+----------------+--------------+
        | 0|    chip     |  row + 2**17   | column + 2**17 | level + 2**13|
        +--+-------------+----------------+----------------+--------------+
              13 bits         18 bits          18 bits          14 bits

    chip in [0, 2**13), row and column in [-2**16, 2**16), level in [-2**12, 2**12)

Rows, columns and levels may use one bit less than their field has. A neighbour up to 2**12 voxels away then still fits its own
field: adding offsets to a key never carries into the next field, hence never reaches another stack or another chip. At 0.5 m
the range is 65 km by 65 km by 4 km.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from fusion3d.errors import ConfigError
from fusion3d.ops import native
from fusion3d.ops.csr import Csr, csr_by_column

CHIP_BITS, PLANE_BITS, LEVEL_BITS = 13, 18, 14
COORDINATE_RANGE = ((0, 1 << 13), (-(1 << 12), 1 << 12), (-(1 << 16), 1 << 16), (-(1 << 16), 1 << 16))
"""Lowest value and one past the highest of chip, level, row and column."""

LARGEST_REACH = 1 << 12
"""Voxels by which a neighbour may lie away from a voxel."""

_NAMES = ("chip", "level", "row", "column")


@dataclass(frozen=True)
class Voxels:
    """Unique voxels in the order of their keys, and how points and voxels find one another.

    Attributes
    ----------
    coordinates : chip, level, row, column of each voxel
    inverse : the voxel of each point
    row_splits, permutation : the points of voxel v are ``permutation[row_splits[v]:row_splits[v + 1]]``, in their first order
    """

    coordinates: Int64[Tensor, "voxels 4"]
    inverse: Int64[Tensor, " points"]
    row_splits: Int64[Tensor, " voxels_plus_one"]
    permutation: Int64[Tensor, " points"]

    @property
    def counts(self) -> Int64[Tensor, " voxels"]:
        """Points in each voxel."""
        return self.row_splits.diff()


def voxelize(coordinates: Int64[Tensor, "points 4"]) -> Voxels:
    """The distinct voxels among the voxel coordinates (chip, level, row, column) of points.

    Raises
    ------
    ConfigError
        `coordinates` is not [N, 4] int64 or leaves `COORDINATE_RANGE`.
    """
    check_coordinates(coordinates)
    return Voxels(*native.run(_voxelize, coordinates))


def voxel_row_splits(cell: Int64[Tensor, " voxels"], cells: int) -> Csr:
    """Voxels grouped by output cell, for pooling to columns of any size.

    Parameters
    ----------
    cell : of each voxel, in [0, cells); -1 leaves the voxel out, as in a halo
    cells : how many there are

    Returns
    -------
    ``row_splits`` [cells + 1] and ``permutation``, as `column_pool` takes them
    """
    return csr_by_column(cell, cells)


def pack_coordinates(coordinates: Int64[Tensor, "voxels 4"]) -> Int64[Tensor, " voxels"]:
    """Keys of (chip, level, row, column); ConfigError where a coordinate leaves `COORDINATE_RANGE`."""
    if coordinates.shape[0]:
        low, high = (bound.tolist() for bound in coordinates.aminmax(dim=0))
        for name, least, most, (start, stop) in zip(_NAMES, low, high, COORDINATE_RANGE, strict=True):
            if least < start or most >= stop:
                raise ConfigError(
                    f"voxel {name}s run from {least} to {most}, outside [{start}, {stop}); use larger voxels or chips"
                )
    return pack_unchecked(coordinates)


def pack_unchecked(coordinates: Int64[Tensor, "voxels 4"]) -> Int64[Tensor, " voxels"]:
    """Keys of coordinates known to lie within `LARGEST_REACH` of `COORDINATE_RANGE`."""
    chip, level, row, column = coordinates.unbind(1)
    key = (chip << PLANE_BITS) + row + (1 << PLANE_BITS - 1)
    key = (key << PLANE_BITS) + column + (1 << PLANE_BITS - 1)
    return (key << LEVEL_BITS) + level + (1 << LEVEL_BITS - 1)


def unpack_keys(keys: Int64[Tensor, " voxels"]) -> Int64[Tensor, "voxels 4"]:
    """Coordinates (chip, level, row, column) of keys."""
    level = (keys & (1 << LEVEL_BITS) - 1) - (1 << LEVEL_BITS - 1)
    keys = keys >> LEVEL_BITS
    column = (keys & (1 << PLANE_BITS) - 1) - (1 << PLANE_BITS - 1)
    keys = keys >> PLANE_BITS
    row = (keys & (1 << PLANE_BITS) - 1) - (1 << PLANE_BITS - 1)
    return torch.stack((keys >> PLANE_BITS, level, row, column), dim=1)


def check_coordinates(coordinates: Tensor) -> None:
    """Raise ConfigError unless `coordinates` is [V, 4] int64."""
    if coordinates.dtype != torch.int64 or coordinates.dim() != 2 or coordinates.shape[1] != 4:
        raise ConfigError(f"coordinates must be int64 of shape [V, 4], not {coordinates.dtype} of {tuple(coordinates.shape)}")


def voxelize_reference(coordinates: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sort the keys; a voxel starts wherever the key differs from the one before."""
    keys, permutation = torch.sort(pack_coordinates(coordinates), stable=True)
    points = keys.numel()
    starts = torch.ones(points, dtype=torch.bool, device=keys.device)
    starts[1:] = keys[1:] != keys[:-1]
    voxel = torch.cumsum(starts, 0) - 1
    first = starts.nonzero().squeeze(1)
    inverse = torch.empty_like(permutation).index_copy_(0, permutation, voxel)
    return unpack_keys(keys[first]), inverse, torch.cat((first, first.new_full((1,), points))), permutation


_voxelize = torch.library.custom_op(
    "fusion3d::voxelize",
    voxelize_reference,
    mutates_args=(),
    schema="(Tensor coordinates) -> (Tensor voxels, Tensor inverse, Tensor row_splits, Tensor permutation)",
)


@_voxelize.register_fake
def _(coordinates: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    points, voxels = coordinates.shape[0], torch.library.get_ctx().new_dynamic_size()
    return (
        coordinates.new_empty(voxels, 4),
        coordinates.new_empty(points),
        coordinates.new_empty(voxels + 1),
        coordinates.new_empty(points),
    )
