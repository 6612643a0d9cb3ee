"""Do the chunks of a raster sensor hold what its layout says: shapes, checksums, validity, numbers of valid pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fusion3d.store.examination import Array, Examination, Key, StoredArray, chunk_name
from fusion3d.store.layout import RasterLayout, raster_chunk

Float64 = npt.NDArray[np.float64]

_MEAN_TOLERANCE = 1e-6
"""Of the band's spread: sums of another order differ far less, lost chunks far more."""


def unit_of(name: str, key: Key) -> str:
    """The unit of a chunk: its values and its validity are made together."""
    return f"{name}/{chunk_name(key)}"


def unwritten_chunks(name: str) -> str:
    """The unit of a raster's chunks that have no file: which of them were deleted cannot be told apart."""
    return f"{name}/c"


def raster_shape(layout: RasterLayout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape [T, C, H, W] of the arrays of a raster sensor, and of their chunks."""
    shape = (len(layout.dates), len(layout.bands), layout.height, layout.width)
    side = raster_chunk(layout, np.dtype(layout.dtype).itemsize)
    return shape, (1, shape[1], min(side, shape[2]), min(side, shape[3]))


def chunk_count(layout: RasterLayout) -> int:
    """Number of chunks of a raster sensor, written or not."""
    shape, chunks = raster_shape(layout)
    return math.prod(-(-length // size) for length, size in zip(shape, chunks, strict=True))


def examine_raster(look: Examination, name: str, layout: RasterLayout, advance: Callable[[], None]) -> None:
    """Examine one raster sensor, chunk by chunk.

    Parameters
    ----------
    advance : called after each chunk, written or not
    """
    look.group(name, f"{name}/zarr.json")
    values, valid = (
        _open(look, f"{name}/{part}", dtype, layout) for part, dtype in (("values", layout.dtype), ("valid", "bool"))
    )
    if values is None or valid is None:
        # What is left is read all the same, so that one repair mends everything.
        for stored in (values, valid):
            if stored is not None:
                for key in sorted(stored.present):
                    look.read(stored, key, unit_of(name, key))
        return
    findings, unwritten = len(look.findings), look.unwritten
    count, total = np.zeros(len(layout.bands)), np.zeros(len(layout.bands))
    written = values.present | valid.present
    for key in values.keys:
        pixels = _examine_chunk(look, values, valid, key, unit_of(name, key)) if key in written else None
        if pixels is not None:
            count += pixels[1].sum(axis=(0, 2, 3))
            total += pixels[0].sum(axis=(0, 2, 3), dtype=np.float64)
        advance()
    if len(look.findings) == findings:
        _compare_statistics(look, name, layout, count, total, means=look.unwritten > unwritten)


def _open(look: Examination, where: str, dtype: str, layout: RasterLayout) -> StoredArray | None:
    shape, chunks = raster_shape(layout)
    return look.open(where, (look.place / where).files(), dtypes=(dtype,), shape=shape, chunks=chunks, unit=f"{where}/zarr.json")


def _examine_chunk(look: Examination, values: StoredArray, valid: StoredArray, key: Key, unit: str) -> tuple[Array, Array] | None:
    """Values and validity of a chunk, None when there is something wrong with it."""
    name = chunk_name(key)
    for stored, other in ((values, valid), (valid, values)):
        if key in stored.present:
            continue
        if stored is values and not stored.checksummed:
            look.unwritten += 1  # all values 0, or deleted: the means tell
            continue
        look.wrong(f"{stored.where}/{name}", f"the chunk is missing, {other.where} has it", unit)
    pixels, mask = (look.read(stored, key, unit) for stored in (values, valid))
    if pixels is None or mask is None or key not in valid.present:
        return None
    if mask.view(np.uint8).max(initial=0) > 1:
        look.wrong(f"{valid.where}/{name}", "holds other bytes than 0 and 1", unit)
        return None
    stray = int(((pixels != 0) & ~mask).sum())
    if stray:
        look.wrong(f"{values.where}/{name}", f"{stray:,} pixels are not valid and not 0", unit)
        return None
    return pixels, mask


def _compare_statistics(
    look: Examination, name: str, layout: RasterLayout, count: Float64, total: Float64, *, means: bool
) -> None:
    """Hold pixels counted against those that `prepare` counted: what a deleted pair of chunks leaves behind."""
    pixels = layout.height * layout.width * len(layout.dates)
    expected = layout.valid_fraction * pixels
    if abs(count.mean() - expected) * len(count) > 0.5:
        look.wrong(
            name,
            f"{count.mean():,.0f} valid pixels a band, {expected:,.0f} when it was made: chunks were deleted or exchanged",
            unwritten_chunks(name),
        )
    elif means:
        mean, spread = total / np.maximum(count, 1), np.abs(layout.mean) + np.asarray(layout.std)
        for band in np.flatnonzero(np.abs(mean - layout.mean) > _MEAN_TOLERANCE * spread):
            look.wrong(
                name,
                f"band {band}: the mean is {mean[band]:g}, it was {layout.mean[band]:g} when it was made: chunks were deleted",
                unwritten_chunks(name),
            )
