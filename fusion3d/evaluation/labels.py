"""What is known of places, to test embeddings with: rasters, field plots, and the classes of a store's own points.

A sample is a place with a label. Of a raster it is a column: with the mean of a continuous variable over it, or the class that
most of it has. Of a vector file it is a plot: what a sensor says of it is the mean of what it says of the columns under it,
weighted by the area that lies on each.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.warp
import shapely

from fusion3d.data.chips import NOISE_CLASSES
from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.lattice import Lattice
from fusion3d.evaluation.plots import read_plots
from fusion3d.grid import Grid, Window, same_map_crs
from fusion3d.io.pixels import Target
from fusion3d.io.raster import RasterFile, is_nodata, open_raster
from fusion3d.store import Store

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

POINT_CLASSES = "als:classes"
KINDS = ("auto", "values", "classes")
_VECTOR = (".gpkg", ".geojson", ".json", ".shp", ".csv", ".txt", ".tsv", ".parquet", ".geoparquet", ".fgb")
_MOST_CLASSES = 32
"""Distinct values up to which an integer raster is taken for one of classes."""
_FINEST = 16
"""Samples on a column's side from which its majority is taken, at most."""
_SKETCH = 512
"""Pixels on the side of the overview from which that is told."""
_GROUPS = {"vegetation": (3, 4, 5), "building": (6,), "ground": (2,)}
"""Of the classes of ASPRS LAS 1.4 R15, table 17."""


@dataclass(frozen=True)
class Variable:
    """What labels say: `kind` is "values" or "classes"; `classes` are names by code, where codes are not names themselves."""

    name: str
    kind: str
    unit: str = ""
    classes: tuple[str, ...] | None = None

    def class_name(self, code: float) -> str:
        """Name of a class by its code."""
        return f"{code:g}" if self.classes is None else self.classes[int(code)]


@dataclass(frozen=True)
class Samples:
    """Labelled places.

    Attributes
    ----------
    values : [S] value or code of the class
    row_splits : [S + 1] CSR of the columns of each sample
    columns, weights : columns of the grid under it (row * cols + col), and their share of its area, of sum 1
    """

    values: Float64
    row_splits: Int64
    columns: Int64
    weights: Float64

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def of_columns(cls, columns: Int64, values: Float64) -> Samples:
        """A sample for each of some columns."""
        return cls(values, np.arange(len(columns) + 1, dtype=np.int64), columns, np.ones(len(columns)))

    def take(self, chosen: Int64) -> Samples:
        """Some of the samples."""
        counts = np.diff(self.row_splits)[chosen]
        splits = np.concatenate([[0], np.cumsum(counts)])
        at = np.repeat(self.row_splits[:-1][chosen] - splits[:-1], counts) + np.arange(splits[-1])
        return Samples(self.values[chosen], splits, self.columns[at], self.weights[at])

    def weight_on(self, columns: Int64) -> Float64:
        """[S] share of each sample that lies on some columns (rising)."""
        known = np.isin(self.columns, columns)
        return np.bincount(self._owner(), np.where(known, self.weights, 0.0), minlength=len(self))

    def mean(self, columns: Int64, values: npt.NDArray[np.floating], present: BoolArray) -> tuple[Float64, Float64]:
        """Means [S, F] over the columns of each sample that are present, and the share [S] of it that they are.

        Parameters
        ----------
        columns : [N] rising
        values, present : [N, F] and [N]
        """
        place = np.minimum(np.searchsorted(columns, self.columns), max(len(columns) - 1, 0))
        known = (columns[place] == self.columns) & present[place]
        weights = np.where(known, self.weights, 0.0)
        share = np.bincount(self._owner(), weights, minlength=len(self))
        total = np.zeros((len(self), values.shape[1]))
        np.add.at(total, self._owner()[known], weights[known, None] * values[place[known]].astype(np.float64))
        return np.divide(total, share[:, None], out=np.full_like(total, np.nan), where=share[:, None] > 0), share

    def _owner(self) -> Int64:
        return np.repeat(np.arange(len(self)), np.diff(self.row_splits))


def sample_columns(samples: Samples) -> Int64:
    """[S] the column under each sample that has most of it."""
    order = np.lexsort([-samples.weights, np.repeat(np.arange(len(samples)), np.diff(samples.row_splits))])
    return samples.columns[order[samples.row_splits[:-1]]]


class LabelSource(Protocol):
    """Where labels come from: one or several variables of the same places."""

    path: str
    variables: tuple[Variable, ...]
    notes: tuple[str, ...]

    def labelled(self, window: Window) -> BoolArray:
        """[K, rows, cols] columns of a window on which each variable has labels."""
        ...

    def samples(self, windows: Sequence[Window]) -> list[Samples]:
        """Of each variable, the samples that lie on windows, at least in part."""
        ...


