"""Reader of GEDI L1B, L2A, L2B and L4A files (HDF5), releases 1 and 2.

Waveforms of a beam (L1B): all shots one after another in `rxwaveform`, shot i in ``rxwaveform[s_i - 1 : s_i - 1 + n_i]`` with
s = rx_sample_start_index (counted from 1) and n = rx_sample_count. Its first sample lies at elevation_bin0, its last at
elevation_lastbin, those between at equal steps (0.15 m), as the instrument samples once a nanosecond.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
from pyproj import CRS, Transformer

from fusion3d.errors import InputError
from fusion3d.io.gedi_hdf5 import DOWNLOAD_AGAIN, RowGroup, open_hdf5, text_attribute
from fusion3d.io.gedi_products import (
    BEAMS,
    FILL_VALUES,
    FULL_POWER_BEAMS,
    NOT_IN_PRODUCT,
    PRODUCTS,
    RH_ATTRIBUTES,
    FootprintFilter,
    FootprintTable,
    Product,
    beam_codes,
    join_products,
    ragged_rows,
    row_splits_of,
)

__all__ = ["FootprintFilter", "FootprintTable", "GediFile", "join_products", "open_gedi", "read_footprints"]

MAX_SHOTS_PER_BEAM = 5_000_000
"""A full orbit has about 1.4 million (242 Hz for 93 minutes)."""
MAX_SAMPLES_PER_BEAM = 50_000_000
"""Vertical samples of one beam read in one call: 0.4 GB."""

_DAYS_TO_2018 = 17532.0
_GPS_SECONDS_AT_2018 = 1198800018.0
"""GPS time of 2018-01-01 00:00 UTC, the 18 leap seconds until then included. None was added since (as of 2025), so GPS
differences from that moment are UTC differences."""
_SECONDS_PER_DAY = 86400.0
_RH_HEIGHTS = 101
_ACCEPTED = "fusion3d reads GEDI01_B, GEDI02_A, GEDI02_B and GEDI04_A"
_GROUPS = ("METADATA/DatasetIdentification", *(beam + part for beam in BEAMS for part in ("", "/geolocation", "/ancillary")))

Profile = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""Heights, energies and row splits."""


@dataclass(frozen=True)
class GediFile:
    """What a GEDI file holds, read from its small data sets only.

    Attributes
    ----------
    product : L1B, L2A, L2B or L4A
    release : 1, 2, or "unknown" when the file does not state it
    beams, missing : names of the beams with and without data
    shots : shots per beam, those without a location included
    bounds : west, south, east, north in degrees, or None without a located shot
    unlocated : shots whose location is a fill value or impossible; they are not read
    good : shots with the product's quality flag 1, None when it has no such flag
    degraded : shots with a degrade flag other than 0, None when the file has none
    days : first and last time, days since 1970-01-01, or None when unknown
    """

    path: str
    product: str
    release: int | str
    beams: tuple[str, ...]
    missing: tuple[str, ...]
    shots: dict[str, int]
    bounds: tuple[float, float, float, float] | None
    unlocated: int
    good: int | None
    degraded: int | None
    days: tuple[float, float] | None

    @property
    def shot_count(self) -> int:
        return sum(self.shots.values())


def open_gedi(path: str | Path) -> GediFile:
    """Check a GEDI file and say what it holds.

    Raises
    ------
    InputError
        Not HDF5, cut off, not GEDI, a data set missing or of impossible size.
    """
    with _opened(path) as (file, product, release):
        beams = {beam: _Shots.read(path, file[beam], product) for beam in _beams(path, file)}
    located = {beam: shots.located for beam, shots in beams.items()}
    longitude = np.concatenate([shots.longitude[located[beam]] for beam, shots in beams.items()])
    latitude = np.concatenate([shots.latitude[located[beam]] for beam, shots in beams.items()])
    time = np.concatenate([shots.time for shots in beams.values()])
    quality = np.concatenate([shots.quality_flag for shots in beams.values()])
    degrade = np.concatenate([shots.degrade_flag for shots in beams.values()])
    west, south = (float(axis.min()) if axis.size else np.nan for axis in (longitude, latitude))
    east, north = (float(axis.max()) if axis.size else np.nan for axis in (longitude, latitude))
    return GediFile(
        path=str(path),
        product=product.name,
        release=release,
        beams=tuple(beams),
        missing=tuple(beam for beam in BEAMS if beam not in beams),
        shots={beam: len(shots.shot_number) for beam, shots in beams.items()},
        bounds=(west, south, east, north) if longitude.size else None,
        unlocated=sum(int((~rows).sum()) for rows in located.values()),
        good=None if product.quality is None else int((quality == 1).sum()),
        degraded=None if (degrade == NOT_IN_PRODUCT).all() else int((degrade > 0).sum()),
        days=(float(np.nanmin(time)), float(np.nanmax(time))) if np.isfinite(time).any() else None,
    )


