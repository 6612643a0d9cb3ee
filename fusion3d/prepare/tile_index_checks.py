"""What is wrong with the tiles of an archive together: gaps, overlaps, copies, mixtures, odd densities.

Rectangles in headers end at their outermost points, so neighbours seldom touch exactly. Whatever is narrower than a sliver,
`SLIVER` of a tile's side or area, is neither a gap nor an overlap.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from fusion3d.errors import Fusion3DError
from fusion3d.io.binary_file import digest
from fusion3d.prepare.tile_index import Archive, TileFacts, areas_m2, describe_crs

SLIVER = 0.01
"""Of a tile's side (gaps: half of what may lie between neighbours) and of its area (gaps and overlaps)."""
ODD_DENSITY = 4.0
"""Times above or below the median at which a density is odd."""
_FEW = 3
"""Tiles of which a median density says something."""
_LISTED = 10
_MOST_OVERLAPS = 100_000
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    kind : gap, overlap, duplicate, unreadable, no points, no CRS, not drawn, mixed CRS, mixed units, mixed dates, odd density
    text : in words
    tiles : numbers of the tiles that it is about
    geometry : where, in the CRS of the archive's map; None where it is no place
    area : m2 of the geometry of gaps and overlaps, NaN without a CRS
    """

    kind: str
    text: str
    tiles: tuple[int, ...] = ()
    geometry: shapely.Geometry | None = None
    area: float | None = None


def check_archive(archive: Archive) -> list[Finding]:
    """Everything that is wrong, kind by kind, the largest gaps and overlaps first; reads whole files only of likely copies."""
    tiles = archive.tiles
    copies = find_duplicates(tiles)
    return [
        *find_gaps(archive),
        *find_overlaps(archive, [copy.tiles for copy in copies]),
        *copies,
        *_unplaced(archive),
        *_mixtures(tiles),
        *find_odd_densities(tiles),
    ]


def find_gaps(archive: Archive) -> list[Finding]:
    """Holes in the coverage, the largest first."""
    drawn = archive.footprints[shapely.area(archive.footprints) > 0]
    if len(drawn) < _FEW:
        return []
    typical = float(np.median(shapely.area(drawn)))
    width = SLIVER * typical**0.5
    union = shapely.union_all(shapely.buffer(drawn, width, join_style="mitre"))
    rings = [ring for part in shapely.get_parts(union) for ring in part.interiors]
    tree = shapely.STRtree(drawn)
    gaps: list[shapely.Geometry] = []
    for ring in rings:
        hole = shapely.buffer(shapely.Polygon(ring), width, join_style="mitre")
        left = shapely.difference(hole, shapely.union_all(drawn[tree.query(hole, predicate="intersects")]))
        # narrow arms between the tiles around a hole are slivers
        opened = shapely.buffer(shapely.buffer(left, -width, join_style="mitre"), width, join_style="mitre")
        gaps += [part for part in shapely.get_parts(opened) if part.area > SLIVER * typical]
    areas = areas_m2(np.array(gaps, dtype=object), archive.crs)
    found = [Finding("gap", f"no tile covers {_place(gap)}", (), gap, float(area)) for gap, area in zip(gaps, areas, strict=True)]
    return sorted(found, key=lambda each: -shapely.area(each.geometry))


def find_overlaps(archive: Archive, copies: Iterable[Sequence[int]] = ()) -> list[Finding]:
    """Pairs of tiles that share more than a sliver of the smaller one, the largest first.

    Parameters
    ----------
    copies : groups of tiles that are one file under several names: how they overlap is nothing new
    """
    usable = np.flatnonzero(shapely.area(archive.footprints) > 0)
    drawn = archive.footprints[usable]
    group = {tile: number for number, tiles in enumerate(copies) for tile in tiles}
    bounds, sizes = shapely.bounds(drawn), shapely.area(drawn)
    tree = shapely.STRtree(drawn)
    pairs: list[np.ndarray] = []
    count = 0
    for start in range(0, len(drawn), _ROWS_AT_ONCE):
        one, other = tree.query(drawn[start : start + _ROWS_AT_ONCE])
        one = one + start
        one, other = one[one < other], other[one < other]
        width = np.fmin(bounds[one, 2], bounds[other, 2]) - np.fmax(bounds[one, 0], bounds[other, 0])
        height = np.fmin(bounds[one, 3], bounds[other, 3]) - np.fmax(bounds[one, 1], bounds[other, 1])
        likely = np.fmax(width, 0) * np.fmax(height, 0) > SLIVER * np.fmin(sizes[one], sizes[other])
        pairs.append(np.c_[one[likely], other[likely]])
        count += int(likely.sum())
        if count > _MOST_OVERLAPS:
            break
    one, other = np.concatenate([np.empty((0, 2), np.int64), *pairs]).T
    shared = shapely.intersection(drawn[one], drawn[other])
    kept = shapely.area(shared) > SLIVER * np.fmin(sizes[one], sizes[other])
    one, other, shared = one[kept], other[kept], shared[kept]
    areas, parts = areas_m2(shared, archive.crs), shapely.area(shared) / np.fmin(sizes[one], sizes[other])
    found = []
    for at in np.argsort(-shapely.area(shared), kind="stable"):
        pair = int(usable[one[at]]), int(usable[other[at]])
        if pair[0] not in group or group[pair[0]] != group.get(pair[1]):
            names = " and ".join(archive.tiles[tile].name for tile in pair)
            text = f"{names} share {parts[at]:.0%} of the smaller one"
            found.append(Finding("overlap", text, pair, shared[at], float(areas[at])))
    if count > _MOST_OVERLAPS:
        found.append(Finding("overlap", f"more tiles overlap: after {count:,} pairs the search was ended"))
    return found


def find_duplicates(tiles: Sequence[TileFacts], read: Callable[[str], str] = digest) -> list[Finding]:
    """Files of the same bytes under other names.

    Parameters
    ----------
    read : gives the digest of a file; asked for files alone whose headers and sizes agree
    """
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for at, tile in enumerate(tiles):
        file = tile.file
        if file.count:
            key = (tile.size, file.count, file.point_format, file.scales, file.offsets, file.bounds, file.z_bounds)
            alike[key].append(at)
    found = []
    for group in alike.values():
        same: dict[str, list[int]] = defaultdict(list)
        for at in group if len(group) > 1 else ():
            try:
                same[read(tiles[at].location)].append(at)
            except Fusion3DError as error:
                found.append(Finding("unreadable", str(error), (at,)))
        for copies in same.values():
            if len(copies) > 1:
                text = f"{', '.join(tiles[at].location for at in copies)} are copies of one file"
                found.append(Finding("duplicate", text, tuple(copies)))
    return found


def find_odd_densities(tiles: Sequence[TileFacts]) -> list[Finding]:
    """Tiles whose density is far from the median of all."""
    known = {at: tile.density for at, tile in enumerate(tiles) if tile.density is not None}
    if len(known) < _FEW:
        return []
    median = statistics.median(known.values())
    return [
        Finding("odd density", f"{tiles[at].name} has {density:.3g} points per m2, the median is {median:.3g}", (at,))
        for at, density in known.items()
        if not median / ODD_DENSITY <= density <= median * ODD_DENSITY
    ]


def _unplaced(archive: Archive) -> list[Finding]:
    found = []
    for at, tile in enumerate(archive.tiles):
        if tile.file.count == 0:
            found.append(Finding("no points", f"{tile.name} holds no points", (at,)))
        elif tile.crs is None:
            found.append(Finding("no CRS", f"{tile.name} states no CRS", (at,)))
        elif tile.crs.is_geocentric:
            found.append(Finding("not drawn", f"{tile.name} is geocentric", (at,)))
        elif archive.footprints[at] is None:
            found.append(Finding("not drawn", f"{tile.name} lies where {_named(archive)} has no coordinates", (at,)))
    return found


def _mixtures(tiles: Sequence[TileFacts]) -> list[Finding]:
    facts = [None if tile.crs is None else describe_crs(tile.crs) for tile in tiles]
    columns = {
        "mixed CRS": [None if each is None else each.name for each in facts],
        "mixed units": [None if each is None else _units(each.horizontal_unit, each.vertical_unit) for each in facts],
        "mixed dates": [None if tile.file.date is None else str(tile.file.date.year) for tile in tiles],
    }
    found = []
    for kind, values in columns.items():
        counts = Counter(value for value in values if value is not None)
        if len(counts) > 1:
            usual = counts.most_common(1)[0][0]
            rest = tuple(at for at, value in enumerate(values) if value not in (None, usual))
            text = ", ".join(f"{value} ({count:,})" for value, count in counts.most_common(_LISTED))
            text += f" and {len(counts) - _LISTED} others" if len(counts) > _LISTED else ""
            found.append(Finding(kind, text, rest))
    return found


def _units(horizontal: str, vertical: str | None) -> str:
    return horizontal if vertical in (None, horizontal) else f"{horizontal} and heights in {vertical}"


def _named(archive: Archive) -> str:
    return "the map" if archive.crs is None else archive.crs.name


def _place(polygon: shapely.Geometry) -> str:
    xmin, ymin, xmax, ymax = polygon.bounds
    digits = 5 if max(abs(xmin), abs(ymin), abs(xmax), abs(ymax)) <= 360 else 1
    return f"x {xmin:.{digits}f} to {xmax:.{digits}f}, y {ymin:.{digits}f} to {ymax:.{digits}f}"
