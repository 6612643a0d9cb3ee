"""Tiles of a map, the halo that makes them seamless, and the cells that a tile writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from fusion3d.data.observation import ChipBatch
from fusion3d.encoders.output import CellGrid
from fusion3d.errors import ConfigError
from fusion3d.grid import Grid, Window

_Tile = TypeVar("_Tile")
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class MapGrid:
    """The cells of a map over a grid, anchored at the grid's north-west corner.

    Attributes
    ----------
    grid : columns of the store
    cell : side of a cell, metres
    split, merge : cells on a column's side and columns on a cell's side; one of them is 1
    """

    grid: Grid
    cell: float
    split: int
    merge: int

    @classmethod
    def of(cls, grid: Grid, resolution: float | None = None) -> MapGrid:
        """The map whose cells are `resolution` metres wide; None stands for the columns.

        Raises
        ------
        ConfigError
            The grid is empty, or the resolution is not the column size times or over an integer.
        """
        if grid.window.size == 0:
            raise ConfigError("the store has no columns: there is nothing to map")
        merge = 1 if resolution is None or not resolution > 0 else max(1, round(resolution / grid.column))
        cells = CellGrid.of(ChipBatch(torch.zeros(1, 2, dtype=torch.int64), merge, grid.column, grid.voxel), resolution)
        return cls(grid, cells.cell, cells.split, cells.merge)

    @property
    def rows(self) -> int:
        """Rows of cells; the last one may reach beyond the grid where cells are coarser than columns."""
        return -(-self.grid.rows * self.split // self.merge)

    @property
    def cols(self) -> int:
        """Columns of cells, as `rows`."""
        return -(-self.grid.cols * self.split // self.merge)

    @property
    def pixel(self) -> float:
        """Side of a cell in CRS units."""
        return self.cell / self.grid.unit

    def tiles(self, side: int) -> list[Window]:
        """Square windows of columns that cover the grid, in row order, whole cells each; the last ones may reach outside.

        Parameters
        ----------
        side : columns, rounded up to whole cells and cut down to the grid's longer side
        """
        if side < 1:
            raise ConfigError(f"--tile {side} must be at least 1 column")
        side = self.whole(min(side, max(self.grid.rows, self.grid.cols)))
        return [Window(row, col, side, side) for row in range(0, self.grid.rows, side) for col in range(0, self.grid.cols, side)]

    def whole(self, columns: int) -> int:
        """The least number of columns, not below `columns`, that is a whole number of cells."""
        return -(-columns // self.merge) * self.merge

    def cells_of(self, columns: Window) -> Window:
        """The cells of a window of columns that begins and ends at cells, clipped to the map."""
        at = [part * self.split // self.merge for part in (columns.row, columns.col, columns.rows, columns.cols)]
        return Window(*at).intersection(Window(0, 0, self.rows, self.cols))


def read_ahead(tiles: Sequence[_Tile], read: Callable[[_Tile], _Read]) -> Iterator[tuple[_Tile, _Read]]:
    """Each tile with what `read` finds there, the next one being read in a thread meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="tiles") as reader:
        following = reader.submit(read, tiles[0]) if tiles else None
        for number, tile in enumerate(tiles):
            assert following is not None
            found = following.result()
            following = reader.submit(read, tiles[number + 1]) if number + 1 < len(tiles) else None
            yield tile, found
