"""Dated rasters as one source: files per date (several tiles of a date are mosaicked), or a Zarr or NetCDF cube."""

from __future__ import annotations

import datetime
import glob
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyproj import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from fusion3d.errors import ConfigError, InputError
from fusion3d.grid import Bounds
from fusion3d.io.alignment import Float32, patch, rasterio_crs, same_place
from fusion3d.io.bands import Band
from fusion3d.io.cube import Cube, is_cube, open_cube
from fusion3d.io.dates import date_from_name
from fusion3d.io.pixels import Array, RasterPatch, RasterSource, Target
from fusion3d.io.raster import SCL_CLEAR, Nodata, PerBand, RasterFile, open_raster

__all__ = ["Cube", "RasterSeries", "open_series"]

SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img", ".dat", ".bil")
Paths = str | Path | Sequence[str | Path]
Spec = Paths | Mapping[datetime.date | str | None, Paths]
Covered = tuple[Array, Float32]

_FULL = 1 - 1e-5
_SINGLE_BAND_NAME = re.compile(r"(?:^|[_.\-])(B\d{1,2}|B8A|VV|VH|HH|HV|SCL)(?=[_.\-]|$)")
_DATE_HELP = (
    "put the date into its name (20200131 or 2020-01-31), or give the series as a mapping of dates to files, 2020-01-31: file.tif"
)


@dataclass(frozen=True)
class RasterSeries:
    """Image files by date as a `RasterSource`.

    Attributes
    ----------
    steps : per date the files that cover it; where they overlap, the first valid one counts
    dates : per step, ascending; ``(None,)`` for tiles of one image without a date
    """

    name: str
    steps: tuple[tuple[RasterFile, ...], ...]
    dates: tuple[datetime.date | None, ...]

    @property
    def bands(self) -> tuple[Band, ...]:
        return self.steps[0][0].bands

    @property
    def units(self) -> tuple[str, ...]:
        return self.steps[0][0].units

    @property
    def crs(self) -> CRS:
        return self.steps[0][0].crs

    @property
    def dtype(self) -> np.dtype:
        return np.result_type(*(file.dtype for step in self.steps for file in step))

    @property
    def palette(self) -> bool:
        return any(file.palette for step in self.steps for file in step)

    @property
    def pixel(self) -> float:
        return self.steps[0][0].pixel

    @property
    def bounds(self) -> Bounds:
        """Of all files together, in the first one's CRS."""
        boxes = [_bounds_in(file, self.crs) for step in self.steps for file in step]
        xmin, ymin, xmax, ymax = zip(*boxes, strict=True)
        return min(xmin), min(ymin), max(xmax), max(ymax)

    @property
    def provenance(self) -> tuple[Path, ...]:
        return tuple(path for step in self.steps for file in step for path in file.provenance)

    def read(self, step: int, target: Target) -> RasterPatch:
        """A date on a target's pixels.

        A pixel that several tiles cover in part is their mean weighted by the area that each adds.

        Raises
        ------
        InputError
            A file cannot be decoded there.
        """
        merged: Covered | None = None
        for file in self.steps[step]:
            found = file.read_cover(target)
            merged = found if merged is None else _merge(merged, found, target.kind == "classes")
            if (merged[1] >= _FULL).all():
                break
        assert merged is not None
        return patch(*merged)


def _merge(first: Covered, second: Covered, classes: bool) -> Covered:
    """Two tiles as one: the second only fills the share of a pixel's area that the first does not cover."""
    (values, cover), (more, more_cover) = first, second
    dtype = np.result_type(values, more)
    if classes or not np.issubdtype(dtype, np.floating):
        seen = cover > 0
        return np.where(seen, values, more).astype(dtype), np.where(seen, cover, more_cover)
    share = np.minimum(more_cover, 1 - cover)
    total = cover + share
    weighted = _weighted(values, cover) + _weighted(more, share)
    with np.errstate(invalid="ignore"):
        return weighted / total, total


def _weighted(values: Array, cover: Float32) -> Float32:
    return np.where(cover > 0, values, 0).astype(np.float32) * cover


