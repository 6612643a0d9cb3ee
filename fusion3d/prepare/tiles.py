"""One decode of each tile: its points, cut by block, go to fragments that the blocks are built from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pyproj import CRS, Transformer

from fusion3d.errors import CRSError, Fusion3DError, InputError
from fusion3d.grid import Bounds, Grid, map_crs, moved_bounds, parse_crs, same_map_crs, vertical_unit
from fusion3d.io.binary_file import digest
from fusion3d.io.las import PointFile, Points, open_points, read_chunks
from fusion3d.prepare.cells import Places, listed, narrow, numbered, places_of, sorted_by, taken
from fusion3d.prepare.fragments import GROUND, POINTS, Fragments
from fusion3d.prepare.ground import thin
from fusion3d.prepare.scene import AlsSource
from fusion3d.store.layout import STANDARD_ATTRIBUTES, PointLattice, block_name

_HELD_BYTES = 256 << 20
"""Of a tile's points in memory before they are written as fragments."""
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
    """Whether two files hold the same bytes; read only when their headers agree."""
    if (one.count, one.bounds, one.z_bounds) != (other.count, other.bounds, other.z_bounds) or one.count == 0:
        return False
    return digest(one.path) == digest(other.path)


class Contents:
    """Tiles that were met, by what their headers say: so that only files of the same header are compared."""

    def __init__(self) -> None:
        self._alike: dict[tuple[object, ...], list[PointFile]] = {}

    def add(self, file: PointFile) -> None:
        """Remember a file; InputError where one of the same bytes was met before."""
        others = self._alike.setdefault((file.count, file.bounds, file.z_bounds), [])
        twin = next((other for other in others if same_content(file, other)), None)
        if twin is not None:
            raise InputError(file.path, f"is the same file as {twin.path}", "leave one of them out: its points would count twice")
        others.append(file)


def unusable(set_aside: list[tuple[str, str]]) -> Fusion3DError:
    """The error of a run all of whose sources were set aside: the reason of the first, and how many there are."""
    more = f" (and {len(set_aside) - 1} more sources that cannot be used)" if len(set_aside) > 1 else ""
    return Fusion3DError(set_aside[0][1] + more)


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


def tile_bounds(tile: Tile, crs: CRS) -> Bounds:
    """Bounds of a tile's header in another CRS."""
    return moved_bounds(tile.file.bounds, tile.crs, crs)


def spill_tile(
    number: int,
    tile: Tile,
    grid: Grid,
    lattice: PointLattice,
    ground_classes: tuple[int, ...],
    folder: str | os.PathLike[str],
    chunk: int = 50_000,
) -> dict[str, Any]:
    """Decode a tile once and write its points, and its thinned ground, as fragments by block.

    Parameters
    ----------
    folder : of the fragments, local or any fsspec URL
    chunk : points decoded at once; 50,000 are what most LAZ writers put into a chunk of theirs

    Returns
    -------
    counts per class (all points, and those inside the grid) and the blocks touched

    Raises
    ------
    InputError
        The tile cannot be decoded; its fragments are removed.
    """
    read, inside = np.zeros(256, np.int64), np.zeros(256, np.int64)
    names = [name for name in tile.attributes if name in tile.file.dimensions]
    transform = (
        None
        if same_map_crs(tile.crs, grid.pyproj_crs)
        else Transformer.from_crs(map_crs(tile.crs), grid.pyproj_crs, always_xy=True)
    )
    # of a COPC no more is decoded than lies on the grid
    wanted = moved_bounds(grid.bounds(grid.window), grid.pyproj_crs, tile.crs)
    unit = vertical_unit(tile.crs)
    spill = _Spill(number, Fragments(folder), grid, lattice, ground_classes)
    try:
        for points in read_chunks(tile.file, names, chunk=chunk, bounds=wanted):
            x, y = points.x, points.y
            if transform is not None:
                x, y = transform.transform(x, y)
            fields = {
                **_integers(points, x, y, unit, lattice, exact=transform is None),
                **{name: _attribute(points, name) for name in tile.attributes},
            }
            places = places_of(grid, x, y)
            read += np.bincount(fields["classification"], minlength=256)
            if not places.inside.all():
                fields = {name: values[places.inside] for name, values in fields.items()}
                places = places.kept()
            inside += np.bincount(fields["classification"], minlength=256)
            spill.add(places, fields)
        spill.flush()
    except Fusion3DError:
        spill.remove()
        raise
    return {"read": _plain(read), "inside": _plain(inside), "blocks": sorted(block_name(*block) for block in spill.blocks)}


