"""What can go wrong with a sensor, done to what it measured before an encoder sees it: noise, gaps, and a shift in the map plane.

Random numbers depend on the seed, the draw, the sensor and the window alone: a higher level of noise is the same noise, stronger,
and a larger share of missing columns holds the smaller one.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fusion3d.data.observation import ChipBatch, FootprintObservation, PointObservation, RasterObservation
from fusion3d.encoders import kind_of
from fusion3d.store import Store

Alter = Callable[[ChipBatch], ChipBatch]

NOISE = {
    "als": ((0.5, 1.0, 2.0), "m of height"),
    "gedi": ((0.25, 0.5, 1.0), "of the mean energy"),
    "raster": ((0.5, 1.0, 2.0), "standard deviations"),
}
"""Levels of noise (one standard deviation) and their unit, by kind of sensor."""
SHIFTS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Columns by which a sensor is moved."""
DIRECTIONS = ((1.0, 0.0), (0.0, -1.0), (-1.0, 0.0), (0.0, 1.0))
"""East and south, of each draw of a shift: to the east, north, west and south."""
_NOISE, _GAPS = 1, 2
_NEAR = 0.05


def _generator(batch: ChipBatch, sensor: str, *key: int) -> np.random.Generator:
    return np.random.default_rng([*key, zlib.crc32(sensor.encode()), *(batch.origin.flatten() % 2**32).tolist()])


def _normal(generator: np.random.Generator, like: Tensor) -> Tensor:
    return torch.from_numpy(generator.standard_normal(tuple(like.shape), dtype=np.float32)).to(like)


# -- noise


def noisy(sensor: str, level: float, seed: int, draw: int) -> Alter:
    """Add independent Gaussian noise to what a sensor measured.

    To the height of every als point, metres; to the energy of every vertical point of a GEDI footprint, as a share of the mean
    energy of its points; to every valid value of a raster, in standard deviations of its band over the store.
    """

    def alter(batch: ChipBatch) -> ChipBatch:
        generator = _generator(batch, sensor, seed, draw, _NOISE)
        if sensor == "als" and batch.als is not None:
            return replace(batch, als=replace(batch.als, height=batch.als.height + level * _normal(generator, batch.als.height)))
        if sensor == "gedi" and batch.gedi is not None:
            found = batch.gedi
            spread = level * _mean_energy(found)
            return replace(batch, gedi=replace(found, energy=found.energy + spread * _normal(generator, found.energy)))
        if sensor in batch.rasters:
            raster = batch.rasters[sensor]
            values = torch.where(raster.valid, raster.values + level * _normal(generator, raster.values), 0.0)
            return _with_raster(batch, sensor, replace(raster, values=values))
        return batch

    return alter


def _mean_energy(footprints: FootprintObservation) -> Tensor:
    """Of its footprint, for each vertical point; energy below 0 counts as 0, as in the encoder."""
    counts = footprints.row_splits.diff()
    owner = torch.arange(footprints.count).repeat_interleave(counts)
    total = torch.zeros(footprints.count).index_add(0, owner, footprints.energy.clamp(min=0))
    return (total / counts.clamp(min=1))[owner]


# -- gaps


def gappy(sensor: str, share: float, seed: int, draw: int) -> Alter:
    """Leave out what a sensor measured of a random share of the columns, each by itself.

    A footprint is missing where the column of its centre is. A pixel that is larger than a column is one draw.
    """

    def alter(batch: ChipBatch) -> ChipBatch:
        generator = _generator(batch, sensor, seed, draw, _GAPS)
        if sensor in batch.rasters:
            raster = batch.rasters[sensor]
            return _with_raster(batch, sensor, _without_pixels(raster, batch, share, generator))
        missing = torch.from_numpy(generator.random(batch.columns) < share)
        if sensor == "als" and batch.als is not None:
            return replace(batch, als=_without_points(batch.als, missing))
        if sensor == "gedi" and batch.gedi is not None:
            place = (batch.gedi.position / batch.column).floor().long().clamp(0, batch.size - 1)
            column = (batch.gedi.chip * batch.size + place[:, 1]) * batch.size + place[:, 0]
            return replace(batch, gedi=_some_footprints(batch.gedi, ~missing[column]))
        return batch

    return alter


def _without_points(points: PointObservation, missing: Tensor) -> PointObservation | None:
    counts = points.row_splits.diff()
    kept = ~missing.repeat_interleave(counts)
    if not kept.any():
        return None
    splits = _splits(torch.where(missing, 0, counts))
    return PointObservation(points.offset[kept], points.height[kept], points.attributes[kept], splits)


