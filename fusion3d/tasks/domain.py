"""Where a model extrapolates: the area of applicability (Meyer and Pebesma 2021, Methods in Ecology and Evolution 12).

Features are standardised and weighted by their importance to the model. The dissimilarity index of a cell is its distance to
the nearest training plot over the mean distance between training plots. The threshold comes from the cross-validation: for each
plot the same index to plots of other folds; the largest value within 1.5 interquartile ranges of the upper quartile. Beyond it
the model is asked for combinations of features that its scores say nothing about.

The importance of a feature is how much predictions change (root mean square) when its values are shuffled among the plots,
which is defined for every kind of model (Breiman 2001; Fisher, Rudin and Dominici 2019, JMLR 20).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError
from fusion3d.evaluation.blocks import Folds
from fusion3d.tasks.regressors.protocol import Regressor

Float64 = npt.NDArray[np.float64]

EXTRAPOLATION = "extrapolation"
"""Name of a map's band that is 1 outside of the model's domain and 0 inside."""
_WHISKER = 1.5
_CELLS = 8192
_PLOTS = 1024
_SHARE = 1e-3
"""Of the largest weight; features with less do not move the distances."""
_CONSTANT = 1e-10


@dataclass(frozen=True)
class Domain:
    """The training plots in the space of weighted features.

    Attributes
    ----------
    mean, scale : [D] of the features in training
    weights : [D], the largest 1
    plots : [P, K] weighted, of the K features whose weight is not 0
    distance : mean between plots
    threshold : of the dissimilarity index
    """

    mean: Float64
    scale: Float64
    weights: Float64
    plots: Float64
    distance: float
    threshold: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.distance, self.threshold]).all() and self.distance > 0 and self.threshold >= 0):
            raise ConfigError("distance and threshold of a domain must be positive numbers")
        if self.plots.ndim != 2 or self.plots.shape[1] != int((self.weights > 0).sum()) or not len(self.plots):
            raise ConfigError("the plots of a domain do not match its weights")
        if not ((self.scale > 0).all() and (self.weights >= 0).all()):
            raise ConfigError("scale and weights of a domain must be positive")

    @classmethod
    def of(cls, features: Float64, regressor: Regressor, split: Folds) -> Self:
        """From features [P, D] of the training plots, the model of all of them and the folds of its cross-validation."""
        from scipy.spatial.distance import cdist

        mean, spread = features.mean(axis=0), features.std(axis=0)
        constant = spread <= _CONSTANT * np.maximum(np.abs(mean), np.finfo(np.float64).tiny)
        scale = np.where(constant, 1.0, spread)
        weights = importance(features, regressor, split.seed)
        weights[constant] = 0.0
        # a model that predicts one value everywhere: every feature counts alike
        weights = weights / weights.max() if weights.max() > 0 else np.ones_like(weights)
        weights[weights < _SHARE] = 0.0
        used = weights > 0
        plots = (features[:, used] - mean[used]) / scale[used] * weights[used]
        total, nearest = 0.0, np.empty(len(plots))
        for first in range(0, len(plots), _PLOTS):
            part = slice(first, first + _PLOTS)
            apart = cdist(plots[part], plots)
            total += float(apart.sum())
            apart[split.fold[part, None] == split.fold] = np.inf
            nearest[part] = apart.min(axis=1)
        distance = total / (len(plots) * (len(plots) - 1)) or 1.0
        nearest /= distance
        low, high = np.percentile(nearest, [25, 75])
        threshold = float(nearest[nearest <= high + _WHISKER * (high - low)].max())
        return cls(mean, scale, weights, plots, distance, threshold)

    def dissimilarity(self, bands: npt.NDArray[np.floating]) -> Float64:
        """Index [...] of cells with bands [D, ...]."""
        from scipy.spatial.distance import cdist

        used = self.weights > 0
        flat = bands.reshape(len(bands), -1)
        found = np.empty(flat.shape[1])
        centre, unit = self.mean[used, None], (self.weights / self.scale)[used, None]
        for first in range(0, flat.shape[1], _CELLS):
            part = slice(first, first + _CELLS)
            cells = (flat[used, part].astype(np.float64) - centre) * unit
            found[part] = cdist(cells.T, self.plots).min(axis=1)
        return found.reshape(bands.shape[1:]) / self.distance

    def outside(self, bands: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
        """[...] whether the model extrapolates there."""
        return self.dissimilarity(bands) > self.threshold


def importance(features: Float64, regressor: Regressor, seed: int) -> Float64:
    """[D] root mean square of what predictions change by when a feature is shuffled among the rows [N, D]."""
    rng = np.random.default_rng(seed)
    count, dimensions = features.shape
    usual = regressor.predict_bands(features.T)
    found = np.zeros(dimensions)
    together = max(1, _CELLS // count)
    for first in range(0, dimensions, together):
        some = range(first, min(first + together, dimensions))
        shuffled = np.repeat(features.T[:, None, :], len(some), axis=1)
        for place, at in enumerate(some):
            shuffled[at, place] = rng.permutation(shuffled[at, place])
        found[some] = np.sqrt(np.square(regressor.predict_bands(shuffled) - usual).mean(axis=1))
    return found
