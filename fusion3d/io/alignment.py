"""Pixels of any image on the pixels of a target: exact copy where they coincide, else a stated resampling.

The rules:

- same CRS, pixel size and phase (to a thousandth of a pixel): copied, the integer dtype kept;
- classes: the source pixel that holds the target pixel's centre, the dtype kept;
- reflectance, backscatter, continuous: mean weighted by overlap area when the target pixel is coarser than the source's
  (more than 1 %, the most that two projections of one pixel size differ by), else bilinear; float32;
- backscatter in dB is averaged as linear power;
- nodata, NaN and masked pixels have weight 0; a target pixel is valid when valid source pixels cover at least half of it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import rasterio.crs
import rasterio.errors
import rasterio.warp
from affine import Affine
from pyproj import CRS, Transformer
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling

from fusion3d.errors import CRSError
from fusion3d.io.pixels import Array, BoolArray, Image, RasterPatch, Target

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_PHASE_TOLERANCE = 1e-3
_COARSER = 1.01
_HALF = 0.5 - 1e-5
_EDGE_TOLERANCE = 1e-6
_PIXELS_AT_ONCE = 1 << 23


def align(image: Image, target: Target, *, decibel: bool = False) -> RasterPatch:
    """An image on a target's pixels, by the rules at the head of this file.

    Parameters
    ----------
    decibel : the values are in dB; with kind "backscatter" they are averaged as linear power
    """
    values, cover = aligned_cover(image, target, decibel=decibel)
    return patch(values, cover)


def patch(values: Array, cover: Float32) -> RasterPatch:
    """Values whose pixels are valid where at least half their area is covered."""
    valid = cover >= _HALF
    empty = values.dtype.type(np.nan if np.issubdtype(values.dtype, np.floating) else 0)
    return RasterPatch(np.where(valid, values, empty), valid)


def aligned_cover(image: Image, target: Target, *, decibel: bool = False) -> tuple[Array, Float32]:
    """As `align`, but with the share of each pixel's area [C, H, W] that valid source pixels cover."""
    shape = (image.count, target.height, target.width)
    offset = _coinciding_offset(image, target)
    if offset is not None:
        values = np.zeros(shape, _kept_dtype(image.dtype))
        cover = np.zeros(shape, np.float32)
        _copy(image, offset, values, cover)
        return values, cover
    if target.kind == "classes":
        found, valid = nearest(image, target.crs, target.transform, target.height, target.width)
        return found.astype(_kept_dtype(found.dtype), copy=False), valid.astype(np.float32)
    values, cover = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    _resample(image, target, decibel and target.kind == "backscatter", values, cover)
    return values, cover


def _kept_dtype(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.float32) if np.issubdtype(dtype, np.floating) else dtype


def planar(crs: CRS) -> CRS:
    """The horizontal part of a CRS."""
    for part in crs.sub_crs_list:
        if not part.is_vertical:
            return planar(part)
    return crs.to_2d() if len(crs.axis_info) == 3 else crs


def rasterio_crs(crs: CRS) -> rasterio.crs.CRS:
    """The horizontal part of a pyproj CRS as rasterio's.

    Raises
    ------
    CRSError
        GDAL does not understand it.
    """
    try:
        return rasterio.crs.CRS.from_wkt(planar(crs).to_wkt("WKT2_2019"))
    except rasterio.errors.CRSError:
        raise CRSError(None, f"GDAL cannot use the CRS {crs.name!r}", "pass --crs with an EPSG code") from None


def same_place(first: CRS, second: CRS) -> bool:
    """Whether coordinates of one CRS are, in the plane, coordinates of the other."""
    first, second = planar(first), planar(second)
    return first == second or first.equals(second, ignore_axis_order=True) or rasterio_crs(first) == rasterio_crs(second)


def _coinciding_offset(image: Image, target: Target) -> tuple[int, int] | None:
    """Row and column of the target's first pixel in an image on the same pixels, else None."""
    x = target.x0 + np.array([0, 1, 0, 1]) * target.width * target.pixel
    y = target.y0 - np.array([0, 0, 1, 1]) * target.height * target.pixel
    cols, rows = _apply(~image.transform, x, y)
    col, row = np.rint(cols[0]), np.rint(rows[0])
    drift = [cols - col - np.array([0, 1, 0, 1]) * target.width, rows - row - np.array([0, 0, 1, 1]) * target.height]
    if not np.abs(drift).max() <= _PHASE_TOLERANCE:
        return None
    if not same_place(image.crs, target.crs):
        # One CRS written in two ways: what counts is that nothing moves between them.
        moved = np.subtract(_to_image(image, target.crs, x, y), (cols, rows))
        if not np.abs(moved).max() <= _PHASE_TOLERANCE:
            return None
    return int(row), int(col)


