"""Estimates of areas as a table: on the terminal, and as CSV, GeoPackage or JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import shapely
from pyproj import CRS

from fusion3d import __version__
from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.table import text_table
from fusion3d.io.csv_table import write_csv
from fusion3d.io.geopackage import write_geopackage
from fusion3d.io.json_file import write_json
from fusion3d.tasks.variogram import Variogram

SUFFIXES = (".csv", ".gpkg", ".json")
_FORMAT = "fusion3d totals"


@dataclass(frozen=True)
class AreaTotal:
    """One area; the columns of the table. NaN, written as an empty field, where a figure does not apply.

    Attributes
    ----------
    area : name
    area_ha, data_ha, data_share : of the area; of its part with data, which mean and total are of; and as a share
    mean, mean_se, mean_low, mean_high : in `unit`: estimate, standard error and ends of the interval
    total, total_se, total_low, total_high : in `total_unit`, over `data_ha`
    plots : with their centre in the part with data
    estimator : "GREG", "stratified GREG" or "model-dependent"; reason : why that one
    map_mean : mean of the map; correction : what the plots' residuals add to it
    parameter_se, residual_se : parts of a model-dependent standard error: of the model, and of what it cannot explain
    independent_cells : uncorrelated residuals that the area is worth
    extrapolated_share : of the part with data, where the map's model extrapolates
    note : what else should be known
    geometry : polygon in the map's CRS
    """

    area: str
    area_ha: float
    data_ha: float
    data_share: float
    mean: float
    mean_se: float
    mean_low: float
    mean_high: float
    unit: str
    total: float
    total_se: float
    total_low: float
    total_high: float
    total_unit: str
    plots: int
    estimator: str
    reason: str
    map_mean: float
    correction: float
    parameter_se: float
    residual_se: float
    independent_cells: float
    extrapolated_share: float
    note: str
    geometry: shapely.Geometry

    def plain(self) -> dict[str, Any]:
        """Column by name, without the geometry; None for NaN."""
        values = {name: getattr(self, name) for name in COLUMNS}
        return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()}


_MAY_LACK = (
    "total", "total_se", "total_low", "total_high", "parameter_se", "residual_se", "independent_cells", "extrapolated_share",
)  # fmt: skip
COLUMNS = tuple(item.name for item in fields(AreaTotal) if item.name != "geometry")


@dataclass(frozen=True)
class Totals:
    """Estimates of areas and what they rest on.

    Attributes
    ----------
    out, map_file, model : files
    target, unit : of the map
    design, level : as asked for
    plots : held-out plots of the model, wherever they lie
    correlation : of residuals over their standard deviation
    rows : one per area
    set_aside : name and reason
    notes : in words
    """

    out: Path
    map_file: str
    model: str
    target: str
    unit: str
    design: str
    level: float
    plots: int
    correlation: Variogram
    rows: tuple[AreaTotal, ...]
    set_aside: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        percent = f"{100 * self.level:g} %"
        header = ["area", "ha", "data %", f"mean{_in(self.unit)}", "SE", percent, "total", percent, "plots", "estimator"]
        lines = [[
            row.area, f"{row.area_ha:.4g}", f"{100 * row.data_share:.4g}", _digits(row.mean, row.mean_se),
            _digits(row.mean_se, row.mean_se), _ends(row.mean_low, row.mean_high, row.mean_se),
            f"{_digits(row.total, row.total_se)} {row.total_unit}" if row.total_unit else "-",
            _ends(row.total_low, row.total_high, row.total_se), str(row.plots), row.estimator,
        ] for row in self.rows]  # fmt: skip
        said: dict[str, list[str]] = {}
        for row in self.rows:
            said.setdefault(f"{row.estimator}: {row.reason}", []).append(row.area)
        why = [f"{text} ({_some(names)})" if len(self.rows) > 1 else text for text, names in said.items()]
        return "\n".join([
            f"{self.target}{_in(self.unit)}, {self.plots} held-out plots, design {self.design}",
            "",
            text_table(header, lines),
            "",
            *why,
            *([self._correlated()] if any(row.estimator == "model-dependent" for row in self.rows) else []),
            *(f"note: {row.area}: {row.note}" for row in self.rows if row.note),
            *(f"note: {text}" for text in self.notes),
            *(f"set aside: {name}: {reason}" for name, reason in self.set_aside),
            f"totals: {self.out}",
        ])  # fmt: skip

    def _correlated(self) -> str:
        found = self.correlation
        share = found.nugget / found.sill if found.sill > 0 else 0.0
        near = f"the nugget counts as correlated within {found.nugget_range:.0f} m"
        if share > 0.995:
            return f"residuals of plots: not alike at any distance between plots; {near}"
        text = f"residuals of plots: {found.kind} variogram, range {found.range:.0f} m"
        return text if share < 0.005 else f"{text}, {100 * share:.0f} % of it nugget; {near}"

    def to_json(self) -> dict[str, Any]:
        """Plain types; None for what does not apply."""
        return {
            "format": _FORMAT,
            "map": self.map_file,
            "model": self.model,
            "target": self.target,
            "unit": self.unit,
            "design": self.design,
            "level": self.level,
            "plots": self.plots,
            "correlation": asdict(self.correlation),
            "areas": [row.plain() for row in self.rows],
            "set_aside": [{"area": name, "reason": reason} for name, reason in self.set_aside],
            "notes": list(self.notes),
            "version": __version__,
        }

    def write(self, crs: CRS) -> Path:
        """Write the table by the ending of `out`, whole or not at all.

        Parameters
        ----------
        crs : of the polygons, for a GeoPackage
        """
        suffix = self.out.suffix.lower()
        if suffix == ".json":
            return write_json(self.out, self.to_json())
        if suffix == ".gpkg":
            return self._write_geopackage(crs)
        return write_csv(self.out, [*COLUMNS, "level"], ([*row.plain().values(), self.level] for row in self.rows))

    def _write_geopackage(self, crs: CRS) -> Path:
        import geopandas

        plain = [{**row.plain(), "level": self.level} for row in self.rows]
        frame = geopandas.GeoDataFrame(plain, geometry=[_multipolygon(row.geometry) for row in self.rows], crs=crs)
        for name in _MAY_LACK:
            frame[name] = frame[name].astype("float64")
        return write_geopackage(frame, self.out, "totals")


def check_out(path: Path, option: str = "--out") -> None:
    """Refuse a name that no format is known for, or whose folder is not there.

    Raises
    ------
    ConfigError
        The ending is another one.
    InputError
        There is no such folder.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{option} {path}: give a name that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if not path.absolute().parent.is_dir():
        raise InputError(path, "cannot be written: its folder does not exist", "create the folder first")


def _multipolygon(shape: shapely.Geometry) -> shapely.Geometry:
    """The areas in a geometry, which may hold lines besides where an invalid one was mended."""
    parts = [part for part in shapely.get_parts(shapely.get_parts(shape)) if part.geom_type == "Polygon"]
    return shapely.multipolygons(parts)


def _in(unit: str) -> str:
    return f" ({unit})" if unit else ""


def _digits(value: float, error: float) -> str:
    """A figure with as many digits as its standard error can carry: two of the error."""
    if not math.isfinite(value):
        return "-"
    if not (math.isfinite(error) and error > 0):
        return f"{value:.4g}"
    place = 1 - math.floor(math.log10(error))
    return f"{round(value, place):,.{max(place, 0)}f}"


def _ends(low: float, high: float, error: float) -> str:
    return "-" if not math.isfinite(low) else f"{_digits(low, error)} to {_digits(high, error)}"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
