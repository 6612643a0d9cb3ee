"""From what lies under a footprint to the waveform that GEDI records.

Method of Hancock et al. 2019 ("The GEDI Simulator", Earth and Space Science 6, 294-310, doi:10.1029/2018EA000506), after Blair
and Hofton 1999 (doi:10.1029/1999GL010484): energy returned by height, weighted by the footprint's Gaussian, convolved with the
pulse, plus noise. Instrument figures: Dubayah et al. 2020 (doi:10.1016/j.srs.2020.100002); noise levels as in the real L1B files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import convolve1d

from fusion3d.io.gedi_products import FULL_POWER_BEAMS

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

BIN = 0.15
"""Metres of height in a sample: one nanosecond, there and back."""
PULSE_NS = 15.6 / (2.0 * math.sqrt(2.0 * math.log(2.0)))
"""Standard deviation of the pulse, ns: full width at half maximum 15.6 ns."""
PULSE_SIGMA = PULSE_NS * 0.299_792_458 / 2.0
"""The same as height, metres."""
FOOTPRINT_SIGMA = 5.5
"""Standard deviation of the energy over the footprint, metres; the mission calls that 25 m across."""
FOOTPRINT_RADIUS = 3.0 * FOOTPRINT_SIGMA
"""Metres beyond which the footprint is cut off."""
EXTINCTION = 0.5
"""Shadow of leaves of all directions, per leaf area, seen from above (Ross 1981: spherical distribution)."""
LEAF_REFLECTANCE = 0.57
NEEDLE_REFLECTANCE = 0.52
"""At 1064 nm. Leaves: the value of Hancock et al. 2019; needles are taken a little darker."""

_MARGIN_BINS = 200
"""Samples of noise above and below the signal: 30 m."""
_MIN_BINS = 700
"""The instrument's shortest record is about this long."""
_DIGITISER = 4095.0
_NOISE_STEP = 0.0625
"""The files state mean noise in sixteenths of a count."""


@dataclass(frozen=True)
class Returns:
    """Energy by elevation, in no order.

    Attributes
    ----------
    elevation : [N] metres
    energy : [N] share of the pulse's energy times reflectance
    """

    elevation: Float64
    energy: Float64


@dataclass(frozen=True)
class Waveform:
    """Energy in bins of `BIN` metres from the top down; `top` is the elevation of the first bin's centre, metres."""

    top: float
    energy: Float64

    @property
    def elevation(self) -> Float64:
        return self.top - BIN * np.arange(len(self.energy), dtype=np.float64)


@dataclass(frozen=True)
class Received:
    """A waveform as the instrument recorded it.

    Attributes
    ----------
    top : elevation of the first sample, metres
    counts : [N] float32, whole numbers
    noise_mean, noise_sd : counts, as estimated from samples without signal
    """

    top: float
    counts: Float32
    noise_mean: float
    noise_sd: float

    @property
    def bottom(self) -> float:
        return self.top - BIN * (len(self.counts) - 1)


@dataclass(frozen=True)
class Instrument:
    """A beam on a day or in a night.

    Attributes
    ----------
    gain : counts times samples that a surface of reflectance 1 would return
    noise_mean : counts
    noise_sd : counts
    """

    gain: float
    noise_mean: float
    noise_sd: float

    @classmethod
    def of(cls, beam: str, night: bool, transmission: float = 1.0) -> Instrument:
        """A beam by name; the sun's light adds noise, haze (two-way `transmission` below 1) takes signal."""
        power = beam in FULL_POWER_BEAMS
        return cls(
            gain=transmission * (40_000.0 if power else 21_000.0),
            noise_mean=205.0 + 5.0 * int(beam.removeprefix("BEAM"), 2),
            noise_sd=3.0 if night else 3.9,
        )


def footprint_weight(dx: Float64, dy: Float64) -> Float64:
    """Share of the footprint's energy per m2 at offsets from its centre (metres); 0 beyond `FOOTPRINT_RADIUS`."""
    square = dx * dx + dy * dy
    area = 2.0 * math.pi * FOOTPRINT_SIGMA**2 * (1.0 - math.exp(-0.5 * (FOOTPRINT_RADIUS / FOOTPRINT_SIGMA) ** 2))
    return np.where(square <= FOOTPRINT_RADIUS**2, np.exp(-0.5 * square / FOOTPRINT_SIGMA**2) / area, 0.0)