def _copy(image: Image, offset: tuple[int, int], values: Array, cover: Float32) -> None:
    row, col = offset
    height, width = values.shape[1:]
    rows = slice(max(row, 0), min(row + height, image.height))
    cols = slice(max(col, 0), min(col + width, image.width))
    if rows.start >= rows.stop or cols.start >= cols.stop:
        return
    inside = (slice(None), slice(rows.start - row, rows.stop - row), slice(cols.start - col, cols.stop - col))
    values[inside], cover[inside] = image.pixels(slice(0, image.count), rows, cols)


def _apply(transform: Affine, first: Float64, second: Float64) -> tuple[Float64, Float64]:
    return (transform.a * first + transform.b * second + transform.c, transform.d * first + transform.e * second + transform.f)


def _shifted(transform: Affine, col: int, row: int) -> Affine:
    """The transform of the part of an image that begins at a column and row."""
    return Affine(transform.a, transform.b, transform.c + transform.a * col + transform.b * row,
                  transform.d, transform.e, transform.f + transform.d * col + transform.e * row)  # fmt: skip


def _to_image(image: Image, crs: CRS, x: Float64, y: Float64) -> tuple[Float64, Float64]:
    """Column and row in the image of points in another CRS; NaN where the projection is not defined."""
    if not same_place(image.crs, crs):
        shape = x.shape
        try:
            moved = rasterio.warp.transform(rasterio_crs(crs), rasterio_crs(image.crs), x.ravel(), y.ravel())
        except (CPLE_BaseError, rasterio.errors.RasterioError):
            # One point outside the projection's domain fails them all in GDAL; pyproj tells which.
            moved = Transformer.from_crs(planar(crs), planar(image.crs), always_xy=True).transform(x.ravel(), y.ravel())
        x, y = np.asarray(moved[0]).reshape(shape), np.asarray(moved[1]).reshape(shape)
    with np.errstate(invalid="ignore"):
        cols, rows = _apply(~image.transform, x, y)
    finite = np.isfinite(cols) & np.isfinite(rows)
    return np.where(finite, cols, np.nan), np.where(finite, rows, np.nan)