def _bounds_in(file: RasterFile, crs: CRS) -> Bounds:
    if same_place(file.crs, crs):
        return file.bounds
    try:
        xmin, ymin, xmax, ymax = transform_bounds(rasterio_crs(file.crs), rasterio_crs(crs), *file.bounds)
    except RasterioError:
        raise InputError(file.path, f"lies where CRS {crs.name!r} of the series' first file is not defined",
                         "declare it as a series of its own") from None  # fmt: skip
    return xmin, ymin, xmax, ymax


def open_series(spec: Spec, *, crs: CRS | str | None = None, bands: str | Path | Sequence[Band | str] | None = None,
                nodata: Nodata = None, scale: PerBand = None, offset: PerBand = None, units: str | None = None,
                mask: str | None = None, mask_clear_values: Iterable[int] = SCL_CLEAR,
                variable: str | Sequence[str] | None = None, name: str | None = None) -> RasterSource:  # fmt: skip
    """A dated series of rasters.

    Parameters
    ----------
    spec : a folder, a glob, a list of files, or a mapping of dates to a file or to the tiles of that date (the key None for the
        tiles of one image without a date); or a ``.zarr`` or ``.nc`` cube
    crs, bands, nodata, scale, offset, units : as in `open_raster`, for every file
    mask : for files, the name of each file's class image (cloud mask), in its folder, with the fields ``{stem}`` and ``{date}``
        (20200131) and wildcards, as in ``{stem}_SCL.tif`` or ``*{date}*SCL*.tif``; for a cube the name of a variable
    mask_clear_values : its classes that count as valid (default: Sentinel-2's scene classification)
    variable : of a cube: the variable, or one variable per band
    name : of the source; else that of the folder or file

    Raises
    ------
    InputError
        There are no files, one has no date, lacks its mask, or does not fit the others; or a file is not usable.
    CRSError
        A file has no CRS and none is assumed.
    """
    if isinstance(spec, (str, Path)) and is_cube(spec):
        return open_cube(spec, variable=variable, crs=crs, bands=bands, nodata=nodata, scale=scale, offset=offset, units=units,
                         mask=mask, mask_clear_values=mask_clear_values, name=name)  # fmt: skip
    if variable is not None:
        raise ConfigError(f"variable={variable!r} is for Zarr and NetCDF cubes, {spec!s} is not one")
    found = {date: list(dict.fromkeys(paths)) for date, paths in _by_date(spec, mask).items()}
    masks = {path: _mask_of(path, date, mask) for date, paths in found.items() for path in paths} if mask else {}
    clear = tuple(mask_clear_values)
    dates = sorted(found, key=lambda date: date or datetime.date.min)
    steps = []
    for date in dates:
        paths = found[date]
        _refuse_split_bands(paths)
        steps.append(tuple(
            open_raster(path, crs=crs, bands=bands, nodata=nodata, scale=scale, offset=offset, units=units, date=date,
                        mask=masks.get(path), mask_clear_values=clear)
            for path in paths
        ))  # fmt: skip
    _check_alike([file for step in steps for file in step])
    return RasterSeries(name or _name(spec), tuple(steps), tuple(dates))


def _by_date(spec: Spec, mask: str | None) -> dict[datetime.date | None, list[str]]:
    """Files per date; those that only match the mask pattern are left out."""
    if isinstance(spec, Mapping):
        if not spec:
            raise InputError(None, "the series is an empty mapping", "give dates and their files")
        if None in spec and len(spec) > 1:
            raise InputError(None, "a series mixes dated and undated files", _DATE_HELP)
        given: dict[datetime.date | None, list[str]] = defaultdict(list)
        for key, paths in spec.items():
            many = [paths] if isinstance(paths, (str, Path)) else list(paths)
            if not many:
                raise InputError(None, f"the series has no file for {key}", "leave that date out")
            given[_date(key)] += [str(path) for path in many]
        return given
    paths = _listed(spec)
    grouped: dict[datetime.date | None, list[str]] = defaultdict(list)
    for path in paths:
        if mask and _is_mask(path, paths, mask):
            continue
        date = date_from_name(Path(path).name) or date_from_name(Path(path).parent.name)
        if date is None:
            raise InputError(path, "belongs to a series but its name states no date, or several", _DATE_HELP)
        grouped[date].append(path)
    if not grouped:
        raise InputError(str(spec), "every file of the series is one of its masks", "check the mask's name pattern")
    return grouped


