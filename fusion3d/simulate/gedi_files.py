"""GEDI files of simulated shots: names, groups, data sets, types, units and fill values of release 2.

Only data sets whose content the simulation knows are written; nothing is made up to fill a product. A beam without shots has no
group, as in subsets of real files.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fusion3d.io.gedi_products import BEAMS, FULL_POWER_BEAMS
from fusion3d.io.whole_file import whole_file
from fusion3d.simulate.gedi_heights import ALGORITHM_2, FILL, MAX_MODES, Heights
from fusion3d.simulate.waveform import PULSE_NS, Received, pulse

MIN_SENSITIVITY = 0.9
"""Below it L2A's quality flag is 0 over land (L2A user guide, version 2)."""
_GPS_SECONDS_AT_2018 = 1_198_800_018.0
_TX_SAMPLES = 128
_TX_BACKGROUND, _TX_ENERGY = 250.0, 14_500.0
_ALGORITHM = ALGORITHM_2.number


@dataclass(frozen=True)
class Ground:
    """What the products say of the land around a shot.

    Attributes
    ----------
    treecover : percent of the footprint under trees, as from an image
    urban, water : percent
    pft : plant functional type of MODIS: 1 evergreen needleleaf, 4 deciduous broadleaf, 6 grass and crops
    leaf_off : broadleaves are bare
    """

    treecover: float
    urban: float
    water: float
    pft: int
    leaf_off: bool


@dataclass(frozen=True)
class Shot:
    """A shot as the products state it.

    Attributes
    ----------
    number : shot number
    beam : name
    seconds : since 2018-01-01 UTC
    longitude, latitude : degrees, WGS 84; the light falls straight down
    received : waveform, elevations above the ellipsoid
    heights : level 2A of it
    dem : coarse elevation model at the place, metres above the ellipsoid
    geoid : metres above the ellipsoid
    sun_elevation, sun_azimuth : degrees
    degrade : degrade flag
    trusted : nothing but the waveform speaks against its quality
    ground : None when unknown
    """

    number: int
    beam: str
    seconds: float
    longitude: float
    latitude: float
    received: Received
    heights: Heights
    dem: float
    geoid: float
    sun_elevation: float
    sun_azimuth: float
    degrade: int = 0
    trusted: bool = True
    ground: Ground | None = None

    @property
    def quality(self) -> int:
        """L2A's `quality_flag`."""
        return int(self.trusted and self.heights.detected and self.heights.sensitivity > MIN_SENSITIVITY)


@dataclass(frozen=True)
class Granule:
    """What the name of a file says; `start` is UTC."""

    start: datetime
    orbit: int
    granule: int
    track: int

    def name(self, product: str) -> str:
        """Name of the file of a product: L1B, L2A or L4A."""
        generation = {"L1B": "005", "L2A": "003", "L4A": "002"}[product]
        return (
            f"GEDI0{product[1]}_{product[2]}_{self.start:%Y%j%H%M%S}_O{self.orbit:05d}_{self.granule:02d}_T{self.track:05d}"
            f"_02_{generation}_01_V002.h5"
        )


@dataclass(frozen=True)
class Column:
    """A data set with one row a shot; `value` gives a row."""

    name: str
    dtype: str
    units: str
    about: str
    value: Callable[[Any], Any]
    fill: float | None = None


def _always(value: float) -> Callable[[Any], Any]:
    return lambda shot: value


def _modes(values: Callable[[Shot], Any]) -> Callable[[Shot], Any]:
    def padded(shot: Shot) -> Any:
        row = np.zeros(MAX_MODES)
        known = values(shot)
        row[: len(known)] = known
        return row

    return padded


def _of_ground(name: str, absent: float) -> Callable[[Shot], Any]:
    return lambda shot: absent if shot.ground is None else getattr(shot.ground, name)