def _some_footprints(found: FootprintObservation, kept: Tensor) -> FootprintObservation | None:
    if not kept.any():
        return None
    counts = found.row_splits.diff()
    points = kept.repeat_interleave(counts)
    return FootprintObservation(
        found.position[kept],
        found.chip[kept],
        found.height[points],
        found.energy[points],
        _splits(counts[kept]),
        found.attributes[kept],
        found.day[kept],
    )


def _without_pixels(
    raster: RasterObservation, batch: ChipBatch, share: float, generator: np.random.Generator
) -> RasterObservation:
    chips, height, width = raster.values.shape[0], *raster.values.shape[-2:]
    fine = raster.pixels_per_column
    shape = (chips, batch.size, batch.size) if fine else (chips, height, width)
    missing = torch.from_numpy(generator.random(shape) < share)
    if fine > 1:
        missing = missing.repeat_interleave(fine, dim=1).repeat_interleave(fine, dim=2)
    valid = raster.valid & ~missing[:, None, None]
    return replace(raster, valid=valid, values=torch.where(valid, raster.values, 0.0))


def _splits(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _with_raster(batch: ChipBatch, sensor: str, raster: RasterObservation) -> ChipBatch:
    return replace(batch, rasters={**batch.rasters, sensor: raster})


# -- misregistration


def shift_steps(store: Store, sensor: str) -> tuple[float, ...]:
    """Columns by which a sensor can be moved: `SHIFTS`, for a raster each to the nearest whole pixel.

    A step that whole pixels meet within a twentieth of a column keeps its name.
    """
    if kind_of(sensor) != "raster":
        return SHIFTS
    pixel = store.raster_info(sensor).pixel / store.grid.column
    moved = [_whole(step / pixel) * pixel for step in SHIFTS]
    return tuple(sorted({step if abs(by - step) <= _NEAR else by for step, by in zip(SHIFTS, moved, strict=True)}))


def shifted(sensor: str, east: float, south: float) -> Alter:
    """Move what a sensor measured in the map plane, by columns; what leaves the window is lost, nothing comes in.

    Points and footprints move by any distance, rasters by the nearest number of whole pixels.
    """

    def alter(batch: ChipBatch) -> ChipBatch:
        if sensor == "als" and batch.als is not None:
            return replace(batch, als=_moved_points(batch.als, batch, east, south))
        if sensor == "gedi" and batch.gedi is not None:
            by = torch.tensor([east, south]) * batch.column
            return replace(batch, gedi=replace(batch.gedi, position=batch.gedi.position + by))
        if sensor in batch.rasters:
            raster = batch.rasters[sensor]
            pixels = [_whole(part * batch.column / raster.pixel) for part in (south, east)]
            valid = _moved(raster.valid, *pixels)
            return _with_raster(batch, sensor, replace(raster, values=_moved(raster.values, *pixels), valid=valid))
        return batch

    return alter


def _moved_points(points: PointObservation, batch: ChipBatch, east: float, south: float) -> PointObservation | None:
    size, side = batch.size, batch.column
    column = torch.arange(batch.columns).repeat_interleave(points.row_splits.diff())
    chip, row, col = column // size**2, column // size % size, column % size
    place = points.offset.double() + torch.stack([col + east, row + south], dim=1) * side
    cell = (place / side).floor()
    kept = ((cell >= 0) & (cell < size)).all(dim=1)
    if not kept.any():
        return None
    # rounding to float32 must not put a point on the far edge, which belongs to the next column
    inside = (place - cell * side).float().clamp(0.0, float(np.nextafter(np.float32(side), np.float32(0))))
    home = ((chip * size + cell[:, 1].long()) * size + cell[:, 0].long())[kept]
    order = home.argsort(stable=True)
    splits = _splits(torch.bincount(home, minlength=batch.columns))
    offset, height, attributes = (part[kept][order] for part in (inside, points.height, points.attributes))
    return PointObservation(offset, height, attributes, splits)


def _moved(pixels: Tensor, south: int, east: int) -> Tensor:
    """[..., H, W] moved by whole pixels, zero (or false) where nothing came from."""
    height, width = pixels.shape[-2:]
    found = torch.zeros_like(pixels)
    if abs(south) < height and abs(east) < width:
        found[..., _cut(height, south), _cut(width, east)] = pixels[..., _cut(height, -south), _cut(width, -east)]
    return found


def _cut(length: int, by: int) -> slice:
    """Where what is moved by that much lies."""
    return slice(max(0, by), length + min(0, by))


def _whole(pixels: float) -> int:
    """The nearest whole number, halves away from zero."""
    return int(math.copysign(math.floor(abs(pixels) + 0.5 + 1e-9), pixels))
