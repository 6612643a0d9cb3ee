"""`index`: an archive to a GeoPackage and a virtual point cloud."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pyproj import CRS

from fusion3d.errors import Fusion3DError, InputError
from fusion3d.grid import parse_crs
from fusion3d.prepare.archive_files import list_archive
from fusion3d.prepare.tile_index import Archive, read_archive
from fusion3d.prepare.tile_index_checks import Finding, check_archive
from fusion3d.prepare.tile_index_gpkg import refuse_others, write_index
from fusion3d.prepare.tile_index_vpc import write_vpc
from fusion3d.progress import progress_bar


@dataclass(frozen=True)
class Index:
    """What `index_archive` found and wrote."""

    archive: Archive
    findings: tuple[Finding, ...]
    geopackage: Path
    vpc: Path


def index_archive(patterns: Iterable[str], out: str | Path, *, crs: CRS | str | None = None, quiet: bool = False) -> Index:
    """Index the tiles behind folders, patterns, paths or URLs by their headers.

    Parameters
    ----------
    out : GeoPackage to write; the virtual point cloud goes beside it, as .vpc
    crs : of tiles that state none
    quiet : no progress bar

    Raises
    ------
    Fusion3DError
        Nothing is there, no file is usable, or the index cannot be written. Single bad files are set aside.
    """
    out = Path(out)
    if not out.absolute().parent.is_dir():
        raise InputError(out, "its folder does not exist", "make the folder, or choose another --out")
    refuse_others(out)
    assumed = None if crs is None else parse_crs(crs)
    files, lost = list_archive(patterns)
    with progress_bar("read headers", len(files), not quiet, unit="files") as advance:
        archive = read_archive(files, assumed, set_aside=lost, advance=advance)
    if not archive.tiles:
        more = f" (and {len(archive.set_aside) - 1:,} more files that cannot be used)" if len(archive.set_aside) > 1 else ""
        raise Fusion3DError(archive.set_aside[0][1] + more)
    findings = tuple(check_archive(archive))
    return Index(archive, findings, write_index(out, archive, findings), write_vpc(out.with_suffix(".vpc"), archive))