def open_labels(
    labels: str,
    store: Store,
    *,
    targets: Sequence[str] = (),
    kind: str = "auto",
    radius: float | None = None,
    layer: str | None = None,
    crs: str | None = None,
) -> LabelSource:
    """Labels by what is named: a raster, a vector file of plots, or "als:classes".

    Parameters
    ----------
    targets : columns of a vector file to predict
    kind : "values", "classes", or "auto": text and integer rasters of few values are classes
    radius, layer, crs : as for `read_plots`; `crs` also stands for rasters without one

    Raises
    ------
    InputError
        The file cannot be used, or has no label on the store's columns.
    ConfigError
        An option does not fit.
    """
    if kind not in KINDS:
        raise ConfigError(f"--label-kind {kind!r}: give one of {', '.join(KINDS)}")
    if labels == POINT_CLASSES:
        return PointClasses(store)
    if Path(labels).suffix.lower() in _VECTOR:
        if not targets:
            raise ConfigError(f"{labels} holds plots: say which of their columns to predict with --target NAME")
        return PlotLabels(labels, store.grid, targets, kind, radius=radius, layer=layer, crs=crs)
    return RasterLabels(open_raster(labels, crs=crs), store.grid, kind)


# -- columns


class _ColumnLabels(ABC):
    """Labels that each column has for itself; read once per window."""

    path: str
    variables: tuple[Variable, ...]
    notes: tuple[str, ...] = ()

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._found: dict[Window, Float64] = {}

    @abstractmethod
    def read(self, window: Window) -> Float64:
        """[K, rows, cols] labels, NaN where there is none."""

    def _kept(self, window: Window) -> Float64:
        if window not in self._found:
            self._found[window] = self.read(window)
        return self._found[window]

    def labelled(self, window: Window) -> BoolArray:
        return np.isfinite(self._kept(window))

    def samples(self, windows: Sequence[Window]) -> list[Samples]:
        columns, values = [np.zeros(0, np.int64)], [np.zeros((len(self.variables), 0))]
        for window in windows:
            row, col = np.mgrid[window.row : window.row_stop, window.col : window.col_stop]
            columns.append((row * self._grid.cols + col).ravel())
            values.append(self._kept(window).reshape(len(self.variables), -1))
        everywhere, found = np.concatenate(columns), np.concatenate(values, axis=1)
        return [Samples.of_columns(everywhere[np.isfinite(part)], part[np.isfinite(part)]) for part in found]


class RasterLabels(_ColumnLabels):
    """Bands of a raster, each a variable: means over columns, or majorities of classes over them.

    Parameters
    ----------
    file : in any CRS
    kind : as for `open_labels`
    """

    def __init__(self, file: RasterFile, grid: Grid, kind: str = "auto") -> None:
        super().__init__(grid)
        self.path, self._file = file.path, file
        _check_overlap(file, grid)
        self._kind = ("classes" if _few_values(file) else "values") if kind == "auto" else kind
        stem = Path(file.path).stem
        names = [stem if file.count == 1 else f"{stem}:{band.name or number}" for number, band in enumerate(file.bands, 1)]
        self.variables = tuple(Variable(name, self._kind, unit) for name, unit in zip(names, file.units, strict=True))

    def read(self, window: Window) -> Float64:
        grid, fine = self._grid, 1
        if self._kind == "classes":
            metres = self._file.pixel_metres
            fine = int(np.clip(round(grid.column / metres), 1, _FINEST)) if metres > 0 else 1
        west, _, _, north = grid.bounds(window)
        kind = "classes" if self._kind == "classes" else "continuous"
        place = Target(grid.pyproj_crs, west, north, grid.cell / fine, window.rows * fine, window.cols * fine, kind)  # type: ignore[arg-type]
        patch = self._file.read(0, place)
        values = np.where(patch.valid, patch.values, np.nan).astype(np.float64)
        return values if fine == 1 else np.stack([majority(band, fine) for band in values])