def column_returns(
    weight: Float64,
    ground: Float64,
    leaf_density: npt.NDArray[np.floating],
    step: float,
    leaf_reflectance: npt.ArrayLike,
    ground_reflectance: npt.ArrayLike,
    roof: Float64 | None = None,
) -> Returns:
    """Energy that vertical light gets back from columns of leaves over ground, by Beer and Lambert's law.

    Of the light that reaches a layer, the share 1 - exp(-G lad dz) is intercepted (G = `EXTINCTION`); what passes every layer
    meets the ground. Layers are cut thinner than a bin, so that energy within one falls off as it should.

    Parameters
    ----------
    weight : [C] share of the pulse's energy in each column
    ground : [C] elevation, metres
    leaf_density : [K, C] m2/m3, layer k lies k to k + 1 steps above the column's ground
    step : metres
    leaf_reflectance, ground_reflectance : [C] or one number
    roof : [C] metres above ground; where above 0 all light returns from there
    """
    columns = len(weight)
    leaves = np.asarray(leaf_density, np.float64)
    if roof is not None:
        leaves = np.where(roof > 0, 0.0, leaves)
    used = np.flatnonzero(leaves.any(axis=1))
    layers = int(used[-1]) + 1 if used.size else 0
    cuts = math.ceil(step / BIN)
    depth = np.repeat(leaves[:layers][::-1], cuts, axis=0) * (EXTINCTION * step / cuts)
    passed = np.exp(-np.cumsum(depth, axis=0))
    reached = np.concatenate([np.ones((1, columns)), passed])
    caught = (reached[:-1] - reached[1:]) * (weight * np.asarray(leaf_reflectance, np.float64))
    middle = (layers * cuts - 0.5 - np.arange(layers * cuts)) * (step / cuts)
    which = caught > 0
    elevation = (ground + middle[:, None])[which]
    surface = ground if roof is None else ground + roof
    return Returns(
        np.concatenate([elevation, surface]),
        np.concatenate([caught[which], reached[-1] * weight * np.broadcast_to(ground_reflectance, columns)]),
    )


def waveform(returns: Returns) -> Waveform:
    """Returns in bins, convolved with the pulse, with room for noise above and below.

    Bins lie at whole multiples of `BIN`, so that the result does not depend on what else is computed. The sum is that of the
    returns' energy.
    """
    lit = returns.energy > 0
    elevation, energy = returns.elevation[lit] / BIN, returns.energy[lit]
    if not energy.size:
        return Waveform(0.0, np.zeros(_MIN_BINS))
    first = math.floor(elevation.max()) + 1 + _MARGIN_BINS
    last = min(math.floor(elevation.min()) - _MARGIN_BINS, first - _MIN_BINS + 1)
    # Energy between the centres of two bins is shared so that its mean elevation stays.
    below = np.floor(elevation)
    upper = elevation - below
    row = (first - below).astype(np.int64)
    count = first - last + 1
    binned = np.bincount(row, energy * (1.0 - upper), count) + np.bincount(row - 1, energy * upper, count)
    return Waveform(first * BIN, convolve1d(binned, pulse(), mode="constant"))


def empty_waveform(elevation: float) -> Waveform:
    """A record without any signal, around an elevation: what is left under a cloud."""
    half = _MIN_BINS // 2
    return Waveform((round(elevation / BIN) + half) * BIN, np.zeros(2 * half))


def pulse() -> Float64:
    """[2 k + 1] energy of the transmitted pulse by sample; sums to 1."""
    reach = math.ceil(5 * PULSE_SIGMA / BIN)
    shape = np.exp(-0.5 * (np.arange(-reach, reach + 1) * BIN / PULSE_SIGMA) ** 2)
    return shape / shape.sum()


def receive(wave: Waveform, instrument: Instrument, generator: np.random.Generator | None) -> Received:
    """What the digitiser makes of a waveform: whole counts over a level of noise. None: no noise and no rounding."""
    signal = wave.energy * instrument.gain + instrument.noise_mean
    if generator is None:
        return Received(wave.top, signal.astype(np.float32), instrument.noise_mean, instrument.noise_sd)
    counts = signal + generator.normal(0.0, instrument.noise_sd, len(signal))
    mean = instrument.noise_mean + generator.normal(0.0, 0.1)
    spread = instrument.noise_sd * (1.0 + generator.normal(0.0, 0.03))
    return Received(
        top=wave.top,
        counts=np.clip(np.rint(counts), 0.0, _DIGITISER).astype(np.float32),
        noise_mean=round(mean / _NOISE_STEP) * _NOISE_STEP,
        noise_sd=spread,
    )