def read_footprints(path: str | Path, crs: CRS, bounds: tuple[float, float, float, float] | None = None) -> FootprintTable:
    """Read the shots of a GEDI file, good and bad: `FootprintFilter` chooses among them afterwards.

    Parameters
    ----------
    crs : CRS of `x` and `y` in the result
    bounds : xmin, ymin, xmax, ymax in `crs`; only shots within, edges included, are read. None: all that have a location

    Raises
    ------
    InputError
        As `open_gedi`; or more vertical samples than memory should hold.
    """
    to_crs = Transformer.from_crs(CRS.from_epsg(4326), crs, always_xy=True)
    with _opened(path) as (file, product, release):
        tables = [_read_beam(path, file[beam], product, release, to_crs, bounds) for beam in _beams(path, file)]
    return FootprintTable.concatenate(tables)


def stated_unit(path: str | Path, name: str) -> str:
    """Unit that a GEDI file states for a data set of its beams, "" where it states none.

    Raises
    ------
    InputError
        As `open_gedi`; or beams state different units.
    """
    with _opened(path) as (file, _, _):
        found = {text_attribute(file[beam][name].attrs.get("units")).strip() for beam in _beams(path, file) if name in file[beam]}
    if len(found) > 1:
        raise InputError(path, f"its beams state {name} in {' and in '.join(sorted(found))}", DOWNLOAD_AGAIN)
    return next(iter(found), "")


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[h5py.File, Product, int | str]]:
    """The file with its product and release, from what it says of itself, else from its original or present name."""
    with open_hdf5(path, _GROUPS) as file:
        about = file.get("METADATA/DatasetIdentification")
        notes = {} if about is None else about.attrs
        names = [text_attribute(value) for value in (file.attrs.get("short_name"), notes.get("shortName"), notes.get("fileName"))]
        names.append(Path(path).name)
        name = next(filter(None, map(_product_of, names)), None)
        if name is None or not any(isinstance(file.get(beam), h5py.Group) for beam in BEAMS):
            held = ", ".join(sorted(file)[:6]) or "nothing"
            raise InputError(path, f"HDF5, but not a GEDI product with beams: it holds {held}", _ACCEPTED)
        if name not in PRODUCTS:
            raise InputError(path, f"GEDI {name} is not a product that fusion3d reads", _ACCEPTED)
        yield file, PRODUCTS[name], _release_of(text_attribute(notes.get("VersionID")), names)


def _product_of(name: str) -> str | None:
    match = re.search(r"GEDI_?(?:L|0)([1-4])_?([A-D])", name, re.IGNORECASE)
    return f"L{match[1]}{match[2]}".upper() if match else None


def _release_of(version: str, names: list[str]) -> int | str:
    if version.isdigit() and int(version) > 0:
        return int(version)
    stated = next(filter(None, (re.search(r"_V0*(\d+)\b", name) for name in names)), None)
    return int(stated[1]) if stated else "unknown"


def _beams(path: str | Path, file: h5py.File) -> tuple[str, ...]:
    """Beams with data: one that was off is absent from the file, or a group without shot numbers."""
    beams = tuple(beam for beam in BEAMS if isinstance(file.get(beam), h5py.Group) and "shot_number" in file[beam])
    if not beams:
        raise InputError(path, "none of its beams has the data set shot_number", "keep shot_number when subsetting GEDI files")
    return beams


@dataclass(frozen=True)
class _Shots:
    """What one beam says of each shot in one number, [F] each; fill values are NaN."""

    source: RowGroup
    shot_number: npt.NDArray[np.uint64]
    longitude: npt.NDArray[np.float64]
    latitude: npt.NDArray[np.float64]
    ground: npt.NDArray[np.float64]
    time: npt.NDArray[np.float64]
    quality_flag: npt.NDArray[np.int8]
    degrade_flag: npt.NDArray[np.int16]

    @classmethod
    def read(cls, path: str | Path, group: h5py.Group, product: Product) -> _Shots:
        number = RowGroup(path, group, 0).required("shot_number")
        if number.dtype.kind == "f" or number.ndim != 1:
            raise InputError(path, f"{number.name.strip('/')} is not a list of integers: shot numbers have lost digits",
                             "start again from the original file")  # fmt: skip
        if number.size > MAX_SHOTS_PER_BEAM:
            raise InputError(
                path, f"{number.name.strip('/')} declares {number.size:,} shots, more than an orbit has", DOWNLOAD_AGAIN
            )
        source = RowGroup(path, group, number.size, FILL_VALUES)
        for name in (product.longitude, product.latitude, *product.required):
            source.required(name)
        longitude, latitude, ground = _on_the_ground(source, product)
        return cls(
            source=source,
            shot_number=number[:].astype(np.uint64),
            longitude=longitude,
            latitude=latitude,
            ground=ground,
            time=_days(source),
            quality_flag=source.flags(product.quality, np.int8, NOT_IN_PRODUCT, unset=0),
            degrade_flag=source.flags(product.degrade, np.int16, NOT_IN_PRODUCT, unset=1),
        )

    @property
    def located(self) -> npt.NDArray[np.bool_]:
        return (np.abs(self.longitude) <= 180) & (np.abs(self.latitude) <= 90)


