"""Chips: windows of a store as the tensors that encoders take, and many chips joined into one batch."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from fusion3d.data.chances import capped_chances, systematic
from fusion3d.data.observation import (
    Band,
    ChipBatch,
    FootprintObservation,
    PointObservation,
    RasterObservation,
)
from fusion3d.data.turn import turns
from fusion3d.errors import ConfigError
from fusion3d.grid import Window
from fusion3d.io.las_layout import NOISE_CLASSES as NOISE_CLASSES

if TYPE_CHECKING:
    from fusion3d.io.gedi import FootprintFilter
    from fusion3d.store import Store

_EPOCH = datetime.date(1970, 1, 1)
_HALF_SWATH = 30.0
_MOST_RETURNS = 5.0


def read_chips(
    store: Store,
    origins: Sequence[tuple[int, int]],
    size: int,
    sensors: Sequence[str] | None = None,
    *,
    max_dates: int | None = None,
    max_points_per_column: int | None = None,
    footprint_filter: FootprintFilter | None = None,
    generator: np.random.Generator | None = None,
) -> ChipBatch:
    """What the sensors of a store saw of square windows.

    Parameters
    ----------
    origins : row and column of each chip's north-west column; a chip may reach outside of the grid, its columns are empty there
    size : columns a side
    sensors : names to read; None reads all; a name that the store does not hold is left out
    max_dates : of a series, sampled by `generator` (evenly spread without one); None keeps all
    max_points_per_column : a denser column is thinned, by `generator` or evenly in file order without one; None keeps all
    footprint_filter : quality filter of GEDI footprints; None is the published default
    generator : source of randomness in training; without it the result depends on the columns alone. What is drawn of a sensor
        does not depend on which others are read
    """
    names = store.sensors if sensors is None else [name for name in store.sensors if name in sensors]
    return collate(
        [
            _read_chip(store, (int(row), int(col)), size, names, max_dates, max_points_per_column, footprint_filter, generator)
            for row, col in origins
        ]
    )


def _read_chip(
    store: Store,
    origin: tuple[int, int],
    size: int,
    names: Sequence[str],
    max_dates: int | None,
    max_points_per_column: int | None,
    footprint_filter: FootprintFilter | None,
    generator: np.random.Generator | None,
) -> ChipBatch:
    window = Window(*origin, size, size)
    spawned = [None] * len(store.sensors) if generator is None else generator.spawn(len(store.sensors))
    draws = dict(zip(store.sensors, spawned, strict=True))
    rasters = {name: read_raster(store, name, window, max_dates, draws[name]) for name in names if name not in ("als", "gedi")}
    return ChipBatch(
        origin=torch.tensor([origin], dtype=torch.int64),
        size=size,
        column=store.grid.column,
        voxel=store.grid.voxel,
        als=read_points(store, window, max_points_per_column, draws["als"]) if "als" in names else None,
        gedi=read_footprints(store, window, footprint_filter) if "gedi" in names else None,
        rasters={name: raster for name, raster in rasters.items() if raster is not None},
    )


def read_points(
    store: Store, window: Window, max_points_per_column: int | None = None, generator: np.random.Generator | None = None
) -> PointObservation | None:
    """Points of a window without noise, withheld points and points of unknown height; None when nothing is left."""
    stored = store.points(window)
    found = stored.attributes
    keep = np.isfinite(stored.height)
    if "classification" in found:
        keep &= ~np.isin(found["classification"], NOISE_CLASSES)
    if "withheld" in found:
        keep &= ~found["withheld"].astype(bool)
    column = np.repeat(np.arange(window.size), np.diff(stored.row_splits))
    if max_points_per_column is not None:
        keep[np.flatnonzero(keep)] = _thinned(column[keep], max_points_per_column, generator)
    if not keep.any():
        return None
    splits = np.zeros(window.size + 1, np.int64)
    np.cumsum(np.bincount(column[keep], minlength=window.size), out=splits[1:])
    return PointObservation(
        offset=_float(stored.offset[keep]),
        height=_float(stored.height[keep]),
        attributes=_float(point_attributes(found, keep, float(store.statistics("als")["intensity_p95"]))),
        row_splits=torch.from_numpy(splits),
    )


def point_attributes(found: dict[str, npt.NDArray[Any]], keep: npt.NDArray[np.bool_], brightest: float) -> npt.NDArray[Any]:
    """Columns in the order of `POINT_ATTRIBUTES`; a file without one of them counts as single returns at nadir."""

    def values(name: str, absent: float) -> npt.NDArray[np.float32]:
        return found[name][keep].astype(np.float32) if name in found else np.full(int(keep.sum()), absent, np.float32)

    scale = brightest if np.isfinite(brightest) and brightest > 0 else 1.0
    returns = np.maximum(values("number_of_returns", 1.0), 1.0)
    return np.stack(
        [
            np.clip(values("intensity", 0.0) / scale, 0.0, 4.0),
            np.clip(values("return_number", 1.0) / returns, 0.0, 1.0),
            returns / _MOST_RETURNS,
            np.abs(values("scan_angle", 0.0)) / _HALF_SWATH,
        ],
        axis=1,
    )


def _thinned(column: npt.NDArray[np.int64], most: int, generator: np.random.Generator | None) -> npt.NDArray[np.bool_]:
    """Which of the points (sorted by column) stay so that no column holds more than `most`."""
    counts = np.bincount(column)
    starts = np.cumsum(counts) - counts
    total, start = counts[column], starts[column]
    rank = np.arange(len(column)) - start
    if generator is not None:
        order = np.lexsort((generator.random(len(column)), column))
        rank[order] = np.arange(len(column)) - start
    # Of n points exactly `most` ranks k begin a new one of `most` even parts: floor(k * most / n) steps up there.
    evenly = rank * most // total != (rank - 1) * most // total
    return (total <= most) | evenly


def read_raster(
    store: Store, name: str, window: Window, max_dates: int | None = None, generator: np.random.Generator | None = None
) -> RasterObservation | None:
    """A raster sensor's pixels over a window, standardised band by band; None when no pixel is valid."""
    info = store.raster_info(name)
    stored = store.raster(name, window, _steps(info.dates, max_dates, generator))
    valid = stored.valid & np.isfinite(stored.values)
    if not valid.any():
        return None
    mean, std = (np.asarray(part, np.float32)[:, None, None] for part in (info.mean, info.std))
    spread = np.where(np.isfinite(std) & (std > 0), std, np.float32(1.0))
    centre = np.where(np.isfinite(mean), mean, np.float32(0.0))
    values = np.where(valid, (np.where(valid, stored.values, 0.0) - centre) / spread, 0.0)
    days = [float("nan") if date is None else float((date - _EPOCH).days) for date in stored.dates]
    return RasterObservation(
        values=_float(values)[None],
        valid=torch.from_numpy(valid)[None],
        days=torch.tensor([days], dtype=torch.float32),
        date_present=torch.ones(1, len(days), dtype=torch.bool),
        bands=tuple(Band(band.name, band.wavelength, band.fwhm, band.polarisation) for band in stored.bands),
        pixel=float(stored.pixel),
        pixels_per_column=stored.pixels_per_column,
        columns_per_pixel=stored.columns_per_pixel,
        pixel_origin=torch.tensor([stored.pixel_origin], dtype=torch.int64),
    )


