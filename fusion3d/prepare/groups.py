"""Tiles in groups, from north to south, so that blocks are built, and their fragments removed, while the next tiles are decoded.

A block is built when every tile that may hold a point of it, or ground within reach of it, has been decoded. So what lies on disk
between decoding and building is what one group and the blocks at its edge hold, not the archive.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from fusion3d.grid import Grid, Window
from fusion3d.prepare.tiles import Tile, tile_bounds

GROUP = 256
"""Tiles decoded before blocks are built."""

Block = tuple[int, int]


class TileGroups:
    """Which tiles are decoded together, and which blocks wait for which of them.

    Parameters
    ----------
    reach : how far outside a block its ground may lie, metres

    Attributes
    ----------
    expected : blocks under the rectangles of the tiles
    """

    def __init__(self, tiles: Sequence[Tile], grid: Grid, reach: float) -> None:
        self._ring = math.ceil(reach / grid.column)
        self._grid = grid
        windows = [_window(tile, grid) for tile in tiles]
        order = sorted(range(len(tiles)), key=lambda number: (windows[number].row // grid.block, windows[number].col, number))
        self.groups = [order[start : start + GROUP] for start in range(0, len(order), GROUP)]
        self.expected = len({block for window in windows for block in grid.blocks_in(window)})
        self._near = [grid.blocks_in(window.buffered(self._ring)) for window in windows]
        self._waiting = Counter(block for blocks in self._near for block in blocks)
        self._held: dict[Block, list[int]] = {}
        self._pending: set[Block] = set()

    def decoded(self, number: int, blocks: Sequence[Block]) -> None:
        """A tile has been decoded (or cannot be): it has points in these blocks."""
        for block in blocks:
            if block not in self._held:
                self._pending.add(block)
            self._held.setdefault(block, []).append(number)
        self._waiting.subtract(self._near[number])

    def ready(self) -> dict[Block, list[int]]:
        """Blocks that can be built now, in order, each with the tiles that hold points of it or of what lies within reach."""
        complete = sorted(block for block in self._pending if self._waiting[block] == 0)
        self._pending.difference_update(complete)
        found = {}
        for block in complete:
            around = self._grid.blocks_in(self._grid.block_window(*block).buffered(self._ring))
            found[block] = sorted({number for other in around for number in self._held.get(other, ())})
        return found

    @property
    def blocks(self) -> list[Block]:
        """All blocks with points, in order."""
        return sorted(self._held)


def _window(tile: Tile, grid: Grid) -> Window:
    """Columns that a tile's points may lie in: those under its rectangle and one more, as headers are rounded."""
    if not tile.file.count:
        return Window(0, 0, 0, 0)
    return grid.covering_window(tile_bounds(tile, grid.pyproj_crs)).buffered(1)
