"""Mend a store: what is damaged is made again from its sources, beside the store, and put into its place by a rename.

::

    STORE.repair/parts/    points of the tiles that are needed, as in `prepare`
    STORE.repair/store/    the pieces made again
    STORE.repair/old/      the damaged ones, until all is done
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fusion3d.errors import Fusion3DError, StoreError
from fusion3d.grid import Window
from fusion3d.io.lock import take_lock
from fusion3d.io.place import Place
from fusion3d.prepare.blocks import build_block
from fusion3d.prepare.footprints import collect_footprints
from fusion3d.prepare.originals import Originals
from fusion3d.prepare.rasters import pieces, write_piece
from fusion3d.prepare.tiles import Tile, spill_tile
from fusion3d.store.footprint_checks import UNIT as GEDI
from fusion3d.store.layout import StoreAttributes, parse_block_name
from fusion3d.store.raster_checks import raster_shape, unwritten_chunks
from fusion3d.store.verification import Verification
from fusion3d.store.writer import StoreWriter

_OTHER_VERSION = (
    "the store was made by another version of fusion3d, or from other paths: what was made again is as this version makes it"
)
_OWN = {"lock", "parts", "store", "old"}


@dataclass(frozen=True)
class Repair:
    """What a repair did.

    Attributes
    ----------
    outcomes : for every piece (a path inside the store) an empty text when it was made again, else the reason why not
    notes : what the user should know
    verification : of the store as it is now
    """

    outcomes: dict[str, str]
    notes: list[str]
    verification: Verification


def repair(
    path: str | Path, verification: Verification, again: Callable[[], Verification], progress: Callable[[int, int], None]
) -> Repair:
    """Make again what a verification found damaged, verify, and so on while that brings to light more that can be mended.

    Parameters
    ----------
    again : verifies the store
    progress : told how many pieces are done, and how many there are

    Raises
    ------
    StoreError
        The root attributes are damaged, or another repair is at work.
    """
    path = str(Place.of(path))
    attributes = verification.attributes
    if attributes is None:
        raise StoreError(path, "its root attributes are damaged: nothing says what belongs where", "prepare the scene again")
    originals = Originals(path, attributes)
    outcomes: dict[str, str] = {}
    while units := [unit for unit in _units(verification) if unit not in outcomes]:
        total = len(outcomes) + len(units)
        with _workplace(path) as work:
            for unit, reason in _Mender(path, attributes, originals, work).mend(units):
                outcomes[unit] = reason
                progress(len(outcomes), total)
        verification = again()
    return Repair(outcomes, [] if originals.same_version() else [_OTHER_VERSION], verification)


def _units(verification: Verification) -> list[str]:
    return list(dict.fromkeys(finding.unit for finding in verification.findings if finding.unit is not None))


@contextmanager
def _workplace(path: str) -> Iterator[Path]:
    """A folder beside a local store, so that a rename suffices; elsewhere a temporary one. Deleted in the end."""
    if Place.of(path).local is None:
        with tempfile.TemporaryDirectory(prefix="fusion3d-repair-") as folder:
            yield Path(folder)
        return
    work = Path(f"{path}.repair")
    if work.exists() and not {item.name for item in work.iterdir()} <= _OWN:
        raise StoreError(work, "exists and is not the work of `fusion3d doctor --repair`", "move it away")
    work.mkdir(exist_ok=True)
    lock = take_lock(work / "lock")
    if lock is None:
        raise StoreError(path, "another repair of this store is at work", "wait for it")
    with lock:
        for name in _OWN - {"lock"}:
            shutil.rmtree(work / name, ignore_errors=True)
        try:
            yield work
        finally:
            shutil.rmtree(work)


class _Mender:
    def __init__(self, path: str, attributes: StoreAttributes, originals: Originals, work: Path) -> None:
        self.path, self.attributes, self.originals, self.work = path, attributes, originals, work
        self.place = Place.of(path)
        self.writer = StoreWriter(work / "store")
        self.parts = work / "parts"
        self.spilled: dict[int, set[str]] = {}

    def mend(self, units: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Each unit with the reason why it could not be mended, empty when it was."""
        blocks = [unit for unit in units if unit.startswith("als/") and unit != "als/zarr.json"]
        others: dict[str, list[str]] = {}
        for unit in units:
            if unit not in blocks:
                others.setdefault(unit.split("/")[0], []).append(unit)
        if blocks or "als" in others:
            self.writer.create_points()
        yield from self._blocks(blocks)
        for sensor, found in others.items():
            if sensor == "als":
                yield from self._each(found, lambda unit: [unit])
            elif sensor == GEDI:
                yield from self._each(found, self._footprints)
            else:
                yield from self._raster(sensor, found)

    def _each(self, units: Sequence[str], make: Callable[[str], list[str]]) -> Iterator[tuple[str, str]]:
        """Make each unit and publish what `make` says was made for it."""
        for unit in units:
            try:
                for made in make(unit):
                    self._publish(made)
                yield unit, ""
            except Fusion3DError as error:
                yield unit, str(error)

    # -- points

    def _blocks(self, units: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Blocks one by one; a tile is decoded once, for all of them."""
        near: dict[str, dict[int, Tile]] = {}
        reasons: dict[str, str] = {}
        for unit in units:
            try:
                near[unit] = self.originals.tiles_near(self._window(unit))
            except Fusion3DError as error:
                reasons[unit] = str(error)
        for unit in units:
            yield from self._each([unit], lambda unit: self._block(unit, near.get(unit, {}), reasons.get(unit)))

    def _window(self, unit: str) -> Window:
        return self.attributes.grid.block_window(*parse_block_name(unit.removeprefix("als/")))

    def _block(self, unit: str, tiles: dict[int, Tile], reason: str | None) -> list[str]:
        if reason:
            raise Fusion3DError(reason)
        name = unit.removeprefix("als/")
        source, als, grid = self.originals.scene.als, self.attributes.als, self.attributes.grid
        assert source is not None
        assert als is not None
        for number, tile in tiles.items():
            if number not in self.spilled:
                done = spill_tile(number, tile, grid, als.lattice, source.ground_class, self.parts)
                self.spilled[number] = set(done["blocks"])
        if not any(name in self.spilled[number] for number in tiles):
            raise StoreError(f"{self.path}/{unit}", "no tile holds a point of this block", "prepare the scene again")
        block = parse_block_name(name)
        build_block(block, sorted(tiles), grid, als, source.normalized, source.ground_buffer, self.parts, self.writer)
        return [unit]

    # -- rasters

    def _raster(self, name: str, units: Sequence[str]) -> Iterator[tuple[str, str]]:
        layout, grid = self.attributes.rasters[name], self.attributes.grid
        self.writer.create_raster(name, layout)
        metadata = {f"{name}/zarr.json", f"{name}/values/zarr.json", f"{name}/valid/zarr.json"}
        yield from self._each([unit for unit in units if unit in metadata], lambda unit: [unit])
        chunks = [unit for unit in units if unit not in metadata]
        if not chunks:
            return
        try:
            source = self.originals.raster(name)
        except Fusion3DError as error:
            yield from ((unit, str(error)) for unit in chunks)
            return
        side = raster_shape(layout)[1]
        windows = {
            f"c/{step}/0/{window.row // side[2]}/{window.col // side[3]}": (step, window)
            for step, window in pieces(layout, source, grid)
        }
        made: set[str] = set()

        def write(chunk: str) -> None:
            if chunk not in windows:
                raise StoreError(f"{self.path}/{name}/{chunk}", "no source reaches this chunk", "delete it if it is not yours")
            if chunk not in made:
                write_piece(name, source, layout, grid, *windows[chunk], self.writer)
                made.add(chunk)

        def make(unit: str) -> list[str]:
            wanted = [unit.split("/", 1)[1]]
            if unit == unwritten_chunks(name):
                present = (self.place / name / "values").files()
                wanted = [chunk for chunk in windows if chunk not in present]
            for chunk in wanted:
                write(chunk)
            return [f"{name}/{part}/{chunk}" for chunk in wanted for part in ("values", "valid")]

        yield from self._each(chunks, make)

    # -- footprints

    def _footprints(self, unit: str) -> list[str]:
        files, layout = self.originals.gedi(), self.attributes.gedi
        assert layout is not None
        table = collect_footprints(files, self.attributes.grid)[0]
        products = () if table is None else (tuple(table.product.split("+")), tuple(sorted(table.attributes)), len(table))
        if table is None or products != (layout.products, layout.attributes, layout.footprints):
            raise StoreError(f"{self.path}/{GEDI}", "the files give another table than the store's", "prepare the scene again")
        self.writer.write_footprints(table)
        return [unit]

    # -- publishing

    def _publish(self, unit: str) -> None:
        """Put a piece made again into the place of the old one; a piece that turned out empty only takes the old one away."""
        made, place = self.work / "store" / unit, self.place / unit
        if place.local is not None:
            if place.local.exists():
                old = self.work / "old" / unit
                old.parent.mkdir(parents=True, exist_ok=True)
                os.replace(place.local, old)
            if made.exists():
                place.local.parent.mkdir(parents=True, exist_ok=True)
                os.replace(made, place.local)
            return
        files = [file for file in made.rglob("*") if file.is_file()] if made.is_dir() else [made] if made.exists() else []
        for name in place.files() - {str(file.relative_to(made)) for file in files}:
            (place / name).remove()
        for file in files:
            (self.place / str(file.relative_to(self.work / "store"))).write(file.read_bytes())
