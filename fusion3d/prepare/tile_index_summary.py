"""An index in lines that a person reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from fusion3d.prepare.tile_index import Archive, TileFacts, describe_crs
from fusion3d.prepare.tile_index_checks import Finding

_LISTED = 5
_TITLES = {
    "gap": "gaps in the coverage", "overlap": "pairs of tiles that overlap", "duplicate": "groups of copies",
    "unreadable": "tiles that could not be compared", "no points": "tiles without points", "no CRS": "tiles without a CRS",
    "not drawn": "tiles that no map shows", "odd density": "tiles of odd density",
}  # fmt: skip


def index_lines(archive: Archive, findings: Sequence[Finding]) -> list[str]:
    """What the archive holds and what is wrong with it; at most a few of each kind, the rest counted."""
    return [*_content(archive), *_found(findings), *(f"set aside: {reason}" for _, reason in archive.set_aside)]


def _content(archive: Archive) -> list[str]:
    tiles = archive.tiles
    points = sum(tile.file.count for tile in tiles)
    size = sum(tile.size for tile in tiles)
    densities = sorted(tile.density for tile in tiles if tile.density is not None)
    dense = f", {_range(densities)} per m2" if densities else ""
    days = sorted(tile.file.date for tile in tiles if tile.file.date is not None)
    undated = f" ({len(tiles) - len(days):,} tiles say none)" if len(days) < len(tiles) else ""
    dates = f"{days[0]} to {days[-1]}{undated}; of the files, not of the flight" if days else "none stated"
    return [
        f"tiles    {len(tiles):,} files, {size / 1e9:.3g} GB, {points:,} points{dense}",
        f"format   {_counted(map(_format, tiles), len(tiles))}",
        f"crs      {_counted((describe_crs(tile.crs).name if tile.crs is not None else 'none' for tile in tiles), len(tiles))}",
        f"dates    {dates}",
    ]


def _format(tile: TileFacts) -> str:
    file = tile.file
    kind = "COPC" if file.copc else "LAZ" if file.compressed else "LAS"
    return f"{kind} {'.'.join(map(str, file.version))} point format {file.point_format}"


def _counted(values: Iterable[str], total: int) -> str:
    counts = Counter(values)
    if len(counts) == 1 and total:
        return next(iter(counts))
    listed = ", ".join(f"{value} ({count:,})" for value, count in counts.most_common(_LISTED))
    return f"{listed} and {len(counts) - _LISTED} others" if len(counts) > _LISTED else listed


def _range(densities: list[float]) -> str:
    low, middle, high = densities[0], densities[len(densities) // 2], densities[-1]
    return f"{middle:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{middle:.3g} (from {low:.3g} to {high:.3g})"


def _found(findings: Sequence[Finding]) -> list[str]:
    lines = []
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.kind, []).append(finding)
    for kind, group in groups.items():
        if kind.startswith("mixed"):
            lines.append(f"{kind}: {group[0].text}")
            continue
        area = sum(finding.area for finding in group if finding.area is not None and finding.area == finding.area)
        lines.append(f"{_TITLES[kind]}: {len(group):,}{f', {_area(area)} in all' if area and len(group) > 1 else ''}")
        lines += [f"  {finding.text}{f' ({_area(finding.area)})' if finding.area else ''}" for finding in group[:_LISTED]]
        if len(group) > _LISTED:
            lines.append(f"  and {len(group) - _LISTED:,} more, in the index")
    return lines


def _area(square_metres: float) -> str:
    if square_metres != square_metres:
        return "of unknown unit"
    if square_metres >= 1e6:
        return f"{square_metres / 1e6:.3g} km2"
    return f"{square_metres / 1e4:.3g} ha" if square_metres >= 1e3 else f"{square_metres:.3g} m2"
