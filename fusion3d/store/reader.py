"""Reading a column store by windows of columns."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from fusion3d.errors import StoreError
from fusion3d.grid import Grid, Window
from fusion3d.io.bands import Band
from fusion3d.io.gedi import FootprintFilter, FootprintTable
from fusion3d.io.place import Place, reaching
from fusion3d.store.damage import damage_named
from fusion3d.store.layout import ROOT_KEY, AlsLayout, RasterLayout, StoreAttributes, block_name, parse_block_name
from fusion3d.store.writer import FOOTPRINT_COLUMNS

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


def is_store(path: str | Path) -> bool:
    """Whether a path or URL has what every column store has at its root.

    Raises
    ------
    InputError
        The URL's place cannot be reached.
    """
    root = Place.of(path)
    with reaching(str(path)) if root.local is None else nullcontext():
        return (root / "zarr.json").exists()


@dataclass(frozen=True)
class StoredPoints:
    """Points of a window, sorted by column (row-major), in file order within a column.

    Attributes
    ----------
    row_splits : [columns + 1] CSR
    offset : [N, 2] east and south of the column's north-west corner, metres, in [0, column size)
    height : [N] above ground, metres; NaN where no ground is near
    elevation : [N] float64, metres, as in the files
    attributes : [N] each, as stored
    """

    row_splits: Int64
    offset: Float32
    height: Float32
    elevation: npt.NDArray[np.float64]
    attributes: dict[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.height)


@dataclass(frozen=True)
class StoredRaster:
    """Pixels of a window of columns: values [T, C, H, W] float32 physical, 0 where not `valid`; see `RasterLayout`.

    `pixel_origin` is the place of the window's first column inside its first pixel (row, col), in columns.
    """

    values: Float32
    valid: npt.NDArray[np.bool_]
    dates: tuple[datetime.date | None, ...]
    bands: tuple[Band, ...]
    pixel: float
    pixels_per_column: int
    columns_per_pixel: int
    pixel_origin: tuple[int, int]


class Store:
    """A column store, opened for reading.

    Parameters
    ----------
    path : folder or fsspec URL

    Raises
    ------
    StoreError
        There is no store, or it is not finished, or it is of another format.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        place = Place.of(path)
        with reaching(self.path):
            unfinished = place.beside(".partial").exists()
        try:
            self._root: Any = zarr.open_group(str(place), mode="r", zarr_format=3)
            raw = self._root.attrs.get(ROOT_KEY)
        except (FileNotFoundError, KeyError, ValueError, zarr.errors.GroupNotFoundError):
            raw = None
            self._root = None
        if unfinished and raw is None:
            raise StoreError(path, "not finished", "run the same `fusion3d prepare` command again: it resumes")
        if self._root is None:
            raise StoreError(path, "no column store there", "make one with `fusion3d prepare`")
        if not isinstance(raw, dict):
            raise StoreError(path, "a Zarr group, but not a fusion3d store", "make one with `fusion3d prepare`")
        self.attributes = StoreAttributes.from_json(self.path, raw)

    @classmethod
    def open(cls, path: str | Path) -> Store:
        return cls(path)

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.path,)

    @property
    def grid(self) -> Grid:
        return self.attributes.grid

    @property
    def sensors(self) -> tuple[str, ...]:
        """als, gedi, then the rasters in alphabetic order, as far as they are there."""
        named = [name for name in ("als", "gedi") if getattr(self.attributes, name) is not None]
        return (*named, *sorted(self.attributes.rasters))

    def statistics(self, sensor: str) -> dict[str, Any]:
        """als: points, intensity_p95; gedi: footprints; a raster: mean and std per band."""
        if sensor == "als":
            return {"points": self._als.points, "intensity_p95": self._als.intensity_p95}
        if sensor == "gedi":
            self._require("gedi")
            return {"footprints": self.attributes.gedi.footprints}  # type: ignore[union-attr]
        info = self.raster_info(sensor)
        return {"mean": info.mean, "std": info.std}

    def _require(self, sensor: str) -> None:
        if sensor not in self.sensors:
            raise StoreError(self.path, f"no sensor {sensor!r} in this store", f"it holds {', '.join(self.sensors) or 'nothing'}")

    @property
    def _als(self) -> AlsLayout:
        self._require("als")
        assert self.attributes.als is not None
        return self.attributes.als

    def raster_info(self, name: str) -> RasterLayout:
        self._require(name)
        return self.attributes.rasters[name]

    # -- points

    @cached_property
    def _point_blocks(self) -> frozenset[tuple[int, int]]:
        return frozenset(parse_block_name(name) for name in self._als.blocks)

    @lru_cache(maxsize=64)  # noqa: B019 - a store lives as long as its process
    def _offsets(self, block: tuple[int, int]) -> Int64:
        return self._array(f"als/{block_name(*block)}/offsets")

    def _array(self, name: str, where: Any = slice(None)) -> npt.NDArray[Any]:
        """An array, or a part of it; `StoreError` when it is damaged."""
        with damage_named(self.path, name):
            return np.asarray(self._root[name][where])

    def _anchor(self, block: tuple[int, int]) -> list[int]:
        name = f"als/{block_name(*block)}"
        with damage_named(self.path, name):
            return list(self._root[name].attrs["anchor"])

    def points(self, window: Window, attributes: Sequence[str] | None = None) -> StoredPoints:
        """Points of a window; columns outside of the grid are empty.

        Parameters
        ----------
        attributes : names to read; None reads every stored attribute
        """
        names = self._als.attributes if attributes is None else tuple(attributes)
        unknown = set(names) - set(self._als.attributes)
        if unknown:
            raise StoreError(
                self.path, f"no point attribute {', '.join(sorted(unknown))}", f"stored are {', '.join(self._als.attributes)}"
            )
        pieces = [
            self._block_points(block, window, names) for block in self.grid.blocks_in(window) if block in self._point_blocks
        ]
        keys = np.concatenate([piece[0] for piece in pieces] or [np.zeros(0, np.int64)])
        # the points of one block come in order
        order: Any = np.argsort(keys, kind="stable") if len(pieces) > 1 else slice(None)
        splits = np.zeros(window.size + 1, np.int64)
        np.cumsum(np.bincount(keys, minlength=window.size), out=splits[1:])

        def gather(index: int, dtype: type) -> npt.NDArray[Any]:
            parts = [piece[index] for piece in pieces]
            return np.concatenate(parts)[order] if parts else np.zeros((0, 2) if index == 1 else 0, dtype)

        stored = {
            name: np.concatenate([piece[4][name] for piece in pieces])[order] if pieces else np.zeros(0, np.uint8)
            for name in names
        }
        return StoredPoints(splits, gather(1, np.float32), gather(2, np.float32), gather(3, np.float64), stored)

    def _block_points(self, block: tuple[int, int], window: Window, names: Sequence[str]) -> tuple[Any, ...]:
        inside = self.grid.block_window(*block)
        part = window.intersection(inside)
        offsets = self._offsets(block)
        # Rows of the block from the first to the last of the window are one run of points; of each row, so are its columns.
        first_column = (part.row - inside.row) * inside.cols
        run = offsets[first_column : first_column + part.rows * inside.cols + 1]
        from_west = part.col - inside.col + np.arange(part.rows)[:, None] * inside.cols
        counts = np.diff(run)[from_west + np.arange(part.cols)]
        row, col = (np.repeat(index, counts.reshape(-1)) for index in np.indices(counts.shape).reshape(2, -1))
        row, col = row + part.row, col + part.col
        starts, stops = run[from_west] - run[0], run[from_west + part.cols] - run[0]
        kept = [slice(*bounds) for bounds in np.concatenate([starts, stops], axis=1).tolist()]

        def read(name: str) -> npt.NDArray[Any]:
            values = self._array(f"als/{block_name(*block)}/{name}", slice(run[0], run[-1]))
            return np.concatenate([values[where] for where in kept])

        lattice, anchor = self._als.lattice, self._anchor(block)
        x, y, elevation = (
            lattice.origin[axis] + (read(name) + np.int64(anchor[axis])) * lattice.scale[axis] for axis, name in enumerate("xyz")
        )
        grid = self.grid
        offset = np.stack([(x - (grid.x0 + col * grid.cell)), ((grid.y0 - row * grid.cell) - y)], axis=1) * grid.unit
        # A point on an edge may sit a rounding error outside of its column.
        offset = np.clip(offset, 0.0, None).astype(np.float32)
        np.minimum(offset, np.nextafter(np.float32(grid.column), np.float32(0)), out=offset)
        key = (row - window.row) * window.cols + (col - window.col)
        return key, offset, read("height"), elevation, {name: read(name) for name in names}

    def block_values(self, block_row: int, block_col: int, names: Sequence[str]) -> tuple[Int64, dict[str, npt.NDArray[Any]]]:
        """Row splits by column of a block and values of its points, without positions: a cheaper read than `points`.

        Parameters
        ----------
        names : "height", "elevation" (metres, float64) and point attributes; attributes that are not stored are left out
        """
        window, block = self.grid.block_window(block_row, block_col), (block_row, block_col)
        kept = [name for name in names if name in ("height", "elevation", *self._als.attributes)]
        if block not in self._point_blocks:
            return np.zeros(window.size + 1, np.int64), {name: np.zeros(0, np.float32) for name in kept}
        lattice = self._als.lattice
        found = {}
        for name in kept:
            values = self._array(f"als/{block_name(*block)}/{'z' if name == 'elevation' else name}")
            if name == "elevation":
                values = lattice.origin[2] + (values + np.int64(self._anchor(block)[2])) * lattice.scale[2]
            found[name] = values
        return self._offsets(block), found

    # -- rasters

    def raster(self, name: str, window: Window, steps: Sequence[int] | None = None) -> StoredRaster:
        """Pixels of a window of columns; outside of the stored extent nothing is valid.

        Parameters
        ----------
        steps : positions of dates to read; None reads all
        """
        info = self.raster_info(name)
        chosen = range(len(info.dates)) if steps is None else list(steps)
        fine, coarse = info.pixels_per_column, info.columns_per_pixel
        if fine:
            pixels = Window(
                (window.row - info.row) * fine, (window.col - info.col) * fine, window.rows * fine, window.cols * fine
            )
            origin = (0, 0)
        else:
            row, col = (window.row - info.row) // coarse, (window.col - info.col) // coarse
            origin = (window.row - info.row - row * coarse, window.col - info.col - col * coarse)
            pixels = Window(row, col, -(-(origin[0] + window.rows) // coarse), -(-(origin[1] + window.cols) // coarse))
        inside = pixels.intersection(Window(0, 0, info.height, info.width))
        shape = (len(chosen), len(info.bands), pixels.rows, pixels.cols)
        values, valid = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
        if inside.size:
            source = (slice(inside.row, inside.row_stop), slice(inside.col, inside.col_stop))
            target = (
                slice(inside.row - pixels.row, inside.row_stop - pixels.row),
                slice(inside.col - pixels.col, inside.col_stop - pixels.col),
            )
            for part, target_array in (("values", values), ("valid", valid)):
                with damage_named(self.path, f"{name}/{part}"):
                    array = self._root[f"{name}/{part}"]
                    for index, step in enumerate(chosen):
                        target_array[(index, slice(None), *target)] = array[(step, slice(None), *source)]
        dates = tuple(_date(info.dates[step]) for step in chosen)
        return StoredRaster(values, valid, dates, info.bands, info.pixel, fine, coarse, origin)

    # -- footprints

    @cached_property
    def _footprints(self) -> FootprintTable:
        self._require("gedi")
        layout = self.attributes.gedi
        assert layout is not None
        columns = {name: self._array(f"gedi/{name}") for name in (*FOOTPRINT_COLUMNS, "heights", "energy", "row_splits")}
        attributes = {name: self._array(f"gedi/attributes/{name}") for name in layout.attributes}
        return FootprintTable(product="+".join(layout.products), release="", attributes=attributes, **columns)

    def footprints(self, window: Window, keep: FootprintFilter | None = None) -> FootprintTable:
        """Footprints whose centre lies in a window, after the quality filter (the published defaults when None)."""
        table = self._footprints
        row, col = self.grid.cell_of(table.x, table.y)
        inside = (row >= window.row) & (row < window.row_stop) & (col >= window.col) & (col < window.col_stop)
        return table.select(inside & (keep or FootprintFilter()).keep(table))

    # -- coverage

    def seen(self, sensor: str, block_row: int, block_col: int) -> npt.NDArray[np.bool_]:
        """[rows, cols] columns of a block that a sensor saw: holds a point, a valid pixel or a footprint's centre."""
        self._require(sensor)
        window = self.grid.block_window(block_row, block_col)
        seen = np.zeros((window.rows, window.cols), np.bool_)
        if sensor == "als":
            if (block_row, block_col) in self._point_blocks:
                seen = np.diff(self._offsets((block_row, block_col))).reshape(seen.shape) > 0
        elif sensor == "gedi":
            table = self.footprints(window)
            row, col = self.grid.cell_of(table.x, table.y)
            seen[row - window.row, col - window.col] = True
        else:
            seen = self._raster_seen(sensor, window)
        return seen

    def _raster_seen(self, name: str, window: Window) -> npt.NDArray[np.bool_]:
        info = self.raster_info(name)
        seen = np.zeros((window.rows, window.cols), np.bool_)
        for step in range(len(info.dates)):
            raster = self.raster(name, window, [step])
            valid = raster.valid[0].any(axis=0)
            if info.pixels_per_column:
                fine = info.pixels_per_column
                seen |= valid.reshape(window.rows, fine, window.cols, fine).any(axis=(1, 3))
            else:
                rows = (np.arange(window.rows) + raster.pixel_origin[0]) // info.columns_per_pixel
                cols = (np.arange(window.cols) + raster.pixel_origin[1]) // info.columns_per_pixel
                seen |= valid[np.ix_(rows, cols)]
            if seen.all():
                break
        return seen


def _date(text: str | None) -> datetime.date | None:
    return None if text is None else datetime.date.fromisoformat(text)
