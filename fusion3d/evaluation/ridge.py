"""Ridge regression in closed form: standardised features, an intercept that is not shrunk, a penalty chosen by held-out error.

The loss is sum of w_i (y_i - b - x_i'c)^2 + penalty |c|^2 with features x of mean 0 and variance 1 and weights w of mean 1
(Hoerl and Kennard 1970, Technometrics 12). One singular value decomposition gives the coefficients for every penalty, and
costs the smaller of N and D squared, so there may be more features than plots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError
from fusion3d.evaluation.blocks import deal

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

PENALTIES = np.logspace(-4, 6, 31)
"""Penalties that are tried, per plot."""
_FEWEST_GROUPS = 3
_CONSTANT = 1e-10
"""Spread of a feature, relative to its size, at which it says nothing."""


@dataclass(frozen=True)
class Ridge:
    """A linear function of features.

    Attributes
    ----------
    mean, scale : [D] of the features in training; a constant feature has scale 1 and coefficient 0
    coefficients : [D] on standardised features
    intercept : value at the mean of the features
    penalty : as in the loss
    """

    mean: Float64
    scale: Float64
    coefficients: Float64
    intercept: float
    penalty: float

    def __post_init__(self) -> None:
        if not (len(self.mean) == len(self.scale) == len(self.coefficients)):
            raise ConfigError("mean, scale and coefficients of a ridge model are not of one length")
        if not (np.isfinite([self.intercept, self.penalty]).all() and (self.scale > 0).all()):
            raise ConfigError("intercept, penalty and scale of a ridge model must be finite numbers, the scale positive")

    def predict(self, features: Float64) -> Float64:
        """[N] from [N, D]."""
        return self.predict_bands(features.T)

    def predict_bands(self, bands: npt.NDArray[np.floating]) -> Float64:
        """[...] from [D, ...]: feature by feature, so that a value does not depend on those that are computed with it."""
        if len(bands) != len(self.mean):
            raise ConfigError(f"the model has {len(self.mean)} features, not {len(bands)}")
        total = np.full(bands.shape[1:], self.intercept)
        for band, mean, slope in zip(bands, self.mean, self.coefficients / self.scale, strict=True):
            total += (band.astype(np.float64) - mean) * slope
        return total


@dataclass(frozen=True)
class RidgeFit:
    """A ridge model and how far it was off where it had not looked: residuals [N], measured - predicted."""

    ridge: Ridge
    residuals: Float64


class Decomposition:
    """The singular value decomposition of weighted, standardised features, ready for any penalty.

    Parameters
    ----------
    features : [N, D]
    target : [N], or [N, K] for K targets that share a penalty
    weights : [N] positive; equal when None
    """

    def __init__(self, features: Float64, target: Float64, weights: Float64 | None = None) -> None:
        count = len(target)
        weight = np.ones(count) if weights is None else np.asarray(weights, np.float64)
        if features.shape[0] != count or weight.shape != (count,) or count == 0:
            raise ConfigError(f"{features.shape[0]} rows of features, {count} values and {weight.size} weights do not match")
        if not (np.isfinite(features).all() and np.isfinite(target).all() and np.isfinite(weight).all() and (weight > 0).all()):
            raise ConfigError("features, values and weights must be finite, and weights positive")
        weight = weight / weight.mean()
        self.mean = weight @ features / count
        centred = features - self.mean
        spread = np.sqrt(weight @ centred**2 / count)
        constant = spread <= _CONSTANT * np.maximum(np.abs(self.mean), np.finfo(np.float64).tiny)
        self.scale = np.where(constant, 1.0, spread)
        self.intercept = weight @ target / count
        self._root = np.sqrt(weight)
        self._left, self._values, self._right = np.linalg.svd(
            self._root[:, None] * np.where(constant, 0.0, centred / self.scale), full_matrices=False
        )
        self._target = (self._root * (target - self.intercept).T).T
        self._projected = self._left.T @ self._target

    def ridge(self, penalty: float) -> Ridge:
        """The model of a penalty; of 0, the least-squares one of least norm."""
        return Ridge(self.mean, self.scale, self.coefficients(penalty), float(self.intercept), float(penalty))

    def coefficients(self, penalty: float) -> Float64:
        """[D] or [D, K] on standardised features."""
        return self._right.T @ (self._gain(penalty) * self._projected.T).T

    def predict(self, features: Float64, penalty: float) -> Float64:
        """[M] or [M, K] from features [M, D]."""
        return (features - self.mean) / self.scale @ self.coefficients(penalty) + self.intercept

    def _gain(self, penalty: float) -> Float64:
        values = self._values
        kept = values > values.max(initial=0.0) * max(len(self._target), len(self.mean)) * np.finfo(np.float64).eps
        return np.divide(values, values**2 + penalty, out=np.zeros_like(values), where=kept)

    def generalised_error(self, penalty: float) -> float:
        """Generalised cross-validation (Golub, Heath and Wahba 1979, Technometrics 21), the intercept counted as a parameter."""
        count, shrink = len(self._target), self._gain(penalty) * self._values
        left = count - 1.0 - shrink.sum()
        residual = self._target - self._left @ (shrink * self._projected.T).T
        return float(count * np.square(residual).sum() / left**2) if left > 1e-9 else np.inf

    def left_out_residuals(self, penalty: float) -> Float64:
        """[N] residuals of each row by the model of the others (PRESS), features standardised as they are; of one target."""
        shrink = self._gain(penalty) * self._values
        leverage = self._left**2 @ shrink + self._root**2 / len(self._target)
        residual = (self._target - self._left @ (shrink * self._projected)) / self._root
        return residual / np.maximum(1.0 - leverage, 1e-6)


def fit_ridge(
    features: Float64,
    target: Float64,
    *,
    weights: Float64 | None = None,
    groups: Int64 | None = None,
    penalties: Float64 | None = None,
    folds: int = 5,
    seed: int = 0,
) -> RidgeFit:
    """The ridge model whose penalty has the least error on held-out groups.

    Parameters
    ----------
    features : [N, D]; may have more columns than rows
    target : [N]
    weights : [N] of the rows; equal when None
    groups : [N] rows of one group are held out together; with fewer than three groups, or None, generalised cross-validation
        chooses
    penalties : to try, in units of the loss; else `PENALTIES` times N

    Raises
    ------
    ConfigError
        There are fewer than three rows, or values that are not finite.
    """
    count = len(target)
    if count < 3:
        raise ConfigError(f"a ridge model needs at least 3 plots, not {count}")
    per_row = PENALTIES if penalties is None else np.asarray(penalties, np.float64) / count
    whole = Decomposition(features, target, weights)
    if groups is None or len(np.unique(groups)) < _FEWEST_GROUPS:
        best = _least(np.array([whole.generalised_error(penalty) for penalty in per_row * count]))
        penalty = float(per_row[best] * count)
        return RidgeFit(whole.ridge(penalty), whole.left_out_residuals(penalty))
    weight = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    fold = deal(groups, min(folds, len(np.unique(groups))), seed)
    residuals = np.zeros((len(per_row), count))
    for number in range(int(fold.max()) + 1):
        out, into = fold == number, fold != number
        part = Decomposition(features[into], target[into], weight[into])
        for at, each in enumerate(per_row):
            # a penalty weighs against the sum of the rows, so it shrinks with their number
            residuals[at, out] = target[out] - part.ridge(each * into.sum()).predict(features[out])
    best = _least(residuals**2 @ weight)
    return RidgeFit(whole.ridge(float(per_row[best] * count)), residuals[best])


def _least(errors: Float64) -> int:
    """Index of the least error; of equal ones the last, which has the largest penalty."""
    least = errors.min()
    if not np.isfinite(least):
        return len(errors) - 1
    return int(np.flatnonzero(errors <= least * (1 + 1e-9))[-1])
