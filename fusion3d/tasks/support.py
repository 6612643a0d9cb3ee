"""What a raster says under each plot: its cells weighted by the share of the plot's area that lies on them.

The weights are exact areas of intersection, so a plot counts a cell as far as it covers it, whatever the sizes of the two.
Footprints weigh the cells about their middle by a Gaussian instead.
Only windows under plots are read, so the raster may be of any size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from fusion3d.errors import InputError
from fusion3d.evaluation.footprint_weights import Gaussian, footprint_cells
from fusion3d.evaluation.lattice import Lattice, is_north_up
from fusion3d.grid import Window, map_crs
from fusion3d.io.pixels import Target
from fusion3d.io.raster import RasterFile

Float64 = npt.NDArray[np.float64]
Polygons = npt.NDArray[np.object_]

LEAST_COVER = 0.5
"""Share of a plot's area that must lie on cells with data."""
PERCENTILES = (25, 50, 75, 95)
_SIDE = 128
"""Cells on the side of a tile that is read at once, as in the files of maps of many bands."""
_KEPT = 4
"""Tiles in memory."""


def require_map(file: RasterFile) -> RasterFile:
    """The raster itself if it can be a map of embeddings: square pixels, north up.

    Raises
    ------
    InputError
        It cannot.
    """
    if not is_north_up(file):
        raise InputError(file.path, "its pixels are not square with north up", "give a map that `fusion3d embed` wrote")
    if not map_crs(file.crs).is_projected:
        problem = f"its CRS {file.crs.name!r} is not projected, areas need metres"
        raise InputError(file.path, problem, "reproject it, for instance with gdalwarp -t_srs and the UTM zone")
    return file


