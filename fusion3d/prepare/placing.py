"""Where the grid of a store lies: its CRS, its extent, and which tiles have no place on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import shapely
from pyproj import CRS

from fusion3d.errors import CRSError, InputError
from fusion3d.grid import Bounds, Grid, map_crs, parse_crs, same_map_crs
from fusion3d.prepare.assembly import Sources
from fusion3d.prepare.footprints import footprint_bounds
from fusion3d.prepare.rasters import raster_bounds
from fusion3d.prepare.scene import Scene
from fusion3d.prepare.selection import Area, TilePlace, area_bounds, read_area, tiles_within
from fusion3d.prepare.tile_place import near_tiles
from fusion3d.prepare.tiles import Tile, tile_bounds

_NAMED = 5


def place_grid(scene: Scene, sources: Sources, set_aside: list[tuple[str, str]], notes: list[str]) -> tuple[Grid, list[Tile]]:
    """The grid of a scene, and the tiles that reach into it.

    Parameters
    ----------
    set_aside, notes : are told which tiles lie in another part of the world, and which CRS was chosen

    Raises
    ------
    InputError, CRSError
        There is no CRS to go by, or nothing has a place.
    """
    crs = _grid_crs(scene, sources, notes)
    tiles, far = near_tiles(sources.tiles, crs)
    set_aside += far
    options: dict[str, Any] = {"column": scene.column, "voxel": scene.voxel, "block": scene.block}
    area = _area(scene, crs)
    if area is not None:
        grid = Grid.covering(crs, area_bounds(area, crs), **options, closed=False)
        places = [
            TilePlace(tile.file.path, shapely.box(*tile.file.bounds), map_crs(tile.crs)) for tile in tiles if tile.file.count
        ]
        touching = set(tiles_within(places, area, margin=scene.column))
        inside = [tile for tile in tiles if not tile.file.count or tile.file.path in touching]
        if tiles and not inside and not sources.rasters and not sources.gedi:
            raise InputError(tiles[0].file.path, "no point of any tile lies inside the grid", "check --bounds and --crs")
        if len(inside) < len(tiles):
            notes.append(f"{len(tiles) - len(inside)} of {len(tiles)} tiles lie outside of the area and are not read")
        return grid, inside
    if tiles:
        return Grid.covering(crs, _union(tile_bounds(tile, crs) for tile in tiles if tile.file.count), **options), tiles
    if sources.rasters:
        union = _union(raster_bounds(source, crs) for source in sources.rasters.values())
        return Grid.covering(crs, union, **options, closed=False), tiles
    return Grid.covering(crs, _union(footprint_bounds(sources.gedi, crs)), **options), tiles


def common_crs(tiles: list[Tile]) -> CRS | None:
    """The CRS of most tiles, of the first of them where several are as common; None without tiles."""
    kinds: list[tuple[CRS, list[Tile]]] = []
    for tile in tiles:
        same = next((members for crs, members in kinds if same_map_crs(crs, tile.crs)), None)
        if same is None:
            kinds.append((tile.crs, [tile]))
        else:
            same.append(tile)
    return max(kinds, key=lambda kind: len(kind[1]))[0] if kinds else None


def _grid_crs(scene: Scene, sources: Sources, notes: list[str]) -> CRS:
    if scene.crs is not None:
        return parse_crs(scene.crs)
    crs = common_crs(sources.tiles)
    if crs is not None:
        path = next(tile.file.path for tile in sources.tiles if tile.crs is crs)
        others = Counter(map_crs(tile.crs).name for tile in sources.tiles if not same_map_crs(tile.crs, crs))
        if others:
            named = ", ".join(f"{name} ({count})" for name, count in others.most_common(_NAMED))
            notes.append(
                f"the grid is in {map_crs(crs).name}, the CRS of most tiles; {sum(others.values())} of {len(sources.tiles)} are "
                f"in others: {named}; choose with --crs"
            )
    elif sources.rasters:
        source = next(iter(sources.rasters.values()))
        path, crs = str(source.provenance[0]) if source.provenance else "raster", source.crs
    else:
        raise CRSError(
            sources.gedi[0],
            "footprints are in degrees, the grid needs metres",
            "pass --crs with a projected CRS, for instance the UTM zone",
        )
    if crs is None:
        raise CRSError(path, "the file has no CRS", "pass its CRS with --crs, for instance --crs EPSG:2154")
    try:
        Grid.covering(crs, (0.0, 0.0, 0.0, 0.0))
    except CRSError as error:
        raise CRSError(path, error.problem, error.remedy) from None
    return map_crs(crs)


def _area(scene: Scene, crs: CRS) -> Area | None:
    """The part of the ground that is wanted; None for all."""
    if scene.within is not None:
        return read_area(scene.within)
    return None if scene.bounds is None else Area(shapely.box(*scene.bounds), crs)


def _union(rectangles: Iterable[Bounds]) -> Bounds:
    rows = np.array(list(rectangles), dtype=np.float64).reshape(-1, 4)
    if len(rows) == 0:
        raise InputError(None, "the sources hold no points, pixels or footprints", "check the files, or pass --bounds")
    low, high = rows[:, :2].min(axis=0), rows[:, 2:].max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
