"""Banded ridge regression: each group of features has its own weight, so that a sensor that says little costs little.

One penalty for all features lets those of many weak sensors drown those of a strong one when plots are few. Here group g of D_g
standardised features is scaled by sqrt(w_g / D_g) before a ridge with one penalty, so that the group is shrunk by that penalty
times D_g / w_g (Nunez-Elizalde, Huth and Gallant 2019, NeuroImage 197; Dupre la Tour et al. 2022, NeuroImage 264). A group of
weight 0 is left out. Weights are chosen going forward: the best group alone, then group by group with the weight that
lowers the held-out error most, as long as it falls by 2 % of itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError
from fusion3d.evaluation.blocks import deal
from fusion3d.evaluation.ridge import Ridge
from fusion3d.tasks.regressors.protocol import Fitted, Float64, Int64, Parts
from fusion3d.tasks.regressors.ridge import RidgeFamily

PENALTIES = np.logspace(-4, 4, 25)
"""Per plot, on features of which all together have variance 1."""
SHARES = (0.03, 0.1, 0.3, 1.0)
"""Weights of a group that enters, to the largest one so far."""
_GAIN = 0.02
_FOLDS = 5
_FEWEST = 3
_CONSTANT = 1e-10


def groups_of(names: Sequence[str]) -> dict[str, Int64]:
    """Places of the features of each group: what stands before the number in names such as `als_007`, else "others"."""
    found: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        head, _, tail = name.rpartition("_")
        found.setdefault(head if head and tail.isdecimal() else "others", []).append(at)
    return {name: np.array(places, np.int64) for name, places in found.items()}


@dataclass(frozen=True)
class BandedFamily:
    """Linear in standardised features, with a weight for each group of them.

    Parameters
    ----------
    bands : by name, the features of each group; empty where all features are one group, which is a plain ridge
    """

    bands: Mapping[str, Int64] = field(default_factory=dict)

    name = "banded"
    method = (
        "banded ridge regression (Nunez-Elizalde, Huth and Gallant 2019) with a weight for each group of features, groups "
        "entered one by one while the error on held-out blocks of the training plots falls"
    )
    transforms: tuple[str, ...] = ("none", "sqrt", "log1p")
    weighted = True

    def on(self, names: Sequence[str]) -> BandedFamily:
        """The family for features of these names."""
        return BandedFamily(groups_of(names))

    def fit(
        self, features: Float64, target: Float64, *, groups: Int64, seed: int, weights: Float64 | None = None
    ) -> Fitted[Ridge]:
        count = len(target)
        if count < _FEWEST:
            raise ConfigError(f"a banded ridge model needs at least {_FEWEST} plots, not {count}")
        bands = dict(self.bands) or {"all": np.arange(features.shape[1])}
        if sorted(np.concatenate(list(bands.values())).tolist()) != list(range(features.shape[1])):
            raise ConfigError(f"the groups of features do not make up the {features.shape[1]} that there are")
        weight = np.ones(count) if weights is None else np.asarray(weights, np.float64) / np.mean(weights)
        if not (np.isfinite(features).all() and np.isfinite(target).all() and np.isfinite(weight).all() and (weight > 0).all()):
            raise ConfigError("features, values and weights must be finite, and weights positive")
        together = groups if len(np.unique(groups)) >= _FEWEST else np.arange(count)
        fold = deal(together, min(_FOLDS, len(np.unique(together))), seed)
        parts = [_Part(features, target, weight, fold != number, list(bands.values())) for number in range(int(fold.max()) + 1)]

        def tried(shares: Float64) -> _Choice:
            residuals = np.zeros((len(PENALTIES), count))
            for part in parts:
                residuals[:, ~part.into] = part.residuals(shares)
            error = residuals**2 @ weight
            best = len(error) - 1 - int(error[::-1].argmin())  # of equal ones the largest penalty
            return _Choice(float(error[best]), shares, best, residuals[best])

        best = _forward(tried, len(bands))
        whole = _Part(features, target, weight, np.ones(count, np.bool_), list(bands.values()))
        ridge = whole.ridge(best.shares, float(PENALTIES[best.penalty]))
        chosen = {"penalty": float(PENALTIES[best.penalty])}
        chosen |= {f"weight of {name}": float(share) for name, share in zip(bands, best.shares, strict=True) if len(bands) > 1}
        return Fitted(ridge, best.residuals, chosen)

    def pack(self, regressor: Ridge) -> Parts:
        return RidgeFamily().pack(regressor)

    def unpack(self, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], dimensions: int) -> Ridge:
        return RidgeFamily().unpack(settings, arrays, dimensions)

    def remarks(self, regressor: Ridge, names: tuple[str, ...]) -> tuple[str, ...]:
        used = [name for name, places in groups_of(names).items() if regressor.coefficients[places].any()]
        unused = [name for name in groups_of(names) if name not in used]
        if not unused or not used:
            return ()
        return (f"the model uses {', '.join(used)}; {', '.join(unused)} did not lower the error on held-out blocks",)


@dataclass(frozen=True)
class _Choice:
    """Weights [G] of groups, their held-out error, the place of its penalty, and residuals [N]."""

    error: float
    shares: Float64
    penalty: int
    residuals: Float64


def _forward(tried: Any, count: int) -> _Choice:
    best: _Choice = min((tried(np.eye(count)[at]) for at in range(count)), key=lambda choice: choice.error)
    while True:
        candidates = []
        for at in np.flatnonzero(best.shares == 0):
            for share in SHARES:
                shares = best.shares.copy()
                shares[at] = share * shares.max()
                candidates.append(tried(shares / shares.sum()))
        entered = min(candidates, key=lambda choice: choice.error, default=best)
        if not entered.error < (1 - _GAIN) * best.error:
            return best
        best = entered


class _Part:
    """Rows to fit to, the others to test on, and the products of features from which every weighting follows.

    With fewer rows than features these are products of rows (a kernel for each group), else of features.
    """

    def __init__(
        self, features: Float64, target: Float64, weight: Float64, into: npt.NDArray[np.bool_], places: list[Int64]
    ) -> None:
        self.into, self.places = into, places
        share = weight[into] / weight[into].sum()
        self.mean = share @ features[into]
        centred = features[into] - self.mean
        spread = np.sqrt(share @ centred**2)
        constant = spread <= _CONSTANT * np.maximum(np.abs(self.mean), np.finfo(np.float64).tiny)
        self.scale = np.where(constant, 1.0, spread)
        self.count = int(into.sum())
        self.width = np.array([len(place) for place in places], np.float64)
        self.owner = np.empty(features.shape[1], np.int64)
        for number, place in enumerate(places):
            self.owner[place] = number
        self._root = np.sqrt(share * self.count)
        own = self._root[:, None] * np.where(constant, 0.0, centred / self.scale)
        others = np.where(constant, 0.0, (features[~into] - self.mean) / self.scale)
        self.intercept = float(share @ target[into])
        value = self._root * (target[into] - self.intercept)
        self._left = target[~into] - self.intercept
        self.dual = self.count < features.shape[1]
        self._own, self._others, self._value = own, others, value
        if self.dual:
            self._inner = np.stack([own[:, place] @ own[:, place].T for place in places])
            self._cross = np.stack([others[:, place] @ own[:, place].T for place in places])
        else:
            self._gram, self._moment = own.T @ own, own.T @ value

    def residuals(self, shares: Float64) -> Float64:
        """[P, M] of the rows to test on, for every penalty."""
        left, values, right = self._solved(shares)
        gain = right[None] / (np.maximum(values, 0.0)[None] + PENALTIES[:, None] * self.count)
        found: Float64 = self._left[None] - gain @ left.T
        return found

    def _solved(self, shares: Float64) -> tuple[Float64, Float64, Float64]:
        """Predictions are left @ (right / (values + penalty)): [M, K], [K], [K]."""
        each = shares / self.width
        if self.dual:
            values, vectors = np.linalg.eigh(np.tensordot(each, self._inner, 1))
            return np.tensordot(each, self._cross, 1) @ vectors, values, vectors.T @ self._value
        root = np.sqrt(each)[self.owner]
        values, vectors = np.linalg.eigh(root[:, None] * self._gram * root)
        return (self._others * root) @ vectors, values, vectors.T @ (root * self._moment)

    def ridge(self, shares: Float64, penalty: float) -> Ridge:
        """The model of a weighting and a penalty per row, in the terms of a ridge."""
        each = (shares / self.width)[self.owner]
        if self.dual:
            kernel = np.tensordot(shares / self.width, self._inner, 1)
            solution = np.linalg.solve(kernel + penalty * self.count * np.eye(self.count), self._value)
            coefficients = each * (self._own.T @ solution)
        else:
            root = np.sqrt(each)
            inner = root[:, None] * self._gram * root + penalty * self.count * np.eye(len(root))
            coefficients = root * np.linalg.solve(inner, root * self._moment)
        return Ridge(self.mean, self.scale, coefficients, self.intercept, penalty)
