"""Whether tiles lie where their CRS can say: what is far outside of it is stated wrongly, and would make a grid of half the globe."""

from __future__ import annotations

import math
from functools import lru_cache

from pyproj import CRS, Transformer

from fusion3d.errors import CRSError
from fusion3d.grid import map_crs, parse_crs
from fusion3d.prepare.tiles import Tile

_MARGIN_DEGREES = 10.0
"""Around the area of use of a CRS: a country is often mapped in one zone of UTM, also where that of its neighbour begins."""
_REPROJECT = "reproject it to a projected CRS first, for instance with pdal translate --filter reprojection"

Box = tuple[float, float, float, float]


def check_place(tile: Tile, grid_crs: str | None) -> None:
    """Refuse a tile that lies nowhere its own CRS, or that of the grid, is made for.

    Raises
    ------
    CRSError
        Its coordinates are geocentric, or far outside of the area of one of the two.
    """
    crs, path = map_crs(tile.crs), tile.file.path
    if crs.is_geocentric:
        raise CRSError(path, f"its CRS {crs.name!r} is geocentric: its heights are not its z", _REPROJECT)
    if tile.file.count == 0:
        return
    xmin, ymin, xmax, ymax = tile.file.bounds
    place = _to_degrees(crs).transform((xmin + xmax) / 2, (ymin + ymax) / 2)
    for asked, remedy in (
        (crs, "its CRS or its coordinates are stated wrongly: rewrite it with the right CRS"),
        (crs if grid_crs is None else map_crs(parse_crs(grid_crs)), "leave it out, or give another --crs"),
    ):
        area = _area(asked)
        if area is not None and not _inside(area, *place):
            raise CRSError(path, f"lies at {_said(*place)}, far outside of the area of {asked.name!r}", remedy)


def without_degrees(tiles: list[Tile]) -> tuple[list[Tile], list[tuple[str, str]]]:
    """Where some tiles are in metres or feet, those; and path and reason of the others, which could not decide the grid."""
    projected = [tile for tile in tiles if map_crs(tile.crs).is_projected]
    if not projected:
        return tiles, []
    others = [tile for tile in tiles if not map_crs(tile.crs).is_projected]
    remedy = "pass --crs with the CRS of the grid, and it is reprojected"
    reasons = [CRSError(tile.file.path, f"is in degrees ({tile.crs.name}), other tiles are not", remedy) for tile in others]
    return projected, [(str(reason.path), str(reason)) for reason in reasons]


@lru_cache(maxsize=64)
def _to_degrees(crs: CRS) -> Transformer:
    return Transformer.from_crs(crs, crs.geodetic_crs or CRS.from_epsg(4326), always_xy=True)


@lru_cache(maxsize=64)
def _area(crs: CRS) -> Box | None:
    """West, south, east, north, degrees; WKT in files seldom states it, its EPSG code does."""
    code = crs.to_epsg()
    area = crs.area_of_use or (None if code is None else CRS.from_epsg(code).area_of_use)
    return None if area is None else (area.west, area.south, area.east, area.north)


def _inside(area: Box, longitude: float, latitude: float) -> bool:
    west, south, east, north = area
    # an area across 180 degrees has its east in the west
    width = (east - west) % 360.0 or 360.0
    along = (longitude - west + _MARGIN_DEGREES) % 360.0
    near = width + 2 * _MARGIN_DEGREES >= 360.0 or along <= width + 2 * _MARGIN_DEGREES
    return math.isfinite(longitude) and near and south - _MARGIN_DEGREES <= latitude <= north + _MARGIN_DEGREES


def _said(longitude: float, latitude: float) -> str:
    if not (math.isfinite(longitude) and math.isfinite(latitude)):
        return "no place on Earth"
    return f"{abs(latitude):.1f} {'N' if latitude >= 0 else 'S'} {abs(longitude):.1f} {'E' if longitude >= 0 else 'W'}"
