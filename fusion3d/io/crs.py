"""Coordinate reference systems as files state them: WKT, GeoTIFF keys, both, only a name, or not at all."""

from __future__ import annotations

import math
import re
import struct
import threading
from functools import lru_cache
from pathlib import Path

from pyproj import CRS, Transformer
from pyproj.crs import CompoundCRS
from pyproj.exceptions import CRSError as PyprojCRSError
from pyproj.exceptions import ProjError

from fusion3d.errors import CRSError, one_line
from fusion3d.grid import Bounds, parse_crs, rough_unit

_TOLERANCE = 0.5
"""Metres by which two CRSs may place the same coordinates apart and still agree: less than realisations of one datum do."""
_NAMED = re.compile(r"\s*EPSG\s*:{1,2}\s*(\d{4,6})\s*", re.IGNORECASE)
_REWRITE = "rewrite the file with its right CRS (for instance with las2las -epsg, gdal_edit or gdal_translate -a_srs)"
_EPSG_CODES = range(1024, 32767)
"""Values of a GeoTIFF key that are EPSG codes; 32767 is user-defined (OGC 19-008r4, 7.4)."""
_MODEL_TYPE, _GEODETIC, _PROJECTED = 1024, 2048, 3072


def resolve_crs(file_crs: CRS | str | None, assumed: CRS | str | None, path: str | Path) -> CRS:
    """The CRS to read a file's coordinates in: its own, else the assumed one.

    Parameters
    ----------
    file_crs : what the file states; a local (engineering) CRS says nothing of where the file lies and counts as none
    assumed : for files without a CRS (``--crs``); ignored for those that have one

    Raises
    ------
    CRSError
        There is neither, or one of them is not a CRS.
    """
    if file_crs is not None:
        crs = understand_crs(file_crs, path)
        if not is_local(crs):
            return crs
    if assumed is None:
        raise CRSError(path, "has no CRS", "pass --crs with the CRS of its coordinates, for instance --crs EPSG:2154")
    return parse_crs(assumed)


def understand_crs(crs: CRS | str, path: str | Path | None) -> CRS:
    """A CRS object; one that is only *named* "EPSG:2154", whatever else is in it, becomes that EPSG code.

    Raises
    ------
    CRSError
        The text is not a CRS, the code does not exist, or the definition is another place than the code in its name.
    """
    try:
        parsed = crs if isinstance(crs, CRS) else CRS.from_user_input(crs)
    except PyprojCRSError:
        raise CRSError(path, f"its CRS cannot be understood: {one_line(crs, 80)!r}", _REWRITE) from None
    horizontal = _horizontal(parsed)
    named = _NAMED.fullmatch(horizontal.name)
    if named is None or horizontal.to_authority(min_confidence=100) is not None:
        return parsed
    try:
        meant = CRS.from_epsg(int(named[1]))
    except PyprojCRSError:
        raise CRSError(path, f"its CRS is named {horizontal.name!r}, which does not exist", _REWRITE) from None
    if not is_local(horizontal) and not crs_agree(horizontal, meant):
        raise CRSError(path, f"its CRS is named {horizontal.name!r} ({meant.name}) but defines another one", _REWRITE)
    vertical = _vertical(parsed)
    return meant if vertical is None else _compound(meant, vertical)


def crs_of_records(
    wkt: bytes | None, keys: tuple[bytes, bytes, bytes] | None, bounds: Bounds | None, path: str | Path
) -> CRS | None:
    """The CRS of a LAS file from its WKT record, its GeoTIFF keys, or both when they agree.

    Parameters
    ----------
    wkt : bytes of the WKT record
    keys : bytes of the GeoTIFF key directory, double and ASCII records
    bounds : xmin, ymin, xmax, ymax of the file, where the two are compared

    Returns
    -------
    The WKT's CRS if there is one, with the heights of the keys if it has none; else that of the keys, else None.

    Raises
    ------
    CRSError
        What is there cannot be understood, or the two contradict each other.
    """
    try:
        from_wkt, from_keys = _parsed(wkt, keys)
    except CRSError as error:
        raise CRSError(path, error.problem, error.remedy) from None
    if from_wkt is None or from_keys is None:
        return from_wkt or from_keys
    said, keyed = _vertical(from_wkt), _vertical(from_keys)
    if not crs_agree(from_wkt, from_keys, bounds) or (
        said is not None and keyed is not None and not math.isclose(_height_unit(said), _height_unit(keyed), rel_tol=1e-9)
    ):
        raise CRSError(
            path,
            f"its WKT says CRS {from_wkt.name!r}, its GeoTIFF keys say {from_keys.name!r}: they contradict each other",
            _REWRITE,
        )
    return from_wkt if said is not None or keyed is None or from_wkt.is_geographic else _compound(from_wkt, keyed)