def nearest(image: Image, crs: CRS, transform: Affine, height: int, width: int) -> tuple[Array, BoolArray]:
    """Values and validity [C, height, width] of the pixels that hold the centres of another grid's pixels."""
    values = np.zeros((image.count, height, width), image.dtype)
    valid = np.zeros(values.shape, np.bool_)
    rows_at_once = max(1, _PIXELS_AT_ONCE // max(1, width * image.count))
    col_centre = np.arange(width) + 0.5
    for start in range(0, height, rows_at_once):
        stop = min(start + rows_at_once, height)
        row_centre = np.arange(start, stop)[:, None] + 0.5
        cols, rows = _to_image(image, crs, *_apply(transform, *np.broadcast_arrays(col_centre, row_centre)))
        # A centre on an edge is in the pixel of larger index however its coordinates were rounded.
        cols, rows = np.floor(cols + _EDGE_TOLERANCE), np.floor(rows + _EDGE_TOLERANCE)
        inside = (cols >= 0) & (cols < image.width) & (rows >= 0) & (rows < image.height)
        if not inside.any():
            continue
        col, row = cols[inside].astype(np.int64), rows[inside].astype(np.int64)
        read_rows, read_cols = slice(row.min(), row.max() + 1), slice(col.min(), col.max() + 1)
        found, good = image.pixels(slice(0, image.count), read_rows, read_cols)
        values[:, start:stop][:, inside] = found[:, row - read_rows.start, col - read_cols.start]
        valid[:, start:stop][:, inside] = good[:, row - read_rows.start, col - read_cols.start]
    return values, valid


def _steps(image: Image, target: Target) -> Float64:
    """Source columns and rows that one target pixel steps over, [2 target axes, 2 source axes], at the target's centre."""
    cols = target.width / 2 + np.array([0.0, 1.0, 0.0])
    rows = target.height / 2 + np.array([0.0, 0.0, 1.0])
    found = np.stack(_to_image(image, target.crs, *_apply(target.transform, cols, rows)))
    return (found[:, 1:] - found[:, :1]).T


def _resample(image: Image, target: Target, decibel: bool, values: Array, cover: Float32) -> None:
    if target.height == 0 or target.width == 0:
        return
    steps = _steps(image, target)
    if not np.isfinite(steps).all():
        return
    coarser = bool(np.sqrt((steps**2).sum(axis=0)).max() > _COARSER)
    reach = np.ceil(np.abs(steps).sum(axis=0)).astype(int) + 2
    pieces = [(0, 0, target.height, target.width)]
    while pieces:
        row, col, height, width = pieces.pop()
        window = _window(image, target, row, col, height, width, reach)
        if window is None:
            continue
        rows, cols = window
        size = (rows.stop - rows.start) * (cols.stop - cols.start)
        if size > _PIXELS_AT_ONCE and height * width > 1:
            if height >= width:
                pieces += [(row, col, height // 2, width), (row + height // 2, col, height - height // 2, width)]
            else:
                pieces += [(row, col, height, width // 2), (row, col + width // 2, height, width - width // 2)]
            continue
        at_once = max(1, _PIXELS_AT_ONCE // size)
        inside = np.s_[row : row + height, col : col + width]
        for band in range(0, image.count, at_once):
            bands = slice(band, min(band + at_once, image.count))
            found, weight = _padded(image, bands, rows, cols)
            frame = _shifted(target.transform, col, row)
            source = _shifted(image.transform, cols.start, rows.start)
            part = _warp(found, weight, source, image.crs, frame, target.crs, (height, width), coarser, decibel)
            values[bands][:, *inside], cover[bands][:, *inside] = part


def _window(image: Image, target: Target, row: int, col: int, height: int, width: int,
            reach: npt.NDArray[np.int_]) -> tuple[slice, slice] | None:  # fmt: skip
    """Rows and columns, also outside the image by up to a target pixel, that a piece of the target needs."""
    cols, rows = np.meshgrid(np.linspace(col, col + width, 21), np.linspace(row, row + height, 21))
    cols, rows = _to_image(image, target.crs, *_apply(target.transform, cols, rows))
    if not np.isfinite(cols).any():
        return None
    window = []
    for found, size, step in ((rows, image.height, reach[1]), (cols, image.width, reach[0])):
        low, high = np.nanmin(found), np.nanmax(found)
        # The outline between the 21 x 21 probes may bulge when the two CRS differ.
        margin = 2 + 0.005 * (high - low)
        start, stop = max(math.floor(low - margin), -step), min(math.ceil(high + margin), size + step)
        if start >= size or stop <= 0 or start >= stop:
            return None
        window.append(slice(start, stop))
    return window[0], window[1]


def _padded(image: Image, bands: slice, rows: slice, cols: slice) -> tuple[Float32, Float32]:
    """Values (0 where not valid) and weights of a window that may reach outside the image."""
    shape = (bands.stop - bands.start, rows.stop - rows.start, cols.stop - cols.start)
    values, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    read_rows = slice(max(rows.start, 0), min(rows.stop, image.height))
    read_cols = slice(max(cols.start, 0), min(cols.stop, image.width))
    found, valid = image.pixels(bands, read_rows, read_cols)
    inside = np.s_[:, read_rows.start - rows.start : read_rows.stop - rows.start,
                   read_cols.start - cols.start : read_cols.stop - cols.start]  # fmt: skip
    valid = valid & np.isfinite(found)
    values[inside] = np.where(valid, found, 0)
    weight[inside] = valid
    return values, weight


def _warp(values: Float32, weight: Float32, transform: Affine, crs: CRS, target_transform: Affine,
          target_crs: CRS, shape: tuple[int, int], coarser: bool, decibel: bool) -> tuple[Array, Array]:  # fmt: skip
    """Weighted mean of values and covered share of each target pixel."""
    if decibel:
        values = np.where(weight > 0, 10.0 ** (values / 10.0), 0.0).astype(np.float32)
    kernel = Resampling.average if coarser else Resampling.bilinear
    shared = weight.shape[0] > 1 and bool((weight == weight[:1]).all())
    if shared:
        weight = weight[:1]
    place = (transform, rasterio_crs(crs), target_transform, rasterio_crs(target_crs), shape)
    total = _reproject(values, kernel, *place)
    cover = _reproject(weight, Resampling.average, *place)
    share = cover if coarser else _reproject(weight, kernel, *place)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / share
        if decibel:
            mean = 10.0 * np.log10(mean)
    return mean, np.where(share > 0, np.broadcast_to(cover, mean.shape), 0.0)


def _reproject(values: Float32, kernel: Resampling, transform: Affine, crs: rasterio.crs.CRS, target_transform: Affine,
               target_crs: rasterio.crs.CRS, shape: tuple[int, int]) -> Float32:  # fmt: skip
    out = np.zeros((values.shape[0], *shape), np.float32)
    # Tolerance 0: GDAL's approximate transform would depend on how the target is cut.
    rasterio.warp.reproject(values, out, src_transform=transform, src_crs=crs, dst_transform=target_transform, dst_crs=target_crs,
                            resampling=kernel, tolerance=0.0, init_dest_nodata=False, warp_mem_limit=1024)  # fmt: skip
    return out
