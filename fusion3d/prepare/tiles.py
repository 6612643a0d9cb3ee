"""One decode of each tile: its points, cut by block, go to fragments that the blocks are built from."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyproj import CRS, Transformer

from fusion3d.errors import CRSError, Fusion3DError, InputError
from fusion3d.grid import Grid, parse_crs, same_map_crs, vertical_unit
from fusion3d.io.las import PointFile, Points, open_points, read_chunks
from fusion3d.prepare.scene import AlsSource
from fusion3d.store.layout import STANDARD_ATTRIBUTES, PointLattice, block_name

_REPROJECTED_STEP = 0.001
_LATTICE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Tile:
    """A tile to decode: its header, its CRS and what of it is stored."""

    file: PointFile
    crs: CRS
    attributes: tuple[str, ...]


def scan_tile(path: str, source: AlsSource, grid_crs: str | None) -> Tile:
    """Read and check a tile's header, settle its CRS.

    Raises
    ------
    InputError, CRSError
        The file is damaged, or has no CRS and none was given.
    """
    file = open_points(path, max_ratio=source.max_ratio)
    assumed = source.crs or grid_crs
    crs = file.crs if file.crs is not None or assumed is None else parse_crs(assumed)
    if crs is None:
        raise CRSError(path, "the file has no CRS", "pass its CRS with --crs, for instance --crs EPSG:2154")
    missing = set(source.attributes) - set(file.dimensions)
    if missing:
        raise InputError(path, f"no dimension {', '.join(sorted(missing))}", f"there are {', '.join(file.dimensions)}")
    return Tile(file, crs, (*STANDARD_ATTRIBUTES, *source.attributes))


def same_content(one: PointFile, other: PointFile) -> bool:
    """Whether two files are byte for byte the same; read only when their headers agree."""
    if (one.count, one.bounds, one.z_bounds) != (other.count, other.bounds, other.z_bounds) or one.count == 0:
        return False
    return filecmp.cmp(one.path, other.path, shallow=False)


def common_lattice(tiles: list[Tile], grid: Grid) -> tuple[PointLattice, list[str]]:
    """The integer lattice that holds every tile's coordinates exactly, or else the finest of theirs.

    Returns
    -------
    the lattice (x, y in CRS units, z in metres) and the paths of tiles whose coordinates it has to round
    """
    kept = [tile for tile in tiles if same_map_crs(tile.crs, grid.pyproj_crs)]
    if not kept:
        step = _REPROJECTED_STEP / grid.unit
        return PointLattice((grid.x0, grid.y0, 0.0), (step, step, _REPROJECTED_STEP)), [tile.file.path for tile in tiles]
    origin, scale = [], []
    rounded = {tile.file.path for tile in tiles if tile not in kept}
    for axis in range(3):
        units = [vertical_unit(tile.crs) if axis == 2 else 1.0 for tile in kept]
        scales = [tile.file.scales[axis] * unit for tile, unit in zip(kept, units, strict=True)]
        offsets = [tile.file.offsets[axis] * unit for tile, unit in zip(kept, units, strict=True)]
        best, best_misfits = min(scales), kept
        for finer in (1, 2, 10, 100):
            step = min(scales) / finer
            misfits = [
                tile
                for tile, s, o in zip(kept, scales, offsets, strict=True)
                if _off_lattice(s / step) or _off_lattice((o - offsets[0]) / step)
            ]
            if len(misfits) < len(best_misfits):
                best, best_misfits = step, misfits
            if not misfits:
                break
        rounded |= {tile.file.path for tile in best_misfits}
        origin.append(offsets[0])
        scale.append(best)
    return PointLattice((origin[0], origin[1], origin[2]), (scale[0], scale[1], scale[2])), sorted(rounded)


def _off_lattice(steps: float) -> bool:
    return abs(steps - round(steps)) > _LATTICE_TOLERANCE


def tile_bounds(tile: Tile, crs: CRS) -> tuple[float, float, float, float]:
    """Bounds of a tile's header in another CRS."""
    bounds = tile.file.bounds
    if same_map_crs(tile.crs, crs):
        return bounds
    return Transformer.from_crs(tile.crs, crs, always_xy=True).transform_bounds(*bounds, densify_pts=21)


