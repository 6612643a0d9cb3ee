"""Maps of point metrics straight from LAS, LAZ or COPC tiles: one decode of X, Y, Z and class, no store.

Z is what the files hold, as in lasR's `rasterize` and lidR's `pixel_metrics`: elevations, or heights if the tiles are normalised.
A cell that several tiles touch gets the points of all of them: they wait until its last tile is read. Tiles are read from north
to south, so only points near the seams of a row of tiles wait.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pyproj import CRS

import fusion3d
from fusion3d.errors import ConfigError, CRSError, Fusion3DError, InputError
from fusion3d.grid import Grid, Window, map_crs, same_map_crs, vertical_unit
from fusion3d.io.alignment import planar
from fusion3d.io.delivery import delivery, final_name
from fusion3d.io.geotiff import CogWriter, check_tif_name
from fusion3d.io.las import read_chunks
from fusion3d.io.las_layout import NOISE_CLASSES, POINT_SUFFIXES
from fusion3d.mapping.cell_statistics import CellStatistics, cell_statistics, cells_in
from fusion3d.prepare.scene import AlsSource, Scene, expand
from fusion3d.prepare.tiles import Contents, Tile, scan_tile, unusable
from fusion3d.progress import progress_bar
from fusion3d.tasks.metric_catalogue import CATALOGUE

if TYPE_CHECKING:
    from fusion3d.mapping.metrics_map import MetricsSummary

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

DEFAULT_NAMES = ("zmax", "zmean", "n", "zq5", "zq25", "zq50", "zq75", "zq95")
_UNITS = {"n": "1"}
_MOST_WAITING = 40_000_000
"""Points that may wait for further tiles of their cells: 1 GB."""


@dataclass(frozen=True)
class TileMetricsSummary:
    """What was mapped.

    Attributes
    ----------
    output : file or fsspec URL
    metrics : names of the bands
    cell : metres
    rows, cols : of the map
    mapped : cells with enough points
    points : that were counted; left_out : noise and withheld ones
    set_aside : path and reason of each tile that could not be used
    seconds : wall time
    """

    output: Path | str
    metrics: tuple[str, ...]
    cell: float
    rows: int
    cols: int
    mapped: int
    points: int
    left_out: int
    set_aside: tuple[tuple[str, str], ...]
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.output}: {len(self.metrics)} metrics of {self.points:,} points ({self.left_out:,} noise or withheld) "
            f"on {self.mapped} of {self.rows * self.cols} cells of {self.cell:g} m; {self.seconds:.0f} s"
        )


def tile_metrics(
    files: Sequence[str],
    out: str | Path,
    *,
    resolution: float = 10.0,
    names: Sequence[str] | None = None,
    least: int = 1,
    crs: str | None = None,
    progress: bool = False,
) -> TileMetricsSummary:
    """Write metrics of the Z of points as a COG, a band each; withheld points and classes 7 and 18 (noise) do not count.

    Parameters
    ----------
    files : point files, folders or patterns
    out : file or fsspec URL that ends in .tif
    resolution : side of a cell, metres; cells begin at its multiples
    names : zmax, zmin, zmean, n (number of points), zq1 ... zq99 (percentiles); None for `DEFAULT_NAMES`
    least : cells with fewer points are nodata
    crs : of files that state none
    progress : draw a progress bar

    Returns
    -------
    what was mapped; tiles that cannot be used are in `set_aside`, the map holds the rest

    Raises
    ------
    ConfigError
        An option is out of range, or the tiles overlap so much that their points do not fit into memory.
    InputError, CRSError
        No tile is usable, or they have several CRSs; nothing is left under `out` that was not there before.
    """
    check_tif_name(out)
    chosen = _chosen(names)
    if least < 1:
        raise ConfigError(f"--min-returns must be at least 1, not {least}")
    with delivery([out]) as (path,):
        found = _written(files, path, resolution, chosen, least, crs, progress)
    return replace(found, output=final_name(out))


def _written(
    files: Sequence[str], path: Path, resolution: float, chosen: tuple[str, ...], least: int, crs: str | None, progress: bool
) -> TileMetricsSummary:
    """As `tile_metrics`, of a local file."""
    began = time.monotonic()
    set_aside: list[tuple[str, str]] = []
    tiles = _usable(expand(files, POINT_SUFFIXES), crs, set_aside)
    place, windows = _layout(tiles, resolution)
    writer = CogWriter(
        path, x0=place.x0, y0=place.y0, pixel=place.cell, width=place.cols, height=place.rows, count=len(chosen),
        crs=planar(place.pyproj_crs), dtype="float32", nodata=math.nan, band_names=chosen,
        units=[_UNITS.get(name, "m") for name in chosen], tags=_tags(place, least),
    )  # fmt: skip
    waiting = _Waiting(windows)
    points = left_out = mapped = 0
    with writer, progress_bar("metrics", len(tiles), progress, unit="tiles") as advance:
        order = sorted(range(len(tiles)), key=lambda number: (windows[number].row, windows[number].col, number))
        for number in order:
            try:
                cell, z = _decode(tiles[number], place, windows[number])
                left_out += tiles[number].file.count - len(z)
            except Fusion3DError as error:
                set_aside.append((tiles[number].file.path, str(error)))
                cell, z = np.zeros(0, np.int32), np.zeros(0)
            points += len(z)
            window = windows[number]
            found = cell_statistics(*waiting.released(number, cell, z), window.size, _ranks(chosen))
            values = _bands(found, chosen, least)
            mapped += int(np.isfinite(values[0]).sum())
            writer.write(values.reshape(len(chosen), window.rows, window.cols), window.row, window.col)
            advance()
        if not points:
            reason = set_aside[0][1] if set_aside else str(InputError(files[0], "the tiles hold no points", "check the files"))
            raise Fusion3DError(reason)
        if not mapped:
            raise ConfigError(f"no cell holds {least} points: map larger cells or give a lower --min-returns")
    return TileMetricsSummary(
        path, chosen, place.column, place.rows, place.cols, mapped, points, left_out, tuple(sorted(set_aside)),
        time.monotonic() - began,
    )  # fmt: skip


def height_metrics(
    files: Sequence[str],
    out: str | Path,
    *,
    resolution: float = 10.0,
    names: Sequence[str] | None = None,
    min_height: float = 0.0,
    least: int = 1,
    crs: str | None = None,
    progress: bool = False,
) -> MetricsSummary:
    """As `tile_metrics`, but of heights above the triangulated ground: through a store beside `out` that is removed again.

    Parameters
    ----------
    names : any metric of `fusion3d.tasks.metric_catalogue`; None for `DEFAULT_NAMES`
    min_height, least : as for `cell_metrics`

    Returns
    -------
    what was mapped; tiles that cannot be used are in `set_aside`, the map holds the rest
    """
    from fusion3d.mapping.metrics_map import metrics_map
    from fusion3d.prepare.run import prepare

    check_tif_name(out)
    chosen = names or DEFAULT_NAMES
    if unknown := [name for name in chosen if name not in CATALOGUE]:
        raise ConfigError(f"no metric {', '.join(unknown)}; known are {', '.join(CATALOGUE)}")
    scene = Scene(AlsSource(tuple(files), crs=crs), column=resolution, voxel=resolution)
    with delivery([out]) as (path,):
        if not path.parent.is_dir():
            raise InputError(path, "cannot be written: its folder does not exist", "create the folder first")
        with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.parent) as folder:
            prepared = prepare(scene, Path(folder) / path.stem, quiet=not progress)
            found = metrics_map(
                prepared.out, path, resolution=resolution, names=chosen, min_height=min_height, least=least, progress=progress
            )
    return replace(found, output=final_name(out), set_aside=tuple(prepared.set_aside))


def _chosen(names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return DEFAULT_NAMES
    unknown = [name for name in names if name not in ("zmax", "zmin", "zmean", "n") and _rank(name) is None]
    if unknown or not names:
        raise ConfigError(
            f"--metrics {', '.join(unknown) or 'is empty'}: of tiles there are zmax, zmin, zmean, n and zq1 to zq99; for others "
            "make a store with `fusion3d prepare`, or give --ground"
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"--metrics names {', '.join(sorted({name for name in names if list(names).count(name) > 1}))} twice")
    return tuple(names)


def _rank(name: str) -> int | None:
    digits = name.removeprefix("zq")
    rank = int(digits) if name.startswith("zq") and digits.isascii() and digits.isdigit() and len(digits) < 3 else 0
    return rank if 1 <= rank <= 99 and name == f"zq{rank}" else None


def _ranks(names: Sequence[str]) -> Float64:
    return np.array([rank for name in names if (rank := _rank(name)) is not None], np.float64)


def _usable(paths: list[str], crs: str | None, set_aside: list[tuple[str, str]]) -> list[Tile]:
    """Tiles with points whose header is sound, each content once."""
    source, tiles, contents = AlsSource(tuple(paths)), [], Contents()
    for path in paths:
        try:
            tile = scan_tile(path, source, crs)
            contents.add(tile.file)
        except Fusion3DError as error:
            set_aside.append((path, str(error)))
            continue
        if tile.file.count:
            tiles.append(tile)
    if not tiles:
        raise unusable(set_aside) if set_aside else InputError(paths[0], "holds no points", "check the files")
    for tile in tiles[1:]:
        if not same_map_crs(tile.crs, tiles[0].crs):
            names = map_crs(tile.crs).name, map_crs(tiles[0].crs).name
            raise CRSError(
                tile.file.path, f"is in {names[0]}, {tiles[0].file.path} in {names[1]}", "map the tiles of each CRS by themselves"
            )
    return tiles


def _layout(tiles: list[Tile], resolution: float) -> tuple[Grid, list[Window]]:
    """The cells of the map as a grid, and those within the bounds of each tile."""
    if not (math.isfinite(resolution) and resolution > 0):
        raise ConfigError(f"--resolution must be a positive number of metres, not {resolution}")
    rectangles = np.array([tile.file.bounds for tile in tiles])
    low, high = rectangles[:, :2].min(axis=0), rectangles[:, 2:].max(axis=0)
    crs: CRS = tiles[0].crs
    try:
        grid = Grid.covering(crs, (*low.tolist(), *high.tolist()), column=resolution, voxel=resolution)
    except CRSError as error:
        raise CRSError(tiles[0].file.path, error.problem, error.remedy) from None
    return grid, [grid.covering_window(tile.file.bounds) for tile in tiles]


def _decode(tile: Tile, place: Grid, window: Window) -> tuple[Int32, Float64]:
    """Cell within the window, and z in metres, of the points that count."""
    names = [name for name in ("classification", "withheld") if name in tile.file.dimensions]
    noise, unit = np.isin(np.arange(256), NOISE_CLASSES), vertical_unit(tile.crs)
    cell, z, count = np.empty(tile.file.count, np.int32), np.empty(tile.file.count), 0
    # 50,000 points are what most LAZ writers put into a chunk of theirs
    for points in read_chunks(tile.file, names, chunk=50_000):
        refused = noise[points.attributes["classification"]]
        if "withheld" in points.attributes:
            refused |= points.attributes["withheld"]
        found, heights = cells_in(place, window, points.x, points.y), points.z * unit
        if refused.any():
            found, heights = found[~refused], heights[~refused]
        cell[count : count + len(found)], z[count : count + len(found)] = found, heights
        count += len(found)
    return cell[:count], z[:count]


class _Waiting:
    """Points in cells that tiles which are not read yet touch too.

    Parameters
    ----------
    windows : the cells of the map that each tile touches
    """

    def __init__(self, windows: list[Window]) -> None:
        self._windows = windows
        sides = [(window.row, window.row_stop, window.col, window.col_stop) for window in windows]
        self._top, self._bottom, self._left, self._right = np.array(sides).T
        self._to_come = np.ones(len(windows), np.bool_)
        self._row, self._col, self._z = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)

    def released(self, number: int, cell: Int32, z: Float64) -> tuple[Int32, Float64]:
        """Points of the cells in a tile's window that are complete once it is read; the others are kept back.

        Parameters
        ----------
        number : of the tile
        cell, z : [N] its points, cells in its window
        """
        window = self._windows[number]
        self._to_come[number] = False
        row, col = self._row - window.row, self._col - window.col
        here = (row >= 0) & (row < window.rows) & (col >= 0) & (col < window.cols)
        if here.any():
            cell = np.concatenate([cell, (row[here] * window.cols + col[here]).astype(np.int32)])
            z = np.concatenate([z, self._z[here]])
            self._row, self._col, self._z = self._row[~here], self._col[~here], self._z[~here]
        shared = self._shared(window)
        if shared.any():
            kept = shared.ravel()[cell]
            row, col = np.divmod(cell[kept].astype(np.int64), window.cols)
            self._row = np.concatenate([self._row, row + window.row])
            self._col = np.concatenate([self._col, col + window.col])
            self._z = np.concatenate([self._z, z[kept]])
            cell, z = cell[~kept], z[~kept]
            if len(self._z) > _MOST_WAITING:
                raise ConfigError(
                    f"more than {_MOST_WAITING:,} points lie where tiles overlap: make a store with `fusion3d prepare`, map that"
                )
        return cell, z

    def _shared(self, window: Window) -> npt.NDArray[np.bool_]:
        """[rows, cols] cells of a window that tiles to come touch."""
        shared = np.zeros((window.rows, window.cols), np.bool_)
        meets = (self._top < window.row_stop) & (self._bottom > window.row) & (self._left < window.col_stop)
        for other in np.flatnonzero(self._to_come & meets & (self._right > window.col)):
            part = window.intersection(self._windows[other])
            shared[part.row - window.row : part.row_stop - window.row, part.col - window.col : part.col_stop - window.col] = True
        return shared


def _bands(found: CellStatistics, names: Sequence[str], least: int) -> Float32:
    """[bands, M] as float32, NaN in cells with too few points."""
    columns = {"zmax": found.high, "zmin": found.low, "zmean": found.mean, "n": found.count}
    percentiles = iter(found.percentiles.T)
    values = np.stack([columns[name] if name in columns else next(percentiles) for name in names]).astype(np.float32)
    values[:, ~(found.count >= least)] = np.nan
    return values


def _tags(place: Grid, least: int) -> dict[str, str]:
    return {
        "sensors": "als",
        "resolution": f"{place.column:g}",
        "metrics": "of Z as in the tiles: elevation, or height where they are normalised",
        "percentiles": "linear between order statistics (type 7)",
        "min_returns": f"{least}",
        "left_out": f"classes {', '.join(map(str, NOISE_CLASSES))} and withheld points",
        "fusion3d": fusion3d.__version__,
    }
