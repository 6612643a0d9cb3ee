"""Is a column store whole: every file that its attributes promise is there, reads, and says what the others say.

Nothing is written. One chunk is in memory at a time.
"""

from __future__ import annotations

import datetime
import json
import math
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from fusion3d.errors import Fusion3DError, StoreError
from fusion3d.grid import Grid
from fusion3d.io.place import Place, reaching
from fusion3d.store.block_checks import blocks_in_place, examine_block
from fusion3d.store.damage import DAMAGE, reason, repair_command
from fusion3d.store.examination import Examination, Finding
from fusion3d.store.footprint_checks import examine_footprints
from fusion3d.store.layout import (
    DIGEST_KEY,
    FORMAT,
    ROOT_KEY,
    AlsLayout,
    RasterLayout,
    StoreAttributes,
    digest,
    parse_block_name,
)
from fusion3d.store.raster_checks import chunk_count, examine_raster
from fusion3d.store.reader import Store

ROOT = "root attributes"


@dataclass
class Verification:
    """What `verify` looked at and found.

    Attributes
    ----------
    attributes : of the root; None when they cannot be read, and then nothing else was looked at
    arrays, without_checksum : number of arrays, and of those from before there were checksums
    unwritten : chunks without a file in arrays without checksums: zeros, or deleted
    """

    findings: tuple[Finding, ...]
    attributes: StoreAttributes | None
    arrays: int = 0
    without_checksum: int = 0
    unwritten: int = 0


def verify(path: str | Path, found: Callable[[Finding], None], progress: Callable[[int, int], None]) -> Verification:
    """Examine a store.

    Parameters
    ----------
    path : folder or fsspec URL
    found : told each finding as soon as there is one
    progress : told how many blocks, chunks of rasters and tables are done, and how many there are

    Raises
    ------
    InputError
        There is no store, it is of another format, or its place cannot be reached.
    """
    path = str(Place.of(path))
    # A file system far away has errors of its own; here a failed read is a finding, or a line about the path.
    with reaching(path) if Place.of(path).local is None else nullcontext():
        return _verify(path, found, progress)


def _verify(path: str, found: Callable[[Finding], None], progress: Callable[[int, int], None]) -> Verification:
    attributes, problem = _root(path)
    look = Examination(path, None, found)
    if problem:
        look.wrong(ROOT, problem, None)
    if attributes is None:
        return Verification(tuple(look.findings), None)
    look.root = zarr.open_group(path, mode="r", zarr_format=3)
    steps = _Steps(_pieces(attributes), progress)
    _groups(look, attributes)
    if attributes.als is not None:
        _points(look, attributes.grid, attributes.als, steps)
    for name, layout in sorted(attributes.rasters.items()):
        examine_raster(look, name, layout, steps.advance)
    if attributes.gedi is not None:
        examine_footprints(look, attributes.grid, attributes.gedi)
        steps.advance()
    return Verification(tuple(look.findings), attributes, look.arrays, look.without_checksum, look.unwritten)


@dataclass
class _Steps:
    total: int
    progress: Callable[[int, int], None]
    done: int = 0

    def advance(self) -> None:
        self.done += 1
        self.progress(self.done, self.total)


def _pieces(attributes: StoreAttributes) -> int:
    blocks = len(attributes.als.blocks) if attributes.als is not None else 0
    return blocks + sum(map(chunk_count, attributes.rasters.values())) + (attributes.gedi is not None)


def _root(path: str) -> tuple[StoreAttributes | None, str]:
    """The root attributes, None when they cannot be used, and what is wrong with them, empty when nothing is."""
    place = Place.of(path)
    if not (place / "zarr.json").exists():
        inside = ("als/zarr.json", "gedi/zarr.json", *(f"{name}/values/zarr.json" for name in place.folders()))
        if not any((place / name).exists() for name in inside):
            return Store.open(path).attributes, ""  # raises: there is no store
        return None, "the zarr.json of the store is missing"
    text = (place / "zarr.json").read()
    try:
        kept = json.loads(text)["attributes"]
        if DIGEST_KEY in kept and digest(kept.get(ROOT_KEY)) != kept[DIGEST_KEY]:
            return None, "damaged (their checksum does not fit)"
    except DAMAGE as error:
        return None, f"damaged ({reason(error)})"
    if not isinstance(kept.get(ROOT_KEY), dict) or kept[ROOT_KEY].get("format") != FORMAT:
        return Store.open(path).attributes, ""  # raises: no fusion3d store, or one of another format
    try:
        attributes = Store.open(path).attributes
        return attributes, _contradiction(attributes)
    except Fusion3DError as error:
        return None, error.problem if isinstance(error, StoreError) else str(error)
    except DAMAGE as error:
        return None, f"damaged ({reason(error)})"


