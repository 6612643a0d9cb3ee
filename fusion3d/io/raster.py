"""One image file that GDAL reads: its metadata, checked before it is trusted, and its pixels by window on any target."""

from __future__ import annotations

import datetime
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from pyproj import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from fusion3d.errors import ConfigError, InputError, one_line
from fusion3d.io.alignment import Float32, aligned_cover, nearest, patch
from fusion3d.io.bands import Band, bands_from_metadata, read_sidecar, resolve_bands, sidecar_of
from fusion3d.io.crs import resolve_crs
from fusion3d.io.dates import date_from_name
from fusion3d.io.pixels import Array, ArrayImage, BoolArray, RasterPatch, RasterSource, Target
from fusion3d.io.s3 import point_gdal_to_s3
from fusion3d.io.tiff_blocks import missing_block

__all__ = ["SCL_CLEAR", "ArrayImage", "Band", "RasterFile", "RasterPatch", "RasterSource", "Target", "open_raster"]

SCL_CLEAR = (4, 5, 6, 7, 11)
"""Classes of Sentinel-2's scene classification that show the ground: vegetation, bare, water, unclassified, snow."""

Nodata = float | str | Sequence[float | str] | None
PerBand = float | Sequence[float] | None


@dataclass(frozen=True)
class RasterFile:
    """An image file as a `RasterSource` of one step; `open_raster` makes one.

    Attributes
    ----------
    path, dtype, width, height, transform, tags : as GDAL gives them
    indexes : 1-based GDAL indices of the bands, without an alpha band that only masks
    nodata : every value that means nodata
    scale, offset : per band; physical value = stored value * scale + offset
    units : per band, "" when not stated
    date : of acquisition or None
    alpha : 1-based index of the band that is a mask, or None
    internal_mask : whether the file holds a mask of its own
    palette : whether its values are numbers of colours
    mask, clear : a class image (cloud mask) and its classes that count as valid
    """

    path: str
    name: str
    crs: CRS
    transform: Affine
    width: int
    height: int
    dtype: np.dtype
    indexes: tuple[int, ...]
    bands: tuple[Band, ...]
    nodata: tuple[float, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    units: tuple[str, ...]
    tags: dict[str, str]
    date: datetime.date | None = None
    alpha: int | None = None
    internal_mask: bool = False
    palette: bool = False
    mask: RasterFile | None = None
    clear: tuple[int, ...] = SCL_CLEAR

    @property
    def count(self) -> int:
        return len(self.indexes)

    @property
    def dates(self) -> tuple[datetime.date | None, ...]:
        return (self.date,)

    @property
    def provenance(self) -> tuple[Path, ...]:
        own = () if is_remote(self.path) else (Path(self.path),)
        return own + (self.mask.provenance if self.mask else ())

    @property
    def pixel(self) -> float:
        """Side of a pixel in CRS units (degrees for a geographic CRS); of oblong pixels, the square of the same area."""
        return math.sqrt(abs(self.transform.determinant))

    @cached_property
    def pixel_metres(self) -> float:
        """Side of a pixel in metres; for a geographic CRS approximate, at the image's centre."""
        if not self.crs.is_geographic:
            return self.pixel * float(self.crs.axis_info[0].unit_conversion_factor)
        place = self.transform
        latitude = place.d * self.width / 2 + place.e * self.height / 2 + place.f
        return self.pixel * 111_320.0 * math.sqrt(max(math.cos(math.radians(latitude)), 0.0))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        place, corners = self.transform, [(0, 0), (self.width, 0), (0, self.height), (self.width, self.height)]
        x = [place.a * col + place.b * row + place.c for col, row in corners]
        y = [place.d * col + place.e * row + place.f for col, row in corners]
        return min(x), min(y), max(x), max(y)

    @property
    def decibel(self) -> bool:
        """Whether every band is stated in dB."""
        return bool(self.units) and all(unit.strip().lower() in ("db", "decibel", "decibels") for unit in self.units)

    @property
    def scaled(self) -> bool:
        return any(scale != 1.0 for scale in self.scale) or any(offset != 0.0 for offset in self.offset)

    def read(self, step: int, target: Target) -> RasterPatch:
        """The image on a target's pixels, by the rules of `fusion3d.io.alignment`.

        Raises
        ------
        InputError
            The file cannot be decoded there.
        """
        if step != 0:
            raise IndexError(f"{self.path} has one step, not {step + 1}")
        return patch(*self.read_cover(target))

    def read_cover(self, target: Target) -> tuple[Array, Float32]:
        """Values and covered share of each target pixel, to be merged with neighbouring tiles."""
        return aligned_cover(_Decoded(self), target, decibel=self.decibel)


class _Decoded:
    """A file's physical values by window, as `align` reads them."""

    def __init__(self, file: RasterFile) -> None:
        self.file = file
        self.crs, self.transform = file.crs, file.transform
        self.width, self.height, self.count = file.width, file.height, file.count
        self.dtype = np.dtype(np.float32) if file.scaled else file.dtype

    def pixels(self, bands: slice, rows: slice, cols: slice) -> tuple[Array, BoolArray]:
        file = self.file
        window = Window(cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start)
        indexes = list(file.indexes[bands])
        with _opened(file.path) as dataset:
            try:
                values = dataset.read(indexes, window=window)
                seen = None
                if file.alpha is not None:
                    seen = dataset.read(file.alpha, window=window) > 0
                elif file.internal_mask:
                    seen = dataset.read_masks(indexes, window=window) > 0
            except (RasterioError, OSError) as error:
                raise InputError(file.path, f"cannot be decoded ({_reason(error)})", _FETCH_AGAIN) from None
        valid = ~is_nodata(values, file.nodata)
        if seen is not None:
            valid &= seen
        if file.mask is not None:
            place = Affine(file.transform.a, file.transform.b, file.transform.a * cols.start + file.transform.b * rows.start
                           + file.transform.c, file.transform.d, file.transform.e,
                           file.transform.d * cols.start + file.transform.e * rows.start + file.transform.f)  # fmt: skip
            classes, known = nearest(_Decoded(file.mask), file.crs, place, values.shape[1], values.shape[2])
            valid &= known[:1] & np.isin(classes[:1], file.clear)
        if file.scaled:
            shape = (-1, 1, 1)
            values = values * np.reshape(file.scale[bands], shape) + np.reshape(file.offset[bands], shape)
        return values, valid


_FETCH_AGAIN = "the file is truncated or corrupt: download or export it again"


def is_remote(path: str) -> bool:
    """Whether GDAL, not the file system, resolves the path."""
    return path.startswith("/vsi") or "://" in path


def is_nodata(values: Array, nodata: Iterable[float]) -> BoolArray:
    """Where values are NaN, infinite or one of the nodata values, compared in the values' own dtype."""
    floating = np.issubdtype(values.dtype, np.floating)
    found: BoolArray = ~np.isfinite(values) if floating else np.zeros(values.shape, np.bool_)
    for value in nodata:
        if floating:
            with np.errstate(over="ignore"):
                found |= values == values.dtype.type(value)
        elif float(value).is_integer() and _holds(values.dtype, int(value)):
            found |= values == values.dtype.type(int(value))
    return found


def _holds(dtype: Any, value: int) -> bool:
    return bool(np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)


def parse_nodata(nodata: Nodata, tagged: Iterable[float | None]) -> tuple[float, ...]:
    """Every nodata value: the file's tags and the user's, without the tags when "none" is among the user's.

    Raises
    ------
    ConfigError
        A value is neither a number nor "none".
    """
    given = [] if nodata is None else [nodata] if isinstance(nodata, (str, int, float)) else list(nodata)
    ignore_tags = any(isinstance(value, str) and value.strip().lower() == "none" for value in given)
    values = [] if ignore_tags else [float(value) for value in tagged if value is not None]
    for value in given:
        if isinstance(value, str) and value.strip().lower() == "none":
            continue
        try:
            values.append(float(value))
        except (TypeError, ValueError):
            raise ConfigError(f"nodata must be numbers or 'none', not {value!r}") from None
    return tuple(dict.fromkeys(value for value in values if not math.isnan(value)))


def per_band(value: PerBand, tagged: Sequence[float], name: str) -> tuple[float, ...]:
    """A number per band: the user's, one for all or one each, else the file's.

    Raises
    ------
    ConfigError
        There are not as many as bands, or one is not finite.
    """
    if value is None:
        return tuple(float(item) for item in tagged)
    values = (float(value),) * len(tagged) if isinstance(value, (int, float)) else tuple(float(item) for item in value)
    if len(values) != len(tagged) or not all(map(math.isfinite, values)):
        raise ConfigError(f"{name} needs one finite number, or one for each of the {len(tagged)} bands, not {value}")
    return values


def _reason(error: BaseException) -> str:
    return one_line(error.__cause__ or error)


def _opened(path: str) -> Any:
    point_gdal_to_s3(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            return rasterio.open(path)
        except (RasterioError, OSError) as error:
            raise _unreadable(path, error) from None


def _unreadable(path: str, error: BaseException) -> InputError:
    local = Path(path)
    if is_remote(path):
        return InputError(path, f"cannot be opened ({_reason(error)})", "check the address and your access to it")
    if not local.exists():
        return InputError(path, "does not exist", "check the path")
    if local.is_dir():
        return InputError(path, "is a folder, not an image", "give an image file, or declare a series of dated images")
    try:
        with local.open("rb") as file:
            head = file.read(512).lstrip().lower()
    except OSError as denied:
        return InputError(path, f"cannot be read ({denied.strerror})", "check its permissions")
    if not head:
        return InputError(path, "is empty", "download or export it again")
    if head.startswith((b"<!doctype html", b"<html", b"<?xml")) and b"vrt" not in head:
        return InputError(path, "is a web page, not an image", "the download failed or needs a login: download it again")
    return InputError(path, f"is not an image that GDAL can read ({_reason(error)})", _FETCH_AGAIN)


def open_raster(path: str | Path, *, crs: CRS | str | None = None, bands: str | Path | Sequence[Band | str] | None = None,
                nodata: Nodata = None, scale: PerBand = None, offset: PerBand = None, units: str | None = None,
                date: datetime.date | str | None = None, mask: str | Path | None = None,
                mask_clear_values: Iterable[int] = SCL_CLEAR, name: str | None = None) -> RasterFile:  # fmt: skip
    """An image file, its metadata checked; pixels are read by `RasterFile.read`.

    Parameters
    ----------
    crs : assumed when the file has none
    bands : a sidecar's path, a known sensor ("s2", "s1", "rgb", "rgbn", "irc"), bands or their names; else a sidecar beside the
        file, else the file's metadata
    nodata : further values that mean nodata beside the file's tag; "none" ignores the tag, ["none", -1] replaces it
    scale, offset : for all bands or per band, instead of the file's
    units : of all bands, instead of the file's; "dB" makes backscatter be averaged as power
    date : of acquisition; else from the file's name where that is plain
    mask : a class image of the same place (cloud mask), read with the nearest pixel
    mask_clear_values : its classes that count as valid
    name : of the source; else the file's stem

    Raises
    ------
    InputError
        The file is missing, is not an image, is truncated, holds complex numbers, or lies nowhere.
    CRSError
        It has no CRS and none is assumed.
    ConfigError
        An option contradicts the file.
    """
    text = str(path)
    with _opened(text) as dataset:
        if dataset.count == 0:
            raise InputError(text, "holds several images and none of its own", _subdataset_remedy(dataset))
        if any(np.dtype(dtype).kind not in "fiu" for dtype in dataset.dtypes):
            problem = f"holds values of type {dataset.dtypes[0]}"
            raise InputError(text, problem, "convert complex values to power or amplitude first")
        _check_place(text, dataset)
        hole = missing_block(dataset)
        if hole:
            raise InputError(text, f"is truncated ({hole})", "download or export it again")
        alpha = _mask_band(dataset)
        indexes = tuple(index for index in dataset.indexes if index != alpha)
        known = resolve_crs(None if dataset.crs is None else CRS.from_wkt(dataset.crs.to_wkt()), crs, text)
        flags = dataset.mask_flag_enums[indexes[0] - 1]
        return RasterFile(
            path=text,
            name=name or Path(text).stem,
            crs=known,
            transform=dataset.transform,
            width=dataset.width,
            height=dataset.height,
            dtype=np.result_type(*(dataset.dtypes[index - 1] for index in indexes)),
            indexes=indexes,
            bands=_bands(text, dataset, indexes, bands),
            nodata=parse_nodata(nodata, [dataset.nodatavals[index - 1] for index in indexes]),
            scale=per_band(scale, [dataset.scales[index - 1] for index in indexes], "scale"),
            offset=per_band(offset, [dataset.offsets[index - 1] for index in indexes], "offset"),
            units=tuple(units if units is not None else (dataset.units[index - 1] or "") for index in indexes),
            tags=dict(dataset.tags()),
            date=_date(date, text),
            alpha=alpha,
            internal_mask=MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags,
            palette=any(dataset.colorinterp[index - 1] == ColorInterp.palette for index in indexes),
            mask=None if mask is None else open_raster(mask, crs=known, nodata="none"),
            clear=tuple(int(value) for value in mask_clear_values),
        )


def _date(date: datetime.date | str | None, path: str) -> datetime.date | None:
    if date is None:
        return date_from_name(Path(path).name)
    if isinstance(date, datetime.datetime):
        return date.date()
    if isinstance(date, datetime.date):
        return date
    try:
        return datetime.date.fromisoformat(date)
    except ValueError:
        raise ConfigError(f"{date!r} is not a date; write it as 2020-01-31") from None


def _subdataset_remedy(dataset: Any) -> str:
    names = dataset.subdatasets
    return f"name one of them, for instance {names[0]}" if names else "export the image as GeoTIFF"


def _check_place(path: str, dataset: Any) -> None:
    if not dataset.transform.is_identity and dataset.transform.determinant != 0:
        return
    if dataset.gcps[0] or dataset.rpcs:
        remedy = "rectify it first, for instance with gdalwarp -t_srs EPSG:32632"
        raise InputError(path, "is placed only by control points or RPCs", remedy)
    raise InputError(path, "has no georeferencing", "give it corners and a CRS, for instance with gdal_translate -a_ullr -a_srs, "
                     "or put a world file beside it")  # fmt: skip


def _mask_band(dataset: Any) -> int | None:
    """The alpha band if it is a mask: near-infrared bands are often labelled alpha, but only a mask is all 0 or 255."""
    alphas = [index for index, color in zip(dataset.indexes, dataset.colorinterp, strict=True) if color == ColorInterp.alpha]
    if len(alphas) != 1 or dataset.count == 1:
        return None
    full = 1 if np.issubdtype(dataset.dtypes[alphas[0] - 1], np.floating) else np.iinfo(dataset.dtypes[alphas[0] - 1]).max
    height, width = (min(size, 64) for size in dataset.shape)
    parts = []
    for down in (0.0, 0.25, 0.5, 0.75, 1.0):
        for right in (0.0, 0.25, 0.5, 0.75, 1.0):
            window = Window(int(right * (dataset.width - width)), int(down * (dataset.height - height)), width, height)
            try:
                parts.append(dataset.read(alphas[0], window=window).ravel())
            except RasterioError as error:
                raise InputError(dataset.name, f"cannot be decoded ({_reason(error)})", _FETCH_AGAIN) from None
    sample = np.concatenate(parts)
    return alphas[0] if np.mean((sample == 0) | (sample == full)) > 0.9 else None


def _bands(path: str, dataset: Any, indexes: tuple[int, ...],
           bands: str | Path | Sequence[Band | str] | None) -> tuple[Band, ...]:  # fmt: skip
    given = resolve_bands(bands, len(indexes))
    if given is not None:
        return given
    sidecar = None if is_remote(path) else sidecar_of(path)
    if sidecar is not None:
        return read_sidecar(sidecar, len(indexes))
    tags = [{**dataset.tags(index), **dataset.tags(index, ns="IMAGERY")} for index in indexes]
    colors = [dataset.colorinterp[index - 1].name for index in indexes]
    return bands_from_metadata([dataset.descriptions[index - 1] for index in indexes], tags, dataset.tags(ns="ENVI"), colors)
