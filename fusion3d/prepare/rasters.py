"""Rasters onto the grid: choose the pixel size, read each date chunk by chunk, gather statistics."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from pyproj import CRS

from fusion3d.errors import ConfigError, CRSError, InputError, one_line
from fusion3d.grid import Bounds, Grid, Window, moved_bounds, rough_unit, same_map_crs
from fusion3d.io.pixels import RasterSource, Target
from fusion3d.io.raster import open_raster
from fusion3d.io.series import open_series
from fusion3d.prepare.scene import RasterInput
from fusion3d.store.layout import RasterLayout, raster_chunk
from fusion3d.store.writer import StoreWriter

_ALIGNED = 1e-3


def open_source(name: str, item: RasterInput, assumed_crs: str | None) -> RasterSource:
    """Open the source of a raster sensor: a reader of the user's, an image, or a series.

    Raises
    ------
    InputError, CRSError, ConfigError
    """
    if item.reader is not None:
        try:
            own: RasterSource = _load(item.reader)(*map(Path, item.files), **item.options)
        except TypeError as error:
            raise ConfigError(f"{name}: the reader does not take these files and options ({error})") from None
        return own
    options = dict(item.options)
    if item.bands is not None:
        options["bands"] = item.bands
    try:
        source = _open(item, item.crs or assumed_crs, options)
    except TypeError as error:
        raise ConfigError(f"{name}: unknown option ({error})") from None
    if item.kind != "classes" and getattr(source, "palette", False):
        raise InputError(
            item.files[0],
            "has a palette: its values are numbers of colours, no measurements",
            f"give it as classes (--raster {name}:classes=PATH), or its colours (gdal_translate -expand rgb)",
        )
    return source


def _open(item: RasterInput, crs: str | None, options: dict[str, Any]) -> RasterSource:
    first = Path(item.files[0])
    if len(item.files) == 1 and first.is_file() and first.suffix.lower() not in (".nc", ".zarr"):
        return open_raster(item.files[0], crs=crs, **options)
    return open_series(item.files[0] if len(item.files) == 1 else list(item.files), crs=crs, **options)


@cache
def _module(name: str) -> ModuleType:
    """A module, or a file of Python, loaded once."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(f"fusion3d_reader_{Path(name).stem}", name)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def _load(reader: str) -> Any:
    module, _, function = reader.rpartition(":")
    try:
        return getattr(_module(module), function)
    except Exception as error:  # the user's own code may raise anything
        reason = one_line(error)
        raise ConfigError(
            f"reader {reader!r} cannot be loaded ({type(error).__name__}: {reason}); write module:function or file.py:function"
        ) from None


