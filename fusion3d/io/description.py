"""What a file holds, in lines that a person reads: LAS, LAZ and COPC, rasters, GEDI."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pyproj import CRS

from fusion3d.errors import CRSError, InputError, one_line
from fusion3d.grid import metric_unit
from fusion3d.io.bands import Band
from fusion3d.io.binary_file import is_url
from fusion3d.io.gedi import open_gedi
from fusion3d.io.gedi_hdf5 import HDF5_ENDINGS
from fusion3d.io.gedi_products import FULL_POWER_BEAMS
from fusion3d.io.las import PointFile, open_points, read_chunks
from fusion3d.io.las_layout import POINT_SUFFIXES
from fusion3d.io.raster import RasterFile, is_remote, open_raster

CLASS_NAMES = {
    0: "never classified",
    1: "unclassified",
    2: "ground",
    3: "low vegetation",
    4: "medium vegetation",
    5: "high vegetation",
    6: "building",
    7: "low noise",
    8: "model key-point",
    9: "water",
    10: "rail",
    11: "road surface",
    12: "overlap",
    13: "wire guard",
    14: "wire conductor",
    15: "transmission tower",
    16: "wire connector",
    17: "bridge deck",
    18: "high noise",
    19: "overhead structure",
    20: "ignored ground",
    21: "snow",
    22: "temporal exclusion",
}
"""ASPRS LAS 1.4 R15, table 17; 8 and 12 by LAS 1.2."""

MAX_POINTS_COUNTED = 20_000_000
"""Points whose classes are counted: about ten seconds of LAZ."""

_HDF5 = b"\x89HDF\r\n\x1a\n"
_BANDS_LISTED = 16
_ANY_CRS = "EPSG:3857"
_VECTORS = (".gpkg", ".geojson", ".json", ".shp", ".fgb")


def describe(path: str | Path) -> str:
    """The content of a file: points, density, classes; bands, pixels; beams, shots; CRS, bounds, dates, quality.

    Returns
    -------
    str
        Lines; the first names the file and its format.

    Raises
    ------
    InputError
        The file cannot be used, with what to do about it.
    """
    if is_url(str(path)) and str(path).lower().endswith(POINT_SUFFIXES):
        return "\n".join(_point_lines(str(path)))
    if is_url(str(path)) and str(path).lower().endswith(HDF5_ENDINGS):
        return "\n".join(_gedi_lines(str(path)))
    if is_remote(str(path)):
        return "\n".join(_raster_lines(str(path)))
    file = Path(path)
    if file.is_dir():
        raise InputError(path, "a folder that is not a column store", "name its files, for instance with folder/*")
    if not file.is_file():
        raise InputError(path, "no such file", "check the path")
    try:
        with file.open("rb") as stream:
            head = stream.read(8)
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check its permissions") from error
    suffix = file.suffix.lower()
    if head.startswith(b"LASF") or suffix in POINT_SUFFIXES:
        return "\n".join(_point_lines(file))
    if suffix in HDF5_ENDINGS or (head == _HDF5 and suffix != ".nc"):
        return "\n".join(_gedi_lines(file))
    if suffix in _VECTORS:
        return "\n".join(_vector_lines(file))
    return "\n".join(_raster_lines(str(path)))


def _vector_lines(path: Path) -> list[str]:
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        layers = [str(name) for name, _ in pyogrio.list_layers(path)]
        found = [pyogrio.read_info(path, layer=name, force_feature_count=True, force_total_bounds=True) for name in layers]
    except (DataSourceError, DataLayerError, OSError) as error:
        reason = one_line(error)
        raise InputError(path, f"not a readable vector file ({reason})", "export it again as GeoPackage or GeoJSON") from None
    lines = [f"{path}: vector file, {len(layers)} layer{'' if len(layers) == 1 else 's'}"]
    for name, info in zip(layers, found, strict=True):
        lines.append(_line("layer", f"{name}: {info['features']:,} features, {info['geometry_type'] or 'no geometry'}"))
        lines.append(_crs_line(None if not info["crs"] else CRS.from_user_input(info["crs"])))
        if info["total_bounds"] is not None:
            xmin, ymin, xmax, ymax = info["total_bounds"]
            lines.append(_line("bounds", f"x {xmin:.2f} to {xmax:.2f}, y {ymin:.2f} to {ymax:.2f}"))
        lines.append(_line("columns", ", ".join(map(str, info["fields"])) or "none"))
    return lines


def _line(label: str, text: str) -> str:
    return f"{label:<8} {text}"


def _crs_line(crs: CRS | None) -> str:
    if crs is None:
        return _line("crs", "none stated: pass --crs when preparing it")
    epsg = crs.to_epsg()
    return _line("crs", f"{_crs_name(crs)} (EPSG:{epsg})" if epsg else _crs_name(crs))


def _crs_name(crs: CRS) -> str:
    """The CRS's own name, else what can be said of its parts."""
    if crs.name.lower() not in ("unknown", "unnamed", "undefined"):
        return crs.name
    if crs.sub_crs_list:
        return " + ".join(map(_crs_name, crs.sub_crs_list))
    if crs.is_bound and crs.source_crs is not None:
        return _crs_name(crs.source_crs)
    operation = crs.coordinate_operation
    return f"unnamed {operation.method_name}" if operation is not None else "unnamed"