@lru_cache(maxsize=64)
def _parsed(wkt: bytes | None, keys: tuple[bytes, bytes, bytes] | None) -> tuple[CRS | None, CRS | None]:
    # the tiles of an archive say the same, and understanding it takes 0.1 s
    return _crs_of_wkt(wkt) if wkt else None, _crs_of_keys(*keys) if keys else None


def crs_agree(one: CRS, other: CRS, bounds: Bounds | None = None) -> bool:
    """Whether the same map coordinates mean the same place, to half a metre, in both; heights are not compared.

    Parameters
    ----------
    bounds : xmin, ymin, xmax, ymax where to compare, CRS units; without it the middle of an area of use
    """
    one, other = _horizontal(one), _horizontal(other)
    if one.equals(other, ignore_axis_order=True):
        return True
    if is_local(one) or is_local(other) or one.is_geographic != other.is_geographic:
        return False
    if bounds is None or not all(map(math.isfinite, bounds)):
        bounds = _area(one) or _area(other)
    if bounds is None:
        return False
    xmin, ymin, xmax, ymax = bounds
    x, y = [xmin, xmax, (xmin + xmax) / 2], [ymin, ymax, (ymin + ymax) / 2]
    try:
        moved_x, moved_y = _transformer(one, other, threading.get_ident()).transform(x, y)
    except ProjError:
        return False
    unit = rough_unit(one)
    # written so that NaN and infinity disagree
    return all(math.hypot(a - c, b - d) * unit <= _TOLERANCE for a, b, c, d in zip(x, y, moved_x, moved_y, strict=True))


@lru_cache(maxsize=64)
def _transformer(one: CRS, other: CRS, thread: int) -> Transformer:
    # transformers must not be shared by threads
    return Transformer.from_crs(one, other, always_xy=True)


def _area(crs: CRS) -> Bounds | None:
    area = crs.area_of_use
    if area is None:
        return None
    try:
        to_map = Transformer.from_crs(crs.geodetic_crs or crs, crs, always_xy=True)
        x, y = to_map.transform((area.west + area.east) / 2, (area.south + area.north) / 2)
    except ProjError:
        return None
    return (x, y, x, y) if math.isfinite(x) and math.isfinite(y) else None


def _horizontal(crs: CRS) -> CRS:
    for part in crs.sub_crs_list:
        if not part.is_vertical:
            return _horizontal(part)
    if crs.is_bound and crs.source_crs is not None:
        return _horizontal(crs.source_crs)
    return crs.to_2d() if len(crs.axis_info) == 3 and not crs.is_geocentric else crs


def is_local(crs: CRS) -> bool:
    """Whether a CRS is of a place that nobody knows: it counts as none."""
    return crs.type_name == "Engineering CRS"


def _crs_of_wkt(record: bytes) -> CRS | None:
    text = record.split(b"\0")[0].decode("utf-8", "replace").strip()
    return understand_crs(text, None) if text else None


def _crs_of_keys(directory: bytes, doubles: bytes, ascii_text: bytes) -> CRS | None:
    keys = _parse_keys(directory)
    if not {_PROJECTED, _GEODETIC, _MODEL_TYPE} & set(keys):
        return None
    # keys written by hand often lack the type of model, which GDAL asks for
    keys.setdefault(_MODEL_TYPE, (0, 1, 1 if _PROJECTED in keys else 2))
    readable = ascii_text.decode("ascii", "replace").replace("\ufffd", "?").encode("ascii")
    text = _wkt_of_geotiff(_geotiff(keys, doubles, readable))
    if text is None:
        raise CRSError(None, "its GeoTIFF keys cannot be understood", _REWRITE)
    crs = understand_crs(text, None)
    if not is_local(crs):
        return _without_empty_heights(crs)
    code = keys.get(_PROJECTED, keys.get(_GEODETIC, (0, 0, 0)))[2]
    if code in _EPSG_CODES:
        raise CRSError(None, f"its GeoTIFF keys name EPSG:{code}, which does not exist", _REWRITE)
    return None


