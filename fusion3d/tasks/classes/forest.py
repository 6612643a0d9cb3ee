"""Random forest of classification trees (Breiman 2001, Machine Learning 45): mean of the class shares in the leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.tasks.classes.protocol import FittedClassifier, Float64, Int64, Parts, numbers, places
from fusion3d.tasks.regressors.trees import Trees

TREES = 200
_LEAF = 3


@dataclass(frozen=True)
class ClassForest:
    """Trees whose leaves hold shares of classes.

    Attributes
    ----------
    trees : their values are not used
    shares : [M, L] of each node, sum 1
    present : [L] places of the classes that training held, rising
    classes : K
    """

    trees: Trees
    shares: Float64
    present: Int64
    classes: int

    def probabilities(self, bands: npt.NDArray[np.floating]) -> Float64:
        found = np.zeros((self.classes, *bands.shape[1:]))
        for leaves in self.trees.leaves(bands):
            found[self.present] += np.moveaxis(self.shares[leaves], -1, 0)
        return found / self.trees.count


class ForestFamily:
    """Fixed settings."""

    name = "forest"
    method = (
        f"random forest (Breiman 2001) of {TREES} trees, the square root of the number of features tried at each split, leaves "
        f"of at least {_LEAF} cells"
    )

    def fit(
        self, features: Float64, place: Int64, weights: Float64, *, classes: int, groups: Int64, seed: int
    ) -> FittedClassifier[ClassForest]:
        from sklearn.ensemble import RandomForestClassifier

        used = weights > 0
        grown = RandomForestClassifier(TREES, min_samples_leaf=_LEAF, random_state=seed, n_jobs=1).fit(
            features[used], place[used], sample_weight=weights[used]
        )
        parts = np.concatenate([each.tree_.value[:, 0, :] for each in grown.estimators_]).astype(np.float64)
        shares = parts / parts.sum(axis=1, keepdims=True)
        present = np.asarray(grown.classes_, np.int64)
        return FittedClassifier(ClassForest(Trees.of(grown.estimators_), shares, present, classes), {"trees": float(TREES)})

    def pack(self, classifier: ClassForest) -> Parts:
        return Parts({}, {**classifier.trees.arrays(), "shares": classifier.shares, "present": classifier.present})

    def unpack(
        self, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], dimensions: int, classes: int
    ) -> ClassForest:
        present = places(arrays["present"], classes)
        trees = Trees.from_arrays(arrays, dimensions)
        shares = numbers(arrays["shares"], (len(trees.feature), len(present)))
        if (shares < 0).any() or not np.allclose(shares.sum(axis=1), 1.0):
            raise ValueError("the leaves' shares of classes are not of sum 1")
        return ClassForest(trees, shares, present, classes)
