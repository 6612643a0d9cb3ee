"""A small synthetic scene that every sensor saw, cut into chips anywhere: what encoders are tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fusion3d.data.observation import (
    FOOTPRINT_ATTRIBUTES,
    POINT_ATTRIBUTES,
    ChipBatch,
    FootprintObservation,
    PointObservation,
    RasterObservation,
)
from fusion3d.io.bands import BLUE, GREEN, NIR, RED, SENTINEL1, Band

COLUMN, VOXEL = 8.0, 1.0
RASTERS = ("coarse", "ortho", "s1", "s2")
SENSORS = ("als", "gedi", *RASTERS)


@dataclass(frozen=True)
class Cloud:
    """Points by their distance from the scene's north-west corner (east, south: float64 metres)."""

    plane: Tensor
    height: Tensor
    attributes: Tensor

    def cut(self, origin: Tensor, size: int, column: float = COLUMN) -> PointObservation:
        """Points of the chips, sorted by column."""
        place = (self.plane / column).floor()
        within = self.plane - place * column
        found, kept = [], []
        for chip, corner in enumerate(origin.tolist()):
            row, col = place[:, 1].long() - corner[0], place[:, 0].long() - corner[1]
            inside = ((row >= 0) & (row < size) & (col >= 0) & (col < size)).nonzero().squeeze(1)
            kept.append(inside)
            found.append((chip * size + row[inside]) * size + col[inside])
        none = torch.empty(0, dtype=torch.int64)
        number, index = torch.cat([none, *found]), torch.cat([none, *kept])
        order = number.argsort(stable=True)
        counts = torch.bincount(number, minlength=len(origin) * size * size)
        splits = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
        index = index[order]
        return PointObservation(within[index].float(), self.height[index].float(), self.attributes[index].float(), splits)


@dataclass(frozen=True)
class Image:
    """A raster over the whole scene, [dates, channels, height, width]; `start` is where its first pixel lies, in columns."""

    values: Tensor
    valid: Tensor
    days: Tensor
    bands: tuple[Band, ...]
    pixels_per_column: int = 1
    columns_per_pixel: int = 0
    start: int = 0
    column: float = COLUMN

    def cut(self, origin: Tensor, size: int) -> RasterObservation:
        fine, coarse = self.pixels_per_column, self.columns_per_pixel
        if fine:
            side, inside = size * fine, torch.zeros_like(origin)
            first = origin * fine
        else:
            side, inside = (size + coarse - 2) // coarse + 1, (origin - self.start) % coarse
            first = (origin - self.start) // coarse
        windows = [(..., slice(row, row + side), slice(col, col + side)) for row, col in first.tolist()]
        values, valid = (self._windows(image, windows, side) for image in (self.values, self.valid))
        days = self.days.expand(len(origin), -1).clone()
        pixel = self.column / fine if fine else self.column * coarse
        present = torch.ones_like(days, dtype=torch.bool)
        return RasterObservation(values, valid, days, present, self.bands, pixel, fine, 1 if fine == 1 else coarse, inside)

    def _windows(self, whole: Tensor, windows: list, side: int) -> Tensor:
        # Pixels beyond the end of the scene, that the last chips may ask for, are not valid.
        padded = torch.nn.functional.pad(whole, (0, 2, 0, 2)) if self.columns_per_pixel else whole
        return (
            torch.stack([padded[window] for window in windows]) if windows else whole.new_zeros(0, *whole.shape[:2], side, side)
        )


def cloud(rows: int, cols: int, per_column: int = 20, seed: int = 0, column: float = COLUMN) -> Cloud:
    """Canopy of 0 to 6 m, so that voxels touch."""
    random = torch.Generator().manual_seed(seed)
    number = rows * cols * per_column
    extent = torch.tensor([cols, rows], dtype=torch.float64) * column
    # On a lattice of 1/1024 m offsets are exact in float32: two cuts of a point agree to the last bit.
    plane = (torch.rand(number, 2, generator=random, dtype=torch.float64) * extent * 1024).floor() / 1024
    height = torch.rand(number, generator=random) * (3 + 3 * torch.sin(plane.sum(1).float() / 9))
    return Cloud(plane, height, torch.rand(number, len(POINT_ATTRIBUTES), generator=random))


