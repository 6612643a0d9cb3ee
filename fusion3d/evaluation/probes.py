"""Probes: simple models from frozen features to labels. What they reach is what the features hold in plain sight.

Each takes training features [N, F], labels [N] (values, or codes of classes), blocks of ground [N] and features to predict for
[M, F], and gives predictions [M].

- linear: ridge regression in closed form, on indicators of the classes where labels are classes (the largest wins); one penalty,
  chosen by the error on blocks of ground held out in turn, from the training labels alone;
- knn: mean, or vote, of the nearest labelled places by cosine, weighted by exp(cosine / 0.07) (Wu et al. 2018, CVPR);
- forest: random forest (Breiman 2001, Machine Learning 45).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fusion3d.evaluation.blocks import deal
from fusion3d.evaluation.ridge import PENALTIES, Decomposition

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_FOLDS = 5
_FEWEST_GROUPS = 3
_NEIGHBOURS = 20
_TEMPERATURE = 0.07
_TREES = 100
_LEAF = 2
_FEW_FEATURES = 15

Probe = Callable[[Float64, Float64, Int64, Float64, bool, int], Float64]
"""(features, labels, blocks, features to predict for, whether labels are classes, seed) -> predictions."""


def linear(features: Float64, labels: Float64, blocks: Int64, asked: Float64, classes: bool, seed: int) -> Float64:
    """Ridge regression, or ridge classification."""
    return fit_linear(features, labels, blocks, classes, seed)(asked)


def fit_linear(features: Float64, labels: Float64, blocks: Int64, classes: bool, seed: int) -> Callable[[Float64], Float64]:
    """The model of `linear`, to be asked more than once: features [M, F] -> predictions [M]."""
    codes = np.unique(labels)
    targets = (labels[:, None] == codes).astype(np.float64) if classes else labels[:, None]
    if len(codes) < 2:
        return lambda asked: np.full(len(asked), codes[0])
    whole, penalty = _ridge(features, targets, blocks, seed)
    if classes:
        return lambda asked: codes[whole.predict(asked, penalty).argmax(axis=1)]
    return lambda asked: whole.predict(asked, penalty)[:, 0]


def _ridge(features: Float64, targets: Float64, blocks: Int64, seed: int) -> tuple[Decomposition, float]:
    """The model, and the penalty that has the least error, over all targets, on held-out blocks."""
    count, groups = len(features), len(np.unique(blocks))
    whole = Decomposition(features, targets)
    if groups < _FEWEST_GROUPS:
        errors = np.array([whole.generalised_error(penalty * count) for penalty in PENALTIES])
    else:
        errors = np.zeros(len(PENALTIES))
        fold = deal(blocks, min(_FOLDS, groups), seed)
        for number in range(int(fold.max()) + 1):
            out, into = fold == number, fold != number
            part = Decomposition(features[into], targets[into])
            # a penalty weighs against the sum of the rows, so it shrinks with their number
            errors += [np.square(part.predict(features[out], each * into.sum()) - targets[out]).sum() for each in PENALTIES]
    finite = np.flatnonzero(np.isfinite(errors))
    # of equal ones the largest penalty
    best = int(finite[errors[finite] <= errors[finite].min() * (1 + 1e-9)][-1]) if len(finite) else len(PENALTIES) - 1
    return whole, float(PENALTIES[best] * count)


def knn(features: Float64, labels: Float64, blocks: Int64, asked: Float64, classes: bool, seed: int) -> Float64:
    """Nearest neighbours by cosine."""
    known, query = _unit(features), _unit(asked)
    count = min(_NEIGHBOURS, len(labels))
    codes = np.unique(labels)
    found = np.zeros(len(asked))
    for start in range(0, len(asked), 1024):
        rows = slice(start, start + 1024)
        cosine = query[rows] @ known.T
        near = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        weight = np.exp((np.take_along_axis(cosine, near, axis=1) - 1) / _TEMPERATURE)
        if classes:
            votes = np.stack([(weight * (labels[near] == code)).sum(axis=1) for code in codes], axis=1)
            found[rows] = codes[votes.argmax(axis=1)]
        else:
            found[rows] = (weight * labels[near]).sum(axis=1) / weight.sum(axis=1)
    return found


def _unit(vectors: Float64) -> Float64:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def forest(features: Float64, labels: Float64, blocks: Int64, asked: Float64, classes: bool, seed: int) -> Float64:
    """Random forest of 100 trees; at a split, the root of the number of features are tried, of values a third of few features."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    options = {"n_estimators": _TREES, "min_samples_leaf": min(_LEAF, len(labels)), "random_state": seed, "n_jobs": _jobs()}
    if classes:
        return _answer(RandomForestClassifier(max_features="sqrt", **options).fit(features, labels), asked)
    tried = max(math.isqrt(features.shape[1]), min(features.shape[1] // 3, _FEW_FEATURES), 1)
    return _answer(RandomForestRegressor(max_features=tried, **options).fit(features, labels), asked)


def _answer(trees: RandomForestRegressor | RandomForestClassifier, asked: Float64) -> Float64:
    trees.set_params(n_jobs=1)  # several threads add the trees in any order, and round in as many ways
    return trees.predict(asked)  # type: ignore[no-any-return]


def _jobs() -> int:
    import torch

    return torch.get_num_threads()


def guess(features: Float64, labels: Float64, blocks: Int64, asked: Float64, classes: bool, seed: int) -> Float64:
    """The mean of the training labels, or their commonest class: what knowing nothing of a place reaches."""
    if not classes:
        return np.full(len(asked), labels.mean())
    codes, counts = np.unique(labels, return_counts=True)
    return np.full(len(asked), codes[counts.argmax()])


PROBES: Mapping[str, Probe] = {"linear": linear, "knn": knn}
"""For frozen encoders, by name."""