class CellReader:
    """Reads the cells under polygons, tile by tile; plots that share a tile read it once.

    Parameters
    ----------
    file : raster, of any size
    """

    def __init__(self, file: RasterFile) -> None:
        self.file, self.lattice = file, Lattice.of(file)
        self._tile = lru_cache(maxsize=_KEPT)(self._read)

    def _read(self, row: int, col: int) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
        return read_window(self.file, self.lattice, self._window(row, col))

    def _window(self, row: int, col: int) -> Window:
        whole = Window(0, 0, self.lattice.rows, self.lattice.cols)
        return Window(row * _SIDE, col * _SIDE, _SIDE, _SIDE).intersection(whole)

    def order(self, polygons: Polygons) -> npt.NDArray[np.int64]:
        """Numbers of the polygons, those of a tile in a row."""
        west, south, east, north = shapely.bounds(polygons).T
        side = self.lattice.cell * _SIDE
        return np.lexsort([np.floor((west + east) / 2 / side), np.floor((south + north) / 2 / side)])

    def under(self, polygon: shapely.Geometry) -> Iterator[tuple[Float64, Float64]]:
        """Values [n, C] and areas [n] of the cells under a polygon (in the raster's CRS) where all bands have data, by tile."""
        touched = self.lattice.covering(shapely.bounds(polygon))
        if touched.size == 0:
            return
        shapely.prepare(polygon)
        for number, tile in self._tiles(touched):
            window = tile.intersection(touched)
            yield from self._seen(number, tile, window, self.lattice.areas(polygon, window))

    def under_footprint(self, disc: shapely.Geometry, gaussian: Gaussian) -> Iterator[tuple[Float64, Float64]]:
        """The same with shares of a footprint's weight in place of areas; of 1 in all when it lies on data."""
        touched, shares = footprint_cells(disc, gaussian, self.lattice)
        for number, tile in self._tiles(touched):
            window = tile.intersection(touched)
            top, left = window.row - touched.row, window.col - touched.col
            yield from self._seen(number, tile, window, shares[top : top + window.rows, left : left + window.cols])

    def _tiles(self, touched: Window) -> Iterator[tuple[tuple[int, int], Window]]:
        """Number and window of the tiles that share cells with a window."""
        if touched.size == 0:
            return
        for row in range(touched.row // _SIDE, (touched.row_stop - 1) // _SIDE + 1):
            for col in range(touched.col // _SIDE, (touched.col_stop - 1) // _SIDE + 1):
                yield (row, col), self._window(row, col)

    def _seen(self, number: tuple[int, int], tile: Window, window: Window, weights: Float64) -> Iterator[tuple[Float64, Float64]]:
        """Values and weights of the cells of a window of a tile that have data and weight, if there are any weights."""
        if not weights.any():
            return
        values, seen = self._tile(*number)
        top, left = window.row - tile.row, window.col - tile.col
        inside = slice(top, top + window.rows), slice(left, left + window.cols)
        used = seen[inside] & (weights > 0)
        yield values[(slice(None), *inside)][:, used].T.astype(np.float64), weights[used]


def read_window(file: RasterFile, lattice: Lattice, window: Window) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
    """Values [C, rows, cols] of a window, and [rows, cols] where every band has data."""
    x0, y0 = lattice.x0 + window.col * lattice.cell, lattice.y0 - window.row * lattice.cell
    patch = file.read(0, Target(file.crs, x0, y0, lattice.cell, window.rows, window.cols))
    return patch.values, patch.valid.all(axis=0)


def means_of_squares(
    values: npt.NDArray[np.generic], seen: npt.NDArray[np.bool_], side: int
) -> tuple[Float64, npt.NDArray[np.bool_]]:
    """Means [C, r, c] of squares of cells, as under plots of that shape, and [r, c] where data cover at least half of one.

    Sums run in one order whatever else is computed with a square, so that its mean does not depend on it.

    Parameters
    ----------
    values : [C, rows, cols]; the last squares may reach beyond them, where there is no data
    seen : [rows, cols] where every band has data
    side : of a square, cells
    """
    rows, cols = seen.shape
    beyond = (0, -rows % side), (0, -cols % side)
    cells = np.pad(np.where(seen, values, 0).astype(np.float64), ((0, 0), *beyond))
    count = _sums(np.pad(seen, beyond).astype(np.int64), side)
    means = np.divide(_sums(cells, side), count, out=np.zeros((len(values), *count.shape)), where=count > 0)
    return means, count >= LEAST_COVER * side**2


def _sums(values: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Over squares of the last two axes."""
    down = values[..., ::side, :].copy()
    for row in range(1, side):
        down += values[..., row::side, :]
    found = down[..., ::side].copy()
    for col in range(1, side):
        found += down[..., col::side]
    return found


@dataclass(frozen=True)
class PlotFeatures:
    """What describes each plot.

    Attributes
    ----------
    names : [F]
    values : [P, F], NaN where there is no data under a plot
    covered : [P] share of the plot's area that lies on cells with data
    """

    names: tuple[str, ...]
    values: Float64
    covered: Float64

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """[P] where at least half of the plot's area has data."""
        return self.covered >= LEAST_COVER - 1e-9


def band_names(file: RasterFile) -> tuple[str, ...]:
    """Names of a raster's bands; those without one by number."""
    return tuple(band.name or f"band_{number:03d}" for number, band in enumerate(file.bands))


def means_under(file: RasterFile, polygons: Polygons, gaussian: Gaussian | None = None) -> PlotFeatures:
    """Area-weighted mean of each band under each polygon (in the raster's CRS).

    Parameters
    ----------
    gaussian : the polygons are discs of footprints, which weigh cells so
    """
    reader = CellReader(file)
    values, covered = np.full((len(polygons), file.count), np.nan), np.zeros(len(polygons))
    for number in reader.order(polygons):
        polygon, total, weight = polygons[number], np.zeros(file.count), 0.0
        for found, weights in reader.under(polygon) if gaussian is None else reader.under_footprint(polygon, gaussian):
            total += weights @ found
            weight += float(weights.sum())
        if weight > 0:
            values[number] = total / weight
            covered[number] = min(1.0, weight / (polygon.area if gaussian is None else 1.0))
    return PlotFeatures(band_names(file), values, covered)


def statistics_under(file: RasterFile, polygons: Polygons) -> PlotFeatures:
    """Area-weighted mean and percentiles of each band under each polygon (in the raster's CRS)."""
    reader = CellReader(file)
    names = tuple(f"{name}_{what}" for name in band_names(file) for what in ("mean", *(f"p{rank}" for rank in PERCENTILES)))
    values, covered = np.full((len(polygons), len(names)), np.nan), np.zeros(len(polygons))
    for number in reader.order(polygons):
        parts = list(reader.under(polygons[number]))
        if not sum(len(weights) for _, weights in parts):
            continue
        cells, weights = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        figures = [
            np.array([weights @ band / weights.sum(), *weighted_percentiles(band, weights, PERCENTILES)]) for band in cells.T
        ]
        values[number], covered[number] = np.concatenate(figures), min(1.0, float(weights.sum()) / polygons[number].area)
    return PlotFeatures(names, values, covered)


def weighted_percentiles(values: Float64, weights: Float64, ranks: tuple[int, ...]) -> Float64:
    """Percentiles of weighted values [n]: linear between the middles of their shares of the total weight (Hazen's rule)."""
    order = np.argsort(values, kind="stable")
    share = weights[order] / weights.sum()
    return np.interp(np.array(ranks) / 100, np.cumsum(share) - share / 2, values[order])
