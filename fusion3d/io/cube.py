"""A raster series in one Zarr or NetCDF file, through xarray; only the window that is asked for is loaded."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from pyproj import CRS
from pyproj.exceptions import CRSError as PyprojCRSError

from fusion3d.errors import InputError, one_line
from fusion3d.io.alignment import align
from fusion3d.io.bands import Band, band_from_name, bands_from_metadata, resolve_bands
from fusion3d.io.crs import resolve_crs
from fusion3d.io.pixels import Array, BoolArray, RasterPatch, Target
from fusion3d.io.raster import SCL_CLEAR, Nodata, PerBand, is_nodata, parse_nodata, per_band

if TYPE_CHECKING:
    import xarray

_Y = ("y", "lat", "latitude", "northing", "yc")
_X = ("x", "lon", "longitude", "easting", "xc")
_TIME = ("time", "t", "date", "dates")
_FETCH_AGAIN = "the file is truncated or corrupt: download or export it again"


def is_cube(path: str | Path) -> bool:
    """Whether a path names a Zarr or NetCDF cube."""
    return str(path).rstrip("/").lower().endswith((".zarr", ".nc", ".nc4"))


@dataclass(frozen=True, eq=False)
class Cube:
    """Variables of a cube as a `RasterSource`.

    Attributes
    ----------
    values : per variable, dimensions (time, band, y, x) with y from north to south and x from west to east; a cube of one
        variable may have many bands, a cube of several has one band in each
    mask : class variable with dimensions (time, y, x) or None
    clear : its classes that count as valid
    """

    name: str
    path: str
    values: tuple[xarray.DataArray, ...]
    bands: tuple[Band, ...]
    crs: CRS
    transform: Affine
    dates: tuple[datetime.date | None, ...]
    nodata: tuple[float, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    units: tuple[str, ...]
    mask: xarray.DataArray | None = None
    clear: tuple[int, ...] = SCL_CLEAR

    @property
    def pixel(self) -> float:
        return math.sqrt(abs(self.transform.determinant))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        height, width = self.values[0].shape[-2:]
        place = self.transform
        return place.c, place.f + place.e * height, place.c + place.a * width, place.f

    @property
    def dtype(self) -> np.dtype:
        return np.result_type(*(values.dtype for values in self.values))

    @property
    def provenance(self) -> tuple[Path, ...]:
        return () if "://" in self.path else (Path(self.path),)

    @property
    def decibel(self) -> bool:
        return all(unit.strip().lower() in ("db", "decibel", "decibels") for unit in self.units)

    def read(self, step: int, target: Target) -> RasterPatch:
        """A date on a target's pixels.

        Raises
        ------
        InputError
            The file cannot be decoded there.
        """
        return align(_Step(self, step), target, decibel=self.decibel)


class _Step:
    """One date of a cube by window, as `align` reads it."""

    def __init__(self, cube: Cube, step: int) -> None:
        self.cube, self.step = cube, step
        self.crs, self.transform = cube.crs, cube.transform
        self.height, self.width = cube.values[0].shape[-2:]
        self.count = len(cube.bands)
        self.scaled = any(value != 1 for value in cube.scale) or any(value != 0 for value in cube.offset)
        self.dtype = np.dtype(np.float32) if self.scaled else cube.dtype

    def pixels(self, bands: slice, rows: slice, cols: slice) -> tuple[Array, BoolArray]:
        cube = self.cube
        try:
            if len(cube.values) == 1:
                values = cube.values[0][self.step, bands, rows, cols].to_numpy()
            else:
                values = np.stack([part[self.step, 0, rows, cols].to_numpy() for part in cube.values[bands]])
            classes = None if cube.mask is None else cube.mask[self.step, rows, cols].to_numpy()
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise InputError(cube.path, f"cannot be decoded ({one_line(error)})", _FETCH_AGAIN) from None
        valid = ~is_nodata(values, cube.nodata)
        if classes is not None:
            valid &= np.isin(classes, cube.clear)
        if self.scaled:
            values = values * np.reshape(cube.scale[bands], (-1, 1, 1)) + np.reshape(cube.offset[bands], (-1, 1, 1))
        return values, valid


def open_cube(path: str | Path, *, variable: str | Sequence[str] | None = None, crs: CRS | str | None = None,
              bands: str | Path | Sequence[Band | str] | None = None, nodata: Nodata = None, scale: PerBand = None,
              offset: PerBand = None, units: str | None = None, mask: str | None = None,
              mask_clear_values: Iterable[int] = SCL_CLEAR, name: str | None = None) -> Cube:  # fmt: skip
    """A Zarr or NetCDF cube with dimensions time, band (both optional), y and x, on regular coordinates of pixel centres.

    The CRS is the grid mapping's (attributes ``crs_wkt`` or ``spatial_ref``, or CF parameters), or geographic when the
    coordinates are latitudes and longitudes. Fill values, scale and offset of the CF conventions are applied. Arguments as for
    `fusion3d.io.series.open_series`.

    Raises
    ------
    InputError
        The file is not such a cube, or `variable` is needed to choose.
    CRSError
        It has no CRS and none is assumed.
    """
    text = str(path)
    dataset = _opened(text)
    chosen = _chosen(text, dataset, variable, mask)
    y, x = _axis(text, chosen[0], _Y), _axis(text, chosen[0], _X)
    parts = [_ordered(text, part, y, x) for part in chosen]
    if any(part.shape != parts[0].shape for part in parts) or (len(parts) > 1 and parts[0].shape[1] != 1):
        raise InputError(text, "its variables differ in shape or have bands of their own", "give one variable")
    if any(part.dtype.kind not in "fiu" for part in parts):
        raise InputError(text, f"variable {chosen[0].name!r} holds values of type {parts[0].dtype}", "give a variable of numbers")
    count = len(parts) if len(parts) > 1 else parts[0].shape[1]
    clouds = None if mask is None else _ordered(text, dataset[mask], y, x)[:, 0]
    if clouds is not None and clouds.shape != (parts[0].shape[0], *parts[0].shape[2:]):
        raise InputError(text, f"mask {mask!r} has not the shape of {chosen[0].name!r}", "give one on the same pixels and dates")
    tagged = [part.attrs.get("nodata", part.attrs.get("nodatavals")) for part in parts]
    return Cube(
        name=name or Path(text.rstrip("/")).stem,
        path=text,
        values=tuple(parts),
        bands=resolve_bands(bands, count) or _bands(chosen, count, y, x),
        crs=resolve_crs(_crs(dataset, chosen[0], y, x), crs, text),
        transform=_transform(text, parts[0]),
        dates=_dates(text, parts[0]),
        nodata=parse_nodata(nodata, [value for item in tagged if item is not None for value in np.ravel(item).tolist()]),
        scale=per_band(scale, (1.0,) * count, "scale"),
        offset=per_band(offset, (0.0,) * count, "offset"),
        units=tuple(units if units is not None else str(part.attrs.get("units", "")) for part in parts),
        mask=clouds,
        clear=tuple(int(value) for value in mask_clear_values),
    )


def _opened(path: str) -> xarray.Dataset:
    import xarray

    if "://" not in path and not Path(path).exists():
        raise InputError(path, "does not exist", "check the path")
    try:
        if path.rstrip("/").lower().endswith(".zarr"):
            return xarray.open_dataset(path, engine="zarr", chunks=None)
        return xarray.open_dataset(path, engine="h5netcdf")
    except Exception as error:  # the backends raise what they like on a file that is not theirs
        reason = one_line(error)
        remedy = "give a Zarr folder or a NetCDF-4 file (nccopy -k nc4 converts NetCDF-3), or download it again"
        raise InputError(path, f"is not a cube that xarray can read ({reason})", remedy) from None


def _chosen(path: str, dataset: xarray.Dataset, variable: str | Sequence[str] | None, mask: str | None) -> list[xarray.DataArray]:
    maps = [str(key) for key, item in dataset.data_vars.items() if _named(item, _Y) and _named(item, _X)]
    names = [variable] if isinstance(variable, str) else list(variable or [key for key in maps if key != mask])
    if variable is None and len(names) != 1:
        remedy = f"choose with variable: {', '.join(names)}" if names else "its variables need dimensions named y and x"
        raise InputError(path, f"holds {len(names)} variables that are maps", remedy)
    for name in [*names, *([mask] if mask else [])]:
        if name not in dataset.data_vars:
            raise InputError(path, f"has no variable {name!r}", f"it has {', '.join(map(str, dataset.data_vars)) or 'none'}")
    return [dataset[name] for name in names]


def _named(array: xarray.DataArray, names: Iterable[str]) -> str | None:
    return next((str(dim) for dim in array.dims if str(dim).lower() in names), None)


def _axis(path: str, array: xarray.DataArray, names: Sequence[str]) -> str:
    dim = _named(array, names)
    if dim is None or dim not in array.coords:
        raise InputError(path, f"variable {array.name!r} has no coordinate {names[0]} (or {', '.join(names[1:3])})",
                         "write the coordinates of the pixel centres")  # fmt: skip
    return dim


def _ordered(path: str, array: xarray.DataArray, y: str, x: str) -> xarray.DataArray:
    """The array as (time, band, y, x), north up."""
    time = _named(array, _TIME)
    rest = [str(dim) for dim in array.dims if dim not in (time, y, x)]
    if len(rest) > 1:
        raise InputError(path, f"variable {array.name!r} has dimensions {array.dims}", "it may have time, one for bands, y and x")
    if time is None:
        time, array = "_time", array.expand_dims("_time")
    if not rest:
        rest, array = ["_band"], array.expand_dims("_band")
    array = array.transpose(time, rest[0], y, x)
    if array.sizes[y] > 1 and float(array[y][0]) < float(array[y][-1]):
        array = array[:, :, ::-1]
    if array.sizes[x] > 1 and float(array[x][0]) > float(array[x][-1]):
        array = array[..., ::-1]
    return array


def _transform(path: str, array: xarray.DataArray) -> Affine:
    y, x = (array[dim].to_numpy().astype(np.float64) for dim in array.dims[-2:])
    steps = []
    for values, dim in ((x, array.dims[-1]), (y, array.dims[-2])):
        if values.size == 0:
            raise InputError(path, f"dimension {dim!r} is empty", "give a cube with pixels")
        step = (values[-1] - values[0]) / (values.size - 1) if values.size > 1 else 0.0
        # float32 coordinates of metres are off by up to half a metre: a tenth of a pixel is not irregular.
        if not np.allclose(values, values[0] + step * np.arange(values.size), rtol=0, atol=0.1 * abs(step)):
            raise InputError(path, f"its {dim} coordinates are not regular", "resample the cube to a regular grid first")
        steps.append(abs(step))
    if max(steps) == 0:
        raise InputError(path, "holds one pixel, whose size is not known", "give a cube of at least two pixels")
    width, height = (step or max(steps) for step in steps)
    return Affine(width, 0.0, x[0] - width / 2, 0.0, -height, y[0] + height / 2)


def _dates(path: str, array: xarray.DataArray) -> tuple[datetime.date | None, ...]:
    time = array.dims[0]
    if time == "_time":
        return (None,)
    if time not in array.coords:
        raise InputError(path, f"dimension {time!r} has no dates", "write a time coordinate")
    if array.sizes[time] == 0:
        raise InputError(path, f"dimension {time!r} is empty", "give a cube with at least one date")
    dates: list[datetime.date | None] = []
    for value in array[time].to_numpy():
        if isinstance(value, np.datetime64) and not np.isnat(value):
            dates.append(value.astype("datetime64[D]").astype(object))
        elif all(hasattr(value, part) for part in ("year", "month", "day")):
            dates.append(datetime.date(value.year, value.month, value.day))
        else:
            try:
                dates.append(datetime.date.fromisoformat(str(value)[:10]))
            except ValueError:
                raise InputError(path, f"{value!r} in dimension {time!r} is not a date", "write CF times or 2020-01-31") from None
    return tuple(dates)


def _crs(dataset: xarray.Dataset, array: xarray.DataArray, y: str, x: str) -> CRS | str | None:
    """What the cube says of its CRS, or None."""
    mapping = array.attrs.get("grid_mapping") or array.encoding.get("grid_mapping")
    holders = [dataset[key].attrs for key in (mapping, "spatial_ref", "crs") if key and key in dataset.variables]
    for attributes in (*holders, array.attrs, dataset.attrs):
        for key in ("crs_wkt", "spatial_ref", "crs", "proj:code"):
            if isinstance(attributes.get(key), str) and attributes[key].strip():
                return str(attributes[key])
        if "proj:epsg" in attributes:
            return f"EPSG:{int(attributes['proj:epsg'])}"
        if "grid_mapping_name" in attributes:
            try:
                return CRS.from_cf(dict(attributes))
            except (PyprojCRSError, KeyError):
                continue
    if y.lower().startswith("lat") and x.lower().startswith("lon"):
        return CRS.from_epsg(4326)
    return None


def _bands(chosen: Sequence[xarray.DataArray], count: int, y: str, x: str) -> tuple[Band, ...]:
    if len(chosen) > 1:
        return tuple(band_from_name(str(part.name)) for part in chosen)
    array = chosen[0]
    rest = [dim for dim in array.dims if dim not in (_named(array, _TIME), y, x)]
    if not rest:
        return (band_from_name(str(array.name)),)
    coordinates = {str(key).lower(): value.to_numpy() for key, value in array.coords.items() if value.dims == (rest[0],)}
    labels = coordinates.get(str(rest[0]).lower())
    names: list[str | None] = [None] * count
    if labels is not None and labels.dtype.kind not in "iuf":
        names = [str(label) for label in labels]
    tags: list[dict[str, str]] = [
        {key: str(coordinates[key][index]) for key in ("wavelength", "fwhm") if key in coordinates} for index in range(count)
    ]
    return bands_from_metadata(names, tags)
