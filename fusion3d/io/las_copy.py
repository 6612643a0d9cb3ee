"""A copy of a LAS or LAZ file with other values in some dimensions: points in their order, everything else as it was."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import laspy
import lazrs
import numpy as np
from laspy.vlrs.vlrlist import VLRList

from fusion3d.errors import InputError
from fusion3d.io.las import PointFile
from fusion3d.io.las_header import read_header
from fusion3d.io.las_layout import WAVE_FORMATS, base_dtype
from fusion3d.io.laz import decoding
from fusion3d.io.whole_file import whole_file

_EXTRA_BYTES = ("LASF_Spec", 4)
_LEGACY_CLASSES = 31
_CHUNK = 500_000


@dataclass(frozen=True)
class NewDimension:
    """An extra dimension of a byte a point: what a step of it means (None for the number itself), and up to 32 letters."""

    name: str
    description: str
    scale: float | None = None

    @property
    def params(self) -> laspy.ExtraBytesParams:
        return laspy.ExtraBytesParams(self.name, "u1", self.description)

    @property
    def record(self) -> bytes:
        """Its 192 bytes of the extra bytes VLR (LAS 1.4 R15, table 24)."""
        scaled = self.scale is not None
        head = struct.pack("<2xBB32s4x", 1, 8 if scaled else 0, self.name.encode())
        return struct.pack("<40s72xd16x24x32s", head, self.scale if scaled else 0.0, self.description.encode())


def check_copy(file: PointFile, new: Sequence[NewDimension], highest_class: int) -> None:
    """Refuse what cannot be copied whole.

    Raises
    ------
    InputError
        The file holds waveforms, a new dimension's name is taken, or its point format cannot store the classes.
    """
    if file.point_format in WAVE_FORMATS:
        raise InputError(
            file.path, f"point format {file.point_format} has waveforms, which cannot be copied", "convert it to another format"
        )
    taken = [each.name for each in new if each.name in file.dimensions]
    if taken:
        raise InputError(file.path, f"has a dimension {taken[0]!r} already", "give the file without it, or rename it there")
    if file.point_format < 6 and highest_class > _LEGACY_CLASSES:
        problem = f"point format {file.point_format} stores classes up to {_LEGACY_CLASSES}, not {highest_class}"
        raise InputError(file.path, problem, "convert it to LAS 1.4 with point format 6, 7 or 8")


def copy_points(
    file: PointFile,
    target: str | Path,
    new: Sequence[NewDimension],
    values: Callable[[int, int], dict[str, np.ndarray]],
    software: str = "fusion3d",
    keep: Mapping[str, str] | None = None,
) -> Path:
    """Write a copy, whole or not at all; LAZ unless `target` ends in .las.

    Kept: order, all dimensions as stored, scales, offsets, version, point format, dates, identifiers, VLRs, EVLRs. A COPC becomes
    plain LAZ: its octree would not be that of the copy.

    Parameters
    ----------
    new : dimensions to add
    values : gives, for the points ``start:stop`` of the file, stored values [N] by name of new dimensions and of standard ones
        to replace
    software : for the header
    keep : new dimensions that take the old values of others, name of the dimension to name of the new one

    Raises
    ------
    InputError
        As `check_copy` says, or the file cannot be read or the copy not written.
    """
    target = Path(target)
    compressed = target.suffix.lower() != ".las"
    with whole_file(target, laspy.LaspyException, lazrs.LazrsError) as draft:
        with decoding(file.path, "cannot be read again"):
            reader = laspy.open(file.path)
        with reader, draft.open("xb") as stream:
            header = deepcopy(reader.header)
            header.generating_software = software
            header.vlrs = VLRList([vlr for vlr in header.vlrs if vlr.user_id != "copc"])
            header.add_extra_dims([each.params for each in new])
            header.vlrs.extract("ExtraBytesVlr")
            header.vlrs.append(laspy.VLR(*_EXTRA_BYTES, "", _described(file.path) + b"".join(each.record for each in new)))
            evlrs = VLRList([vlr for vlr in reader.evlrs or [] if vlr.user_id != "copc"])
            header.evlrs = evlrs
            backend = laspy.LazBackend.Lazrs if compressed else None
            with laspy.LasWriter(stream, header, do_compress=compressed, laz_backend=backend, closefd=False) as writer:
                start = 0
                while True:
                    with decoding(file.path, f"cannot be read again near point {start}"):
                        read = reader.read_points(_CHUNK)
                    if not len(read):
                        break
                    points = laspy.ScaleAwarePointRecord.zeros(len(read), header=header)
                    for name in read.array.dtype.names:
                        points.array[name] = read.array[name]
                    for name, to in (keep or {}).items():
                        points[to] = np.asarray(read[name])
                    for name, stored in values(start, start + len(read)).items():
                        points[name] = stored
                    writer.write_points(points)
                    start += len(read)
                if start != file.count:
                    raise InputError(file.path, f"has changed: {start} of {file.count} points were read again", "start again")
                if len(evlrs):
                    writer.write_evlrs(evlrs)
    return target


def _described(path: str) -> bytes:
    """The extra bytes VLR of a file as it is, bytes that no dimension describes named so: laspy forgets nodata values."""
    header = read_header(path)
    layout = header.layout
    spare = layout.length - base_dtype(layout.point_format).itemsize - sum(each.size for each in layout.extra)
    unnamed = struct.pack("<2xBB32s156x", 0, spare, b"undocumented") if spare else b""
    return (header.find(*_EXTRA_BYTES) or b"") + unnamed
