"""Writing a column store: blocks of points, rasters, footprints, root attributes."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from fusion3d.grid import Window
from fusion3d.io.gedi import FootprintTable
from fusion3d.io.place import Place
from fusion3d.store.layout import (
    COMPRESSORS,
    DIGEST_KEY,
    POINT_CHUNK,
    POINT_COMPRESSORS,
    ROOT_KEY,
    RasterLayout,
    StoreAttributes,
    block_name,
    digest,
    raster_chunk,
)

Array = npt.NDArray[Any]

FOOTPRINT_COLUMNS = {
    "shot_number": "u8",
    "beam": "u1",
    "power_beam": "bool",
    "x": "f8",
    "y": "f8",
    "longitude": "f8",
    "latitude": "f8",
    "time": "f8",
    "ground_elevation": "f4",
    "sensitivity": "f4",
    "solar_elevation": "f4",
    "quality_flag": "i1",
    "degrade_flag": "i2",
}
"""Columns of the footprint table with their types."""


class StoreWriter:
    """Writes what is not yet a finished store: that it becomes with `write_attributes`, or when the caller renames its folder.

    Parameters
    ----------
    path : folder or fsspec URL of the unfinished store
    """

    def __init__(self, path: str | Path) -> None:
        self.place = Place.of(path)
        self.root: Any = zarr.open_group(str(self.place), mode="a", zarr_format=3)

    def write_attributes(self, attributes: StoreAttributes) -> None:
        plain = attributes.to_json()
        self.root.attrs.put({ROOT_KEY: plain, DIGEST_KEY: digest(plain)})

    def create_points(self) -> None:
        """Create the group of the blocks; once, before processes write them side by side."""
        self.root.require_group("als")

    def write_block(self, block: tuple[int, int], arrays: Mapping[str, Array], attributes: Mapping[str, Any]) -> None:
        """Write one block of points under a temporary name, then rename it (in an object store, which cannot rename, it counts
        when the caller says that it is done); `create_points` comes before.

        Parameters
        ----------
        arrays : x, y, z int32 (or int64) [N], height float32 [N], offsets int64 [columns + 1] and the stored attributes [N]
        attributes : anchor (three integers of the lattice) and window (row, col, rows, cols)
        """
        final = self.place / "als" / block_name(*block)
        # Another process may be at the same block, when this one was thought to be dead.
        draft = final if final.local is None else self.place / "als" / f".{block_name(*block)}.{uuid.uuid4().hex[:8]}"
        group = zarr.open_group(str(draft), mode="w", zarr_format=3)
        for name in sorted(arrays):
            _write_array(group, name, arrays[name], POINT_CHUNK)
        group.attrs.put(dict(attributes))
        if draft.local is not None and final.local is not None:
            replace_folder(draft.local, final.local)

    def tidy(self, blocks: Iterable[str]) -> None:
        """Remove what killed processes left beside the blocks of these names."""
        kept = {"zarr.json", *blocks}
        for name in (self.place / "als").names():
            if name not in kept:
                (self.place / "als" / name).remove()

    def create_raster(self, name: str, layout: RasterLayout) -> None:
        """Create the arrays of a raster sensor, unless a broken run already did."""
        group = self.root.require_group(name)
        shape = (len(layout.dates), len(layout.bands), layout.height, layout.width)
        side = raster_chunk(layout, np.dtype(layout.dtype).itemsize)
        chunks = (1, shape[1], min(side, shape[2]), min(side, shape[3]))
        for array, dtype in (("values", layout.dtype), ("valid", "bool")):
            if array not in group:
                _create(group, array, shape, chunks, dtype, COMPRESSORS)

    def remove_raster(self, name: str) -> None:
        """Remove a raster sensor that turned out to hold nothing."""
        (self.place / name).remove()

    def write_raster(self, name: str, step: int, window: Window, values: Array, valid: Array) -> None:
        """Write pixels [C, h, w] of one date; `window` counts pixels."""
        where = (step, slice(None), slice(window.row, window.row_stop), slice(window.col, window.col_stop))
        if valid.any():
            self.root[f"{name}/values"][where] = np.where(valid, values, 0)
            self.root[f"{name}/valid"][where] = valid

    def write_footprints(self, table: FootprintTable) -> None:
        """Write the footprint table, shot numbers as uint64, profiles as ragged rows."""
        (self.place / "gedi").remove()
        group = self.root.require_group("gedi")
        for name in FOOTPRINT_COLUMNS:
            _write_array(group, name, np.asarray(getattr(table, name)), POINT_CHUNK)
        for name in ("heights", "energy", "row_splits"):
            _write_array(group, name, getattr(table, name), POINT_CHUNK)
        attributes = group.require_group("attributes")
        for name in sorted(table.attributes):
            _write_array(attributes, name, table.attributes[name], POINT_CHUNK)


def _write_array(group: zarr.Group, name: str, values: Array, chunk: int) -> None:
    values = np.asarray(values)
    if values.dtype.kind in "US":
        values = values.astype("U16")
    chunks = (max(1, min(chunk, len(values))), *values.shape[1:])
    array = _create(group, name, values.shape, chunks, values.dtype, POINT_COMPRESSORS)
    if values.size:
        array[...] = values


def _create(
    group: zarr.Group, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: npt.DTypeLike, compressors: Any
) -> Any:
    # Chunks of zeros are written too: one that is not there was deleted.
    options: dict[str, Any] = {"config": {"write_empty_chunks": True}}
    return group.create_array(name, shape=shape, chunks=chunks, dtype=dtype, compressors=compressors, **options)


def replace_folder(new: Path, old: Path) -> None:
    """Give a folder the name of another, which goes if it is there."""
    while True:
        aside = old.with_name(f".{old.name}.{uuid.uuid4().hex}")
        try:
            os.replace(new, old)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with suppress(FileNotFoundError):
            os.replace(old, aside)
        shutil.rmtree(aside, ignore_errors=True)
