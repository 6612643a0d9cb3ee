"""Does a block of points hold what it says: offsets, columns, heights, attributes, checksums."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from fusion3d.grid import Grid
from fusion3d.store.examination import Examination, StoredArray
from fusion3d.store.layout import POINT_CHUNK, STANDARD_ATTRIBUTES, AlsLayout, parse_block_name

Int64 = npt.NDArray[np.int64]

_EDGE = 1e-6
"""Cells by which a point may lie outside of its column, beside half a step of its lattice: what `Grid.cell_of` allows."""


def examine_block(look: Examination, grid: Grid, layout: AlsLayout, name: str) -> Counter[int] | None:
    """Examine one block, chunk by chunk.

    Returns
    -------
    number of points of each class; None when it cannot be told
    """
    return _Block(look, grid, layout, name).classes()


class _Block:
    def __init__(self, look: Examination, grid: Grid, layout: AlsLayout, name: str) -> None:
        self.look, self.grid, self.layout = look, grid, layout
        self.unit = f"als/{name}"
        self.window = grid.block_window(*parse_block_name(name))
        self.files: dict[str, set[str]] = {}
        for path in (look.place / self.unit).files():
            folder, _, rest = path.partition("/")
            self.files.setdefault(folder, set()).add(rest)

    def classes(self) -> Counter[int] | None:
        if not self.files:
            self.look.wrong(self.unit, "the block is missing", self.unit)
            return None
        names = {*"xyz", "offsets", "height", *self.layout.attributes}
        for name in sorted(self.files.keys() - names - {"zarr.json"}):
            self.look.wrong(f"{self.unit}/{name}", "does not belong to the block", self.unit)
        anchor = self._anchor()
        offsets = self._offsets()
        arrays = self._arrays(None if offsets is None else int(offsets[-1]))
        if anchor is not None:
            self._coordinates(arrays, anchor, offsets)
        else:
            self._only_read(arrays, "xyz")
        self._heights(arrays)
        self._only_read(arrays, [name for name in self.layout.attributes if name != "classification"])
        return self._classes(arrays)

    def _anchor(self) -> tuple[int, int, int] | None:
        """The block's anchor; its window and the anchor's x and y follow from the grid."""
        attributes = self.look.group(self.unit, self.unit)
        if attributes is None:
            return None
        window, anchor = attributes.get("window"), attributes.get("anchor")
        expected = [self.window.row, self.window.col, self.window.rows, self.window.cols]
        if window != expected:
            self.look.wrong(self.unit, f"its window is {window}, the grid's is {expected}", self.unit)
        corner = self.layout.lattice.anchor(self.grid, self.window)
        if not isinstance(anchor, list) or anchor[:2] != list(corner) or len(anchor) != 3 or not isinstance(anchor[2], int):
            self.look.wrong(self.unit, f"its anchor is {anchor}, must be {[*corner, 'the lowest z']}", self.unit)
            return None
        return (*corner, anchor[2])

    def _open(self, name: str, dtypes: tuple[str, ...], length: int | None, chunk: int | None) -> StoredArray | None:
        return self.look.open(
            f"{self.unit}/{name}",
            self.files.get(name, set()),
            dtypes=dtypes,
            shape=None if length is None else (length,),
            chunks=None if chunk is None else (chunk,),
            unit=self.unit,
        )

    def _offsets(self) -> Int64 | None:
        count = self.window.size + 1
        stored = self._open("offsets", ("i8",), count, min(POINT_CHUNK, count))
        offsets = None if stored is None else self.look.whole(stored, self.unit)
        if offsets is None:
            return None
        if offsets[0] != 0 or (np.diff(offsets) < 0).any():
            self.look.wrong(f"{self.unit}/offsets", "do not rise from 0", self.unit)
            return None
        return np.asarray(offsets, np.int64)

    def _arrays(self, points: int | None) -> dict[str, StoredArray]:
        """The arrays with one value a point; without offsets to go by, all must be as long as the first of them."""
        types: dict[str, tuple[str, ...]] = {name: ("i4", "i8") for name in "xyz"} | {"height": ("f4",)}
        types |= {name: (STANDARD_ATTRIBUTES[name],) if name in STANDARD_ATTRIBUTES else () for name in self.layout.attributes}
        found: dict[str, StoredArray] = {}
        for name, dtypes in types.items():
            stored = self._open(name, dtypes, points, None if points is None else max(1, min(POINT_CHUNK, points)))
            if stored is not None:
                found[name] = stored
                points = stored.array.shape[0]
        return found

    def _coordinates(self, arrays: dict[str, StoredArray], anchor: tuple[int, int, int], offsets: Int64 | None) -> None:
        x, y, z = (arrays.get(name) for name in "xyz")
        if z is not None:
            lowest = [part.min() for _, part in self.look.chunks(z, self.unit) if part is not None and part.size]
            if len(lowest) == len(z.keys) and lowest and min(lowest) != 0:
                self.look.wrong(
                    f"{self.unit}/z", f"the lowest is {min(lowest)} steps from the block's anchor, not on it", self.unit
                )
        if x is None or y is None:
            self._only_read(arrays, "xy")
            return
        self.look.missing(x, self.unit)
        self.look.missing(y, self.unit)
        astray = 0
        for key in x.keys:
            pair = [self.look.read(stored, key, self.unit) for stored in (x, y)]
            if offsets is None or pair[0] is None or pair[1] is None:
                continue
            position = np.arange(key[0] * x.array.chunks[0], key[0] * x.array.chunks[0] + len(pair[0]))
            column = np.searchsorted(offsets, position, side="right") - 1
            astray += self._astray(column, pair[0], pair[1], anchor)
        if astray:
            self.look.wrong(self.unit, f"{astray:,} points do not lie in the column that offsets say", self.unit)

    def _astray(self, column: Int64, x: Int64, y: Int64, anchor: tuple[int, int, int]) -> int:
        """Number of points outside of their column."""
        grid, window, lattice = self.grid, self.window, self.layout.lattice
        row, col = column // window.cols + window.row, column % window.cols + window.col
        outside = np.zeros(len(column), bool)
        for axis, (stored, cell) in enumerate(((x, col), (y, row))):
            place = lattice.origin[axis] + (stored + np.int64(anchor[axis])) * lattice.scale[axis]
            inside = ((place - grid.x0) if axis == 0 else (grid.y0 - place)) / grid.cell - cell
            slack = 0.5 * lattice.scale[axis] / grid.cell + _EDGE
            outside |= (inside < -slack) | (inside > 1 + slack)
        return int(outside.sum())

    def _heights(self, arrays: dict[str, StoredArray]) -> None:
        stored = arrays.get("height")
        if stored is None:
            return
        infinite = sum(int(np.isinf(part).sum()) for _, part in self.look.chunks(stored, self.unit) if part is not None)
        if infinite:
            self.look.wrong(f"{self.unit}/height", f"{infinite:,} are infinite", self.unit)

    def _only_read(self, arrays: dict[str, StoredArray], names: str | list[str]) -> None:
        for name in names:
            if name in arrays:
                for _ in self.look.chunks(arrays[name], self.unit):
                    pass

    def _classes(self, arrays: dict[str, StoredArray]) -> Counter[int] | None:
        stored, counts = arrays.get("classification"), Counter[int]()
        if stored is None:
            return None
        for _, part in self.look.chunks(stored, self.unit):
            if part is None:
                return None
            counts.update(dict(enumerate(np.bincount(part).tolist())))
        return +counts


def blocks_in_place(look: Examination, layout: AlsLayout) -> list[str]:
    """Blocks that the attributes name, in order; a finding for every other group beside them."""
    look.group("als", "als/zarr.json")
    for name in sorted((look.place / "als").folders() - set(layout.blocks)):
        look.wrong(f"als/{name}", "is no block of this store", None)
    return sorted(layout.blocks, key=parse_block_name)
