"""The making of a store from checked sources: tiles to blocks, rasters, footprints; every finished piece goes to the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fusion3d.errors import Fusion3DError, InputError, StoreError
from fusion3d.grid import Grid
from fusion3d.io.pixels import RasterSource
from fusion3d.io.place import Place
from fusion3d.prepare.blocks import build_block, intensity_percentile
from fusion3d.prepare.footprints import collect_footprints
from fusion3d.prepare.fragments import POINTS, Fragments
from fusion3d.prepare.ground import describe_ground
from fusion3d.prepare.groups import TileGroups
from fusion3d.prepare.manifest import Manifest
from fusion3d.prepare.rasters import layout_of, pieces, with_statistics, write_piece
from fusion3d.prepare.scene import AlsSource, Scene
from fusion3d.prepare.tiles import Tile, common_lattice, spill_tile, tile_bounds
from fusion3d.progress import progress_bar
from fusion3d.store.layout import (
    STANDARD_ATTRIBUTES,
    AlsLayout,
    GediLayout,
    PointLattice,
    RasterLayout,
    StoreAttributes,
    block_name,
    parse_block_name,
)
from fusion3d.store.writer import StoreWriter
from fusion3d.workers import Lost, Piece, Workers


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


def _tile_name(number: int) -> str:
    return f"tile {number:06d}"


def _block_piece(block: tuple[int, int]) -> str:
    return f"block {block_name(*block)}"


def _failure(result: dict[str, Any], path: str | Path) -> str | None:
    """Why a piece of work for a file failed; None where it did not."""
    if "lost" in result:
        return str(InputError(path, result["lost"], "give workers more memory, or leave it out"))
    return result.get("error")


@dataclass
class Assembly:
    """One run over a scene: what is in the manifest is not done again."""

    scene: Scene
    grid: Grid
    sources: Sources
    work: Place
    writer: StoreWriter
    manifest: Manifest
    workers: Workers
    shown: bool
    set_aside: list[tuple[str, str]]
    notes: list[str]

    def all(self) -> StoreAttributes:
        als = self._points() if self.scene.als and self.sources.tiles else None
        rasters = {
            name: layout for name, source in self.sources.rasters.items() if (layout := self._raster(name, source)) is not None
        }
        gedi = self._footprints() if self.sources.gedi else None
        tiles = {tile.file.path: tile for tile in self.sources.tiles}
        sources = tuple(
            {
                "name": Path(item["path"]).name,
                "size": item["size"],
                "mtime_ns": item["mtime_ns"],
                **(self._facts(tiles[item["path"]]) if item["path"] in tiles else {}),
            }
            for item in self.sources.files
        )
        return StoreAttributes(self.grid, als, rasters, gedi, sources)

    def _facts(self, tile: Tile) -> dict[str, Any]:
        """What the store says of a tile: its points, and where it lies, by which a repair finds the tiles of a block."""
        bounds = {"bounds": list(tile_bounds(tile, self.grid.pyproj_crs))} if tile.file.count else {}
        return {"points": tile.file.count, **bounds}

    def _each(self, title: str, work: Mapping[str, Piece], *, total: int = 0, before: int = 0, here: bool = False) -> None:
        """Run the pieces of work that the manifest does not have; what succeeds goes to the manifest.

        Parameters
        ----------
        total, before : pieces of this kind in all, and those of earlier calls
        """
        todo = {name: (_guarded, item) for name, item in work.items() if name not in self.manifest}
        done = before + len(work) - len(todo)
        with progress_bar(title, max(total, before + len(work)), self.shown, done=done, workers=self.workers) as advance:
            for name, result in self.workers.each(todo, here=here):
                if isinstance(result, Lost):
                    self.manifest.failed(name, {"lost": result.reason})
                elif "error" in result:
                    self.manifest.failed(name, result)
                else:
                    self.manifest.done(name, result)
                advance()

    def _points(self) -> AlsLayout | None:
        source, tiles = self.scene.als, self.sources.tiles
        assert source is not None
        lattice, rounded = common_lattice(tiles, self.grid)
        if rounded:
            self.notes.append(
                f"coordinates of {len(rounded)} of {len(tiles)} tiles are rounded to the nearest {lattice.scale[0]:g} "
                f"(reprojected, or on another lattice): {', '.join(Path(path).name for path in rounded[:5])}"
            )
        layout = AlsLayout(
            lattice,
            (*STANDARD_ATTRIBUTES, *source.attributes),
            describe_ground(source.normalized, source.ground_class, source.ground_buffer),
        )
        self.writer.create_points()
        groups = TileGroups(tiles, self.grid, source.ground_buffer)
        good: list[int] = []
        read, inside = Counter[str](), Counter[str]()
        decoded = built = 0
        for group in groups.groups:
            self._decode(group, source, lattice, decoded)
            decoded += len(group)
            for number in group:
                result = self.manifest[_tile_name(number)]
                if _failure(result, tiles[number].file.path) is not None:
                    groups.decoded(number, ())
                    continue
                good.append(number)
                read.update(result["read"])
                inside.update(result["inside"])
                groups.decoded(number, [parse_block_name(name) for name in result["blocks"]])
            if decoded == len(tiles) and good:
                self._check_points(source, good, read, inside)
            built += self._build(groups, layout, source, built)
        self.set_aside.extend(
            (tile.file.path, failure)
            for number, tile in enumerate(tiles)
            if (failure := _failure(self.manifest[_tile_name(number)], tile.file.path)) is not None
        )
        if not good:
            return None
        good.sort()
        if not source.normalized:
            self._note_ground(source, good)
        self.writer.tidy(block_name(*block) for block in groups.blocks)
        return self._als_layout(layout, source, good, read, inside, groups.blocks)

    def _decode(self, group: Sequence[int], source: AlsSource, lattice: PointLattice, before: int) -> None:
        tiles = self.sources.tiles
        work = {
            _tile_name(number): (spill_tile, (number, tiles[number], self.grid, lattice, source.ground_class, self._parts))
            for number in group
        }
        self._each("decode tiles", work, total=len(tiles), before=before)

    def _build(self, groups: TileGroups, layout: AlsLayout, source: AlsSource, before: int) -> int:
        """Build the blocks that can be built now, and remove what their points were built from; their number."""
        ready = groups.ready()
        work = {
            _block_piece(block): (
                build_block,
                (block, near, self.grid, layout, source.normalized, source.ground_buffer, self._parts, self.writer),
            )
            for block, near in ready.items()
        }
        self._each("build blocks", work, total=groups.expected, before=before)
        fragments = Fragments(self._parts)
        for block in ready:
            if _failure(self.manifest[_block_piece(block)], "") is None:
                fragments.remove_block(block, POINTS)
        return len(ready)

    @property
    def _parts(self) -> str:
        return str(self.work / "parts")

    def _check_points(self, source: AlsSource, good: list[int], read: Counter[str], inside: Counter[str]) -> None:
        """Refuse tiles that hold nothing for the grid, or no ground: known when all are decoded, not before."""
        path = self.sources.tiles[min(good)].file.path
        if read and not inside:
            raise InputError(path, "no point of any tile lies inside the grid", "check --bounds and --crs")
        if not source.normalized and not any(inside[str(number)] for number in source.ground_class):
            raise InputError(
                path,
                f"no ground points (class {', '.join(map(str, source.ground_class))}) in any tile",
                "classify ground first, or pass --normalized if heights are above ground already",
            )

    def _note_ground(self, source: AlsSource, good: list[int]) -> None:
        """Name the tiles whose heights rest on their neighbours' ground alone."""
        counts = {number: self.manifest[_tile_name(number)]["inside"] for number in good}
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
        results = [self.manifest[_block_piece(block)] for block in blocks]
        failed = [text for result in results if (text := _failure(result, str(self.writer.place))) is not None]
        if failed:
            raise StoreError(str(self.work), failed[0], "mend the cause and run the same command again: it resumes")
        stored: Counter[str] = Counter()
        for result in results:
            stored.update(result["classes"])
        if stored != inside:
            raise StoreError(
                str(self.work),
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
        self._each(name, work, here=self.scene.rasters[name].reader is not None)
        results = [self.manifest[key] for key in work]
        path = str(source.provenance[0]) if source.provenance else name
        failures = [_failure(result, path) for result in results]
        errors = sorted({text for text in failures if text is not None})
        self.set_aside.extend((path, error) for error in errors)
        done = [result for result, failure in zip(results, failures, strict=True) if failure is None]
        layout = with_statistics(layout, done) if done else layout
        if layout.valid_fraction == 0:
            self.writer.remove_raster(name)
            if not errors:
                self.set_aside.append(
                    (path, str(InputError(path, "has no valid pixel inside the grid", "check its place and nodata")))
                )
            return None
        return layout

    def _footprints(self) -> GediLayout | None:
        table, outside, aside = collect_footprints(self.sources.gedi, self.grid)
        self.set_aside.extend(aside)
        if table is None:
            return None
        if outside:
            self.notes.append(f"gedi: {outside:,} shots lie outside of the grid, or have no location, and are not stored")
        if len(table) == 0:
            self.notes.append("gedi: no footprint inside the grid")
        self.writer.write_footprints(table)
        return GediLayout(tuple(table.product.split("+")), tuple(sorted(table.attributes)), len(table))
