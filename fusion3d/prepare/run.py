"""`prepare`: raw files to a column store; resumable, bad files set aside, nothing half-written under the store's name.

::

    OUT.partial/manifest.jsonl    what is done
    OUT.partial/parts/            points of decoded tiles, cut by block
    OUT.partial/store/            the store in the making; becomes OUT when everything is there
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pyproj import CRS, Transformer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fusion3d import __version__
from fusion3d.errors import ConfigError, CRSError, Fusion3DError, InputError, StoreError
from fusion3d.grid import Grid, map_crs, parse_crs, same_map_crs
from fusion3d.io.pixels import RasterSource
from fusion3d.prepare.blocks import build_block, intensity_percentile
from fusion3d.prepare.footprints import collect_footprints, footprint_bounds
from fusion3d.prepare.ground import describe_ground
from fusion3d.prepare.manifest import Manifest
from fusion3d.prepare.rasters import layout_of, open_source, pieces, with_statistics, write_piece
from fusion3d.prepare.scene import (
    GEDI_SUFFIXES,
    POINT_SUFFIXES,
    AlsSource,
    Scene,
    configuration,
    configuration_hash,
    describe_file,
    expand,
    with_files,
)
from fusion3d.prepare.tiles import STANDARD_ATTRIBUTES, Tile, common_lattice, scan_tile, spill_tile, tile_bounds
from fusion3d.store.layout import AlsLayout, GediLayout, RasterLayout, StoreAttributes, block_name, parse_block_name
from fusion3d.store.reader import Store
from fusion3d.store.writer import StoreWriter


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


@dataclass(frozen=True)
class _Sources:
    """What the checks before any decoding left: readable tiles and rasters, GEDI files."""

    tiles: list[Tile]
    rasters: dict[str, RasterSource]
    gedi: list[str]
    files: list[dict[str, Any]]


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
            shutil.rmtree(work, ignore_errors=True)
            return done
    if overwrite:
        shutil.rmtree(work, ignore_errors=True)
    set_aside: list[tuple[str, str]] = []
    sources = _check(scene, als, gedi, files, set_aside)
    if set_aside and not (sources.tiles or sources.rasters or sources.gedi):
        raise _nothing_left(set_aside)
    notes: list[str] = []
    grid = _grid(scene, sources)
    work.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(work / "manifest.jsonl", key)
    with _progress(quiet) as bars:
        run = _Run(scene, grid, sources, work, manifest, jobs, bars, set_aside, notes)
        attributes = replace(run.all(), configuration=configuration(scene), configuration_hash=key)
    manifest.close()
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


def _nothing_left(set_aside: list[tuple[str, str]]) -> Fusion3DError:
    reasons = [reason for _, reason in set_aside]
    more = f" (and {len(reasons) - 1} more sources that cannot be used)" if len(reasons) > 1 else ""
    return Fusion3DError(reasons[0] + more)


def _replace(new: Path, out: Path) -> None:
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(new, out)
    shutil.rmtree(old, ignore_errors=True)


def _check(
    scene: Scene, als: list[str], gedi: list[str], files: list[dict[str, Any]], set_aside: list[tuple[str, str]]
) -> _Sources:
    tiles, rasters = [], {}
    for path in als:
        try:
            assert scene.als is not None
            tiles.append(scan_tile(path, scene.als, scene.crs))
        except Fusion3DError as error:
            set_aside.append((path, str(error)))
    for name, item in sorted(scene.rasters.items()):
        try:
            rasters[name] = open_source(name, item, scene.crs or _first_crs(tiles))
        except Fusion3DError as error:
            set_aside.append((item.files[0], str(error)))
    return _Sources(tiles, rasters, gedi, files)


def _first_crs(tiles: list[Tile]) -> str | None:
    return map_crs(tiles[0].crs).to_wkt() if tiles else None


def _grid(scene: Scene, sources: _Sources) -> Grid:
    crs = _grid_crs(scene, sources)
    options: dict[str, Any] = {"column": scene.column, "voxel": scene.voxel, "block": scene.block}
    if scene.bounds is not None:
        return Grid.covering(crs, scene.bounds, **options, closed=False)
    if sources.tiles:
        return Grid.covering(crs, _union(tile_bounds(tile, crs) for tile in sources.tiles if tile.file.count), **options)
    if sources.rasters:
        return Grid.covering(
            crs, _union(_raster_bounds(source, crs) for source in sources.rasters.values()), **options, closed=False
        )
    return Grid.covering(crs, _union(footprint_bounds(sources.gedi, crs)), **options)


def _grid_crs(scene: Scene, sources: _Sources) -> CRS:
    if scene.crs is not None:
        return parse_crs(scene.crs)
    crs: CRS | None
    if sources.tiles:
        path, crs = sources.tiles[0].file.path, sources.tiles[0].crs
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


def _raster_bounds(source: RasterSource, crs: CRS) -> tuple[float, float, float, float]:
    if source.crs is None or same_map_crs(source.crs, crs):
        return source.bounds
    left, bottom, right, top = source.bounds
    return Transformer.from_crs(source.crs, crs, always_xy=True).transform_bounds(left, bottom, right, top, densify_pts=21)


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


def _guarded(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except Fusion3DError as error:
        return {"error": str(error)}


@dataclass
class _Run:
    scene: Scene
    grid: Grid
    sources: _Sources
    work: Path
    manifest: Manifest
    jobs: int
    bars: Progress
    set_aside: list[tuple[str, str]]
    notes: list[str]

    def __post_init__(self) -> None:
        self.writer = StoreWriter(self.work / "store")

    def all(self) -> StoreAttributes:
        als = self._points() if self.scene.als and self.sources.tiles else None
        rasters = {
            name: layout for name, source in self.sources.rasters.items() if (layout := self._raster(name, source)) is not None
        }
        gedi = self._footprints() if self.sources.gedi else None
        counts = {tile.file.path: tile.file.count for tile in self.sources.tiles}
        sources = tuple(
            {
                "name": Path(item["path"]).name,
                "size": item["size"],
                "mtime_ns": item["mtime_ns"],
                **({"points": counts[item["path"]]} if item["path"] in counts else {}),
            }
            for item in self.sources.files
        )
        return StoreAttributes(self.grid, als, rasters, gedi, sources)

    def _each(self, title: str, work: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]) -> None:
        """Run the pieces of work that the manifest does not have; results go to the manifest."""
        bar = self.bars.add_task(title, total=len(work))
        todo = {name: item for name, item in work.items() if name not in self.manifest}
        self.bars.advance(bar, len(work) - len(todo))
        if self.jobs == 1 or len(todo) < 2:
            for name, (function, arguments) in todo.items():
                self.manifest.done(name, _guarded(function, arguments))
                self.bars.advance(bar)
            return
        with ProcessPoolExecutor(self.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            futures = {pool.submit(_guarded, *item): name for name, item in todo.items()}
            for future in as_completed(futures):
                self.manifest.done(futures[future], future.result())
                self.bars.advance(bar)

    def _points(self) -> AlsLayout | None:
        source, tiles = self.scene.als, self.sources.tiles
        assert source is not None
        lattice, rounded = common_lattice(tiles, self.grid)
        if rounded:
            self.notes.append(
                f"coordinates of {len(rounded)} of {len(tiles)} tiles are rounded to the nearest {lattice.scale[0]:g} "
                f"(reprojected, or on another lattice): {', '.join(Path(path).name for path in rounded[:5])}"
            )
        parts = self.work / "parts"
        self._each(
            "decode tiles",
            {
                f"tile {number:06d}": (spill_tile, (number, tile, self.grid, lattice, source.ground_class, parts))
                for number, tile in enumerate(tiles)
            },
        )
        good, read, inside, blocks = [], Counter[str](), Counter[str](), set()
        for number, tile in enumerate(tiles):
            result = self.manifest[f"tile {number:06d}"]
            if "error" in result:
                self.set_aside.append((tile.file.path, result["error"]))
                continue
            good.append(number)
            read.update(result["read"])
            inside.update(result["inside"])
            blocks |= {parse_block_name(name) for name in result["blocks"]}
        if not good:
            return None
        ground = sum(inside[str(number)] for number in source.ground_class)
        if not ground and not source.normalized:
            raise InputError(
                tiles[good[0]].file.path,
                f"no ground points (class {', '.join(map(str, source.ground_class))}) in any tile",
                "classify ground first, or pass --normalized if heights are above ground already",
            )
        layout = AlsLayout(
            lattice,
            (*STANDARD_ATTRIBUTES, *source.attributes),
            describe_ground(source.normalized, source.ground_class, source.ground_buffer),
        )
        self._each(
            "build blocks",
            {
                f"block {block_name(*block)}": (
                    build_block,
                    (block, good, self.grid, layout, source.normalized, source.ground_buffer, parts, self.writer),
                )
                for block in sorted(blocks)
            },
        )
        return self._als_layout(layout, source, good, read, inside, sorted(blocks))

    def _als_layout(
        self,
        layout: AlsLayout,
        source: AlsSource,
        good: list[int],
        read: Counter[str],
        inside: Counter[str],
        blocks: list[tuple[int, int]],
    ) -> AlsLayout:
        results = [self.manifest[f"block {block_name(*block)}"] for block in blocks]
        failed = [result["error"] for result in results if "error" in result]
        if failed:
            raise StoreError(self.work, failed[0], "mend the cause and run the same command again: it resumes")
        stored: Counter[str] = Counter()
        for result in results:
            stored.update(result["classes"])
        if stored != inside:
            raise StoreError(
                self.work,
                f"points in {dict(inside)} and points out {dict(stored)} differ",
                "this is a defect of fusion3d; nothing was written to the store's name",
            )
        outside = sum(read.values()) - sum(inside.values())
        if outside:
            self.notes.append(f"{outside:,} points lie outside of the grid and are not stored")
        bare = sum(result["without_height"] for result in results)
        if bare:
            self.notes.append(f"{bare:,} points have no ground within {source.ground_buffer:g} m: their height is NaN")
        days = (self.sources.tiles[number].file.date for number in good)
        dates = sorted({day.isoformat() for day in days if day is not None})
        return replace(
            layout,
            blocks=tuple(block_name(*block) for block in blocks),
            points=sum(stored.values()),
            classes={key: stored[key] for key in sorted(stored, key=int)},
            intensity_p95=intensity_percentile([result["intensity"] for result in results]),
            dates=tuple(dates),
        )

    def _raster(self, name: str, source: RasterSource) -> RasterLayout | None:
        try:
            layout = layout_of(name, self.scene.rasters[name], source, self.grid)
        except Fusion3DError as error:
            self.set_aside.append((str(source.provenance[0]) if source.provenance else name, str(error)))
            return None
        self.writer.create_raster(name, layout)
        work = {
            f"raster {name} {step:05d} {window.row:08d} {window.col:08d}": (
                write_piece,
                (name, source, layout, self.grid, step, window, self.writer),
            )
            for step, window in pieces(layout)
        }
        self._each(name, work)
        results = [self.manifest[key] for key in work]
        errors = sorted({result["error"] for result in results if "error" in result})
        self.set_aside.extend((str(source.provenance[0]) if source.provenance else name, error) for error in errors)
        layout = with_statistics(layout, [result for result in results if "error" not in result])
        if layout.valid_fraction == 0:
            self.notes.append(f"{name}: no valid pixel inside the grid")
        return layout

    def _footprints(self) -> GediLayout | None:
        bar = self.bars.add_task("gedi", total=1)
        table, outside, aside = collect_footprints(self.sources.gedi, self.grid)
        self.set_aside.extend(aside)
        self.bars.advance(bar)
        if table is None:
            return None
        if outside:
            self.notes.append(f"gedi: {outside:,} shots lie outside of the grid, or have no location, and are not stored")
        if len(table) == 0:
            self.notes.append("gedi: no footprint inside the grid")
        self.writer.write_footprints(table)
        return GediLayout(tuple(table.product.split("+")), tuple(sorted(table.attributes)), len(table))
