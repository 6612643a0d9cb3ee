"""Multinomial logistic regression with a ridge penalty (Hastie, Tibshirani and Friedman 2009, section 4.4).

The loss is the weighted mean of -log p of the true class + penalty / 2 |coefficients|^2 on features of mean 0 and variance 1;
intercepts are not shrunk. It is convex and is minimised by L-BFGS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.tasks.classes.protocol import FittedClassifier, Float64, Int64, Parts, numbers, places
from fusion3d.tasks.regressors.inner_folds import inner_folds

PENALTIES = np.logspace(0, -5, 6)
_MOST_ROWS = 2_500
"""On which the penalty is chosen; for N rows it is weaker by 2,500 / N, since it weighs against their sum."""
_STEPS, _TOLERANCE = 200, 1e-6
_SEARCH_STEPS, _SEARCH_TOLERANCE = 40, 1e-4
_CONSTANT = 1e-10
_LEAST = 1e-6
"""Probability below which a miss costs no more when penalties are compared: a class may be missing in an inner fold."""


@dataclass(frozen=True)
class Logistic:
    """Linear functions of standardised features, one a class.

    Attributes
    ----------
    mean, scale : [D] of the features in training
    coefficients, intercepts : [L, D] and [L] of the classes that training held
    present : [L] their places, rising
    classes : K
    """

    mean: Float64
    scale: Float64
    coefficients: Float64
    intercepts: Float64
    present: Int64
    classes: int

    def probabilities(self, bands: npt.NDArray[np.floating]) -> Float64:
        scores = np.empty((len(self.present), *bands.shape[1:]))
        scores[...] = self.intercepts.reshape(-1, *[1] * (bands.ndim - 1))
        slopes = self.coefficients / self.scale
        # band by band, not by a matrix product: how a product is summed depends on how many cells there are
        for at, (band, mean) in enumerate(zip(bands, self.mean, strict=True)):
            offset = band.astype(np.float64) - mean
            for number in range(len(scores)):
                scores[number] += slopes[number, at] * offset
        scores -= scores.max(axis=0)
        np.exp(scores, out=scores)
        total = np.zeros(bands.shape[1:])
        for each in scores:
            total += each
        found = np.zeros((self.classes, *bands.shape[1:]))
        found[self.present] = scores / total
        return found


class LogisticFamily:
    """Linear in standardised features."""

    name = "linear"
    method = (
        "multinomial logistic regression with a ridge penalty (Hastie, Tibshirani and Friedman 2009), the penalty chosen by "
        "cross-validation on blocks of the training ground"
    )

    def fit(
        self, features: Float64, place: Int64, weights: Float64, *, classes: int, groups: Int64, seed: int
    ) -> FittedClassifier[Logistic]:
        used = weights > 0
        features, place, weights, groups = features[used], place[used], weights[used], groups[used]
        present, own = np.unique(place, return_inverse=True)
        own = own.reshape(-1)
        mean, scale = _moments(features, weights)
        standard = (features - mean) / scale
        penalty = _choose(standard, own, weights, len(present), groups, seed)
        solved = _path(standard, own, weights, len(present), np.array([penalty]), _STEPS, _TOLERANCE)[0]
        centred = solved - solved.mean(axis=0)
        return FittedClassifier(
            Logistic(mean, scale, centred[:, 1:].copy(), centred[:, 0].copy(), present.astype(np.int64), classes),
            {"penalty": float(penalty)},
        )

    def pack(self, classifier: Logistic) -> Parts:
        names = ("mean", "scale", "coefficients", "intercepts", "present")
        return Parts({}, {name: getattr(classifier, name) for name in names})

    def unpack(
        self, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], dimensions: int, classes: int
    ) -> Logistic:
        present = places(arrays["present"], classes)
        mean, scale = (numbers(arrays[name], (dimensions,)) for name in ("mean", "scale"))
        if not (scale > 0).all():
            raise ValueError("the scale of a feature is not positive")
        coefficients = numbers(arrays["coefficients"], (len(present), dimensions))
        return Logistic(mean, scale, coefficients, numbers(arrays["intercepts"], (len(present),)), present, classes)


def _moments(features: Float64, weights: Float64) -> tuple[Float64, Float64]:
    share = weights / weights.sum()
    mean = share @ features
    spread = np.sqrt(share @ (features - mean) ** 2)
    constant = spread <= _CONSTANT * np.maximum(np.abs(mean), 1.0)
    return mean, np.where(constant, 1.0, spread)


def _choose(features: Float64, place: Int64, weights: Float64, count: int, groups: Int64, seed: int) -> float:
    """The penalty of least log loss on inner folds, the largest of equal ones."""
    rows = len(place)
    if len(place) > _MOST_ROWS:
        drawn = np.sort(np.random.default_rng(seed).choice(len(place), _MOST_ROWS, replace=False))
        features, place, weights, groups = features[drawn], place[drawn], weights[drawn], groups[drawn]
    fold = inner_folds(groups, seed)
    losses = np.zeros(len(PENALTIES))
    for number in range(int(fold.max()) + 1):
        out, into = fold == number, fold != number
        steps = _path(features[into], place[into], weights[into], count, PENALTIES, _SEARCH_STEPS, _SEARCH_TOLERANCE)
        for at, solved in enumerate(steps):
            right = _softmax(features[out], solved)[np.arange(out.sum()), place[out]]
            losses[at] -= weights[out] @ np.log(np.maximum(right, _LEAST))
    return float(PENALTIES[np.flatnonzero(losses <= losses.min() * (1 + 1e-9))[0]]) * len(place) / rows


def _path(
    features: Float64, place: Int64, weights: Float64, count: int, penalties: Float64, steps: int, tolerance: float
) -> list[Float64]:
    """Solutions [L, 1 + D] (intercepts first) for falling penalties, each begun at the one before."""
    from scipy.optimize import minimize

    share = weights / weights.sum()
    target = np.zeros((len(place), count))
    target[np.arange(len(place)), place] = 1.0
    shape = (count, 1 + features.shape[1])
    # log shares of the classes: the solution for an endless penalty
    start = np.zeros(shape)
    start[:, 0] = np.log(np.maximum(share @ target, _LEAST))
    found = []
    for penalty in penalties:

        def loss(flat: Float64, penalty: float = penalty) -> tuple[float, Float64]:
            solved = flat.reshape(shape)
            probability = _softmax(features, solved)
            right = probability[np.arange(len(place)), place]
            value = -float(share @ np.log(np.maximum(right, 1e-300))) + 0.5 * penalty * float((solved[:, 1:] ** 2).sum())
            error = share[:, None] * (probability - target)
            slope = np.concatenate([error.sum(axis=0)[:, None], error.T @ features + penalty * solved[:, 1:]], axis=1)
            return value, slope.ravel()

        options = {"maxiter": steps, "gtol": tolerance, "ftol": tolerance * 1e-3}
        start = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(shape)
        found.append(start)
    return found


def _softmax(features: Float64, solved: Float64) -> Float64:
    """[N, L] probabilities."""
    scores = features @ solved[:, 1:].T + solved[:, 0]
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)
