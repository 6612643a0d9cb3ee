"""Bytes of one LAS point: record layout of point formats 0-10, packed bits, extra bytes (ASPRS LAS 1.4 R15, tables 7-24).

::

    formats 0-5                                     formats 6-10
    0  X Y Z             3 x int32                  0  X Y Z              3 x int32
    12 intensity         uint16                     12 intensity          uint16
    14 returns           3 + 3 + 1 + 1 bits         14 returns            4 + 4 bits
    15 classification    5 bits + 3 flags           15 flags              4 flags, 2 bits of channel, 1 + 1 bits
    16 scan angle rank   int8, degrees              16 classification     uint8
    17 user data         uint8                      17 user data          uint8
    18 point source      uint16                     18 scan angle         int16, 0.006 degrees
    20 gps time if 1 3 4 5, colours if 2 3 5        20 point source       uint16
       wave packet if 4 5                           22 gps time, then colours if 7 8 10, nir if 8 10, wave packet if 9 10
    then the extra bytes                            then the extra bytes
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

POINT_SUFFIXES = (".las", ".laz")
"""Endings of files of points, in lower case."""

_XYZ = [("X", "<i4"), ("Y", "<i4"), ("Z", "<i4"), ("intensity", "<u2")]
_LEGACY = [*_XYZ, ("returns", "u1"), ("class_flags", "u1"), ("scan_angle", "i1"), ("user_data", "u1"), ("point_source_id", "<u2")]
_MODERN = [
    *_XYZ,
    ("returns", "u1"),
    ("flags", "u1"),
    ("classification", "u1"),
    ("user_data", "u1"),
    ("scan_angle", "<i2"),
    ("point_source_id", "<u2"),
    ("gps_time", "<f8"),
]
_GPS = [("gps_time", "<f8")]
_RGB = [("red", "<u2"), ("green", "<u2"), ("blue", "<u2")]
_NIR = [("nir", "<u2")]
_WAVE = [
    ("wavepacket_index", "u1"),
    ("wavepacket_offset", "<u8"),
    ("wavepacket_size", "<u4"),
    ("return_point_wave_location", "<f4"),
    ("x_t", "<f4"),
    ("y_t", "<f4"),
    ("z_t", "<f4"),
]

_FIELDS = {
    0: _LEGACY,
    1: _LEGACY + _GPS,
    2: _LEGACY + _RGB,
    3: _LEGACY + _GPS + _RGB,
    4: _LEGACY + _GPS + _WAVE,
    5: _LEGACY + _GPS + _RGB + _WAVE,
    6: _MODERN,
    7: _MODERN + _RGB,
    8: _MODERN + _RGB + _NIR,
    9: _MODERN + _WAVE,
    10: _MODERN + _RGB + _NIR + _WAVE,
}

# name -> (field, first bit, bits)
_LEGACY_BITS = {
    "return_number": ("returns", 0, 3), "number_of_returns": ("returns", 3, 3),
    "scan_direction_flag": ("returns", 6, 1), "edge_of_flight_line": ("returns", 7, 1),
    "classification": ("class_flags", 0, 5), "synthetic": ("class_flags", 5, 1),
    "key_point": ("class_flags", 6, 1), "withheld": ("class_flags", 7, 1),
}  # fmt: skip
_MODERN_BITS = {
    "return_number": ("returns", 0, 4), "number_of_returns": ("returns", 4, 4),
    "synthetic": ("flags", 0, 1), "key_point": ("flags", 1, 1), "withheld": ("flags", 2, 1), "overlap": ("flags", 3, 1),
    "scanner_channel": ("flags", 4, 2), "scan_direction_flag": ("flags", 6, 1), "edge_of_flight_line": ("flags", 7, 1),
}  # fmt: skip

SCAN_ANGLE_STEP = 0.006
"""Degrees of one step of the 16-bit scan angle of formats 6-10."""

NOISE_CLASSES = (7, 18)
"""Low and high noise (ASPRS LAS 1.4 R15, table 17)."""

WAVE_FORMATS = (4, 5, 9, 10)
WAVE_DIMENSIONS = tuple(name for name, _ in _WAVE)

_EXTRA_TYPES = ("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f4", "<f8")
EXTRA_BYTES_RECORD = 192


@dataclass(frozen=True)
class ExtraBytes:
    """One extra dimension: `elements` values of `dtype` a point, scaled where the file says so; `nodata` in stored units."""

    name: str
    dtype: str
    elements: int = 1
    scale: tuple[float, ...] | None = None
    offset: tuple[float, ...] | None = None
    nodata: tuple[float, ...] | None = None

    @property
    def size(self) -> int:
        return np.dtype(self.dtype).itemsize * self.elements


@lru_cache(maxsize=16)
def base_dtype(point_format: int) -> np.dtype:
    """The record of a point format without extra bytes."""
    return np.dtype(_FIELDS[point_format])


@dataclass(frozen=True)
class RecordLayout:
    """How the record of a file is laid out.

    Attributes
    ----------
    point_format : 0-10
    length : bytes of a record
    extra : extra dimensions in file order; bytes that no dimension describes end the record unnamed
    """

    point_format: int
    length: int
    extra: tuple[ExtraBytes, ...] = ()

    @property
    def dtype(self) -> np.dtype:
        base = base_dtype(self.point_format)
        names, formats = list(base.names or ()), [base.fields[name][0] for name in base.names or ()]  # type: ignore[index]
        offsets = [base.fields[name][1] for name in base.names or ()]  # type: ignore[index]
        start = base.itemsize
        for extra in self.extra:
            names.append(f"extra:{extra.name}")
            formats.append(np.dtype((extra.dtype, (extra.elements,))) if extra.elements > 1 else np.dtype(extra.dtype))
            offsets.append(start)
            start += extra.size
        return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": self.length})

    @property
    def bits(self) -> dict[str, tuple[str, int, int]]:
        return _LEGACY_BITS if self.point_format < 6 else _MODERN_BITS

    @property
    def standard(self) -> tuple[str, ...]:
        """Names of the standard dimensions, X, Y and Z left out, in laspy's words."""
        packed = {field for field, _, _ in self.bits.values()}
        names: list[str] = []
        for name in (base_dtype(self.point_format).names or ())[3:]:
            names += [bit for bit, (field, _, _) in self.bits.items() if field == name] if name in packed else [name]
        return tuple(names)

    @property
    def extra_names(self) -> tuple[str, ...]:
        return tuple(extra.name for extra in self.extra)

    def attribute(self, records: np.ndarray, name: str) -> np.ndarray:
        """One dimension of records [N], as [N] or, for extra bytes with several elements, [N, elements].

        Flags of one bit are bool, scan angles float32 degrees, scaled extra bytes float64; the rest is as stored. Extra bytes
        with a nodata value are float64 with NaN in its place.
        """
        for extra in self.extra:
            if extra.name == name:
                return _extra_values(records[f"extra:{name}"], extra)
        if name in self.bits:
            field, first, bits = self.bits[name]
            values = (records[field] >> np.uint8(first)) & np.uint8((1 << bits) - 1)
            return values.astype(np.bool_) if bits == 1 else values
        values = records[name]
        if name == "scan_angle":
            return (values * (1.0 if self.point_format < 6 else SCAN_ANGLE_STEP)).astype(np.float32)
        return values.astype(values.dtype.newbyteorder("="))


