"""Chips turned and mirrored: the eight symmetries of a square, the same for all sensors of a chip.

A turn is a number from 0 to 7, the sum of what is done in this order: 1 mirrors east and west, 2 mirrors north and south, 4
exchanges the two axes. What is learnt of a place should not hang on how a grid lies over it, and a small scene becomes eight.
Light and radar come from one side: shadows of a turned chip fall where the sun never stood.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from fusion3d.data.observation import ChipBatch, FootprintObservation, PointObservation, RasterObservation
from fusion3d.ops import column_of_row

TURNS = 8
_EAST_WEST, _NORTH_SOUTH, _AXES = 1, 2, 4


def turns(batch: ChipBatch) -> Int64[Tensor, " chips"]:
    """Of each chip; 0 where it lies as it is on the ground."""
    return torch.zeros_like(batch.origin[:, 0]) if batch.turn is None else batch.turn


def turned(chip: ChipBatch, turn: int) -> ChipBatch:
    """A single chip with all that its sensors saw, turned; a turn comes on top of none.

    Raises
    ------
    ValueError
        `chip` is not one chip, or was turned before, or `turn` is not from 0 to 7.
    """
    if chip.chips != 1 or chip.turn is not None or not 0 <= turn < TURNS:
        raise ValueError(f"{chip.chips} chips, turned by {chip.turn}, cannot be turned by {turn}")
    return replace(
        chip,
        turn=torch.tensor([turn]),
        als=None if chip.als is None else _points(chip.als, chip.size, chip.column, turn),
        gedi=None if chip.gedi is None else _footprints(chip.gedi, chip.size * chip.column, turn),
        rasters={name: _raster(raster, chip.size, turn) for name, raster in chip.rasters.items()},
    )


def ground_position(batch: ChipBatch, chip: Int64[Tensor, " sites"], position: Tensor) -> Float64[Tensor, "sites 2"]:
    """Metres east and south of the store's first column's corner, of places in chips as they may have been turned.

    Parameters
    ----------
    chip : number of each place's chip
    position : [N, 2] metres east and south of the chip's north-west corner as it lies in the batch
    """
    turn = turns(batch).to(position.device)[chip]
    corner = batch.origin.to(position.device).double()[chip].flip(1) * batch.column
    return corner + _back(position.double(), batch.size * batch.column, turn)


def _forth(position: Tensor, side: float, turn: int) -> Tensor:
    """East and south distances in a chip of `side` after a turn."""
    mirrored = torch.stack(
        [
            side - position[:, 0] if turn & _EAST_WEST else position[:, 0],
            side - position[:, 1] if turn & _NORTH_SOUTH else position[:, 1],
        ],
        dim=1,
    )
    return mirrored.flip(1) if turn & _AXES else mirrored


def _back(position: Tensor, side: float, turn: Int64[Tensor, " sites"]) -> Tensor:
    """Undo `_forth`, for places of chips that were turned each in its way."""
    first = torch.where((turn & _AXES > 0)[:, None], position.flip(1), position)
    mirrored = torch.stack([turn & _EAST_WEST, turn & _NORTH_SOUTH], dim=1) > 0
    return torch.where(mirrored, side - first, first)


def _points(als: PointObservation, size: int, column: float, turn: int) -> PointObservation:
    at = torch.arange(size * size)
    centres = torch.stack((at % size, at // size), dim=1) + 0.5
    east, south = _forth(centres, size, turn).long().unbind(1)
    moved = south * size + east  # by column: where it goes
    owner = moved[column_of_row(als.row_splits, als.height.shape[0])]
    order = owner.argsort(stable=True)
    offset = _forth(als.offset, column, turn)[order]
    # The north-west edge of a column belongs to it, the opposite one to its neighbour.
    inside = torch.nextafter(offset.new_tensor(column), offset.new_tensor(0.0))
    counts = torch.zeros_like(at).index_copy_(0, moved, als.row_splits.diff())
    row_splits = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    return PointObservation(offset.clamp(max=inside), als.height[order], als.attributes[order], row_splits)


def _footprints(gedi: FootprintObservation, side: float, turn: int) -> FootprintObservation:
    return replace(gedi, position=_forth(gedi.position, side, turn))


def _raster(raster: RasterObservation, size: int, turn: int) -> RasterObservation:
    fine, coarse = raster.pixels_per_column, raster.columns_per_pixel
    values, valid, origin = raster.values, raster.valid, raster.pixel_origin
    if fine:
        values, valid = (item[..., : size * fine, : size * fine] for item in (values, valid))
    else:
        extent = torch.tensor(values.shape[-2:]) * coarse
        mirrored = torch.tensor([bool(turn & _NORTH_SOUTH), bool(turn & _EAST_WEST)])
        origin = torch.where(mirrored, extent - size - origin, origin)
    axes = [axis for axis, bit in ((-1, _EAST_WEST), (-2, _NORTH_SOUTH)) if turn & bit]
    values, valid = (item.flip(axes) for item in (values, valid))
    if turn & _AXES:
        values, valid, origin = values.mT, valid.mT, origin.flip(1)
    return replace(raster, values=values.contiguous(), valid=valid.contiguous(), pixel_origin=origin)
