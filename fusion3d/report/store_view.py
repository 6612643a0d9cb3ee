"""A store as pictures: colours of an image, canopy height, and what each sensor saw. Read in strips, never as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fusion3d.grid import Window
from fusion3d.io.bands import Band
from fusion3d.io.description import CLASS_NAMES
from fusion3d.report.raster_view import Float32, Place, place_of
from fusion3d.store.reader import Store, StoredPoints

_LONGEST = 700
"""Pixels on the longer side of a picture."""
_WIDEST = 1024
"""Columns on the longer side of what is drawn of the ground; of a larger store it is the middle."""
_STRIP = 8_000_000
"""Values read at a time."""
_MOST_BLOCKS = 576
_NOISE = tuple(code for code, name in CLASS_NAMES.items() if "noise" in name)
_VISIBLE = ((585.0, 700.0), (500.0, 585.0), (400.0, 500.0))
"""Wavelengths of red, green and blue light, nm."""


@dataclass(frozen=True)
class Photo:
    """Colours [rows, cols, 4] of an image, 0 to 1, transparent where there are none; which sensor and date it is."""

    rgba: Float32
    place: Place
    sensor: str
    date: str | None


@dataclass(frozen=True)
class Coverage:
    """Share of columns [rows, cols] that a sensor saw.

    Attributes
    ----------
    seen : share over all that was looked at
    sampled : only every so many blocks were looked at, and a pixel stands for one of them
    """

    share: Float32
    place: Place
    seen: float
    sampled: bool


class StoreView:
    """The part of a store that fits into a picture: all of it, or the middle of a very large one."""

    def __init__(self, store: Store) -> None:
        self.store = store
        grid = store.grid
        rows, cols = min(grid.rows, _WIDEST), min(grid.cols, _WIDEST)
        self.window = Window((grid.rows - rows) // 2, (grid.cols - cols) // 2, rows, cols)

    @property
    def whole(self) -> bool:
        return self.window == self.store.grid.window

    @property
    def place(self) -> Place:
        """The view in columns."""
        return place_of(self.store.grid, self.window)

    # -- height

    @cached_property
    def canopy(self) -> tuple[Float32, Place] | None:
        """Highest point above ground of each pixel, metres, NaN without points; None without ALS."""
        if "als" not in self.store.sensors:
            return None
        shrink = max(1, math.ceil(max(self.window.rows, self.window.cols) / _LONGEST))
        place = place_of(self.store.grid, self.window, shrink)
        highest = np.full((place.rows, place.cols), -np.inf, np.float32)
        for part in self._strips(self.store.grid.block * 16):
            points = self.store.points(part, self.point_attributes)
            height, column = self.heights(points)
            top = np.full(part.size, -np.inf, np.float32)
            np.maximum.at(top, column, height)
            _gather(highest, top.reshape(part.rows, part.cols), part.row - self.window.row, part.col - self.window.col, shrink)
        return np.where(np.isfinite(highest), highest, np.nan), place

    @property
    def point_attributes(self) -> list[str]:
        als = self.store.attributes.als
        return [name for name in ("classification", "withheld") if als is not None and name in als.attributes]

    @staticmethod
    def heights(points: StoredPoints) -> tuple[Float32, npt.NDArray[np.int64]]:
        """Heights and columns of the points that are no noise, not withheld and of known height."""
        keep = trusted(points)
        column = np.repeat(np.arange(len(points.row_splits) - 1), np.diff(points.row_splits))
        return points.height[keep], column[keep]

    def _strips(self, columns: int) -> Iterator[Window]:
        """Windows of at most about that many columns that cover the view, each inside of one row of blocks."""
        grid = self.store.grid
        for block_row, block_col in grid.blocks_in(self.window):
            part = grid.block_window(block_row, block_col).intersection(self.window)
            rows = max(1, min(part.rows, columns // max(1, part.cols)))
            for row in range(part.row, part.row_stop, rows):
                yield Window(row, part.col, min(rows, part.row_stop - row), part.cols)

    # -- colours

    @cached_property
    def photo(self) -> Photo | None:
        """The finest image with red, green and blue, as it was on its clearest date; None when there is none."""
        found = [
            (info.pixel, "ortho" not in name, len(info.bands), name, bands)
            for name, info in self.store.attributes.rasters.items()
            if info.kind == "reflectance" and (bands := visible_bands(info.bands)) is not None
        ]
        if not found:
            return None
        _, _, _, name, bands = min(found)
        info = self.store.raster_info(name)
        step = self._clearest(name)
        fine = max(1, info.pixels_per_column)
        shrink = max(1, math.ceil(max(self.window.rows, self.window.cols) * fine / _LONGEST))
        place = place_of(self.store.grid, self.window, shrink / fine)
        total = np.zeros((4, place.rows, place.cols), np.float64)
        for part in self._strips(max(1, _STRIP // (fine * fine * len(info.bands)))):
            values, valid = self._pixels(name, part, step)
            usable = valid[bands].all(axis=0)
            row, col = (part.row - self.window.row) * fine, (part.col - self.window.col) * fine
            for layer, band in zip(total, bands, strict=False):
                _gather(layer, np.where(usable, values[band], 0.0), row, col, shrink, np.add)
            _gather(total[3], usable.astype(np.float64), row, col, shrink, np.add)
        known = total[3] > 0
        if not known.any():
            return None
        colours = np.where(known, total[:3] / np.where(known, total[3], 1), np.nan)
        low, high = np.percentile(colours[:, known], (1, 99))
        rgba = np.zeros((place.rows, place.cols, 4), np.float32)
        rgba[known, :3] = np.clip((colours[:, known].T - low) / max(high - low, 1e-12), 0, 1)
        rgba[known, 3] = 1
        return Photo(rgba, place, name, info.dates[step])

    def _clearest(self, name: str) -> int:
        """The date with most valid pixels in the middle of the view."""
        dates = len(self.store.raster_info(name).dates)
        if dates == 1:
            return 0
        row, col = self.window.row + self.window.rows // 2, self.window.col + self.window.cols // 2
        middle = Window(row - 32, col - 32, 64, 64).intersection(self.window)
        shares = [float(self.store.raster(name, middle, [step]).valid.mean()) for step in range(dates)]
        return int(np.argmax(shares))

    def _pixels(self, name: str, part: Window, step: int) -> tuple[Float32, npt.NDArray[np.bool_]]:
        """Values and validity [C, H, W] of a window; pixels coarser than columns are repeated over their columns."""
        raster = self.store.raster(name, part, [step])
        values, valid = raster.values[0], raster.valid[0]
        if raster.pixels_per_column:
            return values, valid
        rows = (np.arange(part.rows) + raster.pixel_origin[0]) // raster.columns_per_pixel
        cols = (np.arange(part.cols) + raster.pixel_origin[1]) // raster.columns_per_pixel
        return values[:, rows][:, :, cols], valid[:, rows][:, :, cols]

    # -- coverage

    def coverage(self, sensor: str) -> Coverage:
        """Where on the whole grid a sensor saw something; of a very large store, a sample of blocks."""
        grid = self.store.grid
        down, across = grid.block_shape
        step = max(1, math.ceil(math.sqrt(down * across / _MOST_BLOCKS)))
        if step > 1:
            share = np.array(
                [[self.store.seen(sensor, row, col).mean() for col in range(0, across, step)] for row in range(0, down, step)],
                np.float32,
            )
            return Coverage(share, place_of(grid, grid.window, step * grid.block), float(share.mean()), True)
        shrink = max(1, math.ceil(max(grid.rows, grid.cols) / _LONGEST))
        place = place_of(grid, grid.window, shrink)
        total, count = np.zeros((place.rows, place.cols)), np.zeros((place.rows, place.cols))
        for block in grid.blocks_in(grid.window):
            seen, part = self.store.seen(sensor, *block), grid.block_window(*block)
            _gather(total, seen.astype(np.float64), part.row, part.col, shrink, np.add)
            _gather(count, np.ones(seen.shape), part.row, part.col, shrink, np.add)
        return Coverage((total / count).astype(np.float32), place, float(total.sum() / count.sum()), False)


def visible_bands(bands: tuple[Band, ...]) -> list[int] | None:
    """Positions of red, green and blue: the bands nearest to 660, 560 and 480 nm, None unless each is of its colour."""
    found = []
    for wanted, (low, high) in zip((660.0, 560.0, 480.0), _VISIBLE, strict=True):
        near = [
            (abs(band.wavelength - wanted), at)
            for at, band in enumerate(bands)
            if band.wavelength and low <= band.wavelength < high
        ]
        if not near:
            return None
        found.append(min(near)[1])
    return found


def trusted(points: StoredPoints) -> npt.NDArray[np.bool_]:
    """Points that are no noise, not withheld, and of known height."""
    keep = np.isfinite(points.height)
    if "classification" in points.attributes:
        keep &= ~np.isin(points.attributes["classification"], _NOISE)
    if "withheld" in points.attributes:
        keep &= ~points.attributes["withheld"].astype(bool)
    return keep


def _gather(
    out: npt.NDArray[np.floating], values: npt.NDArray[np.floating], row: int, col: int, shrink: int, how: np.ufunc = np.maximum
) -> None:
    """Reduce pixels that begin at (row, col) into the larger pixels of `out`, `shrink` a side, whether they line up or not."""
    rows, cols = (np.arange(first, first + length) // shrink for first, length in zip((row, col), values.shape, strict=True))
    starts = [np.flatnonzero(np.diff(index, prepend=-1)) for index in (rows, cols)]
    reduced = how.reduceat(how.reduceat(values, starts[0], axis=0), starts[1], axis=1)
    at = np.ix_(rows[starts[0]], cols[starts[1]])
    out[at] = how(out[at], reduced)
