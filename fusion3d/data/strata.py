"""Kinds of ground that training sees alike often: chips by canopy height, by slope and by land cover.

A store is read once, block by block, into coarse cells (a quarter of a chip); what is known of the cells of a chip gives its
class. Only columns that training may read are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fusion3d.data.chips import NOISE_CLASSES
from fusion3d.data.split import Mask
from fusion3d.errors import ConfigError
from fusion3d.grid import Window
from fusion3d.store import Store

STRATA = ("height", "slope", "cover")

HEIGHTS = (2.0, 8.0, 16.0, 25.0)
"""Metres of canopy (mean over columns of their highest return) between classes: open, shrubs, low, middle, tall forest."""

SLOPES = (5.0, 15.0, 30.0)
"""Degrees of the ground model between classes: flat, gentle, steep, very steep."""

UNKNOWN = -1
_TALLEST = 100.0

Cells = npt.NDArray[np.float64]


def check_strata(names: Sequence[str]) -> tuple[str, ...]:
    """The names; `ConfigError` when one is not known."""
    unknown = sorted(set(names) - set(STRATA))
    if unknown:
        raise ConfigError(f"--data.strata {', '.join(unknown)} is not known; choose from {', '.join(STRATA)}, or [] for none")
    return tuple(name for name in STRATA if name in names)


@dataclass(frozen=True)
class Survey:
    """What is known of a store's coarse cells.

    Attributes
    ----------
    step : columns a side of a cell
    canopy, ground : [cell rows, cell cols] metres, NaN where nothing is known
    cover : by class of land cover, [cell rows, cell cols] columns
    column : metres
    """

    step: int
    column: float
    canopy: Cells
    ground: Cells
    cover: dict[int, Cells] = field(default_factory=dict)

    def classes(self, name: str, origin: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
        """[K] class of chips of `size` columns with north-west columns `origin` [K, 2]; `UNKNOWN` where nothing is known."""
        if name == "cover":
            if not self.cover:
                return np.full(len(origin), UNKNOWN)
            codes = np.array(sorted(self.cover))
            counts = np.stack([self._sums(self.cover[code], origin, size) for code in codes.tolist()])
            return np.where(counts.max(axis=0) > 0, codes[counts.argmax(axis=0)], UNKNOWN)
        cells, bounds = (self.canopy, HEIGHTS) if name == "height" else (slope(self.ground, self.step * self.column), SLOPES)
        known = np.isfinite(cells)
        count = self._sums(known.astype(np.float64), origin, size)
        mean = self._sums(np.where(known, cells, 0.0), origin, size) / np.maximum(count, 1)
        return np.where(count > 0, np.searchsorted(bounds, mean, side="right"), UNKNOWN)

    def _sums(self, cells: Cells, origin: npt.NDArray[np.int64], size: int) -> Cells:
        """[K] sum over the cells that each chip touches."""
        total = np.zeros((cells.shape[0] + 1, cells.shape[1] + 1))
        np.cumsum(np.cumsum(cells, axis=0), axis=1, out=total[1:, 1:])
        (top, left), (bottom, right) = (origin // self.step).T, (-(-(origin + size) // self.step)).T
        return total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]


def slope(ground: Cells, side: float) -> Cells:
    """Degrees of slope of a ground model in cells of `side` metres, from the neighbours that are known; NaN without any.

    Along each axis the mean of the steps to both neighbours: central differences inside, one-sided ones at the edge.
    """
    rise = [_mean_step(ground, axis) / side for axis in (0, 1)]
    return np.where(
        np.isfinite(rise[0]) | np.isfinite(rise[1]),
        np.degrees(np.arctan(np.hypot(*(np.nan_to_num(part) for part in rise)))),
        np.nan,
    )


def _mean_step(ground: Cells, axis: int) -> Cells:
    step = np.diff(ground, axis=axis)
    edge = np.full_like(np.take(ground, [0], axis=axis), np.nan)
    both = np.stack([np.concatenate([edge, step], axis=axis), np.concatenate([step, edge], axis=axis)])
    known = np.isfinite(both)
    return np.where(known.any(axis=0), np.where(known, both, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1), np.nan)


def survey(store: Store, allowed: Mask, size: int, names: Sequence[str]) -> Survey:
    """Look over the allowed columns [rows, cols] of a store for chips of `size` columns; reads only what `names` need."""
    grid, step = store.grid, max(1, size // 4)
    shape = -(-grid.rows // step), -(-grid.cols // step)
    heights = np.full((2, *shape), np.nan)
    if "als" in store.sensors and {"height", "slope"} & set(names):
        heights = _heights(store, allowed, step, shape)
    cover = _cover(store, allowed, step, shape) if "cover" in names else {}
    return Survey(step, grid.column, heights[0], heights[1], cover)


def class_rasters(store: Store) -> tuple[str, ...]:
    """Rasters of a store that hold classes: maps that someone made, not measurements."""
    return tuple(sorted(name for name, layout in store.attributes.rasters.items() if layout.kind == "classes"))


def _heights(store: Store, allowed: Mask, step: int, shape: tuple[int, int]) -> Cells:
    """[2, *shape] mean over the columns of a cell of their highest return above ground, and of their ground, metres."""
    sums, counts = np.zeros((2, shape[0] * shape[1])), np.zeros(shape[0] * shape[1])
    grid = store.grid
    for block_row, block_col in grid.blocks_in(grid.window):
        window = grid.block_window(block_row, block_col)
        allowed_here = allowed[window.row : window.row_stop, window.col : window.col_stop].ravel()
        if not allowed_here.any():
            continue
        splits, values = store.block_values(block_row, block_col, ("height", "elevation", "classification"))
        height = values["height"]
        bad = ~(height < _TALLEST)
        if "classification" in values:
            bad |= np.isin(values["classification"], NOISE_CLASSES)
        filled = np.diff(splits) > 0
        first = splits[:-1][filled]
        top, ground = np.full((2, window.size), np.nan)
        if len(first):
            top[filled] = np.maximum.reduceat(np.where(bad, -np.inf, height), first)
            # Every point of a column lies above the same ground model: one of them tells it.
            ground[filled] = values["elevation"][first] - height[first]
        use = np.isfinite(top) & np.isfinite(ground) & allowed_here
        cell = _cell_of(window, step, shape[1])[use]
        counts += np.bincount(cell, minlength=len(counts))
        for total, values_of_column in zip(sums, (top, ground), strict=True):
            total += np.bincount(cell, values_of_column[use], len(counts))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).reshape(2, *shape)


def _cover(store: Store, allowed: Mask, step: int, shape: tuple[int, int]) -> dict[int, Cells]:
    """Allowed columns of each class in each cell, from the last date of the first raster of classes."""
    names = class_rasters(store)
    if not names:
        return {}
    info, grid = store.raster_info(names[0]), store.grid
    found: dict[int, Cells] = {}
    for block_row, block_col in grid.blocks_in(grid.window):
        window = grid.block_window(block_row, block_col)
        raster = store.raster(names[0], window, [len(info.dates) - 1])
        # The pixel at the middle of a column speaks for it.
        fine, coarse = raster.pixels_per_column, raster.columns_per_pixel
        at = [np.arange(length) for length in (window.rows, window.cols)]
        rows, cols = (
            part * fine + fine // 2 if fine else (part + raster.pixel_origin[axis]) // coarse for axis, part in enumerate(at)
        )
        pixel = np.ix_(rows, cols)
        use = raster.valid[0, 0][pixel] & allowed[window.row : window.row_stop, window.col : window.col_stop]
        code, cell = raster.values[0, 0][pixel].astype(np.int64).ravel(), _cell_of(window, step, shape[1])
        for value in np.unique(code[use.ravel()]).tolist():
            counts = np.bincount(cell[use.ravel() & (code == value)], minlength=shape[0] * shape[1])
            found[value] = found.get(value, np.zeros(shape)) + counts.reshape(shape)
    return found


def _cell_of(window: Window, step: int, cells: int) -> npt.NDArray[np.int64]:
    """[columns of the window] number of each column's cell, `cells` in a row."""
    row, col = np.divmod(np.arange(window.size), window.cols)
    return (row + window.row) // step * cells + (col + window.col) // step
