"""Gradient boosting of small trees, each on a random half of the plots (Friedman 2001, Ann. Statist. 29; 2002, CSDA 38)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.tasks.regressors.inner_folds import inner_folds
from fusion3d.tasks.regressors.protocol import AnyFeatures, Fitted, Float64, Int64, Parts
from fusion3d.tasks.regressors.trees import Trees

_MOST = 200
_RATE = 0.05
_DEPTH = 3
_HALF = 0.5


@dataclass(frozen=True)
class Boosting:
    """A constant and a sum of trees, each times `rate`."""

    start: float
    rate: float
    trees: Trees

    def __post_init__(self) -> None:
        if not np.isfinite([self.start, self.rate]).all():
            raise ValueError("start and rate of boosted trees must be finite numbers")

    def predict_bands(self, bands: npt.NDArray[np.floating]) -> Float64:
        return self.trees.sum(bands, scale=self.rate, start=self.start)


class BoostingFamily(AnyFeatures):
    """Fixed depth, rate and shares; the number of trees is the one of least error on held-out groups of the rows."""

    name = "boosting"
    method = (
        f"stochastic gradient boosting (Friedman 2002) of trees of depth {_DEPTH}, learning rate {_RATE}, each on half of the "
        f"plots and a square root of the features, their number (at most {_MOST}) chosen by cross-validation on blocks of the "
        "training plots"
    )
    transforms: tuple[str, ...] = ("none", "sqrt", "log1p")
    weighted = True

    def fit(
        self, features: Float64, target: Float64, *, groups: Int64, seed: int, weights: Float64 | None = None
    ) -> Fitted[Boosting]:
        fold = inner_folds(groups, seed)
        residuals = np.zeros((_MOST, len(target)))
        for number in range(int(fold.max()) + 1):
            out, into = fold == number, fold != number
            grown = _grow(features[into], target[into], None if weights is None else weights[into], _MOST, seed)
            for stage, predicted in enumerate(grown.staged_predict(features[out])):
                residuals[stage, out] = target[out] - predicted
        best = int(np.argmin((residuals**2).sum(axis=1) if weights is None else residuals**2 @ weights))
        grown = _grow(features, target, weights, best + 1, seed)
        start = float(grown.init_.constant_[0, 0])
        found = Boosting(start, float(grown.learning_rate), Trees.of(grown.estimators_[:, 0]))
        return Fitted(found, residuals[best], {"trees": float(best + 1)})

    def pack(self, regressor: Boosting) -> Parts:
        return Parts({"start": regressor.start, "rate": regressor.rate}, regressor.trees.arrays())

    def unpack(self, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], dimensions: int) -> Boosting:
        return Boosting(float(settings["start"]), float(settings["rate"]), Trees.from_arrays(arrays, dimensions))

    def remarks(self, regressor: Boosting, names: tuple[str, ...]) -> tuple[str, ...]:
        return ()


def _grow(features: Float64, target: Float64, weights: Float64 | None, trees: int, seed: int) -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(
        n_estimators=trees, learning_rate=_RATE, max_depth=_DEPTH, subsample=_HALF, max_features="sqrt", random_state=seed
    ).fit(features, target, sample_weight=weights)
