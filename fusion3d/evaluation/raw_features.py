"""Features without learning, as a practitioner would take them: what every embedding has to be better than.

- als: height percentiles and moments, cover above 2 m (all and first returns), share of low vegetation, number of returns and
  intensity (after Naesset 2002, Remote Sensing of Environment 80);
- a raster of one date: mean and spread of the pixels in a column by band, percentiles where there are 16 or more of them;
- a series: of each band mean, spread, percentiles over the dates, and two harmonics of the year (Fourier terms of the day of
  year, fitted by least squares to the dates on which the column was seen);
- gedi: relative heights and shares of the energy, of the footprints over a column.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from fusion3d.data.chips import NOISE_CLASSES
from fusion3d.encoders.footprint_cells import footprints_to_cells
from fusion3d.evaluation.columns import BoolArray, Int64
from fusion3d.evaluation.places import Patch
from fusion3d.grid import Window
from fusion3d.store import Store

Float64 = npt.NDArray[np.float64]

HEIGHT_PERCENTILES = (5, 25, 50, 75, 95, 99)
DATE_PERCENTILES = (10, 50, 90)
ENERGY_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_MANY_PIXELS = 4
"""Pixels on a column's side from which percentiles of them are taken."""
_YEAR = 365.2425
_SHRINK = 0.1
"""Added to the normal equations of harmonics, in dates, so that few dates give small terms."""


def raw_features(
    store: Store, chosen: Sequence[Patch], names: Sequence[str], wanted: BoolArray | None = None, *,
    advance: Callable[[], None] | None = None,
) -> tuple[Int64, dict[str, Float64]]:  # fmt: skip
    """Columns [N] that patches own (rising) and, by sensor, their features [N, F]; a row of NaN where it saw nothing.

    Parameters
    ----------
    wanted : [rows, cols] of the grid, the columns to keep; None keeps all
    """
    cols = store.grid.cols
    columns: list[Int64] = []
    parts: dict[str, list[Float64]] = {name: [] for name in names}
    for patch in chosen:
        row, col = np.mgrid[patch.own.row : patch.own.row_stop, patch.own.col : patch.own.col_stop]
        kept = np.ones(row.shape, np.bool_) if wanted is None else wanted[row, col]
        columns.append((row * cols + col)[kept])
        for name in names:
            parts[name].append(sensor_features(store, name, patch)[kept.ravel()])
        if advance is not None:
            advance()
    where = np.concatenate(columns) if columns else np.zeros(0, np.int64)
    order = np.argsort(where)
    return where[order], {name: np.concatenate(found)[order] for name, found in parts.items() if found}


def sensor_features(store: Store, name: str, patch: Patch) -> Float64:
    """[columns, F] of the columns that a patch owns, in row-major order."""
    own, window = patch.own, patch.window
    if name == "als":
        return height_metrics(store, own)
    if name != "gedi":
        return raster_features(store, name, own)
    # footprints of the whole patch, as for its embedding: they reach over the edge of the part that it owns
    found = waveform_metrics(store, window).reshape(window.rows, window.cols, -1)
    row, col = own.row - window.row, own.col - window.col
    return found[row : row + own.rows, col : col + own.cols].reshape(own.size, -1)


def height_metrics(store: Store, window: Window) -> Float64:
    """[columns, F] height metrics, densities, return and intensity statistics of the points that encoders see."""
    als = store.attributes.als
    stored = als.attributes if als is not None else ()
    names = [name for name in ("classification", "withheld", "intensity", "return_number", "number_of_returns") if name in stored]
    points = store.points(window, names)
    keep = np.isfinite(points.height)
    if "classification" in names:
        keep &= ~np.isin(points.attributes["classification"], NOISE_CLASSES)
    if "withheld" in names:
        keep &= ~points.attributes["withheld"].astype(bool)

    def values(name: str) -> Float64:
        return points.attributes[name].astype(np.float64) if name in names else np.ones(len(points))

    returns, first, intensity = values("number_of_returns"), values("return_number") == 1, values("intensity")
    rows = np.full((window.size, len(HEIGHT_PERCENTILES) + 9), np.nan)
    for column, (start, stop) in enumerate(zip(points.row_splits[:-1], points.row_splits[1:], strict=True)):
        used = start + np.flatnonzero(keep[start:stop])
        if not len(used):
            continue
        height, high = points.height[used], points.height[used] > 2
        rows[column] = [
            *np.percentile(height, HEIGHT_PERCENTILES),
            height.max(),
            height.mean(),
            height.std(),
            high.mean(),
            (first[used] & high).sum() / max(first[used].sum(), 1),
            ((height > 0.3) & (height < 3)).mean(),
            returns[used].mean(),
            intensity[used].mean(),
            intensity[used].std(),
        ]
    return rows


