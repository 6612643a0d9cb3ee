"""Where a user wants footprints: a table with coordinates, a layer of points, or a regular grid over the data."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pyproj import CRS, Transformer

from fusion3d.errors import ConfigError, InputError, one_line
from fusion3d.grid import map_crs

Float64 = npt.NDArray[np.float64]
Bounds = tuple[float, float, float, float]

_DEGREES = (("lon", "lat"), ("longitude", "latitude"))
_REMEDY = "give a table (.csv) with columns x and y, or lon and lat, or a layer of points (.gpkg, .geojson, .shp)"
_MAX_POSITIONS = 1_000_000


def grid_positions(bounds: Sequence[Bounds], spacing: float) -> tuple[Float64, Float64]:
    """x and y of the nodes of a grid that lie in any of the rectangles, row by row from the north-west.

    Parameters
    ----------
    bounds : xmin, ymin, xmax, ymax, CRS units
    spacing : CRS units; nodes lie at whole multiples, so that neighbouring runs fit together

    Raises
    ------
    ConfigError
        The spacing is not a positive number, or far too small.
    """
    if not (math.isfinite(spacing) and spacing > 0):
        raise ConfigError(f"--spacing {spacing:g} must be a positive number of metres")
    nodes: set[tuple[int, int]] = set()
    for xmin, ymin, xmax, ymax in bounds:
        cols = range(math.ceil(xmin / spacing), math.floor(xmax / spacing) + 1)
        rows = range(math.ceil(ymin / spacing), math.floor(ymax / spacing) + 1)
        if len(nodes) + len(cols) * len(rows) > _MAX_POSITIONS:
            raise ConfigError(f"--spacing {spacing:g} would give more than {_MAX_POSITIONS:,} footprints; choose a larger one")
        nodes.update((-row, col) for row in rows for col in cols)
    ordered = np.array(sorted(nodes), np.float64).reshape(-1, 2)
    return ordered[:, 1] * spacing, -ordered[:, 0] * spacing


def read_positions(path: str | Path, crs: CRS) -> tuple[Float64, Float64]:
    """x and y in `crs` of the places in a file.

    Parameters
    ----------
    path : CSV with columns x and y (in `crs`), or lon and lat (degrees, WGS 84); else any layer of points with a CRS
    crs : projected

    Raises
    ------
    InputError
        The file is missing, no table or layer of points, empty, or has places that are no numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", "check the path")
    x, y, own = _from_table(path) if path.suffix.lower() in (".csv", ".txt") else _from_layer(path)
    if not len(x):
        raise InputError(path, "has no positions", _REMEDY)
    if len(x) > _MAX_POSITIONS:
        raise InputError(path, f"has {len(x):,} positions, over the limit of {_MAX_POSITIONS:,}", "split it")
    if own is not None:
        x, y = (np.asarray(axis, np.float64) for axis in Transformer.from_crs(own, map_crs(crs), always_xy=True).transform(x, y))
    wrong = np.flatnonzero(~(np.isfinite(x) & np.isfinite(y)))
    if wrong.size:
        raise InputError(path, f"position {int(wrong[0]) + 1} is not a place in {crs.name}", "check its coordinates and CRS")
    return x, y


def _from_table(path: Path) -> tuple[Float64, Float64, CRS | None]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            head = stream.readline()
            stream.seek(0)
            rows = csv.DictReader(stream, delimiter=";" if head.count(";") > head.count(",") else ",")
            columns = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
            pair = next((pair for pair in (("x", "y"), *_DEGREES) if all(name in columns for name in pair)), None)
            if pair is None:
                held = ", ".join(filter(None, columns)) or "nothing"
                raise InputError(path, f"has no columns x and y, or lon and lat: it has {held[:120]}", _REMEDY)
            values: list[tuple[float, float]] = []
            for number, row in enumerate(rows, 1):
                try:
                    values.append((float(row[columns[pair[0]]]), float(row[columns[pair[1]]])))
                except (TypeError, ValueError):
                    raise InputError(path, f"position {number} is not two numbers", "mend or remove the row") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, f"is not a table of text ({error})", _REMEDY) from None
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check its permissions") from None
    both = np.array(values, np.float64).reshape(-1, 2)
    return both[:, 0], both[:, 1], None if pair == ("x", "y") else CRS.from_epsg(4326)


def _from_layer(path: Path) -> tuple[Float64, Float64, CRS | None]:
    import geopandas
    import pyogrio  # type: ignore[import-untyped]

    try:
        frame = geopandas.read_file(path, engine="pyogrio")
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, ValueError, RuntimeError) as error:
        raise InputError(path, f"cannot be read as a layer ({one_line(error)})", _REMEDY) from None
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise InputError(path, "has no geometries", _REMEDY)
    if len(frame) and not (frame.geom_type == "Point").all():
        raise InputError(path, f"has geometries that are no points ({frame.geom_type.iloc[0]})", "take their centroids first")
    if frame.crs is None:
        raise InputError(path, "has no CRS", "set it, for instance with ogr2ogr -a_srs")
    return frame.geometry.x.to_numpy(np.float64), frame.geometry.y.to_numpy(np.float64), CRS.from_user_input(frame.crs)