def _contradiction(attributes: StoreAttributes) -> str:
    """What the root attributes say that cannot be, in words; raises one of `DAMAGE` when a value is of the wrong kind."""
    grid, als = attributes.grid, attributes.als
    if als is not None:
        rows, cols = grid.block_shape
        outside = [name for name in als.blocks if not _inside(parse_block_name(name), rows, cols)]
        if outside or len(set(als.blocks)) < len(als.blocks):
            return f"blocks outside of the grid, or named twice: {', '.join(outside[:5])}"
        lattice = als.lattice
        if not all(map(math.isfinite, (*lattice.origin, *lattice.scale))) or min(lattice.scale) <= 0:
            return "the lattice of the points is not finite"
        if sum(als.classes.values()) != als.points:
            return f"{als.points:,} points, but {sum(als.classes.values()):,} in the classes"
    for name, layout in attributes.rasters.items():
        if (layout.height, layout.width) != _raster_size(grid, layout) or not len(layout.bands) == len(layout.mean) == len(
            layout.std
        ):
            return f"the layout of {name} does not fit the grid or its bands"
        np.dtype(layout.dtype)
        for date in layout.dates:
            if date is not None:
                datetime.date.fromisoformat(date)
    return ""


def _inside(block: tuple[int, int], rows: int, cols: int) -> bool:
    return 0 <= block[0] < rows and 0 <= block[1] < cols


def _raster_size(grid: Grid, layout: RasterLayout) -> tuple[int, int]:
    """Height and width in pixels that cover the grid."""
    if layout.pixels_per_column:
        return grid.rows * layout.pixels_per_column, grid.cols * layout.pixels_per_column
    return -(-(grid.rows - layout.row) // layout.columns_per_pixel), -(-(grid.cols - layout.col) // layout.columns_per_pixel)


def _groups(look: Examination, attributes: StoreAttributes) -> None:
    """A finding for every group at the root that the attributes do not name."""
    known = {*attributes.rasters, *(name for name in ("als", "gedi") if getattr(attributes, name) is not None)}
    for name in sorted(look.place.folders() - known):
        if (look.place / f"{name}/zarr.json").exists():
            look.wrong(name, "is no sensor of this store", None)


def _points(look: Examination, grid: Grid, layout: AlsLayout, steps: _Steps) -> None:
    """Every block, and the sums over blocks."""
    stored, complete = Counter[int](), True
    for name in blocks_in_place(look, layout):
        classes = examine_block(look, grid, layout, name)
        complete &= classes is not None
        stored.update(classes or {})
        steps.advance()
    expected = {int(code): count for code, count in layout.classes.items()}
    if complete and stored != expected:
        off = [code for code in sorted({*stored, *expected}) if stored[code] != expected.get(code, 0)]
        look.wrong(
            "als",
            f"{stored.total():,} points in the blocks, {layout.points:,} in the attributes; "
            f"the numbers differ for class {', '.join(map(str, off))}",
            None,
        )


def verdict(path: str, verification: Verification, *, mended: bool) -> list[str]:
    """What a verification comes to, in lines for the user; the last one is the verdict."""
    lines = []
    if verification.without_checksum:
        lines.append(
            f"note: {verification.without_checksum:,} of {verification.arrays:,} arrays are from before there were checksums: "
            "a changed value may go unseen there; prepare the scene again to have them"
        )
    if verification.unwritten:
        lines.append(
            f"note: {verification.unwritten:,} of their chunks have no file: all zeros, or deleted; only sums and means can tell"
        )
    findings = verification.findings
    if not findings:
        return [*lines, f"{path}: whole ({verification.arrays:,} arrays)"]
    where = f"{path}: {len(findings):,} {'thing is' if len(findings) == 1 else 'things are'} wrong"
    if verification.attributes is None or mended or all(finding.unit is None for finding in findings):
        return [*lines, f"{where}; prepare the scene again"]
    return [*lines, f"{where}; mend it with `{repair_command(path)}`"]
