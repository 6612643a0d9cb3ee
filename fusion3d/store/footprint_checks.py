"""Is the table of footprints whole: equal lengths, ragged rows, shot numbers in order, checksums."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fusion3d.grid import Grid
from fusion3d.store.examination import Array, Examination, StoredArray
from fusion3d.store.layout import POINT_CHUNK, GediLayout
from fusion3d.store.writer import FOOTPRINT_COLUMNS

UNIT = "gedi"


def examine_footprints(look: Examination, grid: Grid, layout: GediLayout) -> None:
    """Examine the table, chunk by chunk; it is mended as a whole."""
    for folder in (UNIT, f"{UNIT}/attributes"):
        look.group(folder, UNIT)
    shots = layout.footprints
    columns = {name: _open(look, name, dtype, shots) for name, dtype in FOOTPRINT_COLUMNS.items()}
    attributes = {f"attributes/{name}": _open(look, f"attributes/{name}", "f4", shots) for name in layout.attributes}
    known = {*FOOTPRINT_COLUMNS, "attributes", "heights", "energy", "row_splits"}
    for stray in sorted((look.place / UNIT).folders() - known):
        look.wrong(f"{UNIT}/{stray}", "does not belong to the footprints", UNIT)
    _rising(look, columns.pop("shot_number"))
    _inside(look, grid, columns.pop("x"), columns.pop("y"))
    samples = _row_splits(look, _open(look, "row_splits", "i8", shots + 1))
    profiles = {name: _open(look, name, "f4", samples) for name in ("heights", "energy")}
    for stored in (*columns.values(), *attributes.values(), *profiles.values()):
        for _ in _parts(look, stored):
            pass


def _open(look: Examination, name: str, dtype: str, length: int | None) -> StoredArray | None:
    where = f"{UNIT}/{name}"
    return look.open(
        where,
        (look.place / where).files(),
        dtypes=(dtype,),
        shape=None if length is None else (length,),
        chunks=None if length is None else (max(1, min(POINT_CHUNK, length)),),
        unit=UNIT,
    )


def _parts(look: Examination, stored: StoredArray | None) -> Iterator[Array]:
    """The chunks that can be read."""
    if stored is not None:
        yield from (part for _, part in look.chunks(stored, UNIT) if part is not None)


def _rises(parts: Iterator[Array], *, strictly: bool) -> tuple[bool, Any, Any]:
    """Whether values rise across chunks, the first and the last of them."""
    rising, first, last = True, None, None
    for part in parts:
        if last is not None:
            part = np.concatenate([np.asarray([last], part.dtype), part])
        steps = part[1:] > part[:-1] if strictly else part[1:] >= part[:-1]
        rising &= bool(steps.all())
        first, last = part[0] if first is None else first, part[-1]
    return rising, first, last


def _rising(look: Examination, stored: StoredArray | None) -> None:
    rising, _, _ = _rises(_parts(look, stored), strictly=True)
    if not rising:
        look.wrong(f"{UNIT}/shot_number", "shot numbers are not sorted, or some come twice", UNIT)


def _row_splits(look: Examination, stored: StoredArray | None) -> int | None:
    """Number of samples of all profiles; None when it cannot be told."""
    before = len(look.findings)
    rising, first, last = _rises(_parts(look, stored), strictly=False)
    if stored is None or len(look.findings) > before:
        return None
    if not rising or first != 0:
        look.wrong(f"{UNIT}/row_splits", "do not rise from 0", UNIT)
        return None
    return int(last)


def _inside(look: Examination, grid: Grid, x: StoredArray | None, y: StoredArray | None) -> None:
    """Footprints lie on the grid, as `prepare` cuts them."""
    outside = 0
    for east, north in zip(_parts(look, x), _parts(look, y), strict=False):
        if len(east) == len(north):
            row, col = grid.cell_of(east, north)
            outside += int(((row < 0) | (row >= grid.rows) | (col < 0) | (col >= grid.cols)).sum())
    if outside:
        look.wrong(UNIT, f"{outside:,} footprints lie outside of the grid", UNIT)
