"""From fragments of tiles to one block: sort by column, height above ground, write."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.grid import Grid
from fusion3d.prepare.cells import counts, narrow, sorted_by, taken
from fusion3d.prepare.fragments import GROUND, POINTS, Fragments
from fusion3d.prepare.ground import Terrain, ThinnedGround, merge
from fusion3d.store.layout import AlsLayout, PointLattice
from fusion3d.store.writer import StoreWriter

Array = npt.NDArray[Any]

INTENSITY_BINS_PER_OCTAVE = 16
_STEPS = 1024.0
"""Of heights above the terrain in a metre: finer ones are noise that does not compress."""
_SLAB = 1 << 16
"""Points whose heights are computed at once: what is between stays in the processor's cache."""


def build_block(
    block: tuple[int, int],
    tiles: Collection[int],
    grid: Grid,
    layout: AlsLayout,
    normalized: bool,
    reach: float,
    parts: str | os.PathLike[str],
    writer: StoreWriter,
) -> dict[str, Any]:
    """Merge the fragments of a block in the order of the tiles, sort them by column, add heights, write.

    Parameters
    ----------
    tiles : numbers of the tiles that were decoded; those without points near the block do no harm
    reach : how far outside the block ground points are used, metres
    parts : folder of the fragments, local or any fsspec URL

    Returns
    -------
    counts per class, points without height, histogram of intensity (in sixteenths of an octave)
    """
    fragments, lattice = Fragments(parts), layout.lattice
    window = grid.block_window(*block)
    points, offsets = _sorted_points(fragments, block, tiles, layout.attributes, window.size)
    anchor = (*lattice.anchor(grid, window), int(points["z"].min()))
    points["z"] = narrow(points["z"], anchor[2])
    terrain = None
    if not normalized:
        ground = _ground(fragments, block, tiles, grid, lattice, reach)
        terrain = Terrain(ground - [*_metres(grid, lattice, anchor), 0.0], reach)
    height = _heights(points, anchor, grid, lattice, terrain)
    writer.write_block(
        block,
        points | {"height": height, "offsets": offsets},
        {"anchor": list(anchor), "window": [window.row, window.col, window.rows, window.cols]},
    )
    classes = counts(points["classification"], 256)
    return {
        "classes": {str(code): int(classes[code]) for code in np.flatnonzero(classes)},
        "without_height": int(np.isnan(height).sum()),
        "intensity": _histogram(points["intensity"]),
    }


def _metres(grid: Grid, lattice: PointLattice, anchor: tuple[int, int, int]) -> tuple[float, float]:
    x, y = ((lattice.origin[axis] + anchor[axis] * lattice.scale[axis]) * grid.unit for axis in range(2))
    return x, y


def _heights(
    points: dict[str, Array], anchor: tuple[int, int, int], grid: Grid, lattice: PointLattice, terrain: Terrain | None
) -> npt.NDArray[np.float32]:
    """[N] metres above the terrain, or as in the files where there is none."""
    height = np.empty(len(points["z"]), np.float32)
    for start in range(0, len(height), _SLAB):
        part = slice(start, start + _SLAB)
        z = lattice.origin[2] + (points["z"][part] + np.int64(anchor[2])) * lattice.scale[2]
        if terrain is not None:
            x, y = (points[name][part] * (lattice.scale[axis] * grid.unit) for axis, name in enumerate("xy"))
            z = np.rint((z - terrain(x, y)) * _STEPS) / _STEPS
        height[part] = z
    return height


def _sorted_points(
    fragments: Fragments, block: tuple[int, int], tiles: Collection[int], attributes: tuple[str, ...], columns: int
) -> tuple[dict[str, Array], npt.NDArray[np.int64]]:
    """Fields of the points of a block, sorted by column, in the order of tiles and files within one; and the CSR offsets."""
    *fields, column = ([*arrays] for arrays in zip(*fragments.read(block, tiles, POINTS), strict=True))
    order, offsets = sorted_by(_joined(column), columns)
    # field by field, each unsorted one given up at once: a block of a dense survey is large
    return {name: taken(_joined(field), order) for name, field in zip(("x", "y", "z", *attributes), fields, strict=True)}, offsets


def _joined(arrays: list[Array]) -> Array:
    """The arrays in one; the list is emptied."""
    whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    arrays.clear()
    return whole


def _ground(
    fragments: Fragments, block: tuple[int, int], tiles: Collection[int], grid: Grid, lattice: PointLattice, reach: float
) -> npt.NDArray[np.float64]:
    """[G, 3] thinned ground points in a block and up to `reach` around it, metres."""
    window = grid.block_window(*block)
    xmin, ymin, xmax, ymax = (value * grid.unit for value in grid.bounds(window))
    bounds = xmin - reach, ymin - reach, xmax + reach, ymax + reach
    near = grid.blocks_in(window.buffered(int(np.ceil(reach / grid.column))))
    thinned = [ThinnedGround(*arrays).near(bounds) for other in near for arrays in fragments.read(other, tiles, GROUND)]
    return merge(thinned).means(lattice, grid.unit)


def _histogram(intensity: Array) -> list[int]:
    found = counts(intensity, 1 << 16)
    found = found[: int(np.flatnonzero(found)[-1]) + 1]
    bins = np.floor(np.log2(1.0 + np.arange(len(found))) * INTENSITY_BINS_PER_OCTAVE).astype(np.int64)
    return [int(count) for count in np.bincount(bins, weights=found)]


def intensity_percentile(histograms: list[list[int]], share: float = 0.95) -> float:
    """Intensity below which `share` of the points lie, to a sixteenth of an octave; 1 when all are zero."""
    total = np.zeros(max((len(item) for item in histograms), default=0), np.int64)
    for item in histograms:
        total[: len(item)] += item
    if total.sum() == 0:
        return 1.0
    position = int(np.searchsorted(np.cumsum(total), share * total.sum()))
    return max(1.0, float(2 ** ((position + 1) / INTENSITY_BINS_PER_OCTAVE) - 1))
