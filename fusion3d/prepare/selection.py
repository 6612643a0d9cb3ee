"""The tiles of an index that an area needs: only those are opened."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import shapely
from pyproj import CRS

from fusion3d.errors import ConfigError, CRSError, InputError, one_line
from fusion3d.grid import Bounds, map_crs, parse_crs, rough_unit
from fusion3d.io.binary_file import is_url, open_binary
from fusion3d.io.crs import resolve_crs, understand_crs
from fusion3d.prepare.moved_polygons import Polygons, moved

INDEX_SUFFIXES = (".gpkg", ".vpc")
"""Endings by which `prepare` knows an index; `read_index` takes .json and .geojson as virtual point clouds too."""
_VPC_SUFFIXES = (".vpc", ".json", ".geojson")
_LOCATION = ("location", "filename", "path", "file")
"""Columns in which tile indexes name their files: this one's, and those of PDAL, GDAL, lidR and LAStools."""
_NOT_AN_INDEX = "make one with `fusion3d index`, or give the tiles themselves"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_BOX = re.compile(rf"\s*{_NUMBER}(?:(?:\s*,\s*|\s+){_NUMBER}){{3}}\s*")
_PARTS = 16


@dataclass(frozen=True)
class TilePlace:
    """Where a tile is: absolute path or URL, rectangle or outline in `crs`; None for both where the index does not say."""

    location: str
    footprint: shapely.Geometry | None
    crs: CRS | None

    @property
    def bounds(self) -> Bounds | None:
        """xmin, ymin, xmax, ymax in `crs`."""
        return None if self.footprint is None else self.footprint.bounds


@dataclass(frozen=True)
class Area:
    """A polygon, and its CRS: None for a box of coordinates that are those of the tiles."""

    geometry: shapely.Geometry
    crs: CRS | None


def read_index(path: str | Path) -> list[TilePlace]:
    """The tiles of an index: a GeoPackage, or any vector layer with a column `location`, or a virtual point cloud.

    Relative names are relative to the index. Tiles without points are left out.

    Raises
    ------
    InputError
        The file cannot be read, is no index, or names no tile.
    """
    name = os.fspath(path)
    places = _of_vpc(name) if name.lower().endswith(_VPC_SUFFIXES) else _of_layer(name)
    if not places:
        raise InputError(name, "names no tile", _NOT_AN_INDEX)
    return places


def read_area(text: str | Path | Sequence[float], crs: CRS | str | None = None) -> Area:
    """An area: four numbers xmin ymin xmax ymax (blanks or commas between them), or the polygons of a vector file.

    Parameters
    ----------
    crs : of the four numbers (None: that of the tiles), and of a file that states none

    Raises
    ------
    ConfigError
        The numbers are no box.
    InputError, CRSError
        The file cannot be read, holds no polygon, or has no CRS.
    """
    if not isinstance(text, (str, Path)):
        return Area(_box(text), None if crs is None else parse_crs(crs))
    if isinstance(text, str) and _BOX.fullmatch(text):
        return Area(_box([float(number) for number in re.findall(_NUMBER, text)]), None if crs is None else parse_crs(crs))
    geometry, stated, _ = _read_layer(os.fspath(text), "polygons")
    usable = [each for each in geometry if each is not None and shapely.get_dimensions(each) == 2 and not each.is_empty]
    if not usable:
        raise InputError(text, "holds no polygon", "give the area as polygons, for instance in a GeoPackage")
    return Area(shapely.union_all(shapely.make_valid(np.array(usable, dtype=object))), resolve_crs(stated, crs, text))


def area_bounds(area: Area, crs: CRS) -> Bounds:
    """xmin, ymin, xmax, ymax of an area in a CRS.

    Raises
    ------
    CRSError
        The area has no place there.
    """
    if area.crs is None:
        return area.geometry.bounds  # type: ignore[no-any-return]
    placed = moved(np.array([area.geometry], dtype=object), area.crs, crs, parts=_PARTS)[0]
    if placed is None:
        raise CRSError(None, f"the area has no place in {crs.name}", "choose another area, or another CRS with --crs")
    return placed.bounds  # type: ignore[no-any-return]


