"""Intervals of predictions from residuals on held-out plots: split conformal prediction with residuals scaled by their spread.

A residual is divided by the spread that is expected at its prediction; an interval is the prediction plus or minus that spread
times the ceil((n + 1) level)-th smallest of the n scaled residuals (Lei et al. 2018, Journal of the American Statistical
Association 113, section 5.2 for the scaling; Romano, Patterson and Candes 2019, NeurIPS, for the case against intervals of one
width). Residuals are those of the cross-validation, so no plot is spent on calibration alone; intervals are laid about the
model of all plots, the shortcut that Barber et al. (2021, Annals of Statistics 49) call jackknife or CV without plus: it covers
as promised where a model hardly changes when a fold is left out, and the coverage that is reported is measured, not promised.

The spread is the standard error at a prediction: the root mean square residual of the quarter of the plots (eight at least)
whose held-out predictions are nearest to it in rank, interpolated between plots; Lei et al. smooth absolute residuals in that
way. Errors of biomass neither have one size nor grow with biomass alone: they are least where there is no tree, and largest for
their size in between, so that intervals of one width cover too often at one end and too seldom at the other, and widths in
proportion to "prediction + 20 Mg/ha" fail in the middle. A spread is at least a tenth of the root mean square of all residuals,
so that no interval has width 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError
from fusion3d.evaluation.blocks import Folds

Float64 = npt.NDArray[np.float64]

LEVEL = 0.9
_SHARE = 4
_FEWEST = 8
_FLOOR = 0.1
_ROUNDING = 1e-9


def check_level(level: float) -> None:
    """Refuse a level that is no share."""
    if not 0 < level < 1:
        raise ConfigError(f"--level {level:g} must lie between 0 and 1, such as 0.9")


def rank(count: int, level: float) -> int:
    """Of the scaled residual that bounds an interval, from 1; above `count` where there are too few."""
    return math.ceil((count + 1) * level - _ROUNDING)


def plots_needed(level: float) -> int:
    """The fewest residuals by which an interval of that level is finite."""
    return math.ceil(level / (1 - level) - _ROUNDING)


@dataclass(frozen=True)
class Conformal:
    """What makes an interval of a prediction.

    Attributes
    ----------
    at, error : [K] predictions, rising, and the standard error there, positive; linear between them, constant beyond
    scaled : [n] absolute residuals over their spread, rising
    """

    at: Float64
    error: Float64
    scaled: Float64

    def __post_init__(self) -> None:
        if not (self.at.ndim == 1 and self.at.shape == self.error.shape and len(self.at)):
            raise ConfigError("the spread of a model is not a list of predictions and errors")
        if (np.diff(self.at) <= 0).any() or not (self.error > 0).all() or not np.isfinite([*self.at, *self.error]).all():
            raise ConfigError("the spread of a model must be positive, at rising predictions")
        if self.scaled.ndim != 1 or not len(self.scaled) or not np.isfinite(self.scaled).all():
            raise ConfigError("the scaled residuals of a model must be finite, and at least one")
        if (np.diff(self.scaled) < 0).any() or self.scaled[0] < 0:
            raise ConfigError("the scaled residuals of a model must be 0 or more, in rising order")

    @classmethod
    def of(cls, measured: Float64, predicted: Float64) -> Self:
        """From measured values [n] and what models that had not seen them predicted."""
        residual = np.abs(measured - predicted)
        at, error = _running_error(residual, predicted)
        return cls(at, error, np.sort(residual / np.interp(predicted, at, error)))

    def standard_error(self, predicted: Float64) -> Float64:
        """[...] root mean square of the error that is expected of a plot, in the unit of the target."""
        return np.interp(predicted, self.at, self.error)

    def quantile(self, level: float) -> float:
        """How many standard errors an interval reaches on either side; infinite where there are too few plots."""
        at = rank(len(self.scaled), level)
        return float(self.scaled[at - 1]) if at <= len(self.scaled) else math.inf

    def bounds(self, predicted: Float64, level: float, nonnegative: bool) -> tuple[Float64, Float64]:
        """Lower and upper [...]; NaN where there are too few plots for the level."""
        reach = self.quantile(level)
        width = self.standard_error(predicted) * (reach if math.isfinite(reach) else math.nan)
        lower = predicted - width
        return (np.maximum(lower, 0.0) if nonnegative else lower), predicted + width


def _running_error(residual: Float64, predicted: Float64) -> tuple[Float64, Float64]:
    """Distinct predictions [K] and the root mean square residual about each."""
    count = len(residual)
    window = min(count, max(_FEWEST, count // _SHARE))
    order = np.argsort(predicted, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(np.square(residual[order]))])
    first = np.clip(np.arange(count) - window // 2, 0, count - window)
    square = np.maximum(sums[first + window] - sums[first], 0.0) / window
    # of equal predictions, in whatever order they come, the mean
    at, place = np.unique(predicted[order], return_inverse=True)
    square = np.bincount(place, square) / np.bincount(place)
    least = _FLOOR * float(np.sqrt(np.square(residual).mean())) or float(np.finfo(np.float32).tiny)
    return at, np.maximum(np.sqrt(square), least)


def nested_bounds(
    measured: Float64, predicted: Float64, split: Folds, level: float, nonnegative: bool
) -> tuple[Float64, Float64]:
    """Lower and upper [P] of held-out plots, each calibrated on the plots of the other folds alone.

    Plots that the fold's model was not trained with, because they lie too near, do not calibrate it either.
    """
    lower, upper = np.full((2, len(measured)), np.nan)
    for number in range(split.count):
        others, held_out = split.split(number)
        calibrated = Conformal.of(measured[others], predicted[others])
        lower[held_out], upper[held_out] = calibrated.bounds(predicted[held_out], level, nonnegative)
    return lower, upper