def _bounds_line(bounds: Sequence[float], crs: CRS | None, heights: Sequence[float] = ()) -> str:
    geographic = crs is not None and crs.is_geographic
    east, north, digits = ("longitude", "latitude", 6) if geographic else ("x", "y", 2)
    xmin, ymin, xmax, ymax = (f"{value:.{digits}f}" for value in bounds)
    above = f", z {heights[0]:.2f} to {heights[1]:.2f}" if heights else ""
    return _line("bounds", f"{east} {xmin} to {xmax}, {north} {ymin} to {ymax}{above}")


def _point_lines(path: str | Path) -> list[str]:
    file = open_points(path)
    kind = "COPC" if file.copc else "LAZ" if file.compressed else "LAS"
    major, minor = file.version
    lines = [
        f"{path}: {kind}, LAS {major}.{minor}, point format {file.point_format}",
        _line("points", f"{file.count:,}{_density(file)}"),
        _crs_line(file.crs),
    ]
    if file.count:
        lines.append(_bounds_line(file.bounds, file.crs, file.z_bounds))
    lines.append(_line("scale", " ".join(f"{scale:g}" for scale in file.scales)))
    if file.extra_dimensions:
        lines.append(_line("extra", ", ".join(file.extra_dimensions)))
    if file.date is not None:
        lines.append(_line("written", f"{file.date} (the flight may be older)"))
    return lines + _class_lines(file)


def _density(file: PointFile) -> str:
    """Points per square metre of the bounds; a strip or an L-shaped tile is denser than that."""
    xmin, ymin, xmax, ymax = file.bounds
    area = (xmax - xmin) * (ymax - ymin)
    if not file.count or not area > 0:
        return ""
    if file.crs is None:
        return f", {_short(file.count / area)} per square unit of the bounds"
    try:
        return f", {_short(file.count / (area * metric_unit(file.crs) ** 2))} per m2 of the bounds"
    except CRSError:
        return ""


def _short(number: float) -> str:
    return f"{number:,.1f}" if number >= 10 else f"{number:.2g}"


def _class_name(code: int) -> str:
    return CLASS_NAMES.get(code, "reserved" if code < 64 else "user-defined")


def _class_lines(file: PointFile) -> list[str]:
    counts, read, withheld = np.zeros(256, np.int64), 0, 0
    wanted = [name for name in ("classification", "withheld") if name in file.dimensions]
    for points in read_chunks(file, wanted):
        if "classification" in points.attributes:
            counts += np.bincount(points.attributes["classification"], minlength=256)
        withheld += int(np.count_nonzero(points.attributes.get("withheld", ())))
        read += len(points)
        if read >= MAX_POINTS_COUNTED:
            break
    lines = [
        _line("class" if first else "", f"{code:>3} {_class_name(code):<20}{counts[code]:>15,}").rstrip()
        for first, code in ((i == 0, int(code)) for i, code in enumerate(np.flatnonzero(counts)))
    ]
    if withheld:
        lines.append(_line("withheld", f"{withheld:,} points"))
    if read < file.count:
        lines.append(_line("", f"(counted in the first {read:,} points)"))
    return lines


