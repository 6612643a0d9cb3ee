"""An index as GeoPackage: layers `tiles`, `gaps` and `problems`, for QGIS and for `prepare`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS

from fusion3d.errors import InputError
from fusion3d.io.geopackage import check_geopackage
from fusion3d.io.whole_file import whole_file
from fusion3d.prepare.tile_index import Archive, TileFacts, describe_crs
from fusion3d.prepare.tile_index_checks import Finding

LAYERS = ("tiles", "gaps", "problems")
_UTC = 100
"""GDAL's number of the time zone."""


def write_index(path: str | Path, archive: Archive, findings: Sequence[Finding]) -> Path:
    """Write an index, whole or not at all.

    Layers, in the CRS of most tiles: `tiles` (a rectangle and the facts of each tile, `problems` in words), `gaps` (polygons with
    areas), `problems` (everything else that was found, with a place where it has one, and the files that were set aside).

    Raises
    ------
    InputError
        The folder cannot be written or the disk is full.
    """
    from pyogrio.errors import DataLayerError, DataSourceError

    path = Path(path)
    gaps = [finding for finding in findings if finding.kind == "gap"]
    with whole_file(path, DataSourceError, DataLayerError, RuntimeError) as draft:
        _write_layer(draft, "tiles", archive.footprints, _tile_columns(archive, findings), archive.crs)
        _write_layer(draft, "gaps", _geometries(gaps), _gap_columns(gaps), archive.crs)
        others = [finding for finding in findings if finding.kind != "gap"]
        shapes = np.concatenate([_geometries(others), np.full(len(archive.set_aside), None)])
        _write_layer(draft, "problems", shapes, _problem_columns(archive, others), archive.crs, multi=True)
    return path


def refuse_others(path: Path) -> None:
    """Refuse to replace a file that is no index, for instance somebody's plots.

    Raises
    ------
    InputError
        Such a file is there.
    """
    if not path.exists():
        return
    import pyogrio  # type: ignore[import-untyped]

    try:
        layers = {str(name) for name, _ in pyogrio.list_layers(path)}
    except Exception:  # what GDAL cannot open is no index either
        layers = {"?"}
    if not layers <= set(LAYERS):
        raise InputError(path, "exists and is not an index of tiles", "choose another --out; it is not overwritten")


def _write_layer(
    path: Path,
    layer: str,
    geometry: npt.NDArray[np.object_],
    columns: dict[str, npt.NDArray[Any]],
    crs: CRS | None,
    *,
    multi: bool = False,
) -> None:
    import pyogrio.raw

    values, missing = [], []
    for column in columns.values():
        absent = np.isnan(column) if column.dtype.kind == "f" else np.isnat(column) if column.dtype.kind == "M" else None
        values.append(column)
        missing.append(absent)
    zones = {"modified": np.full(len(geometry), _UTC, np.int8)} if "modified" in columns else None
    pyogrio.raw.write(
        path, geometry=shapely.to_wkb(geometry), field_data=values, field_mask=missing, fields=list(columns), layer=layer,
        driver="GPKG", geometry_type="MultiPolygon" if multi else "Polygon", promote_to_multi=multi, crs=_stated(crs),
        append=path.exists(), gdal_tz_offsets=zones,
    )  # fmt: skip
    check_geopackage(path, layer, len(geometry))


def _stated(crs: CRS | None) -> str | None:
    if crs is None:
        return None
    code = crs.to_epsg()
    return crs.to_wkt("WKT2_2019") if code is None else f"EPSG:{code}"