def layout_of(name: str, item: RasterInput, source: RasterSource, grid: Grid) -> RasterLayout:
    """The pixels a raster sensor gets on the grid.

    The pixel is the wanted (or native) size rounded so that a column holds a whole number of pixels, or a pixel a whole number of
    columns; coarse pixels keep the phase of the source when that falls on columns.
    """
    if source.crs is None:
        raise CRSError(
            str(source.provenance[0]) if source.provenance else None, "the raster has no CRS", "pass its CRS with --crs"
        )
    native = source.pixel * (grid.unit if same_map_crs(source.crs, grid.pyproj_crs) else rough_unit(source.crs))
    wanted = item.pixel or native
    ratio = grid.column / wanted
    fine, coarse = (max(1, round(ratio)), 0) if ratio >= 0.75 else (0, max(2, round(1 / ratio)))
    if fine == 1:
        coarse = 1
    pixel = grid.column / fine if fine else grid.column * coarse
    row = col = 0
    if not fine:
        west, north = source.bounds[0], source.bounds[3]
        aligned = same_map_crs(source.crs, grid.pyproj_crs) and abs(native / pixel - 1) < _ALIGNED
        phase = ((grid.y0 - north) / grid.cell, (west - grid.x0) / grid.cell)
        on_columns = all(abs(value - round(value)) < _ALIGNED for value in phase)
        row, col = (_at_most_zero(value, coarse) for value in phase) if aligned and on_columns else (0, 0)
    height = grid.rows * fine if fine else -(-(grid.rows - row) // coarse)
    width = grid.cols * fine if fine else -(-(grid.cols - col) // coarse)
    probe = _read(source, 0, item.kind, grid, fine, coarse, row, col, Window(0, 0, min(1, height), min(1, width)))
    return RasterLayout(
        bands=tuple(source.bands),
        dates=tuple(None if date is None else date.isoformat() for date in source.dates),
        kind=item.kind,
        dtype=str(probe.values.dtype),
        pixel=pixel,
        pixels_per_column=fine,
        columns_per_pixel=coarse,
        row=row,
        col=col,
        height=height,
        width=width,
        resampling=_resampling(item.kind, source, grid, native, pixel, row, col),
    )


def _resampling(kind: str, source: RasterSource, grid: Grid, native: float, pixel: float, row: int, col: int) -> str:
    """The rule that brings the source's pixels onto the grid, in words."""
    same_map = source.crs is not None and same_map_crs(source.crs, grid.pyproj_crs)
    if same_map and abs(native / pixel - 1) < _ALIGNED:
        x0, y0 = grid.corner(row, col)
        phase = ((source.bounds[0] - x0) * grid.unit / pixel, (y0 - source.bounds[3]) * grid.unit / pixel)
        if all(abs(value - round(value)) < _ALIGNED for value in phase):
            return "none, pixels are copied"
    if kind == "classes":
        return "nearest"
    return "area-weighted mean" if pixel > native * (1 + 10 * _ALIGNED) else "bilinear"


def _at_most_zero(phase: float, coarse: int) -> int:
    return -((-round(phase)) % coarse)


def _read(
    source: RasterSource, step: int, kind: str, grid: Grid, fine: int, coarse: int, row: int, col: int, window: Window
) -> Any:
    x0, y0 = grid.corner(row, col)
    pixel = grid.cell / fine if fine else grid.cell * coarse
    target = Target(grid.pyproj_crs, x0 + window.col * pixel, y0 - window.row * pixel, pixel, window.rows, window.cols, kind)  # type: ignore[arg-type]
    return source.read(step, target)


def pieces(layout: RasterLayout, source: RasterSource, grid: Grid) -> list[tuple[int, Window]]:
    """Dates and chunks that the source's bounds touch, the units of work."""
    side = raster_chunk(layout, np.dtype(layout.dtype).itemsize)
    touched = _touched(layout, source, grid)
    rows = range(touched.row // side * side, touched.row_stop, side)
    cols = range(touched.col // side * side, touched.col_stop, side)
    windows = [
        Window(row, col, min(side, layout.height - row), min(side, layout.width - col))
        for row in rows
        for col in cols
        if touched.size
    ]
    return [(step, window) for step in range(len(layout.dates)) for window in windows]


def _touched(layout: RasterLayout, source: RasterSource, grid: Grid) -> Window:
    """Pixels of the layout inside the bounds of the source, a pixel more on each side."""
    xmin, ymin, xmax, ymax = raster_bounds(source, grid.pyproj_crs)
    x0, y0 = grid.corner(layout.row, layout.col)
    pixel = layout.pixel / grid.unit
    first_col, last_col = (math.floor((value - x0) / pixel) for value in (xmin, xmax))
    first_row, last_row = (math.floor((y0 - value) / pixel) for value in (ymax, ymin))
    around = Window(first_row - 1, first_col - 1, last_row - first_row + 3, last_col - first_col + 3)
    return around.intersection(Window(0, 0, layout.height, layout.width))


def raster_bounds(source: RasterSource, crs: CRS) -> Bounds:
    """Bounds of a raster in another CRS; as they are where it states none."""
    return source.bounds if source.crs is None else moved_bounds(source.bounds, source.crs, crs)


def write_piece(
    name: str, source: RasterSource, layout: RasterLayout, grid: Grid, step: int, window: Window, writer: StoreWriter
) -> dict[str, list[float]]:
    """Read one chunk of one date onto the grid and write it.

    Returns
    -------
    per band: number, sum and sum of squares of the valid pixels
    """
    patch = _read(
        source, step, layout.kind, grid, layout.pixels_per_column, layout.columns_per_pixel, layout.row, layout.col, window
    )
    writer.write_raster(name, step, window, patch.values.astype(layout.dtype), patch.valid)
    values = np.where(patch.valid, patch.values, 0).astype(np.float64)
    return {
        "count": patch.valid.sum(axis=(1, 2)).astype(float).tolist(),
        "sum": values.sum(axis=(1, 2)).tolist(),
        "square": (values**2).sum(axis=(1, 2)).tolist(),
    }


def with_statistics(layout: RasterLayout, results: list[dict[str, list[float]]]) -> RasterLayout:
    """The layout with mean and standard deviation of each band and the share of valid pixels."""
    count, total, square = (np.sum([item[key] for item in results], axis=0) for key in ("count", "sum", "square"))
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(square / np.maximum(count, 1) - mean**2, 0.0))
    pixels = layout.height * layout.width * len(layout.dates)
    return replace(
        layout,
        mean=tuple(mean.tolist()),
        std=tuple(np.where(std > 0, std, 1.0).tolist()),
        valid_fraction=float(count.mean() / pixels) if pixels else 0.0,
    )
