"""Plot metrics from a store's aerial LiDAR: the returns that lie inside each plot, at full resolution.

The area-based approach (Naesset 2002, Remote Sensing of Environment 80; White et al. 2013, Canadian Forest Service FI-X-010): the
same metrics of plots and of a map's cells, a model between them. By default all returns count, as in lidR's `stdmetrics`; many
publications take heights above 2 m only (`min_height=2`), which leaves ground and shrubs out of height metrics, but also leaves
clearings without any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS

from fusion3d.data.chips import NOISE_CLASSES
from fusion3d.errors import ConfigError, StoreError
from fusion3d.evaluation.lattice import Lattice
from fusion3d.evaluation.plots import to_crs
from fusion3d.grid import Grid, Window, map_crs
from fusion3d.store import Store
from fusion3d.tasks.cell_metrics import LEAST_RETURNS, NEAR_EDGE, CellReturns, cell_metrics
from fusion3d.tasks.metric_catalogue import Metric, choose
from fusion3d.tasks.support import PlotFeatures

BoolArray = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Polygons = npt.NDArray[np.object_]

_LEAST_SQUARE = 5.0
"""Metres: a place counts as covered where a square of at least this side holds a return, so that thin data have no holes."""


def plot_metrics(
    store: Store | str | Path,
    polygons: Polygons,
    crs: CRS | None = None,
    *,
    names: Sequence[str] | None = None,
    min_height: float = 0.0,
    least: int = LEAST_RETURNS,
) -> PlotFeatures:
    """Metrics of the returns inside each polygon, clipped exactly; returns of noise classes and withheld ones left out.

    A return on the edge of two polygons belongs to the one that lies south or east of it, as with columns. Only the blocks under
    plots are read.

    Parameters
    ----------
    polygons : [P], in `crs`
    crs : None for that of the store
    names : of metrics in `metric_catalogue.CATALOGUE`; None for every predictor that the store's points allow
    min_height, least : as for `cell_metrics`

    Returns
    -------
    Values are NaN for plots that hold too few returns; `covered` is the share of a plot's area on squares (a column, or columns
    that make 5 m) that hold a return.

    Raises
    ------
    ConfigError
        A metric is not known, or needs an attribute that is not stored, or `min_height` or `least` is out of range.
    StoreError
        The store cannot be read or holds no aerial LiDAR.
    """
    store = store if isinstance(store, Store) else Store.open(store)
    metrics = choose_metrics(store, names)
    check_options(min_height, least)
    grid = store.grid
    shapes = polygons if crs is None else to_crs(polygons, crs, map_crs(grid.pyproj_crs), store.path)
    values, covered = np.full((len(shapes), len(metrics)), np.nan), np.zeros(len(shapes))
    for number in _by_block(shapes, grid):
        values[number], covered[number] = _one(store, shapes[number], metrics, min_height, least)
    return PlotFeatures(tuple(metric.name for metric in metrics), values, covered)


def choose_metrics(store: Store, names: Sequence[str] | None) -> tuple[Metric, ...]:
    """Metrics of a store's points by name; None for every predictor that they allow.

    Raises
    ------
    StoreError
        The store holds no aerial LiDAR.
    ConfigError
        A name is not known, or the metric needs an attribute that is not stored.
    """
    if store.attributes.als is None:
        held = ", ".join(store.sensors) or "nothing"
        raise StoreError(store.path, f"holds no aerial LiDAR (it holds {held})", "prepare it with LAS or LAZ tiles")
    return choose(names, store.attributes.als.attributes)


def check_options(min_height: float, least: int) -> None:
    """`ConfigError` when the least height or the least number of returns is out of range."""
    if not (math.isfinite(min_height) and min_height >= 0):
        raise ConfigError(f"--min-height {min_height:g} must be 0 (all returns) or a height in metres")
    if least < 1:
        raise ConfigError(f"--min-returns {least} must be at least 1")


@dataclass(frozen=True)
class WindowReturns:
    """Returns of a window of columns that metrics count.

    Attributes
    ----------
    row, col : [N] column of the grid, counted from the window's north-west corner
    place : [N, 2] metres east and south of the window's north-west corner
    height : [N] metres above ground
    attributes : [N] each
    """

    row: Int64
    col: Int64
    place: Float64
    height: Float32
    attributes: dict[str, npt.NDArray[np.generic]]

    def take(self, kept: BoolArray) -> WindowReturns:
        """The returns where `kept` [N] is true."""
        attributes = {name: values[kept] for name, values in self.attributes.items()}
        return WindowReturns(self.row[kept], self.col[kept], self.place[kept], self.height[kept], attributes)


def read_returns(store: Store, window: Window, metrics: Sequence[Metric]) -> WindowReturns:
    """Returns of a window with the attributes that metrics need; without noise, withheld ones and those of unknown height."""
    stored = store.attributes.als.attributes if store.attributes.als is not None else ()
    needed = {name for metric in metrics for name in metric.needs}
    refusing = [name for name in ("classification", "withheld") if name in stored]
    points = store.points(window, sorted(needed | set(refusing)))
    keep = np.isfinite(points.height)
    if "classification" in refusing:
        keep &= ~np.isin(points.attributes["classification"], NOISE_CLASSES)
    if "withheld" in refusing:
        keep &= points.attributes["withheld"] == 0
    counts = np.diff(np.concatenate([[0], np.cumsum(keep)])[points.row_splits])
    row, col = (np.repeat(part, counts) for part in np.divmod(np.arange(window.size), window.cols))
    place = points.offset[keep] + np.stack([col, row], axis=1) * store.grid.column
    return WindowReturns(row, col, place, points.height[keep], {name: points.attributes[name][keep] for name in needed})


def _one(
    store: Store, polygon: shapely.Geometry, metrics: Sequence[Metric], min_height: float, least: int
) -> tuple[Float64, float]:
    """Metrics [F] of a plot, and the share of its area that is covered."""
    grid = store.grid
    missing = np.full(len(metrics), np.nan)
    if polygon is None or polygon.is_empty or not np.isfinite(polygon.bounds).all():
        return missing, 0.0
    merge = max(1, math.ceil(_LEAST_SQUARE / grid.column - NEAR_EDGE))
    window = _whole_squares(grid.covering_window(polygon.bounds), merge, grid)
    if window.size == 0:
        return missing, 0.0
    found = read_returns(store, window, metrics)
    west, _, _, north = grid.bounds(window)
    local = shapely.transform(polygon, lambda xy: np.stack([xy[:, 0] - west, north - xy[:, 1]], axis=1) * grid.unit)
    shapely.prepare(local)
    covered = _covered(local, found, window, merge, grid)
    corner, far = np.array(local.bounds[:2]), np.array(local.bounds[2:])
    near: BoolArray = np.all((found.place >= corner - NEAR_EDGE) & (found.place <= far), axis=1)
    # moved a hair south-east, a return on an edge is inside of the polygon that owns it
    near[near] = shapely.contains_xy(local, *(found.place[near] + NEAR_EDGE).T)
    inside = found.take(near)
    cell = np.zeros(len(inside.height), np.int64)
    size = (float(far[0] - corner[0]), float(far[1] - corner[1]))
    returns = CellReturns(cell, inside.height, inside.place - corner, inside.attributes, 1, size)
    return cell_metrics(returns, metrics, min_height=min_height, least=least)[0], covered


def _whole_squares(window: Window, merge: int, grid: Grid) -> Window:
    """The window grown to whole squares of `merge` columns from the grid's corner, limited to the grid."""
    row, col = window.row // merge * merge, window.col // merge * merge
    rows, cols = (-(-(stop - start) // merge) * merge for start, stop in ((row, window.row_stop), (col, window.col_stop)))
    return Window(row, col, rows, cols).intersection(grid.window) if window.size else window


def _covered(polygon: shapely.Geometry, found: WindowReturns, window: Window, merge: int, grid: Grid) -> float:
    rows, cols = -(-window.rows // merge), -(-window.cols // merge)
    held = np.zeros((rows, cols), np.bool_)
    held[found.row // merge, found.col // merge] = True
    # southward as northward: in the local frame rows count up from 0
    squares = Lattice(0.0, rows * grid.column * merge, grid.column * merge, rows, cols)
    areas = squares.areas(polygon, Window(0, 0, rows, cols))[::-1]
    return min(1.0, float(areas[held].sum()) / polygon.area) if polygon.area > 0 else 0.0


def _by_block(shapes: Polygons, grid: Grid) -> Int64:
    """Numbers of the polygons, those of a block in a row."""
    west, south, east, north = shapely.bounds(shapes).T
    side = grid.cell * grid.block
    return np.lexsort([np.floor((west + east) / 2 / side), np.floor((south + north) / 2 / side)])
