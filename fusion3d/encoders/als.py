"""Encoder of aerial LiDAR: a sparse residual U-Net on voxels, pooled to cells of any size.

::

    points -> voxels (height, density, intensity, returns) -> U-Net -> attention and maximum over each cell -+-> features
    points -> density, quantiles of height and statistics of each cell (`cell_statistics`) -----------------+

Voxels count from the store's origin, so a voxel sees the same network whichever chip or tile it was cut into. Cells of 2, 4, ...
columns a side are encoded on voxels of 2, 4, ... times the size: a coarser map costs less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fusion3d.data.observation import POINT_ATTRIBUTES, ChipBatch, PointObservation
from fusion3d.encoders.cell_statistics import QUANTILES, STATISTICS, cell_statistics
from fusion3d.encoders.output import CellGrid, ColumnEmbedding, EmbeddingHead
from fusion3d.encoders.registry import Encoder, register, sensor_missing
from fusion3d.errors import ConfigError
from fusion3d.ops import (
    Csr,
    Voxels,
    column_of_row,
    column_pool,
    column_quantile,
    csr_by_column,
    softmax_pool,
    voxel_row_splits,
    voxelize,
)
from fusion3d.sparse import SparseTensor, UNet

LOWEST, HIGHEST = -5.0, 120.0
"""Heights above ground (m) outside of which a return is taken for noise: under the ground, or above the tallest trees."""

_TALL = 20.0
_INPUTS = 4 + len(POINT_ATTRIBUTES)


@dataclass(frozen=True)
class _Points:
    """The points that count: their voxel coordinates (chip, level, row, column), output cell, height and attributes."""

    coordinates: Int64[Tensor, "points 4"]
    cell: Int64[Tensor, " points"]
    height: Float[Tensor, " points"]
    attributes: Float[Tensor, "points attributes"]


@register
class AlsEncoder(Encoder):
    """Encoder of aerial LiDAR points.

    Parameters
    ----------
    width, shared_dim : W and D
    channels : of the finest voxels; each coarser level has half as many more
    levels : of the U-Net; voxels double from one to the next
    blocks : residual blocks per level
    heads : of the attention over the voxels of a cell
    statistics : give the head the statistics of each cell beside its quantiles of height; encoders that do not say have none
    """

    kind = "als"
    presets = {
        "tiny": {"width": 96, "shared_dim": 64, "channels": 16, "levels": 3, "blocks": 1, "heads": 4, "statistics": True},
        "small": {"width": 192, "shared_dim": 128, "channels": 32, "levels": 4, "blocks": 1, "heads": 8, "statistics": True},
        "base": {"width": 384, "shared_dim": 256, "channels": 64, "levels": 4, "blocks": 2, "heads": 8, "statistics": True},
    }

    def __init__(
        self, width: int, shared_dim: int, channels: int, levels: int, blocks: int, heads: int, statistics: bool = False
    ) -> None:
        super().__init__(
            width=width,
            shared_dim=shared_dim,
            channels=channels,
            levels=levels,
            blocks=blocks,
            heads=heads,
            statistics=statistics,
        )
        self.statistics = statistics
        if channels % heads:
            raise ConfigError(f"{channels} channels cannot be shared out between {heads} heads; take a multiple")
        per_level = [channels + level * channels // 2 for level in range(levels)]
        self.unet = UNet(_INPUTS, per_level, [blocks] * levels)
        self.score = nn.Linear(channels, heads, bias=False)  # a softmax does not see a bias
        pooled = 2 * channels + 1 + len(QUANTILES) + (STATISTICS if statistics else 0)
        self.head = EmbeddingHead(pooled, width, shared_dim)

    def receptive_field(self, column: float, *, voxel: float | None = None, cell: float | None = None) -> int:
        """Columns that the U-Net sees around a column, on the voxels that `cell` is encoded with."""
        growth = 1 << _coarsening(max(1, round((cell or column) / column)))
        # One voxel more: a grown voxel may straddle the edge of the cell it is pooled to.
        voxels = (self.unet.receptive_field + (growth > 1)) * growth
        return math.ceil(voxels * (voxel or column) / column - 1e-9)

    def forward(self, batch: ChipBatch, sensor: str = "als", cell: float | None = None) -> ColumnEmbedding:
        """As `Encoder.forward`; present where a point counts (finite height between `LOWEST` and `HIGHEST`).

        Raises
        ------
        ConfigError
            As `Encoder.forward`; or the cell is smaller than a voxel.
        """
        if sensor != self.kind or batch.als is None:
            raise sensor_missing(batch, sensor)
        grid = CellGrid.of(batch, cell)
        if grid.cell < batch.voxel * (1 - 1e-6):
            raise ConfigError(f"cells of {grid.cell:g} m are smaller than the voxels of {batch.voxel:g} m; take at least a voxel")
        coarsening = _coarsening(grid.merge)
        points = self._points(batch, batch.als, grid, coarsening)
        voxels = voxelize(points.coordinates)
        inputs = self._inputs(points, voxels, batch.voxel, coarsening)
        found = self.unet(SparseTensor(inputs, voxels.coordinates))
        # Of a voxel that straddles the edge of cells, the cell of its first point in the store's order would depend on the chip;
        # its centre does not.
        groups = voxel_row_splits(self._voxel_cell(voxels.coordinates, batch, grid, coarsening), grid.count)
        by_cell = csr_by_column(points.cell, grid.count)
        pooled = torch.cat(
            (
                softmax_pool(found.features, self.score(found.features), groups.row_splits, groups.permutation),
                column_pool(found.features, groups.row_splits, "max", groups.permutation),
                *self._of_cells(points, by_cell),
            ),
            dim=1,
        )
        present = by_cell.row_splits.diff() > 0
        shared, features = self.head(pooled, present)
        return ColumnEmbedding(shared, features, present, grid.cell, grid.per_side, grid.per_side)

    def at_points(
        self,
        coordinates: Int64[Tensor, "points 4"],
        height: Float[Tensor, " points"],
        attributes: Float[Tensor, "points attributes"],
        voxel: float,
    ) -> Float[Tensor, "points channels"]:
        """Features of the finest voxel that holds each point: what tasks on single points are learned from.

        Parameters
        ----------
        coordinates : chip, level, row and column of each point's voxel; level is that of its height
        height : above ground, metres
        attributes : in the order of `POINT_ATTRIBUTES`
        voxel : side of a voxel, metres
        """
        points = _Points(coordinates, coordinates[:, 0], height.to(self.dtype), attributes.to(self.dtype))
        voxels = voxelize(coordinates)
        inputs = self._inputs(points, voxels, voxel, 0)
        return self.unet(SparseTensor(inputs, voxels.coordinates)).features[voxels.inverse]

    def _phase(self, batch: ChipBatch, coarsening: int) -> Int64[Tensor, "chips 2"]:
        """Position of each chip's corner in finest voxels, modulo the coarsest voxel of the U-Net."""
        per_column = round(batch.column / batch.voxel)
        return (batch.origin * per_column) % (1 << (self.unet.levels - 1 + coarsening))

    def _points(self, batch: ChipBatch, als: PointObservation, grid: CellGrid, coarsening: int) -> _Points:
        kept = als.height.isfinite() & (als.height >= LOWEST) & (als.height < HIGHEST)
        column = column_of_row(als.row_splits, als.height.shape[0])[kept]
        offset, height = als.offset[kept], als.height[kept]
        chip, inside = column // batch.size**2, column % batch.size**2
        place = torch.stack((inside // batch.size, inside % batch.size), dim=1)  # row, column
        within = offset.flip(1)  # south, east
        per_column = round(batch.column / batch.voxel)
        fine = (within / batch.voxel).floor().long().clamp(0, per_column - 1)
        plane = place * per_column + fine + self._phase(batch, coarsening)[chip]
        level = (height / batch.voxel).floor().long()
        shift = 1 << coarsening
        coordinates = torch.cat((chip[:, None], (level // shift)[:, None], plane // shift), dim=1)
        part = (within * (grid.split / batch.column)).floor().long().clamp(0, grid.split - 1)
        cells = (place * grid.split + part) // grid.merge
        cell = (chip * grid.per_side + cells[:, 0]) * grid.per_side + cells[:, 1]
        attributes = als.attributes[kept].to(self.dtype).nan_to_num(0.0, 0.0, 0.0)
        return _Points(coordinates, cell, height.to(self.dtype), attributes)

    def _inputs(self, points: _Points, voxels: Voxels, voxel: float, coarsening: int) -> Float[Tensor, "voxels inputs"]:
        measured = torch.cat((points.height[:, None], points.attributes), dim=1)
        mean = column_pool(measured, voxels.row_splits, "mean", voxels.permutation)
        side = voxel * (1 << coarsening)
        above = mean[:, :1] / side - voxels.coordinates[:, 1:2].to(self.dtype)
        size = torch.full_like(above, math.log2(side))
        return torch.cat((voxels.counts.to(self.dtype).log1p()[:, None], mean[:, :1] / _TALL, above, size, mean[:, 1:]), dim=1)

    def _voxel_cell(self, coordinates: Tensor, batch: ChipBatch, grid: CellGrid, coarsening: int) -> Int64[Tensor, " voxels"]:
        """Output cell that holds the centre of each voxel; -1 where that is outside of the chip."""
        chip, shift = coordinates[:, 0], 1 << coarsening
        # Twice the position of the centre in finest voxels, from the chip's corner: an integer, so edges are exact.
        centre = 2 * (coordinates[:, 2:] * shift - self._phase(batch, coarsening)[chip]) + shift
        per_column = round(batch.column / batch.voxel)
        cells = (centre * grid.split).div(2 * per_column * grid.merge, rounding_mode="floor")
        inside = ((cells >= 0) & (cells < grid.per_side)).all(dim=1)
        cell = (chip * grid.per_side + cells[:, 0]) * grid.per_side + cells[:, 1]
        return torch.where(inside, cell, -1)

    def _of_cells(self, points: _Points, by_cell: Csr) -> tuple[Tensor, ...]:
        """Logarithm of the number of points, quantiles of height, and statistics, of each cell; 0 where there is no point."""
        quantiles = points.height.new_tensor(QUANTILES)
        order, row_splits = by_cell.permutation, by_cell.row_splits
        height = points.height[order]
        heights = column_quantile(height, row_splits, quantiles)
        count = row_splits.diff().to(self.dtype).log1p()[:, None]
        found = count / 4, heights.nan_to_num(0.0) / _TALL
        return (*found, cell_statistics(height, points.attributes[order], row_splits)) if self.statistics else found


def _coarsening(merge: int) -> int:
    """How often voxels double for cells of `merge` columns a side."""
    return int(math.log2(merge))