_COMMON = (
    Column("shot_number", "u8", "1", "orbit, beam, granule and index of the shot", lambda s: s.number),
    Column("beam", "u2", "1", "beam identifier", lambda s: int(s.beam.removeprefix("BEAM"), 2)),
    Column("channel", "u1", "1", "channel identifier", lambda s: int(s.beam.removeprefix("BEAM"), 2) // 2),
    Column("delta_time", "f8", "seconds since 2018-01-01", "transmit time of the shot", lambda s: s.seconds),
    Column("master_int", "u4", "seconds since master_time_epoch", "whole seconds of the time", lambda s: int(s.seconds)),
    Column("master_frac", "f8", "seconds", "fraction of a second of the time", lambda s: s.seconds % 1.0),
)
_SUN = (
    Column("solar_elevation", "f4", "degrees", "elevation of the sun above the horizon", lambda s: s.sun_elevation),
    Column("solar_azimuth", "f4", "degrees", "azimuth of the sun, clockwise from north", lambda s: s.sun_azimuth),
)
_DEM = Column("digital_elevation_model", "f4", "m", "coarse elevation model above the ellipsoid", lambda s: s.dem, -999999.0)

L1B = (
    *_COMMON,
    Column("rx_sample_count", "u2", "1", "samples of the received waveform", lambda s: len(s.received.counts)),
    Column("noise_mean_corrected", "f8", "counts", "mean of the noise", lambda s: s.received.noise_mean),
    Column("noise_stddev_corrected", "f8", "counts", "standard deviation of the noise", lambda s: s.received.noise_sd),
    Column("rx_energy", "f8", "counts", "energy of the received waveform above the noise", lambda s: s.heights.energy),
    Column(
        "stale_return_flag", "u1", "1", "1 where no signal was above the detection threshold", lambda s: not s.heights.detected
    ),
    Column("tx_sample_count", "u2", "1", "samples of the transmitted waveform", _always(_TX_SAMPLES)),
    Column("tx_egsigma", "f4", "ns", "standard deviation of the transmitted pulse", _always(PULSE_NS)),
    *(Column(f"geolocation/{c.name}", c.dtype, c.units, c.about, c.value, c.fill) for c in (_COMMON[0], _COMMON[3], *_SUN, _DEM)),
    Column("geolocation/degrade", "i1", "1", "above 0 while pointing or orbit is degraded", lambda s: s.degrade),
    Column("geolocation/elevation_bin0", "f8", "m", "elevation of the first sample", lambda s: s.received.top),
    Column("geolocation/elevation_lastbin", "f8", "m", "elevation of the last sample", lambda s: s.received.bottom),
    *(
        Column(f"geolocation/{axis}_{end}", "f8", "degrees", f"{axis} of the {which} sample", value)
        for axis, value in (("latitude", lambda s: s.latitude), ("longitude", lambda s: s.longitude))
        for end, which in (("bin0", "first"), ("lastbin", "last"))
    ),
    Column("geolocation/local_beam_elevation", "f4", "radians", "elevation of the beam, from the horizon", _always(math.pi / 2)),
    Column("geophys_corr/geoid", "f4", "m", "geoid above the ellipsoid", lambda s: s.geoid),
    Column("geophys_corr/delta_time", "f8", "seconds since 2018-01-01", "transmit time of the shot", lambda s: s.seconds),
)
_LOWEST = (
    Column("elev_lowestmode", "f4", "m", "elevation of the lowest mode", lambda s: s.heights.lowest_mode, FILL),
    Column("lat_lowestmode", "f8", "degrees", "latitude of the lowest mode", lambda s: s.latitude),
    Column("lon_lowestmode", "f8", "degrees", "longitude of the lowest mode", lambda s: s.longitude),
    Column("sensitivity", "f4", "1", "canopy cover through which the ground is seen", lambda s: s.heights.sensitivity),
    Column("degrade_flag", "u1", "1", "above 0 while pointing or orbit is degraded", lambda s: s.degrade),
    Column("solar_elevation", "f4", "degrees", "elevation of the sun above the horizon", lambda s: s.sun_elevation),
    Column("surface_flag", "u1", "1", "1 where an elevation model is within 300 m", _always(1)),
    Column("selected_algorithm", "u1", "1", "algorithm setting that was used", _always(_ALGORITHM)),
    Column("selected_mode", "u1", "1", "index of the mode taken for the ground", lambda s: max(0, len(s.heights.modes) - 1)),
)
_LAND_COVER = (
    Column("landsat_treecover", "f8", "percent", "tree cover", _of_ground("treecover", FILL), FILL),
    Column("landsat_water_persistence", "u1", "percent", "share of water", _of_ground("water", 255), 255),
    Column("urban_proportion", "u1", "percent", "share of built land", _of_ground("urban", 255), 255),
    Column("pft_class", "u1", "1", "plant functional type: 1 ENT, 4 DBT, 6 GSW", _of_ground("pft", 255), 255),
    Column("leaf_off_flag", "u1", "1", "1 where the season is leaf-off", _of_ground("leaf_off", 255), 255),
)
_RX = f"rx_processing_a{_ALGORITHM}"
L2A = (
    *_COMMON,
    *_LOWEST,
    _SUN[1],
    _DEM,
    Column(
        "rh",
        "f4",
        "m",
        "heights above the lowest mode below which 0, 1, ... 100 % of the energy lies",
        lambda s: s.heights.rh,
        FILL,
    ),
    Column("quality_flag", "u1", "1", "1 where the shot is fit for use", lambda s: s.quality),
    Column("elev_highestreturn", "f4", "m", "elevation of the first return", lambda s: s.heights.highest, FILL),
    Column("lat_highestreturn", "f8", "degrees", "latitude of the first return", lambda s: s.latitude),
    Column("lon_highestreturn", "f8", "degrees", "longitude of the first return", lambda s: s.longitude),
    Column("num_detectedmodes", "u1", "1", "number of modes", lambda s: len(s.heights.modes)),
    Column("energy_total", "f4", "counts", "energy of the waveform above the noise", lambda s: s.heights.energy),
    *(Column(f"land_cover_data/{c.name}", c.dtype, c.units, c.about, c.value, c.fill) for c in _LAND_COVER),
    Column(
        f"geolocation/elev_lowestreturn_a{_ALGORITHM}",
        "f4",
        "m",
        "elevation of the last return",
        lambda s: s.heights.lowest,
        FILL,
    ),
    Column(f"geolocation/elevs_allmodes_a{_ALGORITHM}", "f8", "m", "elevations of the modes", _modes(lambda s: s.heights.modes)),
    Column(f"{_RX}/rx_modeamps", "f8", "counts", "amplitudes of the modes", _modes(lambda s: s.heights.amplitudes)),
    Column(f"{_RX}/toploc", "f4", "ns", "sample of the first return", lambda s: s.heights.top_sample),
    Column(f"{_RX}/botloc", "f4", "ns", "sample of the last return", lambda s: s.heights.bottom_sample),
    Column(f"{_RX}/zcross", "f4", "ns", "sample of the lowest mode", lambda s: s.heights.mode_sample),
    Column(f"{_RX}/min_detection_energy", "f4", "counts", "energy that is just detected", lambda s: s.heights.smallest),
    Column("rx_assess/mean", "f4", "counts", "mean of the noise", lambda s: s.received.noise_mean),
    Column("rx_assess/sd_corrected", "f4", "counts", "standard deviation of the noise", lambda s: s.received.noise_sd),
)


@dataclass(frozen=True)
class Prediction:
    """Level 4A of a shot; Mg/ha, `FILL` where there is no model or no signal. Flags as in the product."""

    shot: Shot
    density: float
    error: float
    lower: float
    upper: float
    root: float
    root_error: float
    heights: tuple[float, float]
    stratum: str
    run: int
    quality: int
    outside_heights: int
    outside_response: int


def _of_shot(column: Column) -> Column:
    return Column(column.name, column.dtype, column.units, column.about, lambda p: column.value(p.shot), column.fill)


L4A = (
    *map(_of_shot, (*_COMMON, *_LOWEST)),
    Column("agbd", "f4", "Mg / ha", "above-ground biomass density", lambda p: p.density, FILL),
    Column("agbd_se", "f4", "Mg / ha", "prediction standard error", lambda p: p.error, FILL),
    Column("agbd_pi_lower", "f4", "Mg / ha", "lower end of the 90 % prediction interval", lambda p: p.lower, FILL),
    Column("agbd_pi_upper", "f4", "Mg / ha", "upper end of the 90 % prediction interval", lambda p: p.upper, FILL),
    Column("agbd_t", "f4", "-", "prediction in the units of the fit", lambda p: p.root, FILL),
    Column("agbd_t_se", "f4", "-", "its standard error, in the units of the fit", lambda p: p.root_error, FILL),
    Column("xvar", "f4", "-", "transformed RH50 and RH98", lambda p: [*p.heights, 0.0, 0.0]),
    Column("predict_stratum", "S16", "-", "stratum of the prediction", lambda p: p.stratum.encode()),
    Column("algorithm_run_flag", "u1", "-", "1 where biomass was predicted", lambda p: p.run),
    Column("l2_quality_flag", "u1", "-", "quality flag of level 2A", lambda p: p.shot.quality),
    Column("l4_quality_flag", "u1", "-", "1 where the prediction is fit for use", lambda p: p.quality),
    Column("predictor_limit_flag", "u1", "-", "2 where a height lies above those of the fit", lambda p: p.outside_heights),
    Column("response_limit_flag", "u1", "-", "2 where the biomass lies above that of the fit", lambda p: p.outside_response),
    *(_of_shot(Column(f"land_cover_data/{c.name}", c.dtype, c.units, c.about, c.value, c.fill)) for c in _LAND_COVER),
)


def write_granule(
    path: Path, product: str, shots: Sequence[Shot | Prediction], granule: Granule, model: np.ndarray | None = None
) -> None:
    """Write a product's file; it has its name only when it is complete.

    Parameters
    ----------
    product : L1B, L2A or L4A
    shots : in any order; `Prediction` for L4A
    model : table for L4A's ``ANCILLARY/model_data``

    Raises
    ------
    InputError
        The folder cannot be written, or the disk is full.
    """
    columns = {"L1B": L1B, "L2A": L2A, "L4A": L4A}[product]
    with whole_file(path) as draft:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In memory first: HDF5 crashes the process when it cannot flush to a full disk.
        held = io.BytesIO()
        with h5py.File(held, "w") as file:
            file.attrs["short_name"] = f"GEDI_{product}"
            _identify(file, product, granule)
            if model is not None:
                file["ANCILLARY/model_data"] = model
            ordered = sorted(shots, key=lambda each: _shot(each).number)
            for beam in BEAMS:
                rows = [each for each in ordered if _shot(each).beam == beam]
                if rows:
                    _write_beam(file.create_group(beam), columns, rows, product)
        draft.write_bytes(held.getbuffer())


def _shot(each: Shot | Prediction) -> Shot:
    return each.shot if isinstance(each, Prediction) else each


def _identify(file: h5py.File, product: str, granule: Granule) -> None:
    about = file.create_group("METADATA/DatasetIdentification").attrs
    about["shortName"] = f"GEDI_{product}"
    about["VersionID"] = "02"
    about["fileName"] = granule.name(product)
    about["creationDate"] = granule.start.strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    about["abstract"] = "Simulated by fusion3d in the layout of the GEDI product: no measurement of the instrument."
    about["originatorOrganizationName"] = "fusion3d (simulated)"
    about["spatialRepresentationType"] = "along-track"


def _write_beam(group: h5py.Group, columns: Sequence[Column], rows: Sequence[Any], product: str) -> None:
    power = group.name.strip("/") in FULL_POWER_BEAMS
    group.attrs["description"] = "Full power beam" if power else "Coverage beam"
    for column in columns:
        values = np.array([column.value(row) for row in rows]).astype(column.dtype)
        _put(group, column.name, values, column.units, column.about, column.fill)
    _put(group, "ancillary/master_time_epoch", np.array([_GPS_SECONDS_AT_2018]), "s", "GPS seconds of 2018-01-01")
    if product == "L1B":
        _write_waveforms(group, rows)


def _write_waveforms(group: h5py.Group, shots: Sequence[Shot]) -> None:
    """All waveforms of the beam one after another; start indices count from 1."""
    counts = np.array([len(shot.received.counts) for shot in shots])
    starts = 1 + np.concatenate([[0], np.cumsum(counts)[:-1]])
    received = np.concatenate([shot.received.counts for shot in shots])
    _put(group, "rxwaveform", received.astype("f4"), "counts", "received waveforms")
    _put(group, "rx_sample_start_index", starts.astype("u8"), "1", "first sample of a shot in rxwaveform, counted from 1")
    shape = pulse()
    sent = np.full(_TX_SAMPLES, _TX_BACKGROUND)
    first = (_TX_SAMPLES - len(shape)) // 2
    sent[first : first + len(shape)] += _TX_ENERGY * shape / shape.max()
    _put(group, "txwaveform", np.tile(sent, len(shots)).astype("f4"), "counts", "transmitted waveforms")
    starts = 1 + _TX_SAMPLES * np.arange(len(shots))
    _put(group, "tx_sample_start_index", starts.astype("u8"), "1", "first sample of a shot in txwaveform, counted from 1")


def _put(group: h5py.Group, name: str, values: np.ndarray, units: str, about: str, fill: float | None = None) -> None:
    packed = {"compression": "gzip", "compression_opts": 4} if values.nbytes > 4096 else {}
    made = group.create_dataset(name, data=values, **packed)
    made.attrs["units"] = units
    made.attrs["long_name"] = about
    if fill is not None:
        made.attrs["_FillValue"] = values.dtype.type(fill)