def named_tiles(inputs: Iterable[str], area: Area | None = None, *, margin: float = 0.0) -> list[str]:
    """What `prepare` was given, each index replaced by its tiles: all of them, or those that touch an area.

    Parameters
    ----------
    inputs : indexes (.gpkg, .vpc) among folders, patterns and files, which stay as they are
    margin : metres around the area in which tiles count as touching it

    Raises
    ------
    InputError, CRSError
        As `read_index` and `tiles_within`; or no tile of an index touches the area.
    """
    found: list[str] = []
    for name in inputs:
        if not name.lower().endswith(INDEX_SUFFIXES):
            found.append(name)
            continue
        places = read_index(name)
        chosen = [place.location for place in places] if area is None else tiles_within(places, area, margin=margin)
        if not chosen:
            raise InputError(name, f"none of its {len(places):,} tiles touches the area", "check the area and its CRS (--crs)")
        found += chosen
    return found


def tiles_within(tiles: Iterable[TilePlace], area: Area, *, margin: float = 0.0) -> list[str]:
    """Locations of the tiles that touch an area, in their order.

    A tile without a CRS is taken to be in that of the area; one without a place is kept, as nothing says that it lies outside.

    Parameters
    ----------
    margin : metres around the area that count as part of it

    Raises
    ------
    CRSError
        The area is a box without a CRS and the tiles have several.
    """
    tiles = list(tiles)
    known = {tile.crs for tile in tiles if tile.crs is not None}
    if area.crs is None and len(known) > 1:
        names = ", ".join(sorted(crs.name for crs in known)[:3])
        raise CRSError(
            None, f"the tiles are in several CRSs ({names}), the box does not say in which it is", "name it with --crs"
        )
    target = area.crs or next(iter(known), None)
    outlines = _outlines(tiles, target)
    wanted = (
        shapely.buffer(area.geometry, margin / (1.0 if target is None else rough_unit(target)), join_style="mitre")
        if margin
        else area.geometry
    )
    shapely.prepare(wanted)
    touching = shapely.intersects(outlines, wanted)
    return [tile.location for tile, touches in zip(tiles, touching, strict=True) if touches or tile.footprint is None]


def _outlines(tiles: list[TilePlace], target: CRS | None) -> Polygons:
    """Footprints [N] in the target's CRS."""
    found = np.full(len(tiles), None, dtype=object)
    groups: dict[CRS | None, list[int]] = {}
    for at, tile in enumerate(tiles):
        found[at] = tile.footprint
        groups.setdefault(tile.crs, []).append(at)
    for crs, rows in groups.items():
        if crs is not None and target is not None:
            found[rows] = moved(found[rows], crs, target, parts=_PARTS)
    return found


def _box(numbers: Sequence[float]) -> shapely.Polygon:
    values = [float(number) for number in numbers]
    if len(values) != 4 or not np.isfinite(values).all() or values[0] >= values[2] or values[1] >= values[3]:
        raise ConfigError(f"{' '.join(f'{value:g}' for value in values)} is no box: give xmin ymin xmax ymax")
    return shapely.box(*values)


def _of_layer(path: str) -> list[TilePlace]:
    geometry, crs, columns = _read_layer(path, "an index", "tiles")
    lower = {name.lower(): name for name in columns}
    column = next((lower[name] for name in _LOCATION if name in lower), None)
    if column is None:
        raise InputError(path, "has no column `location` that names files", _NOT_AN_INDEX)
    stated = None if crs is None else resolve_crs(crs, None, path)
    native = [columns[lower[name]] for name in ("xmin", "ymin", "xmax", "ymax") if name in lower]
    counts = columns[lower["point_count"]] if "point_count" in lower else np.ones(len(geometry))
    places = []
    for at, location in enumerate(columns[column]):
        if not isinstance(location, str) or not counts[at]:
            continue
        bounds = [float(values[at]) for values in native]
        if geometry[at] is not None:
            places.append(TilePlace(_resolved(location, path), geometry[at], stated))
        else:
            placed = len(bounds) == 4 and np.isfinite(bounds).all()
            places.append(TilePlace(_resolved(location, path), shapely.box(*bounds) if placed else None, None))
    return places