def _tile_columns(archive: Archive, findings: Sequence[Finding]) -> dict[str, npt.NDArray[Any]]:
    tiles = archive.tiles
    files = [tile.file for tile in tiles]
    facts = [None if tile.crs is None else describe_crs(tile.crs) for tile in tiles]
    bounds = np.array([[*file.bounds, *file.z_bounds] for file in files], np.float64).reshape(-1, 6)
    scales = np.array([file.scales for file in files], np.float64).reshape(-1, 3)
    return {
        "location": _texts(tile.location for tile in tiles),
        "name": _texts(tile.name for tile in tiles),
        "size": np.array([tile.size for tile in tiles], np.int64),
        "modified": np.array([_instant(tile) for tile in tiles], "datetime64[ms]"),
        "version": _texts(".".join(map(str, file.version)) for file in files),
        "point_format": np.array([file.point_format for file in files], np.int32),
        "compressed": np.array([file.compressed for file in files], np.bool_),
        "copc": np.array([file.copc for file in files], np.bool_),
        "point_count": np.array([file.count for file in files], np.int64),
        "density": np.array([np.nan if tile.density is None else tile.density for tile in tiles], np.float64),
        **{name: bounds[:, at] for at, name in enumerate(("xmin", "ymin", "xmax", "ymax", "zmin", "zmax"))},
        **{name: scales[:, at] for at, name in enumerate(("x_scale", "y_scale", "z_scale"))},
        "crs": _texts(each and each.name for each in facts),
        "horizontal_unit": _texts(each and each.horizontal_unit for each in facts),
        "vertical_crs": _texts(each and each.vertical_name for each in facts),
        "vertical_unit": _texts(each and each.vertical_unit for each in facts),
        "date": np.array([file.date for file in files], "datetime64[D]"),
        "problems": _texts(_problems(len(tiles), findings)),
    }


def _instant(tile: TileFacts) -> Any:
    return None if tile.modified is None else tile.modified.replace(tzinfo=None)


def _problems(count: int, findings: Sequence[Finding]) -> list[str | None]:
    """What to say of each tile: the texts on it alone, the kinds of what it shares with others."""
    said: list[dict[str, None]] = [{} for _ in range(count)]
    overlaps: dict[int, int] = defaultdict(int)
    for finding in findings:
        for tile in finding.tiles:
            if finding.kind == "overlap":
                overlaps[tile] += 1
            elif finding.kind == "mixed dates":
                continue
            else:
                said[tile][{"mixed CRS": "unusual CRS", "mixed units": "unusual units"}.get(finding.kind, finding.kind)] = None
    for tile, number in overlaps.items():
        said[tile][f"overlaps {number} other{'s' if number > 1 else ''}"] = None
    return ["; ".join(each) or None for each in said]


def _gap_columns(gaps: Sequence[Finding]) -> dict[str, npt.NDArray[Any]]:
    bounds = shapely.bounds(_geometries(gaps)).reshape(-1, 4)
    return {
        "area_m2": _areas(gaps),
        **{name: bounds[:, at] for at, name in enumerate(("xmin", "ymin", "xmax", "ymax"))},
    }


def _problem_columns(archive: Archive, findings: Sequence[Finding]) -> dict[str, npt.NDArray[Any]]:
    aside = archive.set_aside
    return {
        "kind": _texts([*(finding.kind for finding in findings), *("set aside" for _ in aside)]),
        "text": _texts([*(finding.text for finding in findings), *(reason for _, reason in aside)]),
        "locations": _texts([*(_locations(archive, finding) for finding in findings), *(location for location, _ in aside)]),
        "area_m2": np.concatenate([_areas(findings), np.full(len(aside), np.nan)]),
    }


def _locations(archive: Archive, finding: Finding) -> str:
    # a mixture may name half an archive: the layer of tiles says which
    return "" if finding.kind.startswith("mixed") else "; ".join(archive.tiles[tile].location for tile in finding.tiles)


def _geometries(findings: Sequence[Finding]) -> npt.NDArray[np.object_]:
    found = np.full(len(findings), None, dtype=object)
    for at, finding in enumerate(findings):
        found[at] = finding.geometry
    return found


def _areas(findings: Sequence[Finding]) -> npt.NDArray[np.float64]:
    return np.array([np.nan if finding.area is None else finding.area for finding in findings], np.float64)


def _texts(values: Any) -> npt.NDArray[np.object_]:
    return np.array([*values, None], dtype=object)[:-1]