def _extra_values(stored: np.ndarray, extra: ExtraBytes) -> np.ndarray:
    stored = stored.astype(stored.dtype.newbyteorder("="))
    if extra.scale is None and extra.nodata is None:
        return stored
    values = stored.astype(np.float64)
    if extra.scale is not None and extra.offset is not None:
        values = values * np.squeeze(extra.scale) + np.squeeze(extra.offset)
    if extra.nodata is not None:
        nodata = np.squeeze(np.asarray(extra.nodata))
        values[stored == (nodata.astype(stored.dtype) if stored.dtype.kind == "f" else nodata)] = np.nan
    return values


def parse_extra_bytes(record: bytes, taken: tuple[str, ...]) -> tuple[ExtraBytes, ...]:
    """Extra dimensions described by an extra bytes VLR (LASF_Spec, record 4).

    Parameters
    ----------
    record : whole multiples of 192 bytes
    taken : names that extra dimensions cannot have; a clash gets a number

    Raises
    ------
    ValueError
        The text says what is wrong.
    """
    if len(record) % EXTRA_BYTES_RECORD:
        raise ValueError(f"the extra bytes VLR has {len(record)} bytes, not a multiple of {EXTRA_BYTES_RECORD}")
    found: list[ExtraBytes] = []
    names = {"X", "Y", "Z", *taken}
    for start in range(0, len(record), EXTRA_BYTES_RECORD):
        extra = _parse_extra(record[start : start + EXTRA_BYTES_RECORD], len(found))
        name, number = extra.name, 2
        while name in names:
            name, number = f"{extra.name}_{number}", number + 1
        names.add(name)
        found.append(ExtraBytes(name, extra.dtype, extra.elements, extra.scale, extra.offset, extra.nodata))
    return tuple(found)


def _parse_extra(record: bytes, index: int) -> ExtraBytes:
    kind, options = record[2], record[3]
    name = record[4:36].split(b"\0")[0].decode("utf-8", "replace").strip() or f"extra_{index}"
    if kind == 0:
        # for undocumented bytes the options byte is their number
        return ExtraBytes(name, "u1", max(1, options))
    if kind > 3 * len(_EXTRA_TYPES):
        raise ValueError(f"extra dimension {name!r} has the unknown data type {kind}")
    dtype, elements = _EXTRA_TYPES[(kind - 1) % 10], (kind - 1) // 10 + 1
    wide = {"u": "<u8", "i": "<i8", "f": "<f8"}[np.dtype(dtype).kind]
    nodata = tuple(np.frombuffer(record[40:64], wide)[:elements].tolist()) if options & 1 else None
    scaled, shifted = bool(options & 8), bool(options & 16)
    if not scaled and not shifted:
        return ExtraBytes(name, dtype, elements, nodata=nodata)
    scale = tuple(np.frombuffer(record[112:136], "<f8")[:elements].tolist()) if scaled else (1.0,) * elements
    offset = tuple(np.frombuffer(record[136:160], "<f8")[:elements].tolist()) if shifted else (0.0,) * elements
    if not all(np.isfinite(scale)) or not all(np.isfinite(offset)) or 0.0 in scale:
        raise ValueError(f"extra dimension {name!r} has scale {scale} and offset {offset}, which are no usable numbers")
    return ExtraBytes(name, dtype, elements, scale, offset, nodata)
