"""`prepare`: raw files to a column store; resumable, bad files set aside, nothing half-written under the store's name.

::

    OUT.partial/manifest.jsonl    what is done
    OUT.partial/parts/            points of decoded tiles, cut by block
    OUT.partial/store/            the store in the making; becomes OUT when everything is there

An object store cannot rename: there blocks are written to their final names, and the root attributes, which make a store of them,
when everything is there.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fusion3d import __version__
from fusion3d.errors import Fusion3DError, StoreError, one_line
from fusion3d.grid import map_crs
from fusion3d.io.pixels import RasterSource
from fusion3d.io.place import Place
from fusion3d.prepare.assembly import Assembly, Sources
from fusion3d.prepare.manifest import NAME as MANIFEST
from fusion3d.prepare.manifest import Manifest
from fusion3d.prepare.placing import common_crs, place_grid
from fusion3d.prepare.rasters import open_source
from fusion3d.prepare.scene import (
    GEDI_SUFFIXES,
    POINT_SUFFIXES,
    Scene,
    configuration,
    configuration_hash,
    describe_file,
    expand,
    with_files,
)
from fusion3d.prepare.tile_place import check_place, without_degrees
from fusion3d.prepare.tiles import Contents, Tile, scan_tile, unusable
from fusion3d.store.layout import StoreAttributes
from fusion3d.store.reader import Store
from fusion3d.store.writer import StoreWriter, replace_folder
from fusion3d.workers import Workers


@dataclass
class Summary:
    """What a run of `prepare` did.

    Attributes
    ----------
    out : path or URL of the store
    set_aside : path and reason of each source that could not be used
    notes : what the user should know
    already_done : the store was there, made from the same inputs
    """

    out: str
    attributes: StoreAttributes
    set_aside: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    already_done: bool = False


def prepare(
    scene: Scene,
    out: str | Path,
    *,
    overwrite: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    quiet: bool = False,
) -> Summary:
    """Make a column store.

    Parameters
    ----------
    scene : the sources and the grid
    out : folder or fsspec URL of the store
    overwrite : replace a store, or an unfinished one, that was made from other inputs
    workers : processes of a local Dask cluster that decode tiles and build blocks; 1 is this process
    scheduler : address of a Dask scheduler to use instead; its workers see sources and `out` under the same names
    quiet : no progress bars

    Returns
    -------
    what was done; bad files are in `set_aside`, the store holds the rest

    Raises
    ------
    Fusion3DError
        No source is usable, there is no CRS to go by, or `out` holds something else.
    """
    place = Place.of(out)
    als = expand(scene.als.files, POINT_SUFFIXES) if scene.als else []
    gedi = expand(scene.gedi.files, GEDI_SUFFIXES) if scene.gedi else []
    scene = with_files(scene, als, gedi)
    area = [] if scene.within is None else [scene.within]
    files = [describe_file(path) for path in [*als, *gedi, *raster_files(scene), *area]]
    key = configuration_hash(scene, files, __version__)
    with Workers(workers, scheduler) as crew:
        done = _finished(place, key, overwrite)
        return done or _make(scene, place, als, gedi, files, key, crew, overwrite=overwrite, quiet=quiet)


def _make(
    scene: Scene,
    out: Place,
    als: list[str],
    gedi: list[str],
    files: list[dict[str, Any]],
    key: str,
    workers: Workers,
    *,
    overwrite: bool,
    quiet: bool,
) -> Summary:
    work = out.beside(".partial")
    _own(work)
    set_aside: list[tuple[str, str]] = []
    notes: list[str] = []
    try:
        if overwrite:
            work.remove()
        sources = _check(scene, als, gedi, files, set_aside)
        if set_aside and not (sources.tiles or sources.rasters or sources.gedi):
            raise unusable(set_aside)
        grid, tiles = place_grid(scene, sources, set_aside, notes)
        sources = replace(sources, tiles=tiles)
        work.make()
        with closing(Manifest(work, key)) as manifest:
            store = out if out.local is None else work / "store"
            run = Assembly(scene, grid, sources, work, StoreWriter(str(store)), manifest, workers, not quiet, set_aside, notes)
            attributes = replace(run.all(), configuration=configuration(scene), configuration_hash=key)
        if not any((attributes.als, attributes.rasters, attributes.gedi)):
            work.remove()
            raise unusable(set_aside)
        aside = tuple({"path": Path(path).name, "reason": reason} for path, reason in sorted(set_aside))
        attributes = replace(attributes, set_aside=aside)
        run.writer.write_attributes(attributes)
        if out.local is not None:
            _replace(Path(str(store)), out.local)
        work.remove()
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise StoreError(
            str(work),
            f"cannot be written ({reason})",
            "check the folder and the free space, and run the same command again: it resumes",
        ) from None
    return Summary(str(out), attributes, sorted(set_aside), notes)


def raster_files(scene: Scene) -> list[str]:
    """Files of the raster sensors, every file of a folder too."""
    names = [name for item in scene.rasters.values() for name in item.files]
    found = expand([name for name in names if not Path(name).is_dir()], ()) if names else []
    return found + sorted(str(path) for name in names if Path(name).is_dir() for path in Path(name).rglob("*") if path.is_file())


def _finished(out: Place, key: str, overwrite: bool) -> Summary | None:
    """What is at `out` when it was made from the same inputs; None where it may be written."""
    try:
        attributes = Store.open(str(out)).attributes
    except StoreError:
        # in an object store, blocks of an unfinished store lie there
        if not out.exists() or (out.local is None and out.beside(".partial").exists()):
            return None
        remedy = "choose another --out" + ("; it is not overwritten" if overwrite else "")
        raise StoreError(str(out), "exists and is not a fusion3d store", remedy) from None
    if attributes.configuration_hash == key:
        aside = [(item["path"], item["reason"]) for item in attributes.set_aside]
        return Summary(str(out), attributes, aside, already_done=True)
    problem = "a store of other inputs, options or version is there"
    if not overwrite:
        raise StoreError(str(out), problem, "pass --overwrite to replace it, or choose another --out")
    if out.local is None:
        raise StoreError(str(out), problem, "an object store cannot replace it at once: remove it first, or choose another --out")
    return None


def _own(work: Place) -> None:
    """Refuse a work folder that is not one of `prepare`: it would be deleted in the end."""
    names = set(work.names())
    if names - {"lock"} and MANIFEST not in names:
        raise StoreError(
            str(work), "exists and is not the unfinished work of `fusion3d prepare`", "move it away, or choose another --out"
        )


def _replace(new: Path, out: Path) -> None:
    if out.exists():
        replace_folder(new, out)
    else:
        os.replace(new, out)


def _check(
    scene: Scene, als: list[str], gedi: list[str], files: list[dict[str, Any]], set_aside: list[tuple[str, str]]
) -> Sources:
    tiles: list[Tile] = []
    contents = Contents()
    rasters: dict[str, RasterSource] = {}
    for path in als:
        try:
            assert scene.als is not None
            tile = scan_tile(path, scene.als, scene.crs)
            check_place(tile)
            contents.add(tile.file)
            tiles.append(tile)
        except Fusion3DError as error:
            set_aside.append((path, str(error)))
    if scene.crs is None:
        tiles, degrees = without_degrees(tiles)
        set_aside += degrees
    crs = common_crs(tiles)
    common = None if crs is None else map_crs(crs).to_wkt()
    for name, item in sorted(scene.rasters.items()):
        try:
            rasters[name] = open_source(name, item, scene.crs or common)
        except Fusion3DError as error:
            set_aside.append((item.files[0], str(error)))
    return Sources(tiles, rasters, gedi, files)
