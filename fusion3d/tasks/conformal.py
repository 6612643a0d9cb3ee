"""Intervals of predictions from residuals on held-out plots: split conformal prediction with residuals scaled by their spread.

A residual is divided by the spread that is expected at its prediction; an interval is the prediction plus or minus that spread
times the ceil((n + 1) level)-th smallest of the n scaled residuals (Lei et al. 2018, Journal of the American Statistical
Association 113, section 5.2 for the scaling; Romano, Patterson and Candes 2019, NeurIPS, for the case against intervals of one
width). Residuals are those of the cross-validation, so no plot is spent on calibration alone; intervals are laid about the model of
all plots, the shortcut that Barber et al. (2021, Annals of Statistics 49) call jackknife or CV without plus: it covers as promised
where a model hardly changes when a fold is left out, and the coverage that is reported is measured, not promised.

The spread is a + b * prediction, with a and b not negative: Glejser's (1969, JASA 64) regression of the absolute residual on the
prediction. Two numbers are what thirty plots can carry. It holds both a constant width (b = 0) and the rule "prediction + 20 Mg/ha"
(a / b = 20), in any unit. It is fitted to relative absolute residuals again and again until the weights settle, so that large
trees do not decide alone, and a is at least a tenth of the mean absolute residual, so that no interval has width 0.
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
_FLOOR = 0.1
_ROUNDS = 5
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
    constant, slope : a and b of the spread, in units of the target and without
    scaled : [n] absolute residuals over their spread, rising
    """

    constant: float
    slope: float
    scaled: Float64

    def __post_init__(self) -> None:
        if not (np.isfinite([self.constant, self.slope]).all() and self.constant > 0 and self.slope >= 0):
            raise ConfigError("the spread of a model must be a positive constant and a slope of 0 or more")
        if not len(self.scaled) or not np.isfinite(self.scaled).all() or (np.diff(self.scaled) < 0).any() or self.scaled[0] < 0:
            raise ConfigError("the scaled residuals of a model must be 0 or more, in rising order, and at least one")

    @classmethod
    def of(cls, measured: Float64, predicted: Float64) -> Self:
        """From measured values [n] and what models that had not seen them predicted."""
        residual = np.abs(measured - predicted)
        constant, slope = _spread(residual, np.maximum(predicted, 0.0))
        return cls(constant, slope, np.sort(residual / (constant + slope * np.maximum(predicted, 0.0))))

    def spread(self, predicted: Float64) -> Float64:
        """[...] in the unit of the target; predictions below 0 have that of 0."""
        return self.constant + self.slope * np.maximum(predicted, 0.0)

    def quantile(self, level: float) -> float:
        """How many spreads an interval reaches on either side; infinite where there are too few plots."""
        at = rank(len(self.scaled), level)
        return float(self.scaled[at - 1]) if at <= len(self.scaled) else math.inf

    def standard_error(self, predicted: Float64) -> Float64:
        """[...] root mean square of the error that is expected, in the unit of the target."""
        return self.spread(predicted) * float(np.sqrt(np.square(self.scaled).mean()))

    def bounds(self, predicted: Float64, level: float, nonnegative: bool) -> tuple[Float64, Float64]:
        """Lower and upper [...]; NaN where there are too few plots for the level."""
        reach = self.quantile(level)
        width = self.spread(predicted) * (reach if math.isfinite(reach) else math.nan)
        lower = predicted - width
        return (np.maximum(lower, 0.0) if nonnegative else lower), predicted + width


def _spread(residual: Float64, predicted: Float64) -> tuple[float, float]:
    from scipy.optimize import nnls

    typical = float(residual.mean()) or np.finfo(np.float32).tiny
    design = np.column_stack([np.ones_like(predicted), predicted])
    weight = np.ones_like(residual)
    for _ in range(_ROUNDS):
        constant, slope = nnls(design * weight[:, None], residual * weight)[0]
        constant = max(float(constant), _FLOOR * typical)
        weight = typical / (constant + slope * predicted)
    return constant, float(slope)


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
