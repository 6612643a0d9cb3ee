"""`prepare`: raw files to a column store; resumable, bad files set aside, nothing half-written under the store's name.

::

    OUT.partial/manifest.jsonl    what is done
    OUT.partial/parts/            points of decoded tiles, cut by block
    OUT.partial/store/            the store in the making; becomes OUT when everything is there
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pyproj import CRS
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fusion3d import __version__
from fusion3d.errors import ConfigError, CRSError, Fusion3DError, InputError, StoreError
from fusion3d.grid import Grid, map_crs, parse_crs, same_map_crs
from fusion3d.io.pixels import RasterSource
from fusion3d.prepare.assembly import Assembly, Sources
from fusion3d.prepare.footprints import footprint_bounds
from fusion3d.prepare.manifest import Manifest
from fusion3d.prepare.rasters import bounds_in, open_source
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
from fusion3d.prepare.tiles import Tile, same_content, scan_tile, tile_bounds
from fusion3d.store.layout import StoreAttributes
from fusion3d.store.reader import Store


@dataclass
class Summary:
    """What a run of `prepare` did.

    Attributes
    ----------
    out : path of the store
    set_aside : path and reason of each source that could not be used
    notes : what the user should know
    already_done : the store was there, made from the same inputs
    """

    out: Path
    attributes: StoreAttributes
    set_aside: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    already_done: bool = False


def prepare(scene: Scene, out: str | Path, *, overwrite: bool = False, jobs: int = 1, quiet: bool = False) -> Summary:
    """Make a column store.

    Parameters
    ----------
    scene : the sources and the grid
    out : folder of the store
    overwrite : replace a store, or an unfinished one, that was made from other inputs
    jobs : processes that decode tiles and build blocks
    quiet : no progress bars

    Returns
    -------
    what was done; bad files are in `set_aside`, the store holds the rest

    Raises
    ------
    Fusion3DError
        No source is usable, there is no CRS to go by, or `out` holds something else.
    """
    out = Path(out)
    if jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, not {jobs}")
    als = expand(scene.als.files, POINT_SUFFIXES) if scene.als else []
    gedi = expand(scene.gedi.files, GEDI_SUFFIXES) if scene.gedi else []
    scene = with_files(scene, als, gedi)
    files = [describe_file(path) for path in [*als, *gedi, *_raster_files(scene)]]
    key = configuration_hash(scene, files, __version__)
    work = out.with_name(out.name + ".partial")
    if out.exists():
        done = _finished(out, key, overwrite)
        if done is not None:
            return done
    _own(work)
    if overwrite:
        shutil.rmtree(work, ignore_errors=True)
    set_aside: list[tuple[str, str]] = []
    sources = _check(scene, als, gedi, files, set_aside)
    if set_aside and not (sources.tiles or sources.rasters or sources.gedi):
        raise _nothing_left(set_aside)
    notes: list[str] = []
    grid = _grid(scene, sources)
    work.mkdir(parents=True, exist_ok=True)
    with closing(Manifest(work / "manifest.jsonl", key)) as manifest, _progress(quiet) as bars:
        run = Assembly(scene, grid, sources, work, manifest, jobs, bars, set_aside, notes)
        attributes = replace(run.all(), configuration=configuration(scene), configuration_hash=key)
    if not any((attributes.als, attributes.rasters, attributes.gedi)):
        shutil.rmtree(work)
        raise _nothing_left(set_aside)
    attributes = replace(
        attributes, set_aside=tuple({"path": Path(path).name, "reason": reason} for path, reason in sorted(set_aside))
    )
    run.writer.write_attributes(attributes)
    _replace(work / "store", out)
    shutil.rmtree(work)
    return Summary(out, attributes, sorted(set_aside), notes)


def _raster_files(scene: Scene) -> list[str]:
    names = [name for item in scene.rasters.values() for name in item.files]
    found = expand([name for name in names if not Path(name).is_dir()], ()) if names else []
    return found + sorted(str(path) for name in names if Path(name).is_dir() for path in Path(name).rglob("*") if path.is_file())


def _finished(out: Path, key: str, overwrite: bool) -> Summary | None:
    try:
        attributes = Store.open(out).attributes
    except StoreError:
        if overwrite:
            raise StoreError(out, "exists and is not a fusion3d store", "choose another --out; it is not overwritten") from None
        raise StoreError(out, "exists and is not a fusion3d store", "choose another --out") from None
    if attributes.configuration_hash == key:
        aside = [(item["path"], item["reason"]) for item in attributes.set_aside]
        return Summary(out, attributes, aside, already_done=True)
    if not overwrite:
        raise StoreError(
            out, "a store of other inputs, options or version is there", "pass --overwrite to replace it, or choose another --out"
        )
    return None


def _own(work: Path) -> None:
    """Refuse a work folder that is not one of `prepare`: it would be deleted in the end."""
    names = {path.name for path in work.iterdir()} if work.exists() else set()
    if names - {"lock"} and "manifest.jsonl" not in names:
        raise StoreError(
            work, "exists and is not the unfinished work of `fusion3d prepare`", "move it away, or choose another --out"
        )


def _nothing_left(set_aside: list[tuple[str, str]]) -> Fusion3DError:
    reasons = [reason for _, reason in set_aside]
    more = f" (and {len(reasons) - 1} more sources that cannot be used)" if len(reasons) > 1 else ""
    return Fusion3DError(reasons[0] + more)


def _replace(new: Path, out: Path) -> None:
    if not out.exists():
        os.replace(new, out)
        return
    old = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    os.replace(out, old)
    os.replace(new, out)
    shutil.rmtree(old)


def _check(
    scene: Scene, als: list[str], gedi: list[str], files: list[dict[str, Any]], set_aside: list[tuple[str, str]]
) -> Sources:
    tiles: list[Tile] = []
    rasters: dict[str, RasterSource] = {}
    for path in als:
        try:
            assert scene.als is not None
            tile = scan_tile(path, scene.als, scene.crs)
            twin = next((other for other in tiles if same_content(tile.file, other.file)), None)
            if twin is not None:
                raise InputError(
                    path, f"is the same file as {twin.file.path}", "leave one of them out: its points would count twice"
                )
            tiles.append(tile)
        except Fusion3DError as error:
            set_aside.append((path, str(error)))
    for name, item in sorted(scene.rasters.items()):
        try:
            rasters[name] = open_source(name, item, scene.crs or _first_crs(tiles))
        except Fusion3DError as error:
            set_aside.append((item.files[0], str(error)))
    return Sources(tiles, rasters, gedi, files)


def _first_crs(tiles: list[Tile]) -> str | None:
    return map_crs(tiles[0].crs).to_wkt() if tiles else None


def _grid(scene: Scene, sources: Sources) -> Grid:
    crs = _grid_crs(scene, sources)
    options: dict[str, Any] = {"column": scene.column, "voxel": scene.voxel, "block": scene.block}
    if scene.bounds is not None:
        return Grid.covering(crs, scene.bounds, **options, closed=False)
    if sources.tiles:
        return Grid.covering(crs, _union(tile_bounds(tile, crs) for tile in sources.tiles if tile.file.count), **options)
    if sources.rasters:
        return Grid.covering(crs, _union(bounds_in(source, crs) for source in sources.rasters.values()), **options, closed=False)
    return Grid.covering(crs, _union(footprint_bounds(sources.gedi, crs)), **options)


def _grid_crs(scene: Scene, sources: Sources) -> CRS:
    if scene.crs is not None:
        return parse_crs(scene.crs)
    crs: CRS | None
    if sources.tiles:
        path, crs = sources.tiles[0].file.path, sources.tiles[0].crs
        other = next((tile for tile in sources.tiles if not same_map_crs(tile.crs, crs)), None)
        if other is not None:
            raise CRSError(
                other.file.path,
                f"is in {map_crs(other.crs).name}, {path} in {map_crs(crs).name}",
                "say with --crs which one the grid shall have, or prepare them apart",
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


def _union(rectangles: Iterable[tuple[float, float, float, float]]) -> tuple[float, float, float, float]:
    rows = np.array(list(rectangles), dtype=np.float64).reshape(-1, 4)
    if len(rows) == 0:
        raise InputError(None, "the sources hold no points, pixels or footprints", "check the files, or pass --bounds")
    low, high = rows[:, :2].min(axis=0), rows[:, 2:].max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bars:
        yield bars
