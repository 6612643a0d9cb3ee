"""Hide a part of what a sensor saw, and say what was hidden: the questions that `retention` asks.

What is hidden of each sensor:

- als: the points of half of the cells of a quarter column's side (whole cells: a near neighbour gives nothing away);
- gedi: half of the vertical points;
- rasters: 30 % of the bands and 30 % of the dates of each chip, and, where a column holds several pixels a side, 30 % of its
  patches of a quarter column; at least one band and one date stay. A raster of one band, one date and one pixel a column has
  nothing to spare: it is asked for what it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fusion3d.data.chips import collate
from fusion3d.data.observation import ChipBatch, FootprintObservation, PointObservation, RasterObservation
from fusion3d.ops import column_of_row, height_profile, splits_from_counts
from fusion3d.pretraining.memory import give_back_freed_memory
from fusion3d.pretraining.objective import to_columns

POINT_SHARE = 0.5
RASTER_SHARE = 0.3
PROFILE_TOP = 64.0
PROFILE_BIN = 1.0
PROFILE_BINS = int(PROFILE_TOP / PROFILE_BIN) + 1
"""Bins of 1 m from -1 m to 64 m above ground; what is lower or higher counts in the outermost."""

_CELLS = 4


@dataclass(frozen=True)
class HiddenProfile:
    """Square roots of the shares of the hidden points (als) or energy (gedi) by height bin, scaled to a mean square of 1.

    The square root makes bins of few points count: differences are then Hellinger distances.
    """

    target: Float[Tensor, "sites bins"]
    known: Bool[Tensor, " sites"]


@dataclass(frozen=True)
class HiddenPixels:
    """Means by column, date and band of the hidden pixels, standardised; `known` where there was a valid one."""

    target: Float[Tensor, "chips dates channels rows cols"]
    known: Bool[Tensor, "chips dates channels rows cols"]


Hidden = HiddenProfile | HiddenPixels


def hide(batch: ChipBatch, sensor: str, generator: torch.Generator) -> tuple[ChipBatch, Hidden] | None:
    """A batch in which a part of what `sensor` saw is hidden, with that part; None where the sensor saw nothing.

    Parameters
    ----------
    generator : on the CPU, so that the same is hidden on every device
    """
    if sensor == "als":
        if batch.als is None:
            return None
        points, profile = hide_points(batch.als, batch.column, generator)
        return replace(batch, als=points), profile
    if sensor == "gedi":
        if batch.gedi is None:
            return None
        footprints, profile = hide_vertical_points(batch.gedi, generator)
        return replace(batch, gedi=footprints), profile
    if sensor not in batch.rasters:
        return None
    raster, pixels = hide_pixels(batch.rasters[sensor], batch.size, generator)
    return replace(batch, rasters={**batch.rasters, sensor: raster}), pixels


def hide_by_chip(batch: ChipBatch, sensor: str, generators: Sequence[torch.Generator]) -> tuple[ChipBatch, Hidden] | None:
    """As `hide`, with a generator for each chip: what is hidden of a chip does not depend on the others of its batch."""
    found = [hide(batch.part(chip, chip + 1), sensor, generator) for chip, generator in enumerate(generators)]
    questions = [question for question in found if question is not None]
    if len(questions) < 2:
        return questions[0] if questions else None
    shown, hidden = zip(*questions, strict=True)
    return collate(shown), _joined(hidden)


def all_of(batch: ChipBatch, sensor: str) -> Hidden | None:
    """All that `sensor` saw, in the form in which `hide` gives what it hides; None where it saw nothing."""
    if sensor == "als":
        points = batch.als
        return None if points is None else _profile(points.height, torch.ones_like(points.height), points.row_splits.diff())
    if sensor == "gedi":
        shots = batch.gedi
        return None if shots is None else _profile(shots.height, shots.energy.clamp(min=0), shots.row_splits.diff())
    if sensor not in batch.rasters:
        return None
    found = []
    for number in range(batch.chips):  # one at a time: copies of all pixels of a batch are large
        give_back_freed_memory()
        chip = batch.rasters[sensor].part(number, number + 1)
        found.append(_pixel_means(chip, chip.valid & chip.date_present[:, :, None, None, None], batch.size))
    return _joined(found)


def _joined(hidden: Sequence[Hidden]) -> Hidden:
    """What was hidden of consecutive chips as that of one batch."""
    return type(hidden[0])(*(torch.cat([getattr(part, name) for part in hidden]) for name in ("target", "known")))


def hide_points(points: PointObservation, column: float, generator: torch.Generator) -> tuple[PointObservation, HiddenProfile]:
    """Hide the points of half of the cells of each column.

    Parameters
    ----------
    column : side of a column, metres
    """
    columns = points.row_splits.numel() - 1
    device = points.height.device
    closed = (torch.rand(columns, _CELLS, _CELLS, generator=generator) < POINT_SHARE).to(device)
    cell = (points.offset * (_CELLS / column)).long().clamp(0, _CELLS - 1)
    owner = column_of_row(points.row_splits)
    hidden = closed[owner, cell[:, 1], cell[:, 0]]
    left = _counts(~hidden, owner, columns)
    profile = _profile(points.height[hidden], torch.ones_like(points.height[hidden]), _counts(hidden, owner, columns))
    shown = replace(
        points,
        offset=points.offset[~hidden],
        height=points.height[~hidden],
        attributes=points.attributes[~hidden],
        row_splits=splits_from_counts(left),
    )
    return shown, replace(profile, known=profile.known & (left > 0))


def hide_vertical_points(
    footprints: FootprintObservation, generator: torch.Generator
) -> tuple[FootprintObservation, HiddenProfile]:
    """Hide half of the vertical points of each footprint."""
    device = footprints.height.device
    hidden = (torch.rand(footprints.height.numel(), generator=generator) < POINT_SHARE).to(device)
    owner = column_of_row(footprints.row_splits)
    left = _counts(~hidden, owner, footprints.count)
    profile = _profile(
        footprints.height[hidden], footprints.energy[hidden].clamp(min=0), _counts(hidden, owner, footprints.count)
    )
    shown = replace(
        footprints, height=footprints.height[~hidden], energy=footprints.energy[~hidden], row_splits=splits_from_counts(left)
    )
    return shown, replace(profile, known=profile.known & (left > 0))


def _counts(chosen: Tensor, owner: Tensor, owners: int) -> Tensor:
    return torch.bincount(owner[chosen], minlength=owners)


def _profile(heights: Tensor, weights: Tensor, counts: Tensor) -> HiddenProfile:
    edges = torch.arange(-PROFILE_BIN, PROFILE_TOP + PROFILE_BIN / 2, PROFILE_BIN)
    inside = heights.float().clamp(-PROFILE_BIN, PROFILE_TOP)
    energy = height_profile(inside, splits_from_counts(counts), edges, weights.float())
    total = energy.sum(dim=1, keepdim=True)
    return HiddenProfile((energy * (PROFILE_BINS / total.clamp(min=1e-12))).sqrt(), total[:, 0] > 0)


def hide_pixels(raster: RasterObservation, size: int, generator: torch.Generator) -> tuple[RasterObservation, HiddenPixels]:
    """Hide bands, dates and patches of columns of each chip.

    Parameters
    ----------
    size : columns a side of a chip
    """
    chips, _, channels, height, width = raster.values.shape
    device = raster.values.device
    hidden = torch.zeros(raster.valid.shape, dtype=torch.bool)
    hidden |= _some(torch.ones(chips, channels, dtype=torch.bool), generator)[:, None, :, None, None]
    gone = _some(raster.date_present.cpu(), generator)
    hidden |= gone[:, :, None, None, None]
    if raster.pixels_per_column >= 2:
        patch = max(1, raster.pixels_per_column // _CELLS)
        closed = torch.rand(chips, -(-height // patch), -(-width // patch), generator=generator) < RASTER_SHARE
        closed = closed.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, :height, :width]
        hidden |= closed[:, None, None]
    if not hidden.any():
        return raster, _pixel_means(raster, raster.valid, size)
    hidden = hidden.to(device) & raster.valid
    valid = raster.valid & ~hidden
    shown = replace(raster, values=raster.values * valid, valid=valid, date_present=raster.date_present & ~gone.to(device))
    return shown, _pixel_means(raster, hidden, size)


def _some(present: Tensor, generator: torch.Generator) -> Tensor:
    """[B, K] of each row about 30 % of what is present, at least one when there are two, never all."""
    order = torch.where(present, torch.rand(present.shape, generator=generator), torch.inf).argsort(dim=1).argsort(dim=1)
    count = present.sum(dim=1, keepdim=True)
    some = torch.minimum((count * RASTER_SHARE).round().long().clamp(min=1), count - 1)
    return (order < some) & present


def _pixel_means(raster: RasterObservation, asked: Tensor, size: int) -> HiddenPixels:
    chips, dates, channels = raster.values.shape[:3]
    by_column = [
        to_columns(part.flatten(1, 2), raster, size).sum(dim=(-1, -2)).reshape(chips, dates, channels, size, size)
        for part in (raster.values.float() * asked, asked.float())
    ]
    total, count = by_column
    return HiddenPixels(total / count.clamp(min=1), count > 0)