def _on_the_ground(source: RowGroup, product: Product) -> tuple[npt.NDArray[np.float64], ...]:
    """Longitude, latitude and elevation of the ground. L1B: where the pulse, a straight line, reaches the elevation model."""
    longitude, latitude = source.numbers(product.longitude), source.numbers(product.latitude)
    if product.name != "L1B":
        return longitude, latitude, source.numbers(product.ground)
    top, bottom = source.numbers("geolocation/elevation_bin0"), source.numbers("geolocation/elevation_lastbin")
    terrain = source.numbers("geolocation/digital_elevation_model")
    ground = np.where((terrain >= bottom) & (terrain <= top) | np.isnan(bottom), terrain, bottom)
    # From 0 at the last bin to 1 at the first; a pulse without extent or first bin stays at its last.
    with np.errstate(invalid="ignore", divide="ignore"):
        up = np.clip(np.nan_to_num((ground - bottom) / (top - bottom)), 0.0, 1.0)
    for first, last in (("geolocation/longitude_bin0", longitude), ("geolocation/latitude_bin0", latitude)):
        last += np.nan_to_num(up * (source.numbers(first) - last))
    return longitude, latitude, ground


def _days(source: RowGroup) -> npt.NDArray[np.float64]:
    """Days since 1970-01-01 UTC from `delta_time`, seconds since `master_time_epoch`, by default 2018-01-01."""
    name = "delta_time" if "delta_time" in source.group else "geolocation/delta_time"
    epoch = source.array("ancillary/master_time_epoch")
    start = float(epoch[0]) if epoch is not None and epoch.shape == (1,) else _GPS_SECONDS_AT_2018
    return _DAYS_TO_2018 + (source.numbers(name) + (start - _GPS_SECONDS_AT_2018)) / _SECONDS_PER_DAY


def _read_beam(
    path: str | Path,
    group: h5py.Group,
    product: Product,
    release: int | str,
    to_crs: Transformer,
    bounds: tuple[float, float, float, float] | None,
) -> FootprintTable:
    shots = _Shots.read(path, group, product)
    x, y = (np.asarray(axis, np.float64) for axis in to_crs.transform(shots.longitude, shots.latitude))
    kept = shots.located & np.isfinite(x) & np.isfinite(y)
    if bounds is not None:
        xmin, ymin, xmax, ymax = bounds
        kept &= (x >= xmin) & (x <= xmax) & (y >= ymin) & (y <= ymax)
    rows = np.flatnonzero(kept)
    source, name = shots.source, group.name.strip("/")

    attributes = {key: source.numbers(key)[rows] for key in product.attributes}
    if product.quality is not None:
        flag = shots.quality_flag[rows].astype(np.float64)
        attributes[product.quality_attribute] = flag
    profile = _no_profile(len(rows))
    if product.name == "L1B":
        profile = _waveforms(source, rows, shots.ground)
    elif product.name == "L2A":
        curves = _relative_heights(source, rows)
        attributes |= {key: curves[:, percent] for key, percent in RH_ATTRIBUTES.items()}
        profile = _curve_profile(curves)
    heights, energy, row_splits = profile
    return FootprintTable(
        product=product.name,
        release=release,
        shot_number=shots.shot_number[rows],
        beam=np.full(len(rows), beam_codes([name])[0]),
        power_beam=np.full(len(rows), name in FULL_POWER_BEAMS),
        x=x[rows],
        y=y[rows],
        longitude=shots.longitude[rows],
        latitude=shots.latitude[rows],
        time=shots.time[rows],
        ground_elevation=shots.ground[rows].astype(np.float32),
        sensitivity=source.numbers(product.sensitivity)[rows].astype(np.float32),
        solar_elevation=source.numbers(product.solar_elevation)[rows].astype(np.float32),
        quality_flag=shots.quality_flag[rows],
        degrade_flag=shots.degrade_flag[rows],
        heights=heights,
        energy=energy,
        row_splits=row_splits,
        attributes={key: column.astype(np.float32) for key, column in attributes.items()},
    )


