"""From fragments of tiles to one block: sort by column, height above ground, write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.grid import Grid
from fusion3d.prepare.ground import ground_elevation, thin
from fusion3d.store.layout import AlsLayout, block_name
from fusion3d.store.writer import StoreWriter

INTENSITY_BINS_PER_OCTAVE = 16


def build_block(
    block: tuple[int, int],
    tiles: list[int],
    grid: Grid,
    layout: AlsLayout,
    normalized: bool,
    reach: float,
    parts: Path,
    writer: StoreWriter,
) -> dict[str, Any]:
    """Merge the fragments of a block in the order of the tiles, sort them by column, add heights, write.

    Parameters
    ----------
    tiles : numbers of the tiles that were decoded
    reach : how far outside the block ground points are used, metres

    Returns
    -------
    counts per class, points without height, histogram of intensity (in sixteenths of an octave)
    """
    fragments = [np.load(path) for tile in tiles for path in _fragments(parts / str(tile), block, ".npz")]
    points = {name: np.concatenate([fragment[name] for fragment in fragments]) for name in fragments[0].files}
    window = grid.block_window(*block)
    column = (points.pop("row") - window.row) * window.cols + (points.pop("col") - window.col)
    order = np.argsort(column, kind="stable")
    points = {name: values[order] for name, values in points.items()}
    offsets = np.zeros(window.size + 1, np.int64)
    np.cumsum(np.bincount(column, minlength=window.size), out=offsets[1:])
    lattice = layout.lattice
    if normalized:
        height = lattice.origin[2] + points["z"] * lattice.scale[2]
    else:
        height = _heights(block, tiles, grid, layout, points, reach, parts)
    anchor = [*lattice.anchor(grid, window), int(points["z"].min())]
    arrays: dict[str, npt.NDArray[Any]] = {
        name: _narrow(points.pop(name) - start) for name, start in zip("xyz", anchor, strict=True)
    }
    arrays |= {name: points[name] for name in layout.attributes}
    arrays |= {"height": height.astype(np.float32), "offsets": offsets}
    writer.write_block(block, arrays, {"anchor": anchor, "window": [window.row, window.col, window.rows, window.cols]})
    classes, counts = np.unique(arrays["classification"], return_counts=True)
    return {
        "classes": {str(key): int(count) for key, count in zip(classes, counts, strict=True)},
        "without_height": int(np.isnan(height).sum()),
        "intensity": _histogram(arrays["intensity"]),
    }


def _narrow(values: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """As int32 where that holds every value: a block of fine scales or large columns needs int64."""
    limits = np.iinfo(np.int32)
    fits = len(values) == 0 or (values.min() >= limits.min and values.max() <= limits.max)
    return values.astype(np.int32) if fits else values


def _fragments(folder: Path, block: tuple[int, int], suffix: str) -> list[Path]:
    paths = folder.glob(f"{block_name(*block)}-*{suffix}")
    return sorted(paths, key=lambda path: int(path.name.removesuffix(suffix).rsplit("-", 1)[1]))


def _heights(
    block: tuple[int, int],
    tiles: list[int],
    grid: Grid,
    layout: AlsLayout,
    points: dict[str, npt.NDArray[Any]],
    reach: float,
    parts: Path,
) -> npt.NDArray[np.float64]:
    window = grid.block_window(*block)
    ring = int(np.ceil(reach / grid.column))
    near = grid.blocks_in(window.buffered(ring))
    xmin, ymin, xmax, ymax = (value * grid.unit for value in grid.bounds(window))
    ground = [np.load(path) for other in near for tile in tiles for path in _fragments(parts / str(tile), other, ".ground.npy")]
    soil = np.concatenate(ground) if ground else np.zeros((0, 3))
    soil = soil[
        (soil[:, 0] >= xmin - reach) & (soil[:, 0] <= xmax + reach) & (soil[:, 1] >= ymin - reach) & (soil[:, 1] <= ymax + reach)
    ]
    origin = np.array([xmin, ymin, 0.0])
    lattice = layout.lattice
    x, y = (
        (lattice.origin[axis] + points[name] * lattice.scale[axis]) * grid.unit - origin[axis] for axis, name in enumerate("xy")
    )
    z = lattice.origin[2] + points["z"] * lattice.scale[2]
    return np.asarray(z - ground_elevation(thin(soil) - origin, x, y, reach))


def _histogram(intensity: npt.NDArray[Any]) -> list[int]:
    bins = np.floor(np.log2(1.0 + intensity.astype(np.float64)) * INTENSITY_BINS_PER_OCTAVE).astype(np.int64)
    return [int(count) for count in np.bincount(bins)]


def intensity_percentile(histograms: list[list[int]], share: float = 0.95) -> float:
    """Intensity below which `share` of the points lie, to a sixteenth of an octave; 1 when all are zero."""
    total = np.zeros(max((len(item) for item in histograms), default=0), np.int64)
    for item in histograms:
        total[: len(item)] += item
    if total.sum() == 0:
        return 1.0
    position = int(np.searchsorted(np.cumsum(total), share * total.sum()))
    return max(1.0, float(2 ** ((position + 1) / INTENSITY_BINS_PER_OCTAVE) - 1))
