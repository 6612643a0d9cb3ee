"""A raster of sparse labels as plots: each pixel with a value is a plot of the pixel's square."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.label_units import agreed_unit
from fusion3d.evaluation.lattice import is_north_up
from fusion3d.evaluation.plots import FILL, PlotTable
from fusion3d.io.pixels import Target
from fusion3d.io.raster import RasterFile, open_raster

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_STRIP = 4_000_000
"""Pixels that are read at once."""
_MOST = 100_000
"""Pixels with a value; a model of plots is not the tool for more."""


def read_raster_labels(
    path: str | Path,
    target: str,
    *,
    band: int | None = None,
    nodata: float | None = None,
    unit: str | None = None,
    crs: str | None = None,
) -> PlotTable:
    """Pixels with a value as plots, in the raster's CRS; named by row and column from 0, such as r12c7.

    Parameters
    ----------
    target : name of the variable; of a raster of several bands, the one of that name, where `band` is None
    band : number of the band, from 1
    nodata : a further value that means no label, beside the file's tag
    unit : of the values; else the one that the file states
    crs : of a file without one

    Raises
    ------
    InputError
        The file cannot be read, its pixels are not square with north up, its unit is another, or it holds no label or too many.
    ConfigError
        There is no such band, or it must be chosen.
    """
    file = _one_band(open_raster(path, crs=crs, nodata=nodata), target, band)
    if not is_north_up(file):
        raise InputError(path, "its pixels are not square with north up", "reproject it with gdalwarp")
    stated = agreed_unit(path, file.units[0], unit)
    row, col, values = _labelled(file)
    notes, kept = [], np.ones(len(values), np.bool_)
    for which, problem in ((values == FILL, f"is {FILL:g}"), ((values < 0) & (values != FILL), "is negative")):
        if which.any():
            count = int(which.sum())
            notes.append(f"{count} pixel{'s' if count > 1 else ''} left out: {target} {problem}")
        kept &= ~which
    found = int(kept.sum())
    if found == 0:
        raise InputError(
            path, f"holds no label ({'; '.join(notes) or 'every pixel is nodata'})", "check --band and --label-nodata"
        )
    row, col, values = row[kept], col[kept], values[kept]
    place, side = file.transform, file.pixel
    west, north = place.c + col * side, place.f - row * side
    notes.append(f"{found} pixels of {file.pixel_metres:.4g} m are the plots")
    return PlotTable(
        path=str(path),
        target=target,
        unit=stated,
        geometry=shapely.box(west, north - side, west + side, north),
        values=values,
        ids=tuple(f"r{one}c{other}" for one, other in zip(row.tolist(), col.tolist(), strict=True)),
        crs=file.crs,
        notes=tuple(notes),
    )


def _one_band(file: RasterFile, target: str, band: int | None) -> RasterFile:
    """The file as one of a single band."""
    if band is None:
        named = [number for number, each in enumerate(file.bands, 1) if each.name == target]
        if file.count > 1 and len(named) != 1:
            names = ", ".join(each.name or str(number) for number, each in enumerate(file.bands, 1))
            raise ConfigError(f"{file.path} has {file.count} bands ({names}): choose one with --band N")
        band = named[0] if file.count > 1 else 1
    if not 1 <= band <= file.count:
        raise ConfigError(f"--band {band}: {file.path} has bands 1 to {file.count}")
    one = slice(band - 1, band)
    parts = {name: getattr(file, name)[one] for name in ("indexes", "bands", "scale", "offset", "units")}
    return replace(file, **parts)


def _labelled(file: RasterFile) -> tuple[Int64, Int64, Float64]:
    """Row, column and value of the pixels that are not nodata."""
    rows, cols, values, count = [], [], [], 0
    step = max(1, _STRIP // file.width)
    place = file.transform
    for top in range(0, file.height, step):
        height = min(step, file.height - top)
        patch = file.read(0, Target(file.crs, place.c, place.f - top * place.a, place.a, height, file.width))
        row, col = np.nonzero(patch.valid[0])
        rows.append(row + top)
        cols.append(col)
        values.append(patch.values[0, row, col].astype(np.float64))
        # no label can be told from a value by its sign alone, but a raster full of values holds no sparse labels
        count += int((values[-1] >= 0).sum())
        if count > _MOST:
            problem = f"has values on more than {_MOST:,} pixels: these are no sparse labels"
            raise InputError(file.path, problem, "give a raster with values on some pixels only, or state --label-nodata")
    return np.concatenate(rows), np.concatenate(cols), np.concatenate(values)
