"""Random forest (Breiman 2001, Machine Learning 45): the mean of trees that were grown on resamples of the plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.tasks.regressors.protocol import AnyFeatures, Fitted, Float64, Int64, Parts
from fusion3d.tasks.regressors.trees import Trees

TREES = 300
_SHARE = 1 / 3
_SPLIT = 6


@dataclass(frozen=True)
class Forest:
    """The mean over trees."""

    trees: Trees

    def predict_bands(self, bands: npt.NDArray[np.floating]) -> Float64:
        return self.trees.sum(bands) / self.trees.count


class ForestFamily(AnyFeatures):
    """Fixed settings: those of randomForest in R (Liaw and Wiener 2002, R News 2) but for the number of trees."""

    name = "forest"
    method = (
        f"random forest (Breiman 2001) of {TREES} trees, a third of the features tried at each split, nodes of fewer than "
        f"{_SPLIT} plots not split (the defaults of Liaw and Wiener 2002)"
    )
    transforms: tuple[str, ...] = ("none", "sqrt", "log1p")
    weighted = True

    def fit(
        self, features: Float64, target: Float64, *, groups: Int64, seed: int, weights: Float64 | None = None
    ) -> Fitted[Forest]:
        """Residuals are those of the trees that a row is not in (out of bag)."""
        from sklearn.ensemble import RandomForestRegressor

        grown = RandomForestRegressor(
            TREES, max_features=_SHARE, min_samples_split=_SPLIT, oob_score=True, random_state=seed, n_jobs=1
        ).fit(features, target, sample_weight=weights)
        return Fitted(Forest(Trees.of(grown.estimators_)), target - grown.oob_prediction_, {"trees": float(TREES)})

    def pack(self, regressor: Forest) -> Parts:
        return Parts({}, regressor.trees.arrays())

    def unpack(self, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], dimensions: int) -> Forest:
        return Forest(Trees.from_arrays(arrays, dimensions))

    def remarks(self, regressor: Forest, names: tuple[str, ...]) -> tuple[str, ...]:
        return ()