def _listed(spec: Paths) -> list[str]:
    if not isinstance(spec, (str, Path)):
        paths = [str(path) for path in spec]
        if not paths:
            raise InputError(None, "the series is an empty list", "give its files")
        return paths
    folder = Path(spec)
    if folder.is_dir():
        visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
        paths = sorted(str(path) for path in visible if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise InputError(spec, "holds no image", f"give a folder with files of type {', '.join(SUFFIXES)}, or a glob")
        return paths
    if glob.has_magic(str(spec)):
        paths = sorted(glob.glob(str(spec), recursive=True))
        if not paths:
            raise InputError(spec, "matches no file", "check the pattern")
        return paths
    return [str(spec)]


def _date(key: datetime.date | str | None) -> datetime.date | None:
    if isinstance(key, datetime.datetime):
        return key.date()
    if key is None or isinstance(key, datetime.date):
        return key
    try:
        return datetime.date.fromisoformat(str(key))
    except ValueError:
        raise ConfigError(f"{key!r} is not a date; write it as 2020-01-31") from None


def _pattern(path: str, date: datetime.date | None, mask: str) -> str:
    fields = {"{stem}": glob.escape(Path(path).stem), "{date}": f"{date:%Y%m%d}" if date else "*"}
    for field, value in fields.items():
        mask = mask.replace(field, value)
    return str(Path(glob.escape(str(Path(path).parent))) / mask)


def _is_mask(path: str, paths: Sequence[str], mask: str) -> bool:
    """Whether a listed file is the mask of another one."""
    name = Path(path).name
    others = (other for other in paths if other != path)
    if "{stem}" in mask:
        return any(_fits(path, _pattern(other, date_from_name(Path(other).name), mask)) for other in others)
    date = date_from_name(name)
    return _fits(path, _pattern(path, date, mask))


def _fits(path: str, pattern: str) -> bool:
    return Path(path).match(Path(pattern).name)


def _mask_of(path: str, date: datetime.date | None, mask: str) -> str:
    pattern = _pattern(path, date, mask)
    found = [file for file in sorted(glob.glob(pattern)) if file != path]
    if len(found) != 1:
        what = "no file" if not found else f"{len(found)} files"
        raise InputError(path, f"its mask {Path(pattern).name!r} names {what}",
                         "give a mask pattern with {stem} or {date} that names one file")  # fmt: skip
    return found[0]


def _refuse_split_bands(paths: Sequence[str]) -> None:
    """Different bands of one date in files of their own are no tiles: the first would hide the others."""
    named = {match[1] for path in paths if (match := _SINGLE_BAND_NAME.search(Path(path).stem))}
    if len(named) > 1:
        raise InputError(paths[0], f"and its neighbours of one date hold single bands ({', '.join(sorted(named))})",
                         "stack them first, for instance with gdalbuildvrt -separate, one VRT per date")  # fmt: skip


def _check_alike(files: Sequence[RasterFile]) -> None:
    first = files[0]
    for file in files[1:]:
        if file.count != first.count:
            raise InputError(file.path, f"has {file.count} bands but {first.path} has {first.count}",
                             "a series needs the same bands on every date")  # fmt: skip


def _name(spec: Spec) -> str:
    if isinstance(spec, (str, Path)):
        path = Path(spec)
        while glob.has_magic(path.name):
            path = path.parent
        return path.stem or "series"
    paths = next(iter(spec.values())) if isinstance(spec, Mapping) else spec
    first = paths if isinstance(paths, (str, Path)) else next(iter(paths))
    return Path(first).parent.name or "series"
