"""Footprints on cells: what a footprint says is written to the cells under it.

A footprint counts for the cell that holds its centre and for the cells whose centres lie within 12.5 m of it, the radius at
which the laser's energy has fallen to 1/e^2; where footprints overlap, they are averaged with the weights
exp(-d^2 / (2 (6.25 m)^2)) of their Gaussian.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from fusion3d.data.observation import ChipBatch
from fusion3d.encoders.output import CellGrid, ColumnEmbedding, FootprintEmbedding
from fusion3d.ops.footprint_pool import FOOTPRINT_SIGMA

FOOTPRINT_RADIUS = 12.5
"""Metres: half of GEDI's footprint diameter (Dubayah et al. 2020, Science of Remote Sensing 1)."""
ROUNDING = 1e-3
"""Metres by which float32 positions may differ between tiles, on the generous side."""


def footprints_to_cells(
    values: Float[Tensor, "footprints channels"],
    present: Bool[Tensor, " footprints"],
    position: Float[Tensor, "footprints 2"],
    cell: float,
    side: int,
    chip: Int64[Tensor, " footprints"] | None = None,
    chips: int = 1,
) -> tuple[Float[Tensor, "cells channels"], Bool[Tensor, " cells"]]:
    """Weighted mean of the footprints over each cell of squares, 0 where there is none, and where there is one.

    Parameters
    ----------
    position : metres east and south of the north-west corner of the footprint's square
    cell : metres
    side : cells of a square
    chip : square of each footprint, of `chips`; None stands for one square
    """
    square = torch.zeros_like(present, dtype=torch.int64) if chip is None else chip
    values, square, place = values[present], square[present], position[present].double() / cell
    radius = (FOOTPRINT_RADIUS + ROUNDING) / cell
    # a rounding error must not move the centre of a footprint on an edge to another cell in another tile
    home = (place + ROUNDING / cell).floor().long()
    reach = math.ceil(radius)
    steps = torch.arange(-reach, reach + 1, device=values.device)
    col, row = home[:, 0, None, None] + steps, home[:, 1, None, None] + steps[:, None]
    squared = (col + 0.5 - place[:, 0, None, None]) ** 2 + (row + 0.5 - place[:, 1, None, None]) ** 2
    under = squared <= radius**2
    under[:, reach, reach] = True
    footprint, south, east = (under & (row >= 0) & (row < side) & (col >= 0) & (col < side)).nonzero(as_tuple=True)
    at = (square[footprint] * side + row[footprint, south, 0]) * side + col[footprint, 0, east]
    squared = squared[footprint, south, east]
    count = chips * side * side
    # measured from the cell's nearest footprint, so that in a cell far wider than the Gaussian no weight vanishes
    nearest = squared.new_full((count,), torch.inf).scatter_reduce(0, at, squared, "amin")
    weight = torch.exp((nearest[at] - squared) / (2 * (FOOTPRINT_SIGMA / cell) ** 2))
    total = torch.zeros(count, dtype=torch.float64, device=values.device).index_add(0, at, weight)
    mean = torch.zeros(count, values.shape[1], dtype=torch.float64, device=values.device)
    mean = mean.index_add(0, at, (weight / total[at]).unsqueeze(1) * values[footprint].double())
    return mean.to(values.dtype), total > 0


def on_cells(found: ColumnEmbedding | FootprintEmbedding, batch: ChipBatch, cell: float | None = None) -> ColumnEmbedding:
    """Embeddings of the cells of a batch; those of footprints, as unit vectors, are written to the cells under them.

    Parameters
    ----------
    batch : that was encoded
    cell : metres, as it was given to the encoder; None for the column
    """
    if isinstance(found, ColumnEmbedding):
        return found
    grid, width = CellGrid.of(batch, cell), found.shared.shape[1]
    values = torch.cat((functional.normalize(found.shared, dim=1), found.features), dim=1)
    if batch.gedi is None:  # other processes of a step may hold footprints
        nothing = values.new_zeros(grid.count, values.shape[1])
        missing = torch.zeros(grid.count, dtype=torch.bool, device=values.device)
        return ColumnEmbedding(nothing[:, :width], nothing[:, width:], missing, grid.cell, grid.per_side, grid.per_side)
    position, chip = batch.gedi.position.to(values.device), batch.gedi.chip.to(values.device)
    place = (position, grid.cell, grid.per_side, chip, batch.chips)
    mean, covered = footprints_to_cells(values, found.present, *place)
    shared = functional.normalize(mean[:, :width], dim=1)
    return ColumnEmbedding(shared, mean[:, width:], covered, grid.cell, grid.per_side, grid.per_side)