def _raster_lines(path: str) -> list[str]:
    file, crs = _raster(path)
    unit = crs.axis_info[0].unit_name if crs is not None and crs.axis_info else "map units"
    size = f"{file.width} x {file.height} pixels of {file.pixel:.6g} {'m' if unit == 'metre' else unit}"
    nodata = ", ".join(f"{value:g}" for value in file.nodata)
    lines = [
        f"{path}: raster, {len(file.bands)} {'band' if len(file.bands) == 1 else 'bands'} of {file.dtype}",
        _line("size", size),
        _crs_line(crs),
        _bounds_line(file.bounds, crs),
        _line("date", str(file.date) if file.date else "not stated"),
        _line("nodata", nodata or ("a mask" if file.alpha or file.internal_mask else "none")),
    ]
    if file.scaled:
        pairs = sorted(set(zip(file.scale, file.offset, strict=True)))
        lines.append(_line("scale", "; ".join(f"value x {scale:g} {offset:+g}" for scale, offset in pairs)))
    return lines + _band_lines(file.bands, file.units)


def _raster(path: str) -> tuple[RasterFile, CRS | None]:
    """The file and its CRS, None when it states none: then it is opened in a CRS that stands for any."""
    try:
        file = open_raster(path)
        return file, file.crs
    except CRSError as error:
        try:
            return open_raster(path, crs=_ANY_CRS), None
        except CRSError:
            raise error from None


def _band_lines(bands: Sequence[Band], units: Sequence[str]) -> list[str]:
    if len(bands) > _BANDS_LISTED:
        known = [band.wavelength for band in bands if band.wavelength is not None]
        reach = f", {min(known):.0f} to {max(known):.0f} nm ({len(known)} with a wavelength)" if known else ""
        return [_line("bands", f"{bands[0].name} to {bands[-1].name}{reach}")]
    return [_line("bands" if i == 0 else "", _band(band, unit)) for i, (band, unit) in enumerate(zip(bands, units, strict=True))]


def _band(band: Band, unit: str) -> str:
    wavelength = f"{band.wavelength:.1f} nm" if band.wavelength is not None else ""
    width = f"wide {band.fwhm:.1f} nm" if band.fwhm is not None else ""
    return ", ".join(part for part in (band.name, wavelength, width, band.polarisation or "", unit) if part)


def _gedi_lines(path: str | Path) -> list[str]:
    file = open_gedi(path)
    release = f"release {file.release}" if isinstance(file.release, int) else "release not stated"
    lines = [f"{path}: GEDI {file.product}, {release}", _line("shots", f"{file.shot_count:,} in {len(file.beams)} beams")]
    lines += [
        _line("", f"{beam} {'full power' if beam in FULL_POWER_BEAMS else 'coverage':<10}{shots:>12,}")
        for beam, shots in file.shots.items()
    ]
    if file.missing:
        lines.append(_line("missing", ", ".join(file.missing)))
    lines.append(_line("crs", "WGS 84 longitude and latitude; heights above the ellipsoid"))
    if file.bounds is not None:
        lines.append(_bounds_line(file.bounds, CRS.from_epsg(4326)))
    if file.days is not None:
        lines.append(_line("time", " to ".join(dict.fromkeys(map(_minute, file.days))) + " UTC"))
    quality = ["no quality flag in this product" if file.good is None else f"{file.good:,} of {file.shot_count:,} shots good"]
    if file.degraded is not None:
        quality.append(f"{file.degraded:,} degraded")
    if file.unlocated:
        quality.append(f"{file.unlocated:,} without a location")
    return [*lines, _line("quality", ", ".join(quality))]


def _minute(days: float) -> str:
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(minutes=math.floor(days * 1440))
    return moment.strftime("%Y-%m-%d %H:%M")
