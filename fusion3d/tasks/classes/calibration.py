"""Probabilities that mean what they say: temperature scaling (Guo et al. 2017, ICML), fitted to held-out cells."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_LEAST = 1e-6
_LIMITS = (-3.0, 3.0)
"""Of the logarithm of the temperature."""
_BINS = 10


def tempered(probabilities: Float64, temperature: float) -> Float64:
    """[K, ...] p^(1 / temperature), of sum 1 again; the order of the classes stays."""
    powers = np.where(probabilities > 0, np.maximum(probabilities, _LEAST) ** (1 / temperature), 0.0)
    total = np.zeros(powers.shape[1:])
    # class by class: numpy sums in another order when there are few cells
    for each in powers:
        total += each
    return powers / total


def fit_temperature(probabilities: Float64, place: Int64, weights: Float64) -> float:
    """The temperature of least log loss of held-out probabilities [K, N] of the true places [N]."""
    from scipy.optimize import minimize_scalar

    if not len(place) or not weights.sum() > 0:
        return 1.0
    rows = np.arange(len(place))

    def loss(logarithm: float) -> float:
        right = tempered(probabilities, float(np.exp(logarithm)))[place, rows]
        return -float(weights @ np.log(np.maximum(right, _LEAST)))

    return float(np.exp(minimize_scalar(loss, bounds=_LIMITS, method="bounded").x))


def calibration_error(confidence: Float64, right: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error: mean over ten bins of |share that is right - mean confidence|, weighted by their cells (Naeini
    et al. 2015, AAAI)."""
    each = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    gap = np.bincount(each, right, minlength=_BINS) - np.bincount(each, confidence, minlength=_BINS)
    return float(np.abs(gap).sum() / max(len(confidence), 1))
