"""Hide whole columns of chips from every sensor: what a joint-embedding predictor has to guess."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from fusion3d.data.observation import ChipBatch, FootprintObservation, PointObservation, RasterObservation
from fusion3d.ops import column_of_row, splits_from_counts


def drawn_columns(batch: ChipBatch, share: float, generator: torch.Generator) -> Bool[Tensor, " columns"]:
    """[M] the same number of columns of every chip, drawn at random on the CPU."""
    side = batch.size**2
    order = torch.rand(batch.chips, side, generator=generator).argsort(dim=1).argsort(dim=1)
    return (order < round(share * side)).reshape(-1)


def without_columns(batch: ChipBatch, hidden: Bool[Tensor, " columns"]) -> ChipBatch:
    """A batch in which no sensor saw the hidden columns; a sensor that saw nothing else is absent.

    Footprints go with the column that holds their centre, a pixel of several columns when half of them are hidden.
    """
    als = None if batch.als is None else _without_points(batch.als, hidden)
    gedi = None if batch.gedi is None else _without_footprints(batch, batch.gedi, hidden)
    return replace(
        batch,
        als=als if als is not None and als.height.numel() else None,
        gedi=gedi if gedi is not None and gedi.count else None,
        rasters={name: _without_pixels(raster, hidden, batch.size) for name, raster in batch.rasters.items()},
    )


def footprint_column(batch: ChipBatch, gedi: FootprintObservation) -> Int64[Tensor, " footprints"]:
    """Number of the column that holds each footprint's centre."""
    cell = (gedi.position / batch.column).long().clamp(0, batch.size - 1)
    return (gedi.chip * batch.size + cell[:, 1]) * batch.size + cell[:, 0]


def _without_points(points: PointObservation, hidden: Tensor) -> PointObservation:
    keep = ~hidden.to(points.height.device)[column_of_row(points.row_splits)]
    counts = points.row_splits.diff() * ~hidden.to(points.height.device)
    return replace(
        points,
        offset=points.offset[keep],
        height=points.height[keep],
        attributes=points.attributes[keep],
        row_splits=splits_from_counts(counts),
    )


def _without_footprints(batch: ChipBatch, gedi: FootprintObservation, hidden: Tensor) -> FootprintObservation:
    stays = ~hidden.to(gedi.chip.device)[footprint_column(batch, gedi)]
    points = stays[column_of_row(gedi.row_splits)]
    return FootprintObservation(
        position=gedi.position[stays],
        chip=gedi.chip[stays],
        height=gedi.height[points],
        energy=gedi.energy[points],
        row_splits=splits_from_counts(gedi.row_splits.diff()[stays]),
        attributes=gedi.attributes[stays],
        day=gedi.day[stays],
    )


def _without_pixels(raster: RasterObservation, hidden: Tensor, size: int) -> RasterObservation:
    chips, _, _, height, width = raster.values.shape
    columns = hidden.to(raster.values.device).reshape(chips, size, size)
    closed = torch.zeros(chips, height, width, dtype=torch.bool, device=raster.values.device)
    fine = raster.pixels_per_column
    if fine:
        cut = columns.repeat_interleave(fine, 1).repeat_interleave(fine, 2)[:, :height, :width]
        closed[:, : cut.shape[1], : cut.shape[2]] = cut
    else:
        at = torch.arange(size, device=raster.values.device)
        row, col = ((at + raster.pixel_origin[:, axis, None]) // raster.columns_per_pixel for axis in (0, 1))
        pixel = (row[:, :, None] * width + col[:, None, :]).reshape(chips, -1)
        balance = torch.zeros(chips, height * width, device=pixel.device)
        balance.scatter_add_(1, pixel, columns.reshape(chips, -1).float() * 2 - 1)
        touched = torch.zeros_like(balance).scatter_(1, pixel, 1.0)
        closed = ((balance >= 0) & (touched > 0)).reshape(chips, height, width)
    valid = raster.valid & ~closed[:, None, None]
    return replace(raster, valid=valid, values=raster.values * valid)
