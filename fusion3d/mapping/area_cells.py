"""The cells of a map under an area, read tile by tile: mean, share with data, and weights for the variance of the mean."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from fusion3d.errors import InputError
from fusion3d.evaluation.lattice import Lattice, is_north_up
from fusion3d.grid import Window, map_crs, metric_unit
from fusion3d.io.raster import RasterFile, open_raster
from fusion3d.tasks.area_variance import MOST_CELLS
from fusion3d.tasks.domain import EXTRAPOLATION
from fusion3d.tasks.estimators import Spread
from fusion3d.tasks.support import LEAST_COVER, band_names, read_window

Float64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_SIDE = 256
_KEPT = 16
"""Tiles in memory."""
_MOST_DISTORTED = 0.02


@dataclass(frozen=True)
class AreaCells:
    """What a map says of an area.

    Attributes
    ----------
    area, covered : of the area, and of its part with data, m2
    mean : of the map over that part, weighted by area
    above_plots : share of that part where the map is above all predictions of plots
    extrapolated : share of that part where the map says that its model extrapolates; NaN where it does not say
    weights : [H, W] sum of covered area times standard deviation of the residual, m2 * unit, on square cells
    cell : side of these cells, metres; split : cells of the map on a side of each
    """

    area: float
    covered: float
    mean: float
    above_plots: float
    extrapolated: float
    weights: Float64
    cell: float
    split: int


@dataclass(frozen=True)
class _Tile:
    """Cells of a map: values [rows, cols], which have data, and where the model extrapolates, None where the map does not say."""

    window: Window
    values: Float64
    seen: BoolArray
    outside: BoolArray | None

    def part(self, window: Window) -> _Tile:
        """The cells of a window inside."""
        top, left = window.row - self.window.row, window.col - self.window.col
        inside = slice(top, top + window.rows), slice(left, left + window.cols)
        return _Tile(window, self.values[inside], self.seen[inside], None if self.outside is None else self.outside[inside])


class MapCells:
    """The first band of a map and its mask of extrapolation, on square cells whose area is known.

    Parameters
    ----------
    path : raster of `fusion3d map`

    Raises
    ------
    InputError
        It cannot be read, its pixels are not square with north up, or its CRS does not keep areas.
    CRSError
        Its CRS is in degrees.
    """

    def __init__(self, path: str | Path) -> None:
        whole = open_raster(path)
        if not is_north_up(whole):
            raise InputError(path, "its pixels are not square with north up", "give a map that `fusion3d map` wrote")
        names = band_names(whole)
        self.file = _band(whole, 0)
        self._outside = _band(whole, names.index(EXTRAPOLATION)) if EXTRAPOLATION in names[1:] else None
        self.lattice = Lattice.of(self.file)
        self.scale = metric_unit(map_crs(self.file.crs))
        self.extent = shapely.box(*self.file.bounds)
        _check_areas(self.file, self.extent.area * self.scale**2)
        self._tile = lru_cache(maxsize=_KEPT)(self._read)

    def _read(self, row: int, col: int) -> _Tile:
        window = self._window(row, col)
        values, seen = read_window(self.file, self.lattice, window)
        outside = None if self._outside is None else read_window(self._outside, self.lattice, window)[0][0] > 0.5
        return _Tile(window, values[0].astype(np.float64), seen, outside)

    def _window(self, row: int, col: int) -> Window:
        whole = Window(0, 0, self.lattice.rows, self.lattice.cols)
        return Window(row * _SIDE, col * _SIDE, _SIDE, _SIDE).intersection(whole)

    def under(self, polygon: shapely.Geometry) -> Iterator[tuple[_Tile, Float64]]:
        """Cells that a polygon touches, and their areas [rows, cols] under it (squared CRS units, 0 without data), by tile."""
        touched = self.lattice.covering(shapely.bounds(polygon))
        if touched.size == 0:
            return
        shapely.prepare(polygon)
        for row in range(touched.row // _SIDE, (touched.row_stop - 1) // _SIDE + 1):
            for col in range(touched.col // _SIDE, (touched.col_stop - 1) // _SIDE + 1):
                window = self._window(row, col).intersection(touched)
                areas = self._areas(polygon, window)
                if areas is None:
                    continue
                tile = self._tile(row, col).part(window)
                yield tile, np.where(tile.seen, areas, 0.0)

    def _areas(self, polygon: shapely.Geometry, window: Window) -> Float64 | None:
        lattice = self.lattice
        left, top = lattice.x0 + window.col * lattice.cell, lattice.y0 - window.row * lattice.cell
        box = shapely.box(left, top - window.rows * lattice.cell, left + window.cols * lattice.cell, top)
        if shapely.covers(polygon, box):
            return np.full((window.rows, window.cols), lattice.cell**2)
        return lattice.areas(polygon, window) if shapely.intersects(polygon, box) else None

    def covered(self, polygon: shapely.Geometry) -> float:
        """Area with data under a polygon in the map's CRS, m2."""
        return sum(float(areas.sum()) for _, areas in self.under(polygon)) * self.scale**2

    def means(self, polygons: npt.NDArray[np.object_]) -> Float64:
        """[P] mean of the map under polygons in its CRS, NaN where less than half of one has data."""
        found = np.full(len(polygons), np.nan)
        for number, polygon in enumerate(polygons):
            total = covered = 0.0
            for tile, areas in self.under(polygon):
                total += float((tile.values * areas)[areas > 0].sum())
                covered += float(areas.sum())
            if covered >= LEAST_COVER * polygon.area:
                found[number] = total / covered
        return found

    def cells(self, polygon: shapely.Geometry, spread: Spread, highest: float) -> AreaCells:
        """What the map says of a polygon in its CRS.

        Parameters
        ----------
        spread : standard deviation of the residual by the map's value
        highest : greatest prediction of a plot
        """
        lattice = self.lattice
        touched = lattice.covering(shapely.bounds(polygon))
        split = max(1, -(-max(touched.rows, touched.cols) // MOST_CELLS))
        weights = np.zeros((-(-touched.rows // split), -(-touched.cols // split)))
        covered = total = above = outside = 0.0
        for tile, areas in self.under(polygon):
            window, values, used = tile.window, tile.values, areas > 0
            covered += float(areas.sum())
            total += float((values[used] * areas[used]).sum())
            above += float(areas[used & (values > highest)].sum())
            outside += math.nan if tile.outside is None else float(areas[used & tile.outside].sum())
            down = (window.row - touched.row + np.arange(window.rows)) // split
            right = (window.col - touched.col + np.arange(window.cols)) // split
            part = np.where(used, areas, 0.0) * np.where(used, spread(np.where(used, values, 0.0)), 0.0)
            np.add.at(weights, (down[:, None], right[None, :]), part)
        square = self.scale**2
        mean = total / covered if covered > 0 else np.nan
        high, beyond = (part / covered if covered > 0 else 0.0 for part in (above, outside))
        return AreaCells(
            area=float(polygon.area) * square,
            covered=covered * square,
            mean=mean,
            above_plots=high,
            extrapolated=beyond,
            weights=weights * square,
            cell=lattice.cell * split * self.scale,
            split=split,
        )


def _band(file: RasterFile, number: int) -> RasterFile:
    """One band of a raster, from 0."""
    at = slice(number, number + 1)
    return replace(file, **{name: getattr(file, name)[at] for name in ("indexes", "bands", "scale", "offset", "units")})


def _check_areas(file: RasterFile, plane: float) -> None:
    """Refuse a CRS in which a hectare is none, such as that of web maps."""
    crs = map_crs(file.crs)
    geod, geographic = crs.get_geod(), crs.geodetic_crs
    if geod is None or geographic is None:
        return
    from pyproj import Transformer

    ring = shapely.segmentize(shapely.box(*file.bounds).exterior, max(file.width, file.height) * file.pixel / 50)
    lon, lat = Transformer.from_crs(crs, geographic, always_xy=True).transform(*shapely.get_coordinates(ring).T)
    true = abs(geod.polygon_area_perimeter(lon, lat)[0])
    if np.isfinite(true) and true > 0 and abs(plane / true - 1) > _MOST_DISTORTED:
        raise InputError(
            file.path,
            f"areas in its CRS {crs.name!r} are {100 * (plane / true - 1):+.0f} % off here, and so would totals be",
            "map in an equal-area CRS or in the UTM zone of the place",
        )
