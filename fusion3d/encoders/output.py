"""What encoders give back, and the cells that they give it for.

Cells of a chip are numbered ``(chip * rows + row) * cols + col`` with rows running south, as the columns of a batch are. They
are the columns themselves unless another size is asked for: a column split into f x f cells, or c x c columns merged into one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusion3d.data.observation import ChipBatch
from fusion3d.errors import ConfigError

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class CellGrid:
    """The output cells of a batch's chips.

    Attributes
    ----------
    cell : side of a cell, metres
    per_side : cells on a chip's side
    split : cells on a column's side, 1 unless cells are finer
    merge : columns on a cell's side, 1 unless cells are coarser
    chips : B
    """

    cell: float
    per_side: int
    split: int
    merge: int
    chips: int

    @classmethod
    def of(cls, batch: ChipBatch, cell: float | None = None) -> CellGrid:
        """The cells of `cell` metres in the chips of `batch`; None stands for its columns.

        Raises
        ------
        ConfigError
            The cell is not the column times or over an integer, or does not divide the chip.
        """
        if cell is None:
            return cls(batch.column, batch.size, 1, 1, batch.chips)
        if not 0 < cell < float("inf"):
            raise ConfigError(f"a cell of {cell:g} m was asked for; give a positive number of metres")
        split, merge = max(1, round(batch.column / cell)), max(1, round(cell / batch.column))
        if abs(cell * split / (batch.column * merge) - 1) > _TOLERANCE:
            raise ConfigError(
                f"cells of {cell:g} m do not fit columns of {batch.column:g} m; "
                f"take the column size times an integer or divided by one"
            )
        if batch.size % merge:
            raise ConfigError(
                f"a chip of {batch.size} columns of {batch.column:g} m cannot be cut into cells of {cell:g} m; "
                f"take chips of a multiple of {merge} columns"
            )
        return cls(batch.column * merge / split, batch.size * split // merge, split, merge, batch.chips)

    @property
    def count(self) -> int:
        """Cells of the whole batch."""
        return self.chips * self.per_side**2


@dataclass(frozen=True)
class ColumnEmbedding:
    """Embeddings of the cells of B chips.

    Attributes
    ----------
    shared : projection that other sensors are compared with, not normalised
    features : all that the encoder knows, shared and private
    present : false where the sensor saw nothing; embeddings are 0 there and mean nothing
    cell : side of a cell, metres
    rows, cols : cells of each chip
    """

    shared: Float[Tensor, "cells shared_dim"]
    features: Float[Tensor, "cells width"]
    present: Bool[Tensor, " cells"]
    cell: float
    rows: int
    cols: int


@dataclass(frozen=True)
class FootprintEmbedding:
    """Embeddings of footprints, in the order of the batch: as `ColumnEmbedding` without a raster of cells."""

    shared: Float[Tensor, "footprints shared_dim"]
    features: Float[Tensor, "footprints width"]
    present: Bool[Tensor, " footprints"]


class EmbeddingHead(nn.Module):
    """The end of every encoder: pooled measurements to features, and features to the shared projection."""

    def __init__(self, inputs: int, width: int, shared_dim: int) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, width)
        self.residual = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norm = nn.LayerNorm(width)
        self.shared = nn.Linear(width, shared_dim)

    def forward(
        self, pooled: Float[Tensor, "items inputs"], present: Bool[Tensor, " items"]
    ) -> tuple[Float[Tensor, "items shared_dim"], Float[Tensor, "items width"]]:
        """Shared projection and features, both 0 where not `present`."""
        entered = self.enter(pooled)
        features = self.norm(entered + self.residual(entered))
        seen = present.unsqueeze(1)
        return torch.where(seen, self.shared(features), 0.0), torch.where(seen, features, 0.0)
