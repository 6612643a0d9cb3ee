"""Crowns on a raster and in voxels.

A crown is a solid of revolution between its base b and the tree's height h above the ground at the stem, of radius r at its
widest. With e = distance from the stem over r:

- cone: between b and h - (h - b) e
- paraboloid: between b and h - (h - b) e^2
- ellipsoid: between m - c sqrt(1 - e^2) and m + c sqrt(1 - e^2), m = (h + b) / 2 and c = (h - b) / 2

On a slope the crown stays upright, and its heights above the ground of a cell differ by that of the ground.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from fusion3d.simulate.model import SPECIES, WOOD_AREA, Box, Cover, Land, LeafVoxels, Surface, Trees, leaf_share

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_SHAPES = {"cone": 0, "paraboloid": 1, "ellipsoid": 2}
_SHAPE = np.array([_SHAPES[species.crown] for species in SPECIES])
_EVERGREEN = np.array([species.evergreen for species in SPECIES])
_UNDERSTOREY_LAYERS = 3
_PARTS = 2
"""Sub-columns of a voxel column along each side, in which the crown's volume is reckoned."""


def surface(land: Land, trees: Trees, box: Box, cell: float) -> Surface:
    """What lies on the cells of a window; values are those at the cells' centres.

    Parameters
    ----------
    trees : at least those whose crowns reach into the window
    cell : metres
    """
    x, y = np.meshgrid(*box.centres(cell))
    ground = land.ground(x, y)
    canopy, crown = _highest_crowns(_dimensions(trees), _SHAPE[trees.species], ground, box.xmin, box.ymax, cell)
    cover = land.cover(x, y)
    roof = np.zeros(x.shape)
    built = cover == Cover.BUILDING
    roof[built] = land.roof(x[built], y[built])
    parcel = land.parcel(x, y)
    return Surface(box, cell, ground.astype(np.float32), cover, parcel, roof.astype(np.float32), canopy, crown)


def leaf_voxels(land: Land, trees: Trees, box: Box, day_of_year: float) -> LeafVoxels:
    """Leaves and wood by volume on a day, understorey included, in voxels of 1 m.

    A tree's leaves and wood fill its crown evenly; what a slope buries of the crown is left out before they are spread, so that
    no leaf is lost.
    """
    share = leaf_share(day_of_year - land.field("greenup_shift", trees.x, trees.y), _EVERGREEN[trees.species])
    area = trees.leaf_area * (share + WOOD_AREA)
    # A crown that looks over the window's edge needs the ground beyond it.
    beyond = math.ceil(trees.crown_radius.max()) + 1 if len(trees) else 0
    x, y = np.meshgrid(*box.grow(beyond).centres(1.0))
    ground = land.ground(x, y)
    density = _fill(
        _dimensions(trees), _SHAPE[trees.species], area, ground, beyond, box.xmin - beyond, box.ymax + beyond, _UNDERSTOREY_LAYERS
    )
    x, y = np.meshgrid(*box.centres(1.0))
    under = np.nan_to_num(land.field("understorey", x, y))
    if under.any():
        under *= leaf_share(day_of_year - land.field("greenup_shift", x, y), False)
        density[:_UNDERSTOREY_LAYERS] += (under / _UNDERSTOREY_LAYERS).astype(np.float32)
    return LeafVoxels(box, 1.0, 1.0, density)


def _dimensions(trees: Trees) -> Float64:
    """[T, 6] x, y, ground, base, height, radius."""
    return np.stack([trees.x, trees.y, trees.ground, trees.crown_base, trees.height, trees.crown_radius], axis=1)


@njit(cache=True, inline="always")
def _extent(shape: int, base: float, height: float, ratio: float) -> tuple[float, float]:
    """Lowest and highest point of a crown above the stem's ground, at a squared distance from the stem over the radius's."""
    if shape == 0:
        return base, height - (height - base) * math.sqrt(ratio)
    if shape == 1:
        return base, height - (height - base) * ratio
    middle, half = 0.5 * (height + base), 0.5 * (height - base) * math.sqrt(1.0 - ratio)
    return middle - half, middle + half


