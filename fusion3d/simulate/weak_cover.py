"""A land-cover map of the kind one gets for nothing: coarse, and wrong in one cell of five."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fusion3d.simulate.keyed import stream, uniform
from fusion3d.simulate.model import Cover, Tile
from fusion3d.simulate.parcels import indices

UInt8 = npt.NDArray[np.uint8]

CELL = 10.0
WRONG = 0.20
"""Share of wrong cells."""
_WRONG_PARCELS = 0.10
# The first two of the R2 sequence (Roberts 2018): wrong parcels are spread evenly, and no small scene has too many of them.
_SPREAD = (0.7548776662466927, 0.5698402909980532)
_OF_CELLS = np.array([cover for cover in Cover if cover != Cover.CLEARCUT], np.uint8)
_OF_PARCELS = np.array([Cover.GRASS, Cover.WINTER_CROP, Cover.SUMMER_CROP, Cover.FOREST], np.uint8)
"""What a cell, or a whole parcel, may be mistaken for."""


def true_majority(tile: Tile) -> UInt8:
    """[R, C] most frequent cover of the ground in cells of 10 m of the tile's core."""
    cover = tile.surface(1.0, 0.0).cover
    side = round(CELL)
    rows, cols = cover.shape[0] // side, cover.shape[1] // side
    blocks = cover.reshape(rows, side, cols, side)
    counts = np.stack([(blocks == code).sum(axis=(1, 3)) for code in range(max(Cover) + 1)])
    return counts.argmax(axis=0).astype(np.uint8)


def weak_majority(tile: Tile) -> UInt8:
    """`true_majority` with one cell of five wrong: half of them because all of their parcel is, half one by one."""
    key = stream(tile.site.seed, "weak cover")
    true = true_majority(tile)
    x, y = np.meshgrid(*tile.core.centres(CELL))
    parcel = tile.land.parcel(x, y)
    i, j = indices(parcel)
    turn = float(uniform(key, 0))
    parcel_wrong = (i * _SPREAD[0] + j * _SPREAD[1] + turn) % 1.0 < _WRONG_PARCELS
    # Row and column of the cell in the country's raster, so that no window shifts the draws.
    col, row = np.floor(x / CELL).astype(np.int64), np.floor(y / CELL).astype(np.int64)
    alone = (WRONG - _WRONG_PARCELS) / (1.0 - _WRONG_PARCELS)
    cell_wrong = uniform(key, row, col, 1) < alone
    weak = np.where(cell_wrong, _another(_OF_CELLS, true, uniform(key, row, col, 3)), true)
    return np.where(parcel_wrong, _another(_OF_PARCELS, true, uniform(key, parcel, 2)), weak).astype(np.uint8)


def _another(choices: UInt8, true: UInt8, draw: npt.NDArray[np.float64]) -> UInt8:
    """One of the choices, but not the true one, by a uniform draw; choices rise."""
    own = np.searchsorted(choices, true)
    among = choices[np.minimum(own, len(choices) - 1)] == true
    picked = np.floor(draw * (len(choices) - among)).astype(np.int64)
    return choices[picked + (among & (picked >= own))]
