"""An index as virtual point cloud (.vpc), which QGIS and pdal_wrench open as one layer: a STAC ItemCollection.

Reference: https://github.com/PDAL/wrench/blob/main/vpc-spec.md; STAC 1.0.0; extensions pointcloud 1.0.0 and projection 1.1.0.
"""

from __future__ import annotations

import datetime
import json
import os
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import CRS

from fusion3d.grid import map_crs
from fusion3d.io.binary_file import is_url
from fusion3d.io.las_layout import RecordLayout, base_dtype
from fusion3d.io.whole_file import whole_file
from fusion3d.prepare.moved_polygons import moved
from fusion3d.prepare.tile_index import Archive, TileFacts, metres_of_height

_EXTENSIONS = (
    "https://stac-extensions.github.io/pointcloud/v1.0.0/schema.json",
    "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
)
_WGS84 = CRS.from_epsg(4326)
_OLDEST = "2002-01-01T00:00:00Z"
"""LAS files cannot be older than the format."""
_KINDS = {"u": "unsigned", "i": "signed", "f": "floating"}
_PDAL_NAMES = {
    "intensity": "Intensity", "return_number": "ReturnNumber", "number_of_returns": "NumberOfReturns",
    "scan_direction_flag": "ScanDirectionFlag", "edge_of_flight_line": "EdgeOfFlightLine", "classification": "Classification",
    "synthetic": "Synthetic", "key_point": "KeyPoint", "withheld": "Withheld", "overlap": "Overlap",
    "scanner_channel": "ScanChannel", "scan_angle": "ScanAngleRank", "user_data": "UserData",
    "point_source_id": "PointSourceId", "gps_time": "GpsTime", "red": "Red", "green": "Green", "blue": "Blue",
    "nir": "Infrared",
}  # fmt: skip


def write_vpc(path: str | Path, archive: Archive) -> Path:
    """Write the tiles with points, whole or not at all; local files are named relative to `path`.

    A tile without a CRS has its place only in its own coordinates (``proj:bbox``): STAC calls that an item without geometry.

    Raises
    ------
    InputError
        The folder cannot be written or the disk is full.
    """
    path = Path(path)
    tiles = [tile for tile in archive.tiles if tile.file.count]
    places = _on_wgs84(tiles)
    hrefs = [_href(tile, path) for tile in tiles]
    stems = [tile.name.split(".")[0] for tile in tiles]
    seldom = {stem for stem, count in Counter(stems).items() if count == 1}
    ids = [stem if stem in seldom else href.removeprefix("./") for stem, href in zip(stems, hrefs, strict=True)]
    with whole_file(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for number, each in enumerate(zip(tiles, ids, hrefs, places, strict=True)):
            file.write(f"{',' if number else ''}\n{json.dumps(_item(*each), allow_nan=False)}")
        file.write("\n]}\n")
    return path


def _on_wgs84(tiles: list[TileFacts]) -> list[shapely.Polygon | None]:
    places = np.full(len(tiles), None, dtype=object)
    groups: dict[str, list[int]] = {}
    for at, tile in enumerate(tiles):
        if tile.crs is not None and not tile.crs.is_geocentric:
            groups.setdefault(_wkt(tile.crs), []).append(at)
    for rows in groups.values():
        crs = tiles[rows[0]].crs
        assert crs is not None
        places[rows] = moved(shapely.box(*np.array([tiles[at].file.bounds for at in rows]).T), map_crs(crs), _WGS84, parts=2)
    return list(shapely.orient_polygons(places))


def _item(tile: TileFacts, name: str, href: str, place: shapely.Polygon | None) -> dict[str, Any]:
    file = tile.file
    (xmin, ymin, xmax, ymax), (zmin, zmax) = file.bounds, file.z_bounds
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": name,
        "geometry": None if place is None else json.loads(shapely.to_geojson(place)),
    }
    if place is not None:
        metres = (None if tile.crs is None else metres_of_height(tile.crs)) or 1.0
        west, south, east, north = place.bounds
        item["bbox"] = [west, south, zmin * metres, east, north, zmax * metres]
    item["properties"] = {
        **_when(tile),
        "pc:count": file.count,
        "pc:type": "lidar",
        "pc:encoding": "LASzip" if file.compressed else "LAS",
        "pc:schemas": [dict(each) for each in _schemas(tile.layout)],
        **({} if tile.density is None else {"pc:density": tile.density}),
        # readers ask for a text; proj:epsg knows no heights, and some versions of QGIS take it for a number of their own
        "proj:wkt2": "" if tile.crs is None else _wkt(tile.crs),
        "proj:geometry": json.loads(shapely.to_geojson(shapely.box(xmin, ymin, xmax, ymax))),
        "proj:bbox": [xmin, ymin, zmin, xmax, ymax, zmax],
    }
    kind = "application/vnd.laszip+copc" if file.copc else "application/vnd.laszip" if file.compressed else "application/vnd.las"
    item["links"] = []
    item["assets"] = {"data": {"href": href, "type": kind, "roles": ["data"]}}
    return item


def _when(tile: TileFacts) -> dict[str, str | None]:
    """The day in the header, else when the file was written: LAS does not say when it was flown."""
    if tile.file.date is not None:
        return {"datetime": f"{tile.file.date.isoformat()}T00:00:00Z"}
    if tile.modified is not None:
        return {"datetime": f"{tile.modified:%Y-%m-%dT%H:%M:%SZ}"}
    now = datetime.datetime.now(datetime.UTC)
    return {"datetime": None, "start_datetime": _OLDEST, "end_datetime": f"{now:%Y-%m-%dT%H:%M:%SZ}"}


def _href(tile: TileFacts, index: Path) -> str:
    if is_url(tile.location):
        return tile.location
    # readers look for the dot to know that a path is relative
    return "./" + Path(os.path.relpath(tile.location, index.parent.absolute())).as_posix()


@lru_cache(maxsize=256)
def _wkt(crs: CRS) -> str:
    return crs.to_wkt("WKT2_2019")


@lru_cache(maxsize=64)
def _schemas(layout: RecordLayout) -> tuple[tuple[tuple[str, str | int], ...], ...]:
    """Name, bytes and kind of each dimension as PDAL reads it."""
    fields = base_dtype(layout.point_format)
    found = [("X", 8, "floating"), ("Y", 8, "floating"), ("Z", 8, "floating")]
    for name in layout.standard:
        if name == "scan_angle":
            found.append((_PDAL_NAMES[name], 4, "floating"))
        elif name in layout.bits:
            found.append((_PDAL_NAMES[name], 1, "unsigned"))
        elif name in _PDAL_NAMES:
            found.append((_PDAL_NAMES[name], fields[name].itemsize, _KINDS[fields[name].kind]))
    for extra in layout.extra:
        dtype = np.dtype("f8" if extra.scale is not None else extra.dtype)
        names = [extra.name] if extra.elements == 1 else [f"{extra.name}{number}" for number in range(1, extra.elements + 1)]
        found += [(name, dtype.itemsize, _KINDS[dtype.kind]) for name in names]
    return tuple((("name", name), ("size", size), ("type", kind)) for name, size, kind in found)
