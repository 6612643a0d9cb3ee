"""What rasters say of single cells: the bands of a map, or mean and percentiles of any raster over each cell."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fusion3d.evaluation.lattice import Lattice
from fusion3d.grid import Window
from fusion3d.io.pixels import Target
from fusion3d.io.raster import RasterFile
from fusion3d.tasks.support import LEAST_COVER, PERCENTILES, read_window

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_SIDE = 128
_FINEST = 16


def cell_bands(file: RasterFile, row: Int64, col: Int64) -> tuple[npt.NDArray[np.float32], BoolArray]:
    """Bands [N, D] of cells of a map, and [N] where all of them have data."""
    lattice = Lattice.of(file)
    values, seen = np.full((len(row), file.count), np.nan, np.float32), np.zeros(len(row), np.bool_)
    for window, inside in _windows(lattice, row, col):
        patch, valid = read_window(file, lattice, window)
        at = row[inside] - window.row, col[inside] - window.col
        values[inside], seen[inside] = patch[:, *at].T, valid[at]
    return values, seen


def cell_statistics(file: RasterFile, embedding: RasterFile, row: Int64, col: Int64) -> tuple[Float64, BoolArray]:
    """Mean and percentiles [N, F] of each band of a raster over cells of a map, and [N] where at least half of a cell has data.

    The raster is read at up to 16 x 16 samples a cell; one that is as coarse as the cells has means alone.
    """
    lattice = Lattice.of(embedding)
    metres = file.pixel_metres
    fine = int(np.clip(round(embedding.pixel_metres / metres), 1, _FINEST)) if metres > 0 else 1
    each = 1 if fine == 1 else 1 + len(PERCENTILES)
    found, usable = np.zeros((len(row), file.count * each)), np.zeros(len(row), np.bool_)
    for window, inside in _windows(lattice, row, col):
        x0, y0 = lattice.x0 + window.col * lattice.cell, lattice.y0 - window.row * lattice.cell
        patch = file.read(0, Target(embedding.crs, x0, y0, lattice.cell / fine, window.rows * fine, window.cols * fine))
        shape = (-1, window.rows, fine, window.cols, fine)
        values = np.where(patch.valid, patch.values, np.nan).astype(np.float64).reshape(shape)
        cells = values[:, row[inside] - window.row, :, col[inside] - window.col, :].reshape(inside.sum(), file.count, -1)
        known = np.isfinite(cells)
        enough = (known.mean(axis=2) >= LEAST_COVER).all(axis=1)
        where = np.flatnonzero(inside)[enough]
        found[where], usable[where] = _figures(cells[enough], known[enough], each), True
    return found, usable


def _figures(cells: Float64, known: BoolArray, each: int) -> Float64:
    """[n, C * each] from samples [n, C, S]."""
    mean = np.where(known, cells, 0.0).sum(axis=2) / known.sum(axis=2)
    if each == 1:
        return mean
    ranks = np.empty((len(cells), cells.shape[1], len(PERCENTILES)))
    whole = known.all(axis=(1, 2))
    # numpy's percentiles of no rows at all have no shape
    if whole.any():
        ranks[whole] = np.moveaxis(np.percentile(cells[whole], PERCENTILES, axis=2), 0, -1)
    if not whole.all():
        ranks[~whole] = np.moveaxis(np.nanpercentile(cells[~whole], PERCENTILES, axis=2), 0, -1)
    return np.concatenate([mean[..., None], ranks], axis=2).reshape(len(cells), -1)


def _windows(lattice: Lattice, row: Int64, col: Int64) -> Iterator[tuple[Window, BoolArray]]:
    """Windows of a map that hold some of the cells, with [N] which."""
    across = -(-lattice.cols // _SIDE)
    tile = row // _SIDE * across + col // _SIDE
    whole = Window(0, 0, lattice.rows, lattice.cols)
    for each in np.unique(tile):
        top, left = divmod(int(each), across)
        yield Window(top * _SIDE, left * _SIDE, _SIDE, _SIDE).intersection(whole), tile == each
