"""The making of a store from checked sources: tiles to blocks, rasters, footprints; every finished piece goes to the manifest."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from fusion3d.errors import Fusion3DError, InputError, StoreError
from fusion3d.grid import Grid
from fusion3d.io.pixels import RasterSource
from fusion3d.prepare.blocks import build_block, intensity_percentile
from fusion3d.prepare.footprints import collect_footprints
from fusion3d.prepare.ground import describe_ground
from fusion3d.prepare.manifest import Manifest
from fusion3d.prepare.rasters import layout_of, pieces, with_statistics, write_piece
from fusion3d.prepare.scene import AlsSource, Scene
from fusion3d.prepare.tiles import STANDARD_ATTRIBUTES, Tile, common_lattice, spill_tile
from fusion3d.store.layout import AlsLayout, GediLayout, RasterLayout, StoreAttributes, block_name, parse_block_name
from fusion3d.store.writer import StoreWriter


@dataclass(frozen=True)
class Sources:
    """What the checks before any decoding left: readable tiles and rasters, GEDI files."""

    tiles: list[Tile]
    rasters: dict[str, RasterSource]
    gedi: list[str]
    files: list[dict[str, Any]]


def _guarded(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except Fusion3DError as error:
        return {"error": str(error)}


@dataclass
class Assembly:
    """One run over a scene: what is in the manifest is not done again."""

    scene: Scene
    grid: Grid
    sources: Sources
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

    def _each(self, title: str, work: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]], jobs: int) -> None:
        """Run the pieces of work that the manifest does not have; results go to the manifest."""
        bar = self.bars.add_task(title, total=len(work))
        todo = {name: item for name, item in work.items() if name not in self.manifest}
        self.bars.advance(bar, len(work) - len(todo))
        if jobs == 1 or len(todo) < 2:
            for name, (function, arguments) in todo.items():
                self.manifest.done(name, _guarded(function, arguments))
                self.bars.advance(bar)
            return
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
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
            self.jobs,
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
        if read and not inside:
            raise InputError(tiles[good[0]].file.path, "no point of any tile lies inside the grid", "check --bounds and --crs")
        self._note_ground(source, good)
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
        self.writer.create_points()
        self._each(
            "build blocks",
            {
                f"block {block_name(*block)}": (
                    build_block,
                    (block, good, self.grid, layout, source.normalized, source.ground_buffer, parts, self.writer),
                )
                for block in sorted(blocks)
            },
            self.jobs,
        )
        return self._als_layout(layout, source, good, read, inside, sorted(blocks))

    def _note_ground(self, source: AlsSource, good: list[int]) -> None:
        """Name the tiles whose heights rest on their neighbours' ground alone."""
        if source.normalized:
            return
        counts = {number: self.manifest[f"tile {number:06d}"]["inside"] for number in good}
        bare = [number for number, item in counts.items() if item and not any(str(code) in item for code in source.ground_class)]
        if bare:
            names = ", ".join(Path(self.sources.tiles[number].file.path).name for number in bare[:5])
            self.notes.append(f"{len(bare)} tiles hold no ground points, their heights rest on the ground of neighbours: {names}")

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
        bare = sum(result["without_height"] for result in results)
        if bare:
            self.notes.append(f"{bare:,} points have no ground within {source.ground_buffer:g} m: their height is NaN")
        days = (self.sources.tiles[number].file.date for number in good)
        dates = sorted({day.isoformat() for day in days if day is not None})
        return replace(
            layout,
            blocks=tuple(block_name(*block) for block in blocks),
            points=sum(stored.values()),
            points_read=sum(read.values()),
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
            for step, window in pieces(layout, source, self.grid)
        }
        # A reader of the user's own lives in this process only.
        self._each(name, work, jobs=1 if self.scene.rasters[name].reader else self.jobs)
        results = [self.manifest[key] for key in work]
        errors = sorted({result["error"] for result in results if "error" in result})
        self.set_aside.extend((str(source.provenance[0]) if source.provenance else name, error) for error in errors)
        done = [result for result in results if "error" not in result]
        layout = with_statistics(layout, done) if done else layout
        if layout.valid_fraction == 0:
            self.writer.remove_raster(name)
            if not errors:
                path = str(source.provenance[0]) if source.provenance else name
                self.set_aside.append(
                    (path, str(InputError(path, "has no valid pixel inside the grid", "check its place and nodata")))
                )
            return None
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