def raster_features(store: Store, name: str, window: Window) -> Float64:
    """[columns, F] of a raster: statistics of the pixels of one date, or statistics and harmonics of a series."""
    info = store.raster_info(name)
    steps = [_date_features(store, name, window, step) for step in range(len(info.dates))]
    if len(steps) == 1:
        return steps[0][0].reshape(-1, window.size).T
    stack = np.stack([found[0][: len(info.bands)].reshape(-1, window.size) for found in steps])
    days = np.array([np.nan if date is None else date.timetuple().tm_yday for _, date in steps])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        percentiles = np.nanpercentile(stack, DATE_PERCENTILES, axis=0)
        over_dates = np.concatenate([np.nanmean(stack, axis=0), np.nanstd(stack, axis=0), *percentiles]).T
    return np.concatenate([over_dates, harmonics(stack[np.isfinite(days)], days[np.isfinite(days)])], axis=1)


def _date_features(store: Store, name: str, window: Window, step: int) -> tuple[Float64, datetime.date | None]:
    """[F, rows, cols] means of the pixels of a date by band, then their spread and percentiles; and the date."""
    raster = store.raster(name, window, [step])
    values = np.where(raster.valid, raster.values, np.nan)[0].astype(np.float64)
    fine = raster.pixels_per_column
    if not fine:
        rows, cols = (
            (np.arange(size) + first) // raster.columns_per_pixel
            for size, first in zip((window.rows, window.cols), raster.pixel_origin, strict=True)
        )
        return values[:, rows[:, None], cols[None, :]], raster.dates[0]
    cells = values.reshape(len(values), window.rows, fine, window.cols, fine).transpose(0, 1, 3, 2, 4)
    cells = cells.reshape(*cells.shape[:3], -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = [np.nanmean(cells, axis=3)]
        if fine > 1:
            found.append(np.nanstd(cells, axis=3))
        if fine >= _MANY_PIXELS and len(store.raster_info(name).dates) == 1:
            found += list(np.nanpercentile(cells, DATE_PERCENTILES, axis=3))
    return np.concatenate(found), raster.dates[0]


def harmonics(stack: Float64, days: Float64, terms: int = 2) -> Float64:
    """Fourier terms of the day of year, by least squares: [columns, C (1 + 2 terms)] with mean, cosines and sines by band.

    Parameters
    ----------
    stack : [dates, C, columns], NaN where a column was not seen
    days : [dates] day of year, 1 to 366
    """
    angle = 2 * np.pi * days / _YEAR
    basis = np.stack([np.ones_like(angle), *(f(k * angle) for k in range(1, terms + 1) for f in (np.cos, np.sin))], axis=1)
    found = []
    for band in stack.transpose(1, 2, 0):
        seen = np.isfinite(band)
        shrink = _SHRINK * np.diag([0.0] + [1.0] * (2 * terms))
        normal = np.einsum("nt,ti,tj->nij", seen, basis, basis) + shrink
        right = np.einsum("nt,ti->ni", np.where(seen, band, 0.0), basis)
        known = seen.any(axis=1)
        fitted = np.full((len(band), 2 * terms + 1), np.nan)
        fitted[known] = np.linalg.solve(normal[known], right[known, :, None])[..., 0]
        found.append(fitted)
    return np.concatenate(found, axis=1)


def waveform_metrics(store: Store, window: Window) -> Float64:
    """[columns, F] relative heights (m) at shares of the energy, energy near the ground and above 5 m, of GEDI footprints."""
    table = store.footprints(window)
    rows = np.zeros((len(table.x), len(ENERGY_QUANTILES) + 2))
    for number, (start, stop) in enumerate(zip(table.row_splits[:-1], table.row_splits[1:], strict=True)):
        heights, energy = (part[start:stop].astype(np.float64) for part in (table.heights, table.energy))
        known = np.isfinite(heights) & np.isfinite(energy)
        heights, energy = heights[known], energy[known]
        if not len(heights) or energy.sum() <= 0:
            rows[number] = np.nan
            continue
        energy = energy / energy.sum()
        order = np.argsort(heights)
        quantiles = np.interp(ENERGY_QUANTILES, np.cumsum(energy[order]), heights[order])
        rows[number] = [*quantiles, energy[np.abs(heights) < 1.5].sum(), energy[heights > 5].sum()]
    grid, side = store.grid, max(window.rows, window.cols)
    west, _, _, north = grid.bounds(window)
    place = torch.from_numpy(np.stack([(table.x - west) * grid.unit, (north - table.y) * grid.unit], axis=1))
    usable = torch.from_numpy(np.isfinite(rows).all(axis=1))
    mean, seen = footprints_to_cells(torch.from_numpy(rows), usable, place, grid.column, side)
    found = torch.where(seen.unsqueeze(1), mean, torch.nan).reshape(side, side, -1)[: window.rows, : window.cols]
    return found.reshape(window.size, -1).numpy()