def _steps(dates: Sequence[str | None], most: int | None, generator: np.random.Generator | None) -> list[int] | None:
    """Dates to read; drawn ones are spread over the seasons that there are, and alike within each."""
    if most is None or len(dates) <= most:
        return None
    if generator is None:
        return sorted({round(step) for step in np.linspace(0, len(dates) - 1, most)})
    season = np.array([_season(date) for date in dates])
    order = np.lexsort((generator.random(len(dates)), season))
    chance = capped_chances(1.0 / np.bincount(season)[season], 1.0, most)
    return sorted(order[systematic(chance[order], generator.random())].tolist())


def _season(date: str | None) -> int:
    """December to February is 0, ..., September to November is 3; 4 without a date."""
    return 4 if date is None else datetime.date.fromisoformat(date).month % 12 // 3


def read_footprints(store: Store, window: Window, keep: FootprintFilter | None = None) -> FootprintObservation | None:
    """GEDI footprints whose centre lies in a window, with their finite vertical points; None when there are none."""
    table = store.footprints(window, keep)
    count = len(table.x)
    if count == 0:
        return None
    grid = store.grid
    west, _, _, north = grid.bounds(window)
    position = np.stack([(table.x - west) * grid.unit, (north - table.y) * grid.unit], axis=1)
    finite = np.isfinite(table.heights) & np.isfinite(table.energy)
    owner = np.repeat(np.arange(count), np.diff(table.row_splits))[finite]
    splits = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(owner, minlength=count), out=splits[1:])
    attributes = np.stack(
        [
            np.asarray(table.power_beam, np.float32),
            np.asarray(table.sensitivity, np.float32),
            np.asarray(table.solar_elevation, np.float32) / 90.0,
        ],
        axis=1,
    )
    return FootprintObservation(
        position=_float(position),
        chip=torch.zeros(count, dtype=torch.int64),
        height=_float(table.heights[finite]),
        energy=_float(table.energy[finite]),
        row_splits=torch.from_numpy(splits),
        attributes=_float(np.nan_to_num(attributes)),
        day=_float(table.time),
    )


