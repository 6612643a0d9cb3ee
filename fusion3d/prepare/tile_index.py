"""The index of an archive of LiDAR tiles: what every header says, where the tiles lie, and what is wrong with them together."""

from __future__ import annotations

import datetime
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import shapely
from pyproj import CRS, Geod
from pyproj.exceptions import CRSError as PyprojCRSError

from fusion3d.errors import CRSError, Fusion3DError
from fusion3d.grid import map_crs, metric_unit, parse_crs, vertical_unit
from fusion3d.io import laz
from fusion3d.io.binary_file import is_url, open_binary
from fusion3d.io.crs import is_local, resolve_crs
from fusion3d.io.las import PointFile, point_file
from fusion3d.io.las_header import header_of
from fusion3d.io.las_layout import RecordLayout
from fusion3d.prepare.archive_files import ListedFile
from fusion3d.prepare.moved_polygons import Polygons, moved

_CONNECTIONS = 16
"""Remote headers read at once: each waits for its server nearly all the time."""
_WGS84 = Geod(ellps="WGS84")


@dataclass(frozen=True)
class TileFacts:
    """What the header of one tile says, and its file system.

    Attributes
    ----------
    location : absolute path or URL
    size : bytes
    modified : when the file was last written, UTC
    crs : the file's own, else the assumed one, else None
    density : points per m2 of the rectangle in the header; None without points, CRS or area
    """

    location: str
    size: int
    modified: datetime.datetime | None
    file: PointFile
    layout: RecordLayout
    crs: CRS | None
    density: float | None

    @property
    def name(self) -> str:
        return os.path.basename(self.location)


@dataclass(frozen=True)
class CrsFacts:
    """A CRS in words: authority and code, or name; names of its units; no vertical name when it says nothing of heights."""

    name: str
    horizontal_unit: str
    vertical_name: str | None
    vertical_unit: str | None


@dataclass(frozen=True)
class Archive:
    """The readable tiles of an archive on one map.

    Attributes
    ----------
    tiles : [T], by location
    crs : of the map: the horizontal CRS of most tiles; None when no tile has one
    footprints : [T] polygons in `crs`; None for tiles without points, and for those without a CRS beside others that have one
    set_aside : location and reason of files that cannot be used
    """

    tiles: tuple[TileFacts, ...]
    crs: CRS | None
    footprints: Polygons
    set_aside: tuple[tuple[str, str], ...]


def read_tile(listed: ListedFile, assumed: CRS | None = None) -> TileFacts:
    """Header, VLRs and EVLRs of a file; no points.

    Raises
    ------
    InputError, CRSError
        The file is damaged or cut short, or its CRS cannot be understood or contradicts itself.
    """
    with open_binary(listed.location) as source:
        header = header_of(source, listed.location)
        if header.compressed and header.count:
            laz.chunk_table_start(source, header)
    file = point_file(header)
    states_one = file.crs is not None and not is_local(file.crs)
    crs = resolve_crs(file.crs, assumed, listed.location) if states_one or assumed is not None else None
    return TileFacts(listed.location, header.size, listed.modified, file, header.layout, crs, _density(file, crs))


def read_archive(
    files: Sequence[ListedFile],
    assumed: CRS | str | None = None,
    *,
    set_aside: Iterable[tuple[str, str]] = (),
    advance: Callable[[], None] = lambda: None,
) -> Archive:
    """Read the headers of an archive and put its tiles on one map.

    Parameters
    ----------
    assumed : CRS of files that state none
    set_aside : what was lost before, to be kept with what is lost here
    advance : called after each file
    """
    crs = None if assumed is None else parse_crs(assumed)
    tiles, aside = [], list(set_aside)

    def read(listed: ListedFile) -> TileFacts | tuple[str, str]:
        try:
            return read_tile(listed, crs)
        except Fusion3DError as error:
            return listed.location, str(error)

    for result in _each(read, files):
        if isinstance(result, TileFacts):
            tiles.append(result)
        else:
            aside.append(result)
        advance()
    common = _common_crs(tiles)
    return Archive(tuple(tiles), common, _footprints(tiles, common), tuple(sorted(aside)))