class _Spill:
    """Points of a tile on their way to fragments: held by block until they are many."""

    def __init__(
        self, number: int, fragments: Fragments, grid: Grid, lattice: PointLattice, ground_classes: tuple[int, ...]
    ) -> None:
        self._number, self._fragments, self._grid, self._lattice = number, fragments, grid, lattice
        self._column_type = _column_type(grid.block)
        self._is_ground = np.isin(np.arange(256), ground_classes)
        self._held: dict[tuple[int, int], list[dict[str, npt.NDArray[Any]]]] = {}
        self._bytes = self._part = 0
        self._written: list[str] = []
        self.blocks: set[tuple[int, int]] = set()

    def add(self, places: Places, fields: dict[str, npt.NDArray[Any]]) -> None:
        """Places and fields [N] of points inside the grid."""
        number, rows, cols = numbered(places.block_row, places.block_col)
        fields["column"] = places.column.astype(self._column_type)
        splits = np.array([0, len(number)])
        if len(rows) > 1:
            order, splits = sorted_by(number, len(rows))
            fields = {name: taken(values, order) for name, values in fields.items()}
        for index, block in enumerate(zip(rows.tolist(), cols.tolist(), strict=True)):
            where = slice(splits[index], splits[index + 1])
            anchor = self._lattice.anchor(self._grid, self._grid.block_window(*block))
            piece = {name: values[where] for name, values in fields.items()}
            for axis, name in enumerate("xy"):
                piece[name] = narrow(piece[name], anchor[axis])
            piece["z"] = narrow(piece["z"], 0)
            self._held.setdefault(block, []).append(piece)
            self._bytes += sum(values.nbytes for values in piece.values())
        if self._bytes > _HELD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        for block in sorted(self._held):
            pieces = self._held.pop(block)
            self._write(block, POINTS, [[piece[name] for piece in pieces] for name in pieces[0]])
            self._write_ground(block, pieces)
            self.blocks.add(block)
        self._bytes, self._part = 0, self._part + 1

    def _write_ground(self, block: tuple[int, int], pieces: list[dict[str, npt.NDArray[Any]]]) -> None:
        ground = [listed(piece["classification"], self._is_ground) for piece in pieces]
        x, y, z = (
            np.concatenate([taken(piece[name], where) for piece, where in zip(pieces, ground, strict=True)]) for name in "xyz"
        )
        if len(x):
            anchor = self._lattice.anchor(self._grid, self._grid.block_window(*block))
            thinned = thin((x, y, z), (*anchor, 0), self._lattice, self._grid.unit)
            self._write(block, GROUND, [[values] for values in thinned.arrays()])

    def _write(self, block: tuple[int, int], kind: str, fields: list[list[npt.NDArray[Any]]]) -> None:
        self._written.append(self._fragments.write(block, self._number, self._part, kind, fields))

    def remove(self) -> None:
        self._fragments.remove(self._written)


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


def _plain(counts: npt.NDArray[np.int64]) -> dict[str, int]:
    return {str(code): int(counts[code]) for code in np.flatnonzero(counts)}


def _column_type(side: int) -> type[np.unsignedinteger[Any]]:
    """For the columns of a block, numbered in row order."""
    return np.uint16 if side * side <= 1 << 16 else np.uint32 if side * side <= 1 << 32 else np.uint64