def spill_tile(
    number: int,
    tile: Tile,
    grid: Grid,
    lattice: PointLattice,
    ground_classes: tuple[int, ...],
    folder: Path,
    chunk: int = 1_000_000,
) -> dict[str, Any]:
    """Decode a tile once and write its points as fragments, one per chunk and block.

    Returns
    -------
    counts per class (all points, and those inside the grid) and the blocks touched

    Nothing stays under the tile's name when decoding fails.
    """
    temporary, final = folder / f".{number}", folder / str(number)
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(final, ignore_errors=True)
    temporary.mkdir(parents=True)
    read: Counter[int] = Counter()
    inside: Counter[int] = Counter()
    blocks: set[str] = set()
    names = [name for name in tile.attributes if name in tile.file.dimensions]
    transform = (
        None if same_map_crs(tile.crs, grid.pyproj_crs) else Transformer.from_crs(tile.crs, grid.pyproj_crs, always_xy=True)
    )
    unit = vertical_unit(tile.crs)
    try:
        for part, points in enumerate(read_chunks(tile.file, names, chunk=chunk)):
            x, y = points.x, points.y
            if transform is not None:
                x, y = transform.transform(x, y)
            classes = points.attributes["classification"]
            _count(read, classes)
            row, col = grid.cell_of(x, y)
            kept = (row >= 0) & (row < grid.rows) & (col >= 0) & (col < grid.cols)
            _count(inside, classes[kept])
            columns = {
                "row": row,
                "col": col,
                **_integers(points, x, y, unit, lattice, exact=transform is None),
                **{name: _attribute(points, name) for name in tile.attributes},
            }
            columns = {name: values[kept] for name, values in columns.items()}
            ground = np.isin(columns["classification"], ground_classes)
            metric = np.c_[x[kept] * grid.unit, y[kept] * grid.unit, points.z[kept] * unit]
            for key, where in _by_block(columns["row"] // grid.block, columns["col"] // grid.block):
                name = block_name(*key)
                blocks.add(name)
                fields: dict[str, Any] = {field: values[where] for field, values in columns.items()}
                np.savez(temporary / f"{name}-{part}.npz", **fields)
                if ground[where].any():
                    np.save(temporary / f"{name}-{part}.ground.npy", metric[where][ground[where]])
        os.replace(temporary, final)
    except Fusion3DError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return {"read": _plain(read), "inside": _plain(inside), "blocks": sorted(blocks)}


def _integers(
    points: Points, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], unit: float, lattice: PointLattice, *, exact: bool
) -> dict[str, npt.NDArray[np.int64]]:
    """Lattice integers of a chunk, from the file's own integers where the lattice holds them."""
    result = {}
    for axis, (name, raw) in enumerate(zip("xyz", (points.X, points.Y, points.Z), strict=True)):
        factor = unit if axis == 2 else 1.0
        ratio = points.scales[axis] * factor / lattice.scale[axis]
        shift = (points.offsets[axis] * factor - lattice.origin[axis]) / lattice.scale[axis]
        if (exact or axis == 2) and not _off_lattice(ratio) and not _off_lattice(shift):
            result[name] = raw.astype(np.int64) * round(ratio) + round(shift)
        else:
            values = (x, y, points.z * unit)[axis]
            result[name] = np.rint((values - lattice.origin[axis]) / lattice.scale[axis]).astype(np.int64)
    return result


def _attribute(points: Points, name: str) -> npt.NDArray[Any]:
    if name not in points.attributes:
        return np.zeros(len(points), STANDARD_ATTRIBUTES[name])
    values = np.asarray(points.attributes[name])
    return values.astype(STANDARD_ATTRIBUTES.get(name, values.dtype))


def _by_block(rows: npt.NDArray[np.int64], cols: npt.NDArray[np.int64]) -> list[tuple[tuple[int, int], npt.NDArray[np.int64]]]:
    if len(rows) == 0:
        return []
    order = np.lexsort((cols, rows))
    keys = np.c_[rows[order], cols[order]]
    first = np.flatnonzero(np.r_[True, (np.diff(keys, axis=0) != 0).any(axis=1)])
    return [
        ((int(keys[start][0]), int(keys[start][1])), where)
        for start, where in zip(first, np.split(order, first[1:]), strict=True)
    ]


def _count(counter: Counter[int], classes: npt.NDArray[Any]) -> None:
    values, counts = np.unique(classes, return_counts=True)
    counter.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))


def _plain(counter: Counter[int]) -> dict[str, int]:
    return {str(key): counter[key] for key in sorted(counter)}