def _each(
    read: Callable[[ListedFile], TileFacts | tuple[str, str]], files: Sequence[ListedFile]
) -> Iterator[TileFacts | tuple[str, str]]:
    if not any(is_url(file.location) for file in files):
        yield from map(read, files)
        return
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        yield from pool.map(read, files)


@lru_cache(maxsize=256)
def describe_crs(crs: CRS) -> CrsFacts:
    """Name and units of a CRS."""
    horizontal = map_crs(crs)
    vertical = next((part for part in crs.sub_crs_list if part.is_vertical), None)
    name = _code(crs)
    if name is None and vertical is not None and (code := _code(horizontal)) is not None:
        name = f"{code} + {_code(vertical) or vertical.name}"
    metres = metres_of_height(crs)
    unit = horizontal.axis_info[0].unit_name if horizontal.axis_info else "unknown"
    if vertical is not None:
        height_unit: str | None = vertical.axis_info[0].unit_name
    else:
        height_unit = "metre" if metres == 1.0 else unit if metres is not None else None
    return CrsFacts(name or crs.name, unit, None if vertical is None else vertical.name, height_unit)


def metres_of_height(crs: CRS) -> float | None:
    """Metres in one unit of height; None where the CRS does not say."""
    try:
        return vertical_unit(crs)
    except CRSError:
        return None


def areas_m2(polygons: Polygons, crs: CRS | None) -> np.ndarray:
    """Areas [N] in m2: of the map where it has a linear unit, on the ellipsoid where it has degrees, NaN without a CRS."""
    if crs is None:
        return np.full(len(polygons), np.nan)
    try:
        return shapely.area(polygons) * metric_unit(crs) ** 2
    except CRSError:
        pass
    if not crs.is_geographic:
        return np.full(len(polygons), np.nan)
    return np.array([abs(_WGS84.geometry_area_perimeter(each)[0]) for each in polygons])


def _code(crs: CRS) -> str | None:
    try:
        found = crs.to_authority()
    except PyprojCRSError:
        return None
    return None if found is None else ":".join(found)


def _density(file: PointFile, crs: CRS | None) -> float | None:
    if file.count == 0 or crs is None:
        return None
    area = float(areas_m2(np.array([shapely.box(*file.bounds)]), _map_of(crs))[0])
    return file.count / area if math.isfinite(area) and area > 0 else None


def _common_crs(tiles: Sequence[TileFacts]) -> CRS | None:
    """The horizontal CRS of most tiles."""
    counts = Counter(_map_of(tile.crs) for tile in tiles if tile.crs is not None and not tile.crs.is_geocentric)
    return counts.most_common(1)[0][0] if counts else None


@lru_cache(maxsize=256)
def _map_of(crs: CRS) -> CRS:
    """The horizontal part; the one object for all ways to write one EPSG code."""
    horizontal = map_crs(crs)
    code = _code(horizontal)
    if code is None:
        return horizontal
    known = CRS.from_user_input(code)
    return known if known.equals(horizontal, ignore_axis_order=True) else horizontal


def _footprints(tiles: Sequence[TileFacts], common: CRS | None) -> Polygons:
    footprints = np.full(len(tiles), None, dtype=object)
    groups: dict[CRS | None, list[int]] = {}
    for at, tile in enumerate(tiles):
        if tile.file.count and (common is None or (tile.crs is not None and not tile.crs.is_geocentric)):
            groups.setdefault(None if tile.crs is None else _map_of(tile.crs), []).append(at)
    for crs, rows in groups.items():
        bounds = np.array([tiles[at].file.bounds for at in rows])
        boxes = shapely.box(*bounds.T)
        footprints[rows] = boxes if crs is None or common is None else moved(boxes, crs, common)
    # far outside of its area, a CRS can turn a rectangle inside out; points in a row have none, which is fine
    footprints[~shapely.is_valid(footprints) & (shapely.area(footprints) > 0)] = None
    return footprints