def collate(batches: Sequence[ChipBatch]) -> ChipBatch:
    """One batch from several of the same size; dates and pixels are padded, and the padding is neither present nor valid.

    Raises
    ------
    ConfigError
        The chips differ in size or grid, a sensor's bands differ between stores, or chips were drawn for different pairs.
    """
    if not batches:
        raise ConfigError("a batch needs at least one chip")
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    shapes = {(batch.size, batch.column, batch.voxel) for batch in batches}
    if len(shapes) != 1:
        raise ConfigError(
            f"chips of different size, column or voxel {sorted(shapes)} do not make one batch; prepare the stores alike"
        )
    if any(batch.drawn != first.drawn for batch in batches):
        raise ConfigError("chips that were drawn for different pairs of sensors do not make one batch")
    names = sorted({name for batch in batches for name in batch.rasters})
    return ChipBatch(
        origin=torch.cat([batch.origin for batch in batches]),
        size=first.size,
        column=first.column,
        voxel=first.voxel,
        als=_join_points(batches),
        gedi=_join_footprints(batches),
        rasters={name: _join_raster(name, batches) for name in names},
        drawn=first.drawn,
        store=None if all(batch.store is None for batch in batches) else torch.cat([batch.scene for batch in batches]),
        turn=None if all(batch.turn is None for batch in batches) else torch.cat([turns(batch) for batch in batches]),
    )


def _join_points(batches: Sequence[ChipBatch]) -> PointObservation | None:
    found = [batch.als for batch in batches if batch.als is not None]
    if not found:
        return None
    counts = [
        torch.zeros(batch.columns, dtype=torch.int64) if batch.als is None else batch.als.row_splits.diff() for batch in batches
    ]
    offset, height, attributes = (
        torch.cat([getattr(item, name) for item in found]) for name in ("offset", "height", "attributes")
    )
    return PointObservation(offset, height, attributes, _splits(torch.cat(counts)))


def _join_footprints(batches: Sequence[ChipBatch]) -> FootprintObservation | None:
    found: list[FootprintObservation] = []
    chips: list[torch.Tensor] = []
    first_chip = 0
    for batch in batches:
        if batch.gedi is not None:
            found.append(batch.gedi)
            chips.append(batch.gedi.chip + first_chip)
        first_chip += batch.chips
    if not found:
        return None
    joined = {
        name: torch.cat([getattr(item, name) for item in found]) for name in ("position", "height", "energy", "attributes", "day")
    }
    return FootprintObservation(
        chip=torch.cat(chips), row_splits=_splits(torch.cat([item.row_splits.diff() for item in found])), **joined
    )


def _splits(counts: torch.Tensor) -> torch.Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _join_raster(name: str, batches: Sequence[ChipBatch]) -> RasterObservation:
    found = [batch.rasters[name] for batch in batches if name in batch.rasters]
    first = found[0]
    layouts = {(item.bands, item.pixel, item.pixels_per_column, item.columns_per_pixel) for item in found}
    if len(layouts) != 1:
        raise ConfigError(
            f"sensor {name!r} has other bands or pixels in another store; give one of them another name in `prepare`"
        )
    chips = sum(batch.chips for batch in batches)
    dates, height, width = (max(item.values.shape[axis] for item in found) for axis in (1, 3, 4))
    shape = (chips, dates, len(first.bands), height, width)
    values, valid = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    days, present = torch.full((chips, dates), torch.nan), torch.zeros(chips, dates, dtype=torch.bool)
    origin = torch.zeros(chips, 2, dtype=torch.int64)
    chip = 0
    for batch in batches:
        item = batch.rasters.get(name)
        if item is not None:
            part = slice(chip, chip + batch.chips)
            steps, rows, cols = item.values.shape[1], item.values.shape[3], item.values.shape[4]
            values[part, :steps, :, :rows, :cols] = item.values
            valid[part, :steps, :, :rows, :cols] = item.valid
            days[part, :steps], present[part, :steps] = item.days, item.date_present
            origin[part] = item.pixel_origin
        chip += batch.chips
    return RasterObservation(
        values, valid, days, present, first.bands, first.pixel, first.pixels_per_column, first.columns_per_pixel, origin
    )


def _float(values: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