def _no_profile(shots: int) -> Profile:
    return np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros(shots + 1, np.int64)


def _relative_heights(source: RowGroup, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """RH curves of `rows`, [F, 101] metres. Integers are centimetres, as in the data sets of single algorithms in release 1."""
    if not len(rows):
        return np.empty((0, _RH_HEIGHTS))
    first = int(rows.min())
    curves = source.numbers("rh", _RH_HEIGHTS, slice(first, int(rows.max()) + 1))[rows - first]
    return curves / 100 if source.required("rh").dtype.kind in "iu" else curves


def _curve_profile(curves: npt.NDArray[np.float64]) -> Profile:
    """Each height with the energy half a step below and above it, so that a shot sums to 1; incomplete curves are left out."""
    step = np.full(_RH_HEIGHTS, 1 / (_RH_HEIGHTS - 1))
    step[[0, -1]] /= 2
    complete = np.isfinite(curves).all(axis=1)
    counts = np.where(complete, _RH_HEIGHTS, 0)
    heights, energy = curves[complete].ravel(), np.tile(step, int(complete.sum()))
    return heights.astype(np.float32), energy.astype(np.float32), row_splits_of(counts)


def _waveforms(source: RowGroup, rows: npt.NDArray[np.int64], ground: npt.NDArray[np.float64]) -> Profile:
    """Every bin of the waveforms of `rows` above `ground`, its energy above the mean noise as a share of the shot's."""
    waveform = source.required("rxwaveform")
    if waveform.ndim != 1:
        raise InputError(source.path, f"{waveform.name.strip('/')} has {waveform.ndim} dimensions, not 1", DOWNLOAD_AGAIN)
    starts, counts = _waveform_extents(source, waveform)
    top, bottom = source.numbers("geolocation/elevation_bin0"), source.numbers("geolocation/elevation_lastbin")
    noise = source.numbers("noise_mean_corrected")
    usable = np.isfinite(top - bottom + noise + ground) & (counts > 1)
    counts = np.where(usable, counts, 0)[rows]
    if not counts.any():
        return _no_profile(len(rows))
    starts = starts[rows]
    first, stop = int(starts[counts > 0].min()), int((starts + counts)[counts > 0].max())
    if stop - first > MAX_SAMPLES_PER_BEAM:
        problem = f"{waveform.name.strip('/')} would give {stop - first:,} samples, over the limit of {MAX_SAMPLES_PER_BEAM:,}"
        raise InputError(source.path, problem, "ask for a smaller area")
    row_splits = row_splits_of(counts)
    shot = np.repeat(np.arange(len(rows)), counts)
    position = np.arange(row_splits[-1]) - row_splits[:-1][shot]
    signal = waveform[first:stop].astype(np.float64)[starts[shot] - first + position] - noise[rows][shot]
    energy = np.clip(np.nan_to_num(signal), 0.0, None)
    total = np.bincount(shot, energy, len(rows))
    fraction = position / (counts - 1)[shot]
    heights = top[rows][shot] + fraction * (bottom - top)[rows][shot] - ground[rows][shot]

    lit = np.flatnonzero(total > 0)
    samples, _ = ragged_rows(row_splits, lit)
    counts = np.where(total > 0, counts, 0)
    energy = energy[samples] / total[shot[samples]]
    return heights[samples].astype(np.float32), energy.astype(np.float32), row_splits_of(counts)


def _waveform_extents(source: RowGroup, waveform: h5py.Dataset) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First sample, counted from 0, and number of samples of each shot."""
    starts = np.nan_to_num(source.numbers("rx_sample_start_index")).astype(np.int64) - 1
    counts = np.nan_to_num(source.numbers("rx_sample_count")).astype(np.int64)
    if ((counts == 0) | (starts >= 0) & (counts > 0) & (starts + counts <= waveform.size)).all():
        return starts, counts
    # Subsetting tools cut the waveforms out and leave the start indices of the full file: then they lie one after another.
    if (counts >= 0).all() and counts.sum() == waveform.size:
        return row_splits_of(counts)[:-1], counts
    problem = f"{waveform.name.strip('/')} has {waveform.size:,} samples, which its start indices and counts do not fit"
    raise InputError(source.path, problem, DOWNLOAD_AGAIN)
