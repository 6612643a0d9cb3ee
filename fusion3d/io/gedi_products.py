"""GEDI products: where each keeps what, which shots are good, and one table of shots for all of them.

Heights of the ground are metres above the WGS 84 ellipsoid in every product, not above the sea: subtract a geoid before
comparing them with a national terrain model. Names and units follow the data dictionaries of releases 1 and 2; the data sets
used here have the same names in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError

COVERAGE_BEAMS = ("BEAM0000", "BEAM0001", "BEAM0010", "BEAM0011")
FULL_POWER_BEAMS = ("BEAM0101", "BEAM0110", "BEAM1000", "BEAM1011")
BEAMS = COVERAGE_BEAMS + FULL_POWER_BEAMS

FILL_VALUES = (-9999.0, -999999.0)
"""Written by the products where a quantity is absent; -999999 in the elevation models only."""

NOT_IN_PRODUCT = -1
"""Value of a flag that the product does not have."""


@dataclass(frozen=True)
class Product:
    """Where a product keeps what, relative to a beam's group.

    Attributes
    ----------
    required : data sets without which the file is of no use
    longitude, latitude : of the lowest mode; L1B: of the last bin
    attributes : data sets of one number a shot that become `FootprintTable.attributes`
    quality : data set of the product's own quality flag, None when it has none
    quality_attribute : its name in `FootprintTable.attributes`
    """

    name: str
    longitude: str
    latitude: str
    ground: str | None
    solar_elevation: str
    sensitivity: str | None
    quality: str | None
    quality_attribute: str
    degrade: str
    attributes: tuple[str, ...]
    required: tuple[str, ...]


PRODUCTS = {
    "L1B": Product(
        name="L1B",
        longitude="geolocation/longitude_lastbin",
        latitude="geolocation/latitude_lastbin",
        ground=None,
        solar_elevation="geolocation/solar_elevation",
        sensitivity=None,
        quality=None,
        quality_attribute="",
        degrade="geolocation/degrade",
        attributes=(),
        required=(
            "rxwaveform",
            "rx_sample_start_index",
            "rx_sample_count",
            "noise_mean_corrected",
            "geolocation/elevation_bin0",
            "geolocation/elevation_lastbin",
        ),
    ),
    "L2A": Product(
        name="L2A",
        longitude="lon_lowestmode",
        latitude="lat_lowestmode",
        ground="elev_lowestmode",
        solar_elevation="solar_elevation",
        sensitivity="sensitivity",
        quality="quality_flag",
        quality_attribute="l2a_quality_flag",
        degrade="degrade_flag",
        attributes=(),
        required=("rh", "elev_lowestmode", "quality_flag", "sensitivity"),
    ),
    "L2B": Product(
        name="L2B",
        longitude="geolocation/lon_lowestmode",
        latitude="geolocation/lat_lowestmode",
        ground="geolocation/elev_lowestmode",
        solar_elevation="geolocation/solar_elevation",
        sensitivity="sensitivity",
        quality="l2b_quality_flag",
        quality_attribute="l2b_quality_flag",
        degrade="geolocation/degrade_flag",
        attributes=("cover", "pai", "fhd_normal", "pgap_theta"),
        required=("l2b_quality_flag", "cover", "pai", "fhd_normal"),
    ),
    "L4A": Product(
        name="L4A",
        longitude="lon_lowestmode",
        latitude="lat_lowestmode",
        ground="elev_lowestmode",
        solar_elevation="solar_elevation",
        sensitivity="sensitivity",
        quality="l4_quality_flag",
        quality_attribute="l4_quality_flag",
        degrade="degrade_flag",
        attributes=("agbd", "agbd_se", "agbd_pi_lower", "agbd_pi_upper"),
        required=("agbd", "l4_quality_flag", "degrade_flag"),
    ),
}

RH_ATTRIBUTES = {f"rh{percent}": percent for percent in (25, 50, 75, 95, 98, 100)}
"""Columns of the L2A curve that are also attributes of the table, metres."""

_LOCATION_ORDER = ("L2A", "L4A", "L2B", "L1B")
_PROFILE_ORDER = ("L1B", "L2A", "L2B", "L4A")


@dataclass(frozen=True)
class FootprintTable:
    """Shots of one or several GEDI products, one row a shot; every row has a finite location.

    Attributes
    ----------
    product : L1B, L2A, L2B, L4A, or several with "+" when joined
    release : as the file states it, 1 or 2; "unknown" when it does not
    shot_number : [F] uint64, exact
    beam : [F] uint8, the beam's binary name as a number: BEAM0101 is 5
    power_beam : [F] bool, true for a full-power beam
    x, y : [F] float64, in the CRS asked for
    longitude, latitude : [F] float64, degrees, WGS 84: of the lowest mode; L1B: of the pulse where it meets the ground
    time : [F] float64, days since 1970-01-01 UTC, NaN when unknown
    ground_elevation : [F] float32, metres above the ellipsoid, NaN when unknown. L1B has no ground of its own: the TanDEM-X
        elevation in the file where it lies within the waveform, else the lowest bin
    sensitivity : [F] float32, 0-1, NaN where not in the product
    solar_elevation : [F] float32, degrees
    quality_flag : [F] int8, the product's own flag, 1 good, -1 where the product has none (L1B)
    degrade_flag : [F] int16, 0 when pointing and orbit are sound, -1 where the product has none
    heights : [P] float32, metres above `ground_elevation`, of the vertical samples
    energy : [P] float32, not negative, sums to 1 over a shot. Waveform: every bin from the top down, above the mean noise;
        RH curve: 101 heights from the bottom up, each with its step of cumulative energy
    row_splits : [F + 1] int64, samples of shot f are ``row_splits[f]:row_splits[f + 1]``; L2B and L4A have none, as a profile
        of plant area is not one of energy
    attributes : name -> [F] float32, NaN where absent
    """

    product: str
    release: int | str
    shot_number: npt.NDArray[np.uint64]
    beam: npt.NDArray[np.uint8]
    power_beam: npt.NDArray[np.bool_]
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    longitude: npt.NDArray[np.float64]
    latitude: npt.NDArray[np.float64]
    time: npt.NDArray[np.float64]
    ground_elevation: npt.NDArray[np.float32]
    sensitivity: npt.NDArray[np.float32]
    solar_elevation: npt.NDArray[np.float32]
    quality_flag: npt.NDArray[np.int8]
    degrade_flag: npt.NDArray[np.int16]
    heights: npt.NDArray[np.float32]
    energy: npt.NDArray[np.float32]
    row_splits: npt.NDArray[np.int64]
    attributes: dict[str, npt.NDArray[np.float32]]

    def __post_init__(self) -> None:
        shots = len(self.shot_number)
        if self.shot_number.dtype != np.uint64:
            raise ConfigError(f"shot numbers must be uint64, not {self.shot_number.dtype}: other types lose digits")
        columns = {name: getattr(self, name) for name in _COLUMNS} | self.attributes
        wrong = [name for name, column in columns.items() if column.shape != (shots,)]
        if wrong:
            raise ConfigError(f"columns {', '.join(wrong)} do not have one value for each of {shots} shots")
        if len(self.row_splits) != shots + 1 or not len(self.heights) == len(self.energy) == self.row_splits[-1]:
            raise ConfigError("row_splits does not fit the shots and their vertical samples")

    def __len__(self) -> int:
        return len(self.shot_number)

    def select(self, mask: npt.ArrayLike) -> FootprintTable:
        """The shots where `mask` ([F] bool) is true, or those at the indices `mask` (integers, in that order)."""
        chosen = np.asarray(mask)
        rows = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        samples, row_splits = ragged_rows(self.row_splits, rows)
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in _COLUMNS},
            heights=self.heights[samples],
            energy=self.energy[samples],
            row_splits=row_splits,
            attributes={name: column[rows] for name, column in self.attributes.items()},
        )

    @staticmethod
    def concatenate(tables: Sequence[FootprintTable]) -> FootprintTable:
        """All shots of `tables`, in their order; an attribute that a table lacks is NaN there."""
        if not tables:
            raise ConfigError("no footprint tables to put together")
        names = list(dict.fromkeys(name for table in tables for name in table.attributes))
        counts = np.concatenate([np.diff(table.row_splits) for table in tables])
        return FootprintTable(
            product="+".join(dict.fromkeys(table.product for table in tables)),
            release=_common_release(tables),
            **{name: np.concatenate([getattr(table, name) for table in tables]) for name in (*_COLUMNS, "heights", "energy")},
            row_splits=row_splits_of(counts),
            attributes={
                name: np.concatenate([table.attributes.get(name, np.full(len(table), np.nan, np.float32)) for table in tables])
                for name in names
            },
        )


_COLUMNS = tuple(
    field.name
    for field in fields(FootprintTable)
    if field.name not in ("product", "release", "heights", "energy", "row_splits", "attributes")
)


@dataclass(frozen=True)
class FootprintFilter:
    """Which shots to trust. What a product does not state (flag -1, NaN) never rejects a shot.

    Parameters
    ----------
    quality : ask for the product's quality flag to be 1
    degrade : ask for `degrade_flag` 0: l4_quality_flag 1 alone keeps shots from degraded orbits
    min_sensitivity : 0.9 is the bound inside quality_flag over land (GEDI L2A user guide, version 2); studies of forest ask
        for 0.95, and 0.98 in the tropics (e.g. doi:10.1038/s41467-024-52468-2, table 1); 0 asks for none
    beams : names ("BEAM0101") or codes (5) to keep, None for all
    power_only : full-power beams only
    night_only : sun below the horizon, when background light adds no noise
    """

    quality: bool = True
    degrade: bool = True
    min_sensitivity: float = 0.9
    beams: tuple[str | int, ...] | None = None
    power_only: bool = False
    night_only: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.min_sensitivity <= 1:
            raise ConfigError(f"sensitivity lies between 0 and 1, {self.min_sensitivity} cannot be its minimum")
        if self.beams is not None:
            beam_codes(self.beams)

    def keep(self, table: FootprintTable) -> npt.NDArray[np.bool_]:
        """[F] bool, true for the shots that pass."""
        kept = np.ones(len(table), bool)
        if self.min_sensitivity > 0:
            kept &= ~(table.sensitivity < self.min_sensitivity)
        if self.quality:
            kept &= (table.quality_flag == 1) | (table.quality_flag == NOT_IN_PRODUCT)
        if self.degrade:
            kept &= (table.degrade_flag == 0) | (table.degrade_flag == NOT_IN_PRODUCT)
        if self.beams is not None:
            kept &= np.isin(table.beam, beam_codes(self.beams))
        if self.power_only:
            kept &= table.power_beam
        if self.night_only:
            kept &= ~(table.solar_elevation >= 0)
        return kept


def beam_codes(beams: Iterable[str | int]) -> npt.NDArray[np.uint8]:
    """Numbers of beams given by name or number; `ConfigError` for one that GEDI does not have."""
    known = {name: int(name.removeprefix("BEAM"), 2) for name in BEAMS}
    codes = []
    for beam in beams:
        code = known.get(beam.upper()) if isinstance(beam, str) else beam
        if code not in known.values():
            raise ConfigError(f"GEDI has no beam {beam!r}; its beams are {', '.join(BEAMS)}")
        codes.append(code)
    return np.array(codes, np.uint8)


def row_splits_of(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """CSR offsets [F + 1] of rows with `counts` [F] samples."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def ragged_rows(
    row_splits: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of the samples of `rows`, row after row, and the row splits of the result."""
    starts, counts = row_splits[:-1][rows], np.diff(row_splits)[rows]
    chosen = row_splits_of(counts)
    return np.repeat(starts - chosen[:-1], counts) + np.arange(chosen[-1]), chosen


def join_products(tables: Sequence[FootprintTable]) -> FootprintTable:
    """One row for each shot of any table, sorted by shot number, with what all products say of it.

    Parameters
    ----------
    tables : of any products, in one CRS; a shot that comes twice in one product counts once, the first time

    Returns
    -------
    FootprintTable
        Profile: the waveform (L1B) where there is one, else the RH curve (L2A). Location, ground, flags and sensitivity: of
        L2A, else of the next product that has them; heights of the waveform are moved to that ground. Each product's own
        quality flag stays in the attributes: ask `attributes["l4_quality_flag"]` before using `agbd`.
    """
    stacked = FootprintTable.concatenate(tables)
    shot_of_row = np.unique(stacked.shot_number, return_inverse=True)[1]
    by_location = np.lexsort((_ranks(tables, _LOCATION_ORDER), stacked.shot_number))
    merged = {name: _first_known(getattr(stacked, name), shot_of_row, by_location) for name in _COLUMNS}
    attributes = {name: _first_known(column, shot_of_row, by_location) for name, column in stacked.attributes.items()}

    without = np.diff(stacked.row_splits) == 0
    by_profile = np.lexsort((_ranks(tables, _PROFILE_ORDER), without, stacked.shot_number))
    source = by_profile[np.unique(shot_of_row[by_profile], return_index=True)[1]]
    samples, row_splits = ragged_rows(stacked.row_splits, source)
    shift = stacked.ground_elevation[source].astype(np.float64) - merged["ground_elevation"]
    heights = stacked.heights[samples] + np.repeat(np.nan_to_num(shift), np.diff(row_splits))
    return FootprintTable(
        product="+".join(sorted({name for table in tables for name in table.product.split("+")})),
        release=stacked.release,
        **merged,
        heights=heights.astype(np.float32),
        energy=stacked.energy[samples],
        row_splits=row_splits,
        attributes=attributes,
    )


def _ranks(tables: Sequence[FootprintTable], preference: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Per row of the stacked tables, the place of its table in `preference`; lexsort keeps the tables' order among equals."""
    return np.concatenate([np.full(len(table), min(map(preference.index, table.product.split("+")))) for table in tables])


def _first_known(column: npt.NDArray, shot_of_row: npt.NDArray[np.int64], order: npt.NDArray[np.int64]) -> npt.NDArray:
    """Per shot, the first known value in `order`; where none is known, the first."""
    if column.dtype.kind == "f":
        order = order[np.argsort(np.isnan(column[order]), kind="stable")]
    elif column.dtype.kind == "i":
        order = order[np.argsort(column[order] == NOT_IN_PRODUCT, kind="stable")]
    return column[order][np.unique(shot_of_row[order], return_index=True)[1]]


def _common_release(tables: Sequence[FootprintTable]) -> int | str:
    releases = list(dict.fromkeys(table.release for table in tables))
    return releases[0] if len(releases) == 1 else "+".join(map(str, releases))
