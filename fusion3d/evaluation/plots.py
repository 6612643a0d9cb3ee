"""Field plots with a measured value each (GeoPackage, GeoJSON, Shapefile, GeoParquet, CSV): polygons, or points with a radius."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from fusion3d.errors import ConfigError, CRSError, InputError, one_line
from fusion3d.evaluation.discs import discs
from fusion3d.evaluation.footprint_weights import Gaussian
from fusion3d.grid import map_crs, same_map_crs
from fusion3d.io.crs import resolve_crs

Float64 = npt.NDArray[np.float64]
Polygons = npt.NDArray[np.object_]
"""[P] shapely polygons."""

FILL = -9999.0
"""What many programs write for a value that was not measured."""
_IDENTITY = ("plot_id", "plotid", "plot", "id", "name")
_RADIUS = ("radius", "radius_m")
_COORDINATES = (("x", "y"), ("lon", "lat"), ("longitude", "latitude"))
_DEGREES = CRS.from_epsg(4326)
_EXPORT = "export it again, for instance as GeoPackage"


@dataclass(frozen=True)
class PlotTable:
    """Plots of known area with a measured value each.

    Attributes
    ----------
    path : where they are from
    target : name of the measured column; unit : of its values, "" when not stated
    geometry : [P] polygons in `crs`
    values : [P] float64, finite; places in `classes` where there are any
    ids : [P], unique
    strata : [P], or None
    classes : names, in order, of a column of text; None for a column of numbers
    notes : what was left out or assumed while reading, in words
    noise : [P] standard error of each value, positive, in its unit; None where it is not known
    gaussian : how footprints weigh the ground about the middles of their discs; None for plots that weigh their area alike
    """

    path: str
    target: str
    unit: str
    geometry: Polygons
    values: Float64
    ids: tuple[str, ...]
    crs: CRS
    strata: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    noise: Float64 | None = None
    gaussian: Gaussian | None = None

    def __post_init__(self) -> None:
        noise = self.values if self.noise is None else self.noise
        counts = {len(self.geometry), len(self.values), len(self.ids), len(self.strata or self.ids), len(noise)}
        if len(counts) != 1:
            raise ConfigError(f"{self.path}: geometry, values, ids, strata and noise are not of one length")
        if not np.isfinite(self.values).all():
            raise ConfigError(f"{self.path}: values of {self.target} are not all finite")
        if self.noise is not None and not (np.isfinite(noise) & (noise > 0)).all():
            raise ConfigError(f"{self.path}: standard errors of {self.target} are not all positive")

    def __len__(self) -> int:
        return len(self.values)

    def take(self, kept: npt.NDArray[np.bool_]) -> PlotTable:
        """The plots where `kept` [P] is true."""
        chosen = np.flatnonzero(kept)
        strata = None if self.strata is None else tuple(self.strata[at] for at in chosen)
        ids = tuple(self.ids[at] for at in chosen)
        noise = None if self.noise is None else self.noise[chosen]
        return replace(self, geometry=self.geometry[chosen], values=self.values[chosen], ids=ids, strata=strata, noise=noise)

    def to_crs(self, crs: CRS) -> PlotTable:
        """The same plots with their polygons in another CRS; one that cannot be carried there becomes empty.

        Raises
        ------
        CRSError
            There is no way from one CRS to the other.
        """
        return replace(self, geometry=to_crs(self.geometry, self.crs, crs, self.path), crs=crs)


def to_crs(geometry: Polygons, crs: CRS, wanted: CRS, path: str) -> Polygons:
    """Polygons in another CRS, x before y; one that cannot be carried there becomes empty."""
    if same_map_crs(crs, wanted):
        return geometry
    try:
        transformer = Transformer.from_crs(map_crs(crs), map_crs(wanted), always_xy=True)
    except ProjError:
        raise CRSError(path, f"cannot be carried from {crs.name!r} to {wanted.name!r}", "reproject the plots first") from None
    moved = shapely.transform(geometry, transformer.transform, interleaved=False)
    bounds = shapely.bounds(moved)
    lost = ~np.isfinite(bounds).all(axis=1)
    return np.where(lost, shapely.from_wkt("POLYGON EMPTY"), moved)


def read_plots(
    path: str | Path,
    target: str,
    *,
    radius: float | None = None,
    layer: str | None = None,
    unit: str | None = None,
    crs: str | None = None,
    stratum: str | None = None,
    nonnegative: bool = True,
    text: bool = False,
) -> PlotTable:
    """Plots and one of their columns, rows that cannot be used left out with a note.

    Parameters
    ----------
    target : column of the measured value
    radius : metres, of points; else their column `radius` (or `radius_m`), metres
    layer : of a file of several; else the one that has `target`
    unit : of the values, for instance Mg/ha
    crs : of a file without one; a CSV with lon and lat needs none (WGS 84)
    stratum : column of strata, kept as text
    nonnegative : values below 0 are errors of measurement, not values
    text : a column without numbers holds names of classes, instead of being refused

    A CSV has columns x and y, or lon and lat. Plots are named by column `plot_id`, `plot`, `id` or `name` where its entries are
    unique, else by row number from 1.

    Raises
    ------
    InputError
        The file cannot be read, lacks a column or holds no plot that can be used.
    CRSError
        It has no CRS, or coordinates that its CRS does not have.
    ConfigError
        The radius is not a positive number.
    """
    name = str(path)
    if radius is not None and not (np.isfinite(radius) and radius > 0):
        raise ConfigError(f"--radius {radius} must be a positive number of metres")
    if not Path(path).exists():
        raise InputError(name, "does not exist", "check the path")
    frame, geometry, stated = _read(Path(path), target, layer)
    for column in filter(None, (target, stratum)):
        if column not in frame.columns:
            there = ", ".join(map(str, frame.columns)) or "none"
            raise InputError(name, f"has no column {column!r}", f"it has {there}")
    if len(frame) == 0:
        raise InputError(name, "holds no plots", "give a file with at least one row")
    place = map_crs(resolve_crs(stated, crs, path))
    notes: list[str] = []
    shapes, drawable = _polygons(frame, geometry, place, radius, name, notes)
    classes = _class_names(frame[target]) if text else None
    values = _numbers(frame[target], name, target) if classes is None else _codes(frame[target], classes)
    usable = drawable & _measured(values, target, nonnegative, notes)
    if not usable.any():
        raise InputError(
            name, f"holds no plot that can be used ({'; '.join(notes)})", "correct the file or choose another column"
        )
    ids = _identities(frame, notes)
    kept = np.flatnonzero(usable)
    strata = None if stratum is None else tuple(_label(frame[stratum].iloc[at]) for at in kept)
    nameless = np.array([not label for label in strata or ()], np.bool_)
    if nameless.any():
        notes.append(f"{_plots(nameless)} without a {stratum}: a stratum of their own")
    return PlotTable(
        path=name,
        target=target,
        unit=unit or "",
        geometry=shapes[kept],
        values=values[kept],
        ids=tuple(ids[at] for at in kept),
        crs=place,
        strata=strata,
        notes=tuple(notes),
        classes=classes,
    )


# -- files


def _read(path: Path, target: str, layer: str | None) -> tuple[Any, Polygons, CRS | None]:
    """Columns without geometry, geometry, and the CRS that the file states."""
    if path.suffix.lower() in (".csv", ".txt", ".tsv"):
        return _read_csv(path)
    import geopandas
    import pandas

    try:
        if path.suffix.lower() in (".parquet", ".geoparquet"):
            frame = geopandas.read_parquet(path)
        else:
            frame = geopandas.read_file(path, layer=_layer(path, target, layer))
    except (InputError, ConfigError):
        raise
    except Exception as error:  # what GDAL's and Arrow's readers raise shares no base
        raise InputError(path, f"cannot be read as plots ({one_line(error)})", _EXPORT) from None
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise InputError(path, "has no geometry", "give plots as points or polygons, or a CSV with columns x and y")
    columns = pandas.DataFrame(frame.drop(columns=frame.geometry.name))
    return columns, np.asarray(frame.geometry.values, dtype=object), frame.crs


def _layer(path: Path, target: str, wanted: str | None) -> str | None:
    import pyogrio

    layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    if wanted is not None:
        if wanted not in layers:
            raise InputError(path, f"has no layer {wanted!r}", f"it has {', '.join(layers) or 'none with geometry'}")
        return wanted
    if len(layers) < 2:
        return layers[0] if layers else None
    holding = [name for name in layers if target in pyogrio.read_info(path, layer=name)["fields"]]
    if len(holding) == 1:
        return holding[0]
    raise InputError(path, f"has layers {', '.join(layers)}, {len(holding)} of them with {target!r}", "choose one with --layer")


def _read_csv(path: Path) -> tuple[Any, Polygons, CRS | None]:
    import pandas

    def read(encoding: str) -> Any:
        # as text: plot 007 keeps its name
        return pandas.read_csv(path, sep=None, engine="python", dtype=str, encoding=encoding, skipinitialspace=True)

    try:
        try:
            frame = read("utf-8-sig")
        except UnicodeDecodeError:
            frame = read("latin-1")
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(path, f"cannot be read as CSV ({one_line(error)})", "give one header line") from None
    lower = {str(name).strip().lower(): name for name in frame.columns}
    pair = next((pair for pair in _COORDINATES if set(pair) <= set(lower)), None)
    if pair is None:
        columns = ", ".join(map(str, frame.columns))
        raise InputError(path, "has no columns x and y, nor lon and lat", f"it has {columns}; rename its coordinates")
    x, y = (_numbers(frame[lower[name]], str(path), name) for name in pair)
    geometry = np.full(len(frame), None, dtype=object)
    placed = np.isfinite(x) & np.isfinite(y)
    geometry[placed] = shapely.points(x[placed], y[placed])
    return frame, geometry, None if pair == _COORDINATES[0] else _DEGREES


# -- columns


def _numbers(column: Any, path: str, name: str) -> Float64:
    """A column as float64, NaN where it is not a number."""
    import pandas
    from pandas.api import types

    if types.is_datetime64_any_dtype(column) or types.is_timedelta64_dtype(column):
        raise InputError(path, f"column {name!r} holds dates", "choose a column of numbers")
    found = pandas.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    if len(found) and column.notna().any() and not np.isfinite(found).any():
        sample = column[column.notna()].iloc[0]
        raise InputError(path, f"column {name!r} holds no numbers (for instance {str(sample)[:30]!r})", "use a decimal point")
    return found


def _class_names(column: Any) -> tuple[str, ...] | None:
    """Names in a column of text, sorted; None when all that it holds are numbers."""
    import pandas

    given = column[column.notna()]
    if pandas.to_numeric(given, errors="coerce").notna().all():
        return None
    return tuple(sorted({_label(value) for value in column} - {""})) or None


def _codes(column: Any, classes: tuple[str, ...]) -> Float64:
    """The place of each entry among the classes, NaN where there is none."""
    place = {name: float(code) for code, name in enumerate(classes)}
    return np.array([place.get(_label(value), np.nan) for value in column], np.float64)


def _measured(values: Float64, target: str, nonnegative: bool, notes: list[str]) -> npt.NDArray[np.bool_]:
    missing, fill = ~np.isfinite(values), values == FILL
    negative = nonnegative & (values < 0) & ~fill & ~missing
    for which, problem in ((missing, "is missing or not a number"), (fill, f"is {FILL:g}"), (negative, "is negative")):
        if which.any():
            notes.append(f"{_plots(which)} left out: {target} {problem}")
    return ~(missing | fill | negative)


def _identities(frame: Any, notes: list[str]) -> list[str]:
    lower = {str(name).lower(): name for name in frame.columns}
    numbers = [str(row) for row in range(1, len(frame) + 1)]
    found = next((lower[name] for name in _IDENTITY if name in lower), None)
    if found is None:
        return numbers
    ids = [_label(value) for value in frame[found]]
    if len(set(ids)) == len(ids) and all(ids):
        return ids
    notes.append(f"column {found!r} does not name each plot once: plots are named by row number")
    return numbers


def _label(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _plots(which: npt.NDArray[np.bool_]) -> str:
    count = int(which.sum())
    return f"{count} plot" if count == 1 else f"{count} plots"


# -- geometry


def _polygons(
    frame: Any, geometry: Polygons, crs: CRS, radius: float | None, path: str, notes: list[str]
) -> tuple[Polygons, npt.NDArray[np.bool_]]:
    """Polygons [P] (empty where there is none) and where they are."""
    single = np.array([shape.geoms[0] if _lone_point(shape) else shape for shape in geometry] + [None], dtype=object)[:-1]
    kinds = shapely.get_type_id(single)
    there = ~(shapely.is_missing(single) | shapely.is_empty(single))
    points = there & (kinds == shapely.GeometryType.POINT)
    areas = there & np.isin(kinds, (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON))
    _check_coordinates(single[points | areas], crs, path)
    shapes = np.full(len(frame), shapely.from_wkt("POLYGON EMPTY"), dtype=object)
    shapes[areas] = shapely.make_valid(shapely.force_2d(single[areas]))
    if points.any():
        sizes = _radii(frame, radius, path, notes)
        unsized = points & ~((sizes > 0) & np.isfinite(sizes))
        if unsized.any():
            notes.append(f"{_plots(unsized)} left out: without a positive radius")
        points &= ~unsized
        shapes[points] = discs(shapely.get_x(single[points]), shapely.get_y(single[points]), sizes[points], crs)
    drawable = (points | areas) & (shapely.area(shapes) > 0)
    nowhere = ~there
    if nowhere.any():
        notes.append(f"{_plots(nowhere)} left out: without a place")
    other = there & ~points & ~drawable & ~(kinds == shapely.GeometryType.POINT)
    if other.any():
        notes.append(f"{_plots(other)} left out: neither a point nor a polygon with an area")
    return shapes, drawable


def _lone_point(shape: Any) -> bool:
    return shape is not None and shape.geom_type == "MultiPoint" and len(shape.geoms) == 1


def _radii(frame: Any, radius: float | None, path: str, notes: list[str]) -> Float64:
    lower = {str(name).lower(): name for name in frame.columns}
    column = next((lower[name] for name in _RADIUS if name in lower), None)
    if radius is not None:
        if column is not None:
            notes.append(f"column {column!r} not used: --radius {radius:g} m was given")
        return np.full(len(frame), float(radius))
    if column is None:
        raise InputError(path, "holds points without a radius", "pass --radius METRES or add a column radius (metres)")
    return _numbers(frame[column], path, str(column))


def _check_coordinates(shapes: Polygons, crs: CRS, path: str) -> None:
    if not crs.is_geographic or not len(shapes):
        return
    bounds = shapely.total_bounds(shapes)
    if np.isnan(bounds).all():
        return
    # half a turn more in longitude: some data run from 0 to 360
    if bounds[0] < -360 or bounds[2] > 360 or bounds[1] < -90 or bounds[3] > 90:
        extent = ", ".join(f"{value:.6g}" for value in bounds)
        raise CRSError(path, f"its CRS {crs.name!r} is in degrees, its coordinates are not ({extent})",
                       "write it again with the CRS of its coordinates")  # fmt: skip