def _parse_keys(directory: bytes) -> dict[int, tuple[int, int, int]]:
    """GeoTIFF keys: number -> (where the value is, count, value or its index)."""
    if len(directory) < 8:
        return {}
    claimed = struct.unpack_from("<4H", directory)[3]
    entries = struct.iter_unpack("<4H", directory[8 : 8 + 8 * min(claimed, len(directory) // 8 - 1)])
    return {key: (where, count, value) for key, where, count, value in entries if key}


def _compound(horizontal: CRS, vertical: CRS) -> CRS:
    return CompoundCRS(f"{horizontal.name} + {vertical.name}", [horizontal, vertical])


def _vertical(crs: CRS) -> CRS | None:
    return next((part for part in crs.sub_crs_list if part.is_vertical), None)


def _height_unit(vertical: CRS) -> float:
    return float(vertical.axis_info[0].unit_conversion_factor)


def _without_empty_heights(crs: CRS) -> CRS:
    """Drop a vertical CRS that is unknown but for its unit when that is the unit of the map, as it is without one."""
    vertical, horizontal = _vertical(crs), _horizontal(crs)
    if vertical is None or vertical.name not in ("", "unknown", "unnamed"):
        return crs
    same = math.isclose(_height_unit(vertical), horizontal.axis_info[0].unit_conversion_factor, rel_tol=1e-9)
    return horizontal if same else crs


def _geotiff(keys: dict[int, tuple[int, int, int]], doubles: bytes, ascii_text: bytes) -> bytes:
    """A TIFF of one pixel that carries the keys: GDAL knows how to read every way in which they are written."""
    directory = struct.pack("<4H", 1, 1, 0, len(keys))
    directory += b"".join(struct.pack("<4H", key, *keys[key]) for key in sorted(keys))
    doubles = doubles[: len(doubles) // 8 * 8]
    short, long_, double, text = 3, 4, 12, 2
    tags = [
        (256, short, 1, 1), (257, short, 1, 1), (258, short, 1, 8), (259, short, 1, 1), (262, short, 1, 1), (273, long_, 1, 8),
        (277, short, 1, 1), (278, short, 1, 1), (279, long_, 1, 1),
        (33550, double, 3, struct.pack("<3d", 1, 1, 0)), (33922, double, 6, struct.pack("<6d", 0, 0, 0, 0, 0, 0)),
        (34735, short, len(directory) // 2, directory),
    ]  # fmt: skip
    if doubles:
        tags.append((34736, double, len(doubles) // 8, doubles))
    if ascii_text:
        tags.append((34737, text, len(ascii_text) + 1, ascii_text + b"\0"))
    start = 16
    values, entries = b"", b""
    first_value = start + 2 + 12 * len(tags) + 4
    for tag, kind, count, value in tags:
        if isinstance(value, bytes) and len(value) > 4:
            entries += struct.pack("<HHII", tag, kind, count, first_value + len(values))
            values += value + b"\0" * (len(value) % 2)
        elif isinstance(value, bytes):
            entries += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
        else:
            entries += struct.pack("<HHII", tag, kind, count, value)
    return struct.pack("<2sHI8x", b"II", 42, start) + struct.pack("<H", len(tags)) + entries + b"\0" * 4 + values


def _wkt_of_geotiff(image: bytes) -> str | None:
    # late: rasterio takes 0.2 s and most files have WKT or nothing
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.Env(GTIFF_REPORT_COMPD_CS=True), rasterio.MemoryFile(image) as memory, memory.open() as dataset:
            return dataset.crs.to_wkt(version="WKT2_2019") if dataset.crs else None
    except (RasterioError, UnicodeDecodeError):
        return None
