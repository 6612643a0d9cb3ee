"""Areas of interest from a vector file: polygons with a name each, in the CRS of a map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS

from fusion3d.errors import InputError, one_line
from fusion3d.evaluation.plots import to_crs
from fusion3d.grid import map_crs, same_map_crs
from fusion3d.io.crs import resolve_crs

Polygons = npt.NDArray[np.object_]

_NAMES = ("name", "id", "area", "stratum")
_EDGE = 200
"""Parts into which an edge is cut before it is carried to another CRS, where it is curved: of the extent."""


@dataclass(frozen=True)
class Areas:
    """Polygons [A] with names [A]; what cannot be used is in `set_aside`, name and reason."""

    path: str
    names: tuple[str, ...]
    geometry: Polygons
    set_aside: tuple[tuple[str, str], ...]


def read_areas(
    path: str | Path,
    wanted: CRS,
    *,
    name: str | None = None,
    layer: str | None = None,
    crs: str | None = None,
    merge: bool = False,
) -> Areas:
    """Polygons of a GeoPackage, GeoJSON, Shapefile or GeoParquet, in another CRS.

    Parameters
    ----------
    wanted : CRS of the result
    name : column of names; None for `name`, `id`, `area` or `stratum` where there is one, else row numbers from 1
    layer : of a file that has several
    crs : of a file without one
    merge : polygons of one name are one area; else a second one of a name gets its row number as well

    Raises
    ------
    InputError
        The file cannot be read, lacks the column, or holds no polygon.
    CRSError
        It has no CRS, or one from which there is no way.
    """
    import geopandas
    import pyogrio

    path = Path(path)
    if not path.exists():
        raise InputError(path, "does not exist", "check the path")
    try:
        if path.suffix.lower() in (".parquet", ".geoparquet"):
            frame = geopandas.read_parquet(path)
        else:
            layers = [str(found) for found, kind in pyogrio.list_layers(path) if kind is not None]
            if layer is not None and layer not in layers:
                raise InputError(path, f"has no layer {layer!r}", f"it has {', '.join(layers) or 'none with geometry'}")
            if layer is None and len(layers) > 1:
                raise InputError(path, f"has layers {', '.join(layers)}", "choose one with --layer")
            frame = geopandas.read_file(path, layer=layer if layer is not None else (layers[0] if layers else None))
    except InputError:
        raise
    except Exception as error:  # what GDAL's and Arrow's readers raise shares no base
        reason = one_line(error)
        raise InputError(path, f"cannot be read as polygons ({reason})", "export it again, for instance as GeoPackage") from None
    if not isinstance(frame, geopandas.GeoDataFrame) or not len(frame):
        raise InputError(path, "holds no polygons", "give areas as polygons, for instance a GeoPackage")
    names = _names(frame, path, name)
    stated = resolve_crs(frame.crs, crs, path)
    raw = np.asarray(frame.geometry.values, dtype=object)
    shapes, reasons = _polygons(raw)
    extent = shapely.total_bounds(shapes)
    if np.isfinite(extent).all() and not same_map_crs(map_crs(stated), map_crs(wanted)):
        shapes = shapely.segmentize(shapes, max(extent[2] - extent[0], extent[3] - extent[1], 1e-9) / _EDGE)
    moved = shapely.make_valid(to_crs(shapes, stated, wanted, str(path)))
    for at in np.flatnonzero(shapely.is_empty(moved) & np.array([not reason for reason in reasons])):
        reasons[at] = "cannot be carried to the map's CRS"
    usable = [at for at, reason in enumerate(reasons) if not reason]
    if not usable:
        raise InputError(path, "holds no polygons", "give areas as polygons, for instance a GeoPackage")
    if merge:
        found = sorted({names[at] for at in usable})
        joined = [shapely.union_all([moved[at] for at in usable if names[at] == label]) for label in found]
        geometry, kept = np.array([*joined, None], dtype=object)[:-1], tuple(found)
    else:
        repeated = {label for label in names if names.count(label) > 1}
        names = [f"{label} ({at + 1})" if label in repeated else label for at, label in enumerate(names)]
        geometry, kept = moved[usable], tuple(names[at] for at in usable)
    return Areas(str(path), kept, geometry, tuple((names[at], reason) for at, reason in enumerate(reasons) if reason))


def _names(frame: object, path: Path, wanted: str | None) -> list[str]:
    columns = [str(column) for column in frame.columns if column != frame.geometry.name]  # type: ignore[attr-defined]
    if wanted is not None and wanted not in columns:
        raise InputError(path, f"has no column {wanted!r}", f"it has {', '.join(columns) or 'none'}")
    lower = {column.lower(): column for column in columns}
    chosen = wanted if wanted is not None else next((lower[name] for name in _NAMES if name in lower), None)
    if chosen is None:
        return [str(number) for number in range(1, len(frame) + 1)]  # type: ignore[arg-type]
    return [_label(value) or str(at + 1) for at, value in enumerate(frame[chosen])]  # type: ignore[index]


def _label(value: object) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _polygons(raw: Polygons) -> tuple[Polygons, list[str]]:
    """Valid polygons, empty where there is none, and why."""
    shapes, reasons = np.full(len(raw), shapely.from_wkt("POLYGON EMPTY"), dtype=object), []
    for at, shape in enumerate(raw):
        if shape is None or shapely.is_empty(shape):
            reasons.append("has no geometry")
        elif shape.geom_type not in ("Polygon", "MultiPolygon"):
            reasons.append(f"is a {shape.geom_type.lower()}, not a polygon")
        else:
            shapes[at] = shapely.make_valid(shapely.force_2d(shape))
            reasons.append("" if shapely.area(shapes[at]) > 0 else "has no area")
    return shapes, reasons
