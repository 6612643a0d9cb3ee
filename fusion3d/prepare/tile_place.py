"""Whether tiles lie where their CRS can say: one stated wrongly lies far outside, and would make a grid of half the globe."""

from __future__ import annotations

import math
from functools import lru_cache

from pyproj import CRS, Transformer

from fusion3d.errors import CRSError
from fusion3d.grid import Bounds, map_crs
from fusion3d.prepare.tiles import Tile

_OWN_MARGIN = 10.0
"""Degrees around the area of use of a CRS in which files in it may lie: a country is often mapped in one zone of UTM."""
_GRID_MARGIN = 3.0
"""Degrees around the area of use of the grid's CRS that it still serves: half a zone of UTM."""
_REPROJECT = "reproject it to a projected CRS first, for instance with pdal translate --filter reprojection"


def check_place(tile: Tile) -> None:
    """Refuse a tile that lies nowhere the CRS that it states is made for.

    Raises
    ------
    CRSError
        Its coordinates are geocentric, or far outside of the area of its CRS.
    """
    crs, path = map_crs(tile.crs), tile.file.path
    if crs.is_geocentric:
        raise CRSError(path, f"its CRS {crs.name!r} is geocentric: its heights are not its z", _REPROJECT)
    # one that was given for want of another may be for coordinates of a local system
    if tile.file.crs is not None and _far(tile, crs, _OWN_MARGIN):
        raise CRSError(
            path,
            f"lies at {_said(*_place(tile))}, far outside of the area of {crs.name!r}",
            "its CRS or its coordinates are stated wrongly: rewrite it with the right CRS",
        )


def near_tiles(tiles: list[Tile], crs: CRS) -> tuple[list[Tile], list[tuple[str, str]]]:
    """Tiles that lie where the CRS of the grid is used, and path and reason of the others; all, where none does.

    Far outside of its area of use a projection gives numbers without meaning, and a grid of half the globe.
    """
    far = [_far(tile, map_crs(crs), _GRID_MARGIN) for tile in tiles]
    if all(far):
        return tiles, []
    near, reasons = [], []
    for tile, away in zip(tiles, far, strict=True):
        if not away:
            near.append(tile)
        else:
            own = "which it is taken to be in" if tile.file.crs is None else f"it is in {map_crs(tile.crs).name}"
            problem = f"lies far outside of where {map_crs(crs).name}, the CRS of the grid, is used ({own})"
            error = CRSError(tile.file.path, problem, "check its CRS, or prepare it apart")
            reasons.append((tile.file.path, str(error)))
    return near, reasons


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
def _area(crs: CRS) -> Bounds | None:
    """West, south, east, north, degrees; WKT in files seldom states it, its EPSG code does."""
    code = crs.to_epsg()
    area = crs.area_of_use or (None if code is None else CRS.from_epsg(code).area_of_use)
    return None if area is None else (area.west, area.south, area.east, area.north)


def _place(tile: Tile) -> tuple[float, float]:
    """Longitude and latitude of the middle of a tile."""
    xmin, ymin, xmax, ymax = tile.file.bounds
    return _to_degrees(map_crs(tile.crs)).transform((xmin + xmax) / 2, (ymin + ymax) / 2)  # type: ignore[no-any-return]


def _far(tile: Tile, crs: CRS, margin: float) -> bool:
    """Whether a tile lies more than a margin (degrees) outside of the area of use of a CRS; not, where that is not known."""
    area = _area(crs)
    if area is None or tile.file.count == 0:
        return False
    longitude, latitude = _place(tile)
    west, south, east, north = area
    # an area across 180 degrees has its east in the west
    width = ((east - west) % 360.0 or 360.0) + 2 * margin
    along = (longitude - west + margin) % 360.0
    beside = width < 360.0 and not along <= width
    return not math.isfinite(longitude) or beside or not south - margin <= latitude <= north + margin


def _said(longitude: float, latitude: float) -> str:
    if not (math.isfinite(longitude) and math.isfinite(latitude)):
        return "no place on Earth"
    return f"{abs(latitude):.1f} {'N' if latitude >= 0 else 'S'} {abs(longitude):.1f} {'E' if longitude >= 0 else 'W'}"