def _read_layer(path: str, what: str, preferred: str | None = None) -> tuple[Any, str | None, dict[str, np.ndarray]]:
    """Geometry [N], CRS and columns of a vector file's only layer, or of the preferred one."""
    import pyogrio.raw

    if not Path(path).exists():
        raise InputError(path, "does not exist", "check the path")
    try:
        layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
        layer = preferred if preferred in layers else layers[0] if layers else None
        meta, _, geometry, fields = pyogrio.raw.read(path, layer=layer)
    except Exception as error:  # what GDAL's readers raise shares no base
        reason = one_line(error)
        raise InputError(path, f"cannot be read as {what} ({reason})", "export it again, for instance as GeoPackage") from None
    if len(layers) > 1 and layer != preferred:
        raise InputError(path, f"has layers {', '.join(layers)}", "export the one that is meant to a file of its own")
    shapes = shapely.from_wkb(geometry) if geometry is not None else np.full(len(fields[0]) if fields else 0, None)
    return shapes, meta["crs"], dict(zip(map(str, meta["fields"]), fields, strict=True))


def _of_vpc(path: str) -> list[TilePlace]:
    try:
        with open_binary(path) as source:
            collection = json.loads(source.read().decode("utf-8"))
        features = collection["features"]
        return [place for feature in features if (place := _of_item(feature, path)) is not None]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, shapely.errors.ShapelyError):
        raise InputError(path, "is no virtual point cloud (a STAC item collection)", _NOT_AN_INDEX) from None


def _of_item(item: dict[str, Any], path: str) -> TilePlace | None:
    assets = item["assets"]
    asset = assets.get("data") or next((each for each in assets.values() if "overview" not in each.get("roles", ())), None)
    if asset is None:
        return None
    location, said = _resolved(asset["href"], path), item["properties"]
    crs = _crs_of_item(said, location)
    if said.get("proj:geometry") is not None:
        return TilePlace(location, shapely.from_geojson(json.dumps(said["proj:geometry"])), crs)
    if said.get("proj:bbox") is not None:
        return TilePlace(location, _of_bbox(said["proj:bbox"]), crs)
    if item.get("geometry") is not None:
        return TilePlace(location, shapely.from_geojson(json.dumps(item["geometry"])), CRS.from_epsg(4326))
    return TilePlace(location, None, None)


def _of_bbox(bbox: Sequence[float]) -> shapely.Polygon:
    half = len(bbox) // 2
    return shapely.box(bbox[0], bbox[1], bbox[half], bbox[half + 1])


def _crs_of_item(said: dict[str, Any], location: str) -> CRS | None:
    text = said.get("proj:wkt2") or said.get("proj:projjson") or said.get("proj:code") or said.get("proj:epsg")
    if not text:
        return None
    return _understood(
        json.dumps(text) if isinstance(text, dict) else f"EPSG:{text}" if isinstance(text, int) else text, location
    )


def _understood(text: str, location: str) -> CRS:
    try:
        return _parsed(text)
    except CRSError as error:
        raise CRSError(location, error.problem, error.remedy) from None


@lru_cache(maxsize=256)
def _parsed(text: str) -> CRS:
    # the tiles of an index say the same
    return map_crs(understand_crs(text, None))


def _resolved(location: str, index: str) -> str:
    """An absolute path, or a URL."""
    if is_url(location) or os.path.isabs(location):
        return location
    if is_url(index):
        return f"{index.rpartition('/')[0]}/{location.removeprefix('./')}"
    folder = os.path.dirname(os.path.abspath(index))
    # STAC writers quote what is no letter
    beside, unquoted = (os.path.normpath(os.path.join(folder, name)) for name in (location, unquote(location)))
    return unquoted if not os.path.exists(beside) and os.path.exists(unquoted) else beside