@njit(cache=True)
def _highest_crowns(
    trees: Float64, shapes: Int64, ground: Float64, left: float, top: float, cell: float
) -> tuple[Float32, npt.NDArray[np.int32]]:
    rows, cols = ground.shape
    canopy = np.zeros((rows, cols), np.float32)
    crown = np.full((rows, cols), -1, np.int32)
    for t in range(trees.shape[0]):
        x, y, stem, base, height, radius = trees[t]
        squared = 1.0 / (radius * radius)
        first_row, last_row = math.floor((top - y - radius) / cell), math.floor((top - y + radius) / cell)
        first_col, last_col = math.floor((x - radius - left) / cell), math.floor((x + radius - left) / cell)
        for row in range(max(first_row, 0), min(last_row + 1, rows)):
            north = top - (row + 0.5) * cell - y
            for col in range(max(first_col, 0), min(last_col + 1, cols)):
                east = left + (col + 0.5) * cell - x
                ratio = (north * north + east * east) * squared
                if ratio >= 1.0:
                    continue
                _, high = _extent(shapes[t], base, height, ratio)
                above = np.float32(stem + high - ground[row, col])
                if above > canopy[row, col]:
                    canopy[row, col] = above
                    crown[row, col] = t
    return canopy, crown


@njit(cache=True)
def _fill(
    trees: Float64,
    shapes: Int64,
    area: Float64,
    ground: Float64,
    beyond: int,
    left: float,
    top: float,
    layers: int,
) -> Float32:
    """Density [K, R, C] of the window within `ground`, whose outer `beyond` cells on each side are left out of the result."""
    rows, cols = ground.shape[0] - 2 * beyond, ground.shape[1] - 2 * beyond
    step = 1.0 / _PARTS
    volume = np.zeros(trees.shape[0])
    density = np.zeros((0, 0, 0), np.float32)
    # First the volumes and the greatest height, then the leaves.
    for spreading in (False, True):
        if spreading:
            density = np.zeros((layers, rows, cols), np.float32)
        for t in range(trees.shape[0]):
            x, y, stem, base, height, radius = trees[t]
            squared = 1.0 / (radius * radius)
            first_row, last_row = math.floor((top - y - radius) / step), math.floor((top - y + radius) / step)
            first_col, last_col = math.floor((x - radius - left) / step), math.floor((x + radius - left) / step)
            # The sub-column of the stem counts always, so that the smallest crown has its leaves.
            stem_row, stem_col = math.floor((top - y) / step), math.floor((x - left) / step)
            for row in range(max(first_row, 0), min(last_row + 1, ground.shape[0] * _PARTS)):
                north = top - (row + 0.5) * step - y
                for col in range(max(first_col, 0), min(last_col + 1, ground.shape[1] * _PARTS)):
                    east = left + (col + 0.5) * step - x
                    ratio = (north * north + east * east) * squared
                    if row == stem_row and col == stem_col:
                        ratio = min(ratio, 0.25)
                    if ratio >= 1.0:
                        continue
                    own_row, own_col = row // _PARTS, col // _PARTS
                    low, high = _extent(shapes[t], base, height, ratio)
                    low, high = max(low + stem - ground[own_row, own_col], 0.0), high + stem - ground[own_row, own_col]
                    if high <= low:
                        continue
                    own_row, own_col = own_row - beyond, own_col - beyond
                    inside = 0 <= own_row < rows and 0 <= own_col < cols
                    if not spreading:
                        volume[t] += high - low
                        if inside:
                            layers = max(layers, math.ceil(high))
                    elif inside:
                        share = area[t] / volume[t]
                        for k in range(int(low), math.ceil(high)):
                            density[k, own_row, own_col] += share * (min(high, k + 1.0) - max(low, float(k)))
    return density
