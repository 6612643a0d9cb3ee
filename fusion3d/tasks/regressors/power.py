"""The power-law model of the area-based approach: a constant times powers of a few metrics (Naesset 2002, RSE 80).

It is fitted as a linear model of logarithms. Predictors enter one at a time, the one that lowers the corrected information
criterion AICc (Hurvich and Tsai 1989, Biometrika 76) most, until none does or four are in; one whose variance inflation by those
before it would pass 10 (Marquardt 1970, Technometrics 12) is passed over. The way back from logarithms is corrected by the ratio
of the means of measured and predicted values (Snowdon 1991, Canadian Journal of Forest Research 21).

A logarithm needs a positive number. A feature that is negative in some plot, or positive in less than half of them, is no
candidate; where that is so of half of the features, they are no metrics of a canopy, and the model is refused. Zeros happen (no
tree, no cover): target and features are raised to a floor of 1 % of their mean in training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError
from fusion3d.tasks.regressors.protocol import AnyFeatures, Fitted, Float64, Int64, Parts, numbers

_MOST = 4
_INFLATION = 10.0
_FLOOR = 0.01
_LARGEST_LOG = 80.0
_MOST_LOG = 700.0
_CONSTANT = 1e-4
"""Variance of the logarithms of a feature, below which it is no candidate: values that differ by 1 % would need powers of a
hundred, and a factor that no number can hold."""


@dataclass(frozen=True)
class PowerLaw:
    """factor * product of max(feature, floor) ** exponent.

    Attributes
    ----------
    predictors : [K] numbers of the features
    floors, exponents : [K]
    factor : with the correction of bias
    dimensions : D
    """

    predictors: Int64
    floors: Float64
    exponents: Float64
    factor: float
    dimensions: int

    def __post_init__(self) -> None:
        inside = (self.predictors >= 0).all() and (self.predictors < self.dimensions).all()
        if not (inside and (self.floors > 0).all() and np.isfinite(self.factor) and self.factor > 0):
            raise ValueError("predictors, floors or factor of a power law are out of range")

    def predict_bands(self, bands: npt.NDArray[np.floating]) -> Float64:
        total = np.full(bands.shape[1:], np.log(self.factor))
        for band, floor, exponent in zip(bands[self.predictors], self.floors, self.exponents, strict=True):
            total += exponent * np.log(np.maximum(band.astype(np.float64), floor))
        return np.exp(np.minimum(total, _LARGEST_LOG))


class PowerFamily(AnyFeatures):
    """Settings as in the module's text."""

    name = "power"
    method = (
        f"power-law model (Naesset 2002) of at most {_MOST} features, entered by AICc (Hurvich and Tsai 1989), fitted on "
        "logarithms and corrected by the ratio of means (Snowdon 1991)"
    )
    transforms: tuple[str, ...] = ("none",)
    weighted = False

    def fit(
        self, features: Float64, target: Float64, *, groups: Int64, seed: int, weights: Float64 | None = None
    ) -> Fitted[PowerLaw]:
        """Residuals are those of each row by the powers of the others (PRESS), with the same predictors."""
        if (target < 0).any() or not target.mean() > 0:
            raise ConfigError("--model power needs measured values of 0 or more, not all 0")
        positive = (features.min(axis=0) >= 0) & ((features > 0).mean(axis=0) >= 0.5)
        candidates = np.flatnonzero(positive)
        if 2 * len(candidates) <= len(positive):
            raise ConfigError(
                f"--model power needs positive features: {len(positive) - len(candidates)} of {len(positive)} bands have values "
                "below 0 or mostly 0 under the plots; give a raster of height metrics, or another --model"
            )
        floors = _FLOOR * features[:, candidates].mean(axis=0)
        logs = np.log(np.maximum(features[:, candidates], floors))
        response = np.log(np.maximum(target, _FLOOR * target.mean()))
        taken = _enter(logs, response)
        design = np.column_stack([np.ones(len(target)), logs[:, taken]])
        found, *_ = np.linalg.lstsq(design, response)
        fitted = design @ found
        ratio = float(target.mean() / np.exp(fitted).mean())
        factor = ratio * float(np.exp(min(found[0], _MOST_LOG)))
        if not (math.isfinite(factor) and factor > 0):
            powers = ", ".join(f"{exponent:.3g}" for exponent in found[1:])
            raise ConfigError(
                f"--model power finds no usable law for these plots (powers {powers}); give more plots or another --model"
            )
        law = PowerLaw(candidates[taken].astype(np.int64), floors[taken], found[1:], factor, features.shape[1])
        leverage = np.square(np.linalg.qr(design)[0]).sum(axis=1)
        left_out = response - (response - fitted) / np.maximum(1 - leverage, 1e-6)
        return Fitted(law, target - ratio * np.exp(np.minimum(left_out, _LARGEST_LOG)), {"predictors": float(len(taken))})

    def pack(self, regressor: PowerLaw) -> Parts:
        arrays = {"predictors": regressor.predictors, "floors": regressor.floors, "exponents": regressor.exponents}
        return Parts({"factor": regressor.factor}, arrays)

    def unpack(self, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], dimensions: int) -> PowerLaw:
        predictors = np.asarray(arrays["predictors"])
        if predictors.ndim != 1 or predictors.dtype.kind not in "iu":
            raise ValueError("the predictors of a power law are not whole numbers")
        floors, exponents = (numbers(arrays[name], (len(predictors),)) for name in ("floors", "exponents"))
        return PowerLaw(predictors.astype(np.int64), floors, exponents, float(settings["factor"]), dimensions)

    def remarks(self, regressor: PowerLaw, names: tuple[str, ...]) -> tuple[str, ...]:
        powers = (f"{names[at]}^{exponent:.3g}" for at, exponent in zip(regressor.predictors, regressor.exponents))
        return (f"power law: {' * '.join([f'{regressor.factor:.4g}', *powers])}",)


def _enter(logs: Float64, response: Float64) -> list[int]:
    """Columns of logs [N, C] in the order in which they enter."""
    taken: list[int] = []
    best = _criterion(np.square(response - response.mean()).sum(), len(response), 0)
    while len(taken) < _MOST:
        design = np.column_stack([np.ones(len(response)), logs[:, taken]])
        basis = np.linalg.qr(design)[0]
        left = logs - basis @ (basis.T @ logs)
        rest = response - basis @ (basis.T @ response)
        power, total = np.square(left).sum(axis=0), np.square(logs - logs.mean(axis=0)).sum(axis=0)
        allowed = (total > _CONSTANT * len(response)) & (power * _INFLATION > total)
        allowed[taken] = False
        if not allowed.any():
            break
        gain = np.where(allowed, np.square(rest @ left) / np.where(allowed, power, 1.0), -1.0)
        at = int(gain.argmax())
        value = _criterion(float(np.square(rest).sum() - gain[at]), len(response), len(taken) + 1)
        if not value < best:
            break
        taken.append(at)
        best = value
    return taken


def _criterion(squares: float, count: int, predictors: int) -> float:
    """AICc of a linear model with that many predictors, an intercept and a variance."""
    parameters = predictors + 2
    if count - parameters - 1 <= 0:
        return np.inf
    size = max(squares, np.finfo(np.float64).tiny)
    return count * float(np.log(size / count)) + 2 * parameters + 2 * parameters * (parameters + 1) / (count - parameters - 1)