def image(
    rows: int,
    cols: int,
    bands: Sequence[Band],
    days: Sequence[float],
    fine: int = 1,
    coarse: int = 0,
    start: int = 0,
    seed: int = 0,
) -> Image:
    """Smooth values with noise; a tenth of the pixels and a corner of the first date are not valid."""
    random = torch.Generator().manual_seed(seed)
    height, width = (
        (rows * fine, cols * fine) if fine else ((rows - start + coarse - 1) // coarse, (cols - start + coarse - 1) // coarse)
    )
    shape = (len(days), len(bands), height, width)
    valid = torch.rand(shape, generator=random) > 0.1
    valid[0, :, : height // 3, : width // 3] = False
    values = torch.randn(shape, generator=random)
    return Image(torch.where(valid, values, 0.0), valid, torch.tensor(days), tuple(bands), fine, coarse, start)


def footprints(origin: Tensor, size: int, each: int = 3, points: int = 9, seed: int = 0) -> FootprintObservation:
    """`each` footprints in each chip; the first has no date."""
    random = torch.Generator().manual_seed(seed)
    number = len(origin) * each
    day = 18_000 + 700 * torch.rand(number, generator=random)
    day[:1] = float("nan")
    return FootprintObservation(
        position=torch.rand(number, 2, generator=random) * size * COLUMN,
        chip=torch.arange(len(origin)).repeat_interleave(each),
        height=torch.rand(number * points, generator=random) * 30,
        energy=torch.rand(number * points, generator=random) / points,
        row_splits=torch.arange(number + 1) * points,
        attributes=torch.rand(number, len(FOOTPRINT_ATTRIBUTES), generator=random),
        day=day,
    )


def chips(origin: Sequence[tuple[int, int]] = ((3, 5), (4, 2)), size: int = 4, sensors: Sequence[str] = SENSORS) -> ChipBatch:
    """Chips of one scene of 16 x 16 columns that all of `SENSORS` saw."""
    corner = torch.tensor(origin, dtype=torch.int64).reshape(-1, 2)
    nan = float("nan")
    pictures = {
        "coarse": image(16, 16, (Band("T", 11_000.0),), (18_100.0,), fine=0, coarse=5, start=-2, seed=1),
        "ortho": image(16, 16, (RED, GREEN, BLUE), (nan,), fine=8, seed=2),
        "s1": image(16, 16, SENTINEL1, (18_010.0, 18_022.0), seed=3),
        "s2": image(16, 16, (RED, GREEN, BLUE, NIR), (18_000.0, 18_090.0, nan), seed=4),
    }
    return ChipBatch(
        origin=corner,
        size=size,
        column=COLUMN,
        voxel=VOXEL,
        als=cloud(16, 16).cut(corner, size) if "als" in sensors else None,
        gedi=footprints(corner, size) if "gedi" in sensors else None,
        rasters={name: picture.cut(corner, size) for name, picture in pictures.items() if name in sensors},
    )


def only(batch: ChipBatch, *sensors: str) -> ChipBatch:
    """The batch as if no other sensor had seen it."""
    rasters = {name: raster for name, raster in batch.rasters.items() if name in sensors}
    return replace(
        batch, als=batch.als if "als" in sensors else None, gedi=batch.gedi if "gedi" in sensors else None, rasters=rasters
    )


def with_raster(batch: ChipBatch, sensor: str, **changes: object) -> ChipBatch:
    """The batch with other fields of one raster."""
    return replace(batch, rasters={**batch.rasters, sensor: replace(batch.rasters[sensor], **changes)})


def emptied(batch: ChipBatch) -> ChipBatch:
    """Every sensor is there and saw nothing: no points, no footprints, no valid pixel."""
    als = PointObservation(
        torch.empty(0, 2),
        torch.empty(0),
        torch.empty(0, len(POINT_ATTRIBUTES)),
        torch.zeros(batch.columns + 1, dtype=torch.int64),
    )
    gedi = footprints(batch.origin, batch.size, each=0) if batch.gedi else None
    rasters = {
        name: replace(raster, values=torch.zeros_like(raster.values), valid=torch.zeros_like(raster.valid))
        for name, raster in batch.rasters.items()
    }
    return replace(batch, als=als if batch.als else None, gedi=gedi, rasters=rasters)


def single(batch: ChipBatch, column: int) -> ChipBatch:
    """Every sensor saw one thing in column `column`: a point, a footprint of one vertical point, a pixel of one band and date."""
    nothing = emptied(batch)
    splits = torch.zeros(batch.columns + 1, dtype=torch.int64)
    splits[column + 1 :] = 1
    als = PointObservation(torch.tensor([[2.5, 1.5]]), torch.tensor([3.2]), torch.full((1, len(POINT_ATTRIBUTES)), 0.5), splits)
    gedi = footprints(batch.origin[:1], batch.size, each=1, points=1)
    chip, row, col = column // batch.size**2, column // batch.size % batch.size, column % batch.size
    for name, raster in nothing.rasters.items():
        if raster.pixels_per_column:
            at = row * raster.pixels_per_column, col * raster.pixels_per_column
        else:
            at = tuple(((raster.pixel_origin[chip] + torch.tensor([row, col])) // raster.columns_per_pixel).tolist())
        raster.values[(chip, 0, 0, *at)] = 0.7
        raster.valid[(chip, 0, 0, *at)] = True
        assert nothing.rasters[name] is raster
    return replace(nothing, als=als if batch.als else None, gedi=gedi if batch.gedi else None)