def majority(values: Float64, fine: int) -> Float64:
    """[rows, cols] the commonest value of each square of `fine` x `fine`, the least of equally common ones; NaN where less than
    half of the square has one.

    Parameters
    ----------
    values : [rows * fine, cols * fine], NaN where there is none
    """
    rows, cols = (size // fine for size in values.shape)
    cells = values.reshape(rows, fine, cols, fine).transpose(0, 2, 1, 3).reshape(rows, cols, -1)
    codes = np.unique(cells[np.isfinite(cells)])
    best, most = np.full((rows, cols), np.nan), np.zeros((rows, cols), np.int64)
    for code in codes:
        count = (cells == code).sum(axis=2)
        best, most = np.where(count > most, code, best), np.maximum(count, most)
    return np.where(2 * np.isfinite(cells).sum(axis=2) >= fine**2, best, np.nan)


def _few_values(file: RasterFile) -> bool:
    """Whether a raster holds integers of few distinct values."""
    if file.dtype.kind not in "iu" or file.scaled:
        return False
    shape = (min(file.height, _SKETCH), min(file.width, _SKETCH))
    with rasterio.open(file.path) as dataset:
        sketch = dataset.read(list(file.indexes), out_shape=(file.count, *shape))
    return len(np.unique(sketch[~is_nodata(sketch, file.nodata)])) <= _MOST_CLASSES


def _check_overlap(file: RasterFile, grid: Grid) -> None:
    bounds = grid.bounds(grid.window)
    if not same_map_crs(grid.pyproj_crs, file.crs):
        try:
            bounds = rasterio.warp.transform_bounds(grid.pyproj_crs.to_wkt(), file.crs.to_wkt(), *bounds)
        except Exception:  # GDAL's errors of projections share no base; what cannot be carried there does not overlap
            bounds = (math.nan,) * 4
    west, south, east, north = file.bounds
    if not (bounds[0] < east and bounds[2] > west and bounds[1] < north and bounds[3] > south):
        raise InputError(file.path, "does not overlap the store", "give labels of the same place, or check their CRS")


class PointClasses(_ColumnLabels):
    """Share of the points of each column that are vegetation, building or ground, by the files' own classification.

    The encoders never see the classes of points; noise is left out, as it is for them.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store.grid)
        self.path, self._store = POINT_CLASSES, store
        als = store.attributes.als
        if als is None:
            raise ConfigError(f"--labels {POINT_CLASSES}: the store {store.path} has no aerial LiDAR")
        if "classification" not in als.attributes:
            raise ConfigError(f"--labels {POINT_CLASSES}: the points of {store.path} have no classes")
        self.variables = tuple(Variable(f"{name} share", "values") for name in _GROUPS)

    def read(self, window: Window) -> Float64:
        als = self._store.attributes.als
        assert als is not None
        names = [name for name in ("classification", "withheld") if name in als.attributes]
        points = self._store.points(window, names)
        kinds = points.attributes["classification"]
        keep = ~np.isin(kinds, NOISE_CLASSES)
        if "withheld" in names:
            keep &= ~points.attributes["withheld"].astype(bool)
        column = np.repeat(np.arange(window.size), np.diff(points.row_splits))[keep]
        total = np.bincount(column, minlength=window.size)
        counts = [np.bincount(column, np.isin(kinds[keep], group), minlength=window.size) for group in _GROUPS.values()]
        with np.errstate(invalid="ignore"):
            return np.stack([(count / total).reshape(window.rows, window.cols) for count in counts])


# -- plots


class PlotLabels:
    """Columns of a vector file, each a variable of its plots; arguments as for `open_labels`."""

    def __init__(
        self, path: str, grid: Grid, targets: Sequence[str], kind: str = "auto", *, radius: float | None = None,
        layer: str | None = None, crs: str | None = None,
    ) -> None:  # fmt: skip
        self.path, self._grid = path, grid
        variables, found, notes = [], [], []
        for name in targets:
            table = read_plots(path, name, radius=radius, layer=layer, crs=crs, nonnegative=False, text=kind != "values").to_crs(
                grid.pyproj_crs
            )
            classes = table.classes is not None or kind == "classes"
            variables.append(Variable(name, "classes" if classes else "values", table.unit, table.classes))
            found.append(plot_samples(table.geometry, table.values, grid))
            notes += [note for note in table.notes if note not in notes]
            if not len(found[-1]):
                raise InputError(path, "no plot lies on the store", "give plots of the same place, or check their CRS")
        self.variables, self.notes, self._samples = tuple(variables), tuple(notes), found

    def labelled(self, window: Window) -> BoolArray:
        row, col = np.mgrid[window.row : window.row_stop, window.col : window.col_stop]
        columns = row * self._grid.cols + col
        return np.stack([np.isin(columns, samples.columns) for samples in self._samples])

    def samples(self, windows: Sequence[Window]) -> list[Samples]:
        found = []
        for samples in self._samples:
            row, col = np.divmod(samples.columns, self._grid.cols)
            inside = np.zeros(len(row), np.bool_)
            for window in windows:
                inside |= (row >= window.row) & (row < window.row_stop) & (col >= window.col) & (col < window.col_stop)
            touching = np.add.reduceat(inside, samples.row_splits[:-1]) > 0
            found.append(samples.take(np.flatnonzero(touching)))
        return found


def plot_samples(polygons: npt.NDArray[np.object_], values: Float64, grid: Grid) -> Samples:
    """Polygons in the grid's CRS as weighted columns; those that lie off the grid by more than half are left out."""
    lattice = Lattice(grid.x0, grid.y0, grid.cell, grid.rows, grid.cols)
    columns, weights, kept, counts = [np.zeros(0, np.int64)], [np.zeros(0)], [], []
    for number, polygon in enumerate(polygons):
        window = lattice.covering(shapely.bounds(polygon))
        if window.size == 0:
            continue
        shapely.prepare(polygon)
        areas = lattice.areas(polygon, window)
        if areas.sum() < 0.5 * polygon.area or not areas.any():
            continue
        row, col = np.nonzero(areas)
        columns.append((row + window.row) * grid.cols + col + window.col)
        weights.append(areas[row, col] / areas.sum())
        kept.append(number)
        counts.append(len(row))
    splits = np.concatenate([[0], np.cumsum(np.array(counts, np.int64))])
    return Samples(values[np.array(kept, np.int64)], splits, np.concatenate(columns), np.concatenate(weights))
