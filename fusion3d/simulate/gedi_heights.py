"""From a received waveform to ground, canopy top and relative heights, as level 2A does it.

Algorithm: Hofton and Blair 2019, "Algorithm theoretical basis document for GEDI transmit and receive waveform processing". The
waveform is smoothed; the signal lies between the first pair of samples above the front threshold and the last pair above the back
threshold; modes are the maxima of a (less) smoothed waveform; RH n is the height above the lowest mode below which n % of the
energy lies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from fusion3d.simulate.waveform import BIN, Received

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

RH_COUNT = 101
MAX_MODES = 20
FILL = -9999.0
_PULSE_WIDTH = 6.5
"""Samples; width of the pulse that the smallest detectable energy is stated for."""
_DETECTION = 8.0
"""Noise standard deviations of the smallest amplitude that is surely detected: as in the real files."""
_MODE_PROMINENCE = 4.0
"""Smoothed noise standard deviations by which a mode must stand out."""


@dataclass(frozen=True)
class Algorithm:
    """One of the settings that L2A offers; smoothing widths in samples, thresholds in standard deviations of the noise."""

    number: int
    smoothing: float
    mode_smoothing: float
    front: float
    back: float


ALGORITHM_1 = Algorithm(1, 6.5, 6.5, 3.0, 6.0)
ALGORITHM_2 = Algorithm(2, 6.5, 3.5, 3.0, 3.0)
"""The lower back threshold finds the ground under dense crowns."""


@dataclass(frozen=True)
class Heights:
    """What level 2A says of a waveform.

    Attributes
    ----------
    detected : whether there is a signal; without one elevations and heights are `FILL`
    highest, lowest_mode, lowest : elevations of the first return, the lowest mode and the last return, metres
    modes, amplitudes : [M] elevation (metres) and counts above the noise, from the top down
    rh : [101] float32, metres above the lowest mode
    energy : counts times samples above the noise, of the whole record
    sensitivity : share of canopy cover through which the ground would be seen; 0 without a signal
    top_sample, bottom_sample, mode_sample : positions in the record
    smallest : energy that is just detected
    """

    detected: bool
    highest: float
    lowest_mode: float
    lowest: float
    modes: Float64
    amplitudes: Float64
    rh: Float32
    energy: float
    sensitivity: float
    top_sample: float
    bottom_sample: float
    mode_sample: float
    smallest: float


def relative_heights(received: Received, algorithm: Algorithm = ALGORITHM_2) -> Heights:
    """Level 2A of one waveform."""
    signal = received.counts.astype(np.float64) - received.noise_mean
    smooth = gaussian_filter1d(signal, algorithm.smoothing, mode="nearest")
    smallest = _DETECTION * received.noise_sd * math.sqrt(2.0 * math.pi) * _PULSE_WIDTH
    extent = _signal_extent(smooth, algorithm.front * received.noise_sd, algorithm.back * received.noise_sd)
    modes, amplitudes = np.zeros(0), np.zeros(0)
    if extent is not None:
        modes, amplitudes = _modes(signal, algorithm, received.noise_sd, extent)
    if extent is None or not len(modes):
        nothing = np.full(RH_COUNT, FILL, np.float32)
        return Heights(
            False, FILL, FILL, FILL, np.zeros(0), np.zeros(0), nothing, float(signal.sum()), 0.0, 0.0, 0.0, 0.0, smallest
        )
    top, bottom = extent
    energy = float(signal.sum())
    lowest = float(modes[-1])
    samples = _cumulative_samples(smooth, top, bottom)
    return Heights(
        detected=True,
        highest=received.top - BIN * top,
        lowest_mode=received.top - BIN * lowest,
        lowest=received.top - BIN * bottom,
        modes=received.top - BIN * modes,
        amplitudes=amplitudes,
        rh=((lowest - samples) * BIN).astype(np.float32),
        energy=energy,
        sensitivity=float(np.clip(1.0 - smallest / energy, 0.0, 1.0)) if energy > 0 else 0.0,
        top_sample=top,
        bottom_sample=bottom,
        mode_sample=lowest,
        smallest=smallest,
    )


def _signal_extent(smooth: Float64, front: float, back: float) -> tuple[float, float] | None:
    """First and last sample of the signal, between samples where the threshold is crossed; None without signal."""
    above_front = np.flatnonzero((smooth[:-1] > front) & (smooth[1:] > front))
    above_back = np.flatnonzero((smooth[:-1] > back) & (smooth[1:] > back))
    if not above_front.size or not above_back.size:
        return None
    first, last = int(above_front[0]), int(above_back[-1]) + 1
    top, bottom = float(first), float(last)
    if first > 0:
        top -= (smooth[first] - front) / (smooth[first] - smooth[first - 1])
    if last + 1 < len(smooth):
        bottom += (smooth[last] - back) / (smooth[last] - smooth[last + 1])
    return (top, bottom) if bottom > top else None


def _modes(signal: Float64, algorithm: Algorithm, noise_sd: float, extent: tuple[float, float]) -> tuple[Float64, Float64]:
    """Samples and amplitudes of the maxima within the signal, the lowest `MAX_MODES`, from the top down."""
    width = algorithm.mode_smoothing
    smooth = gaussian_filter1d(signal, width, mode="nearest")
    # White noise of unit variance keeps 1 / (2 sqrt(pi) width) of its variance under a Gaussian of that width.
    left = noise_sd / math.sqrt(2.0 * math.sqrt(math.pi) * width)
    peaks, _ = find_peaks(smooth, height=algorithm.back * noise_sd, prominence=_MODE_PROMINENCE * left)
    peaks = peaks[(peaks >= extent[0]) & (peaks <= extent[1])][-MAX_MODES:]
    before, at, after = smooth[peaks - 1], smooth[peaks], smooth[peaks + 1]
    curvature = before - 2.0 * at + after
    offset = np.divide(0.5 * (before - after), curvature, out=np.zeros(len(peaks)), where=curvature < 0)
    return peaks + offset, at


def _cumulative_samples(smooth: Float64, top: float, bottom: float) -> Float64:
    """[101] positions below which 0, 1, ... 100 % of the energy between `top` and `bottom` lies."""
    inner = np.arange(math.floor(top) + 1, math.ceil(bottom))
    where = np.concatenate([[bottom], inner[::-1], [top]])
    values = np.clip(np.interp(where, np.arange(len(smooth)), smooth), 0.0, None)
    steps = -np.diff(where) * 0.5 * (values[1:] + values[:-1])
    share = np.concatenate([[0.0], np.cumsum(steps)])
    # Stretches without energy would leave the inverse open: their lower end is taken.
    rising = np.concatenate([[True], np.diff(share) > 0])
    return np.interp(np.linspace(0.0, 1.0, RH_COUNT), share[rising] / share[-1], where[rising])
