"""Points to LAZ 1.4, complete or not at all."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path

import laspy
import lazrs
import numpy as np
import numpy.typing as npt
from pyproj import CRS
from pyproj.exceptions import CRSError as PyprojCRSError

from fusion3d.errors import InputError
from fusion3d.grid import parse_crs
from fusion3d.io.las_layout import SCAN_ANGLE_STEP, RecordLayout, base_dtype
from fusion3d.io.whole_file import whole_file

_INT32 = np.iinfo(np.int32)
_MAX_NAME = 32


def write_points(
    path: str | Path,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    z: npt.ArrayLike,
    attributes: Mapping[str, npt.ArrayLike] | None = None,
    *,
    crs: CRS | str | None,
    scale: float = 0.001,
    offsets: tuple[float, float, float] | None = None,
    created: datetime.date | None = None,
    adjusted_gps_time: bool = False,
) -> Path:
    """Write a LAZ 1.4 file (LAS when `path` ends in .las), under a temporary name first.

    The point format is 6, 7 with colours, 8 with near infrared. The points keep their order.

    Parameters
    ----------
    x, y, z : [N] float64, CRS units
    attributes : name -> [N]; standard names as `fusion3d.io.las` reads them (scan_angle in degrees), any other becomes an extra
        dimension of its own dtype ([N, 2] and [N, 3] too)
    crs : written as WKT; None writes none
    scale : CRS units of one step of the stored integers
    offsets : of x, y and z; by default the whole numbers below the least coordinates
    created : date for the header; None for today
    adjusted_gps_time : gps_time counts GPS seconds less 10^9 (LAS 1.4, "adjusted standard GPS time"), not seconds of the week

    Raises
    ------
    InputError
        Values do not fit (not finite, too far from each other for the scale, of different lengths, outside of what LAS stores),
        or the file cannot be written.
    """
    target = Path(path)
    xyz = [np.atleast_1d(np.asarray(values, np.float64)) for values in (x, y, z)]
    given = {name: np.asarray(values) for name, values in (attributes or {}).items()}
    _check_lengths(target, xyz, given)
    if offsets is None:
        offsets = tuple(float(np.floor(values.min())) if len(values) else 0.0 for values in xyz)  # type: ignore[assignment]
    raw = [_scaled(target, axis, values, scale, offset) for axis, values, offset in zip("xyz", xyz, offsets or (), strict=True)]
    las = _las(target, raw, given, scale, offsets or (0.0, 0.0, 0.0), None if crs is None else parse_crs(crs))
    if created is not None:
        las.header.creation_date = created
    if adjusted_gps_time:
        las.header.global_encoding.gps_time_type = laspy.header.GpsTimeType.STANDARD
    _write(target, las)
    return target


def _check_lengths(path: Path, xyz: list[np.ndarray], given: dict[str, np.ndarray]) -> None:
    count = len(xyz[0])
    for name, values in [*zip("xyz", xyz, strict=True), *given.items()]:
        if values.ndim not in (1, 2) or len(values) != count:
            raise InputError(path, f"{name} has shape {values.shape} where {count} points are written", "give one value a point")
    for axis, values in zip("xyz", xyz, strict=True):
        if values.ndim != 1:
            raise InputError(path, f"{axis} must be one-dimensional", "give one value a point")
        if not np.isfinite(values).all():
            raise InputError(path, f"{axis} has values that are not finite", "leave those points out")


def _scaled(path: Path, axis: str, values: np.ndarray, scale: float, offset: float) -> npt.NDArray[np.int32]:
    if not (np.isfinite(scale) and scale > 0 and np.isfinite(offset)):
        raise InputError(path, f"scale {scale} and offset {offset} of {axis} are no usable numbers", "give a positive scale")
    steps = np.rint((values - offset) / scale)
    if len(steps) and (steps.min() < _INT32.min or steps.max() > _INT32.max):
        raise InputError(path, f"{axis} spans too much for steps of {scale} from {offset}", "choose a larger scale")
    return steps.astype(np.int32)


def _las(
    path: Path,
    raw: list[np.ndarray],
    given: dict[str, np.ndarray],
    scale: float,
    offsets: tuple[float, float, float],
    crs: CRS | None,
) -> laspy.LasData:
    point_format = 8 if "nir" in given else 7 if {"red", "green", "blue"} & set(given) else 6
    standard = set(RecordLayout(point_format, base_dtype(point_format).itemsize).standard)
    header = laspy.LasHeader(version="1.4", point_format=point_format)
    header.scales, header.offsets = np.full(3, scale), np.asarray(offsets)
    header.generating_software = "fusion3d"
    header.add_extra_dims([_extra(path, name, values) for name, values in given.items() if name not in standard])
    if crs is not None:
        header.vlrs.append(laspy.vlrs.known.WktCoordinateSystemVlr(_wkt(crs)))
    # formats 6-10 state their CRS as WKT: the bit is asked for even without one
    header.global_encoding.wkt = True
    las = laspy.LasData(header)
    las.points = laspy.ScaleAwarePointRecord.zeros(len(raw[0]), header=header)
    las.X, las.Y, las.Z = raw
    for name, values in given.items():
        if name == "scan_angle":
            values = np.rint(np.asarray(values, np.float64) / SCAN_ANGLE_STEP)
        if name in standard:
            _check_range(path, name, values, las.points[name])
        las[name] = values.astype(np.int64) if name in standard and values.dtype.kind == "f" and name != "gps_time" else values
    return las


def _extra(path: Path, name: str, values: np.ndarray) -> laspy.ExtraBytesParams:
    dtype = np.dtype({"?": "u1", "e": "f4"}.get(values.dtype.char, values.dtype))
    elements = values.shape[1] if values.ndim == 2 else 1
    named = 0 < len(name.encode()) <= _MAX_NAME and name not in ("X", "Y", "Z")
    if dtype.kind not in "iuf" or dtype.itemsize > 8 or elements > 3 or not named:
        raise InputError(
            path,
            f"{name!r} of type {values.dtype} and shape {values.shape} cannot be an extra dimension",
            f"give numbers of at most 8 bytes, at most 3 a point, under a name of 1 to {_MAX_NAME} bytes",
        )
    return laspy.ExtraBytesParams(name, f"{elements}{dtype.str[1:]}" if elements > 1 else dtype.str[1:])


def _check_range(path: Path, name: str, values: np.ndarray, stored: np.ndarray) -> None:
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise InputError(
            path, f"{name} of type {values.dtype} and shape {values.shape} cannot be stored", "give one number a point"
        )
    if name == "gps_time" or len(values) == 0:
        return
    bits = RecordLayout(6, 30).bits.get(name)
    info = np.iinfo(np.asarray(stored).dtype)
    low, high = (0, (1 << bits[2]) - 1) if bits else (info.min, info.max)
    # written so that NaN is refused
    if not (values.min() >= low and values.max() <= high):
        raise InputError(path, f"{name} has values outside of {low} to {high}, which LAS stores", "clip or rescale it")


def _wkt(crs: CRS) -> str:
    # LAS 1.4 asks for WKT 1, which cannot say everything
    try:
        return crs.to_wkt("WKT1_GDAL")
    except PyprojCRSError:
        return crs.to_wkt("WKT2_2019")


def _write(target: Path, las: laspy.LasData) -> None:
    compressed = target.suffix.lower() != ".las"
    with whole_file(target, lazrs.LazrsError) as draft, draft.open("xb") as stream:
        las.write(stream, do_compress=compressed, laz_backend=laspy.LazBackend.Lazrs if compressed else None)
