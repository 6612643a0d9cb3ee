"""How alike residuals are at a distance: robust empirical variogram, model fitted to it, covariance from that."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from scipy.spatial.distance import pdist

from fusion3d.errors import ConfigError

Float64 = npt.NDArray[np.float64]

KINDS = ("exponential", "spherical")
_MOST_POINTS = 3000
"""Four and a half million pairs; more points are thinned by lot."""
_FEWEST_PAIRS = 30
"""In a class of distance (Journel and Huijbregts 1978, Mining Geostatistics, p. 194)."""
_CLASSES = 15
_RANGES = 80
_ROUNDS = 6


@dataclass(frozen=True)
class EmpiricalVariogram:
    """Semivariances by class of distance.

    Attributes
    ----------
    distance : [L] mean distance of the pairs, metres, rising
    gamma : [L] semivariance, squared units of the values
    pairs : [L]
    """

    distance: Float64
    gamma: Float64
    pairs: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Variogram:
    """A stationary, isotropic model: nugget plus an exponential or spherical structure.

    Attributes
    ----------
    kind : of `KINDS`
    nugget, partial_sill : squared units of the values, 0 or more
    range : metres; where a spherical structure ends, and where an exponential one is down to exp(-3), 5 %
    nugget_range : metres within which the nugget counts as correlated, since no pair of plots was closer; 0: at distance 0 alone
    """

    kind: str
    nugget: float
    partial_sill: float
    range: float
    nugget_range: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"variogram {self.kind!r}: give one of {', '.join(KINDS)}")
        if min(self.nugget, self.partial_sill, self.nugget_range) < 0 or not self.range > 0:
            raise ConfigError("nugget and partial sill of a variogram must not be negative, its range must be positive")

    @property
    def sill(self) -> float:
        """Variance: nugget and partial sill together."""
        return self.nugget + self.partial_sill

    def covariance(self, distance: Float64) -> Float64:
        """Covariance at distances (metres, any shape), `sill` at 0."""
        fine = _spherical(distance, self.nugget_range) if self.nugget_range > 0 else np.asarray(distance == 0, np.float64)
        return self.nugget * fine + self.partial_sill * _STRUCTURES[self.kind](distance, self.range)

    def gamma(self, distance: Float64) -> Float64:
        """Semivariance at distances (metres, any shape)."""
        return self.sill - self.covariance(distance)

    def scaled(self, variance: float) -> Variogram:
        """The same correlation with another variance at distance 0; NaN-free also where the sill is 0."""
        factor = variance / self.sill if self.sill > 0 else 0.0
        return replace(self, nugget=self.nugget * factor, partial_sill=self.partial_sill * factor)


def _spherical(distance: Float64, reach: float) -> Float64:
    share = np.minimum(distance / reach, 1.0)
    return 1.0 - 1.5 * share + 0.5 * share**3


def _exponential(distance: Float64, reach: float) -> Float64:
    return np.exp(-3.0 * distance / reach)


_STRUCTURES = {"exponential": _exponential, "spherical": _spherical}


def empirical_variogram(places: Float64, values: Float64, *, cutoff: float | None = None, seed: int = 0) -> EmpiricalVariogram:
    """The robust estimate of Cressie and Hawkins (1980, Mathematical Geology 12, 115-125).

    2 gamma(h) = (mean of |difference|^(1/2))^4 / (0.457 + 0.494 / N(h)), which single wild plots do not spoil. Classes of
    distance are of equal width; classes of fewer than 30 pairs are joined to the next.

    Parameters
    ----------
    places : [N, 2] metres
    values : [N]
    cutoff : largest distance; None for half of the largest there is, beyond which few plots make all pairs
    seed : of the choice of 3000 points where there are more

    Raises
    ------
    ConfigError
        There are fewer than three points, or all lie on one spot.
    """
    if len(values) > _MOST_POINTS:
        kept = np.random.default_rng(seed).choice(len(values), _MOST_POINTS, replace=False)
        places, values = places[kept], values[kept]
    if len(values) < 3:
        raise ConfigError(f"a variogram of {len(values)} points cannot be made")
    distance = pdist(places)
    reach = float(distance.max()) / 2 if cutoff is None else cutoff
    if not reach > 0:
        raise ConfigError("a variogram of points on one spot cannot be made")
    root = np.sqrt(pdist(values[:, None]))
    near = distance <= reach
    distance, root = distance[near], root[near]
    order = np.argsort(distance, kind="stable")
    distance, root = distance[order], root[order]
    ends = np.searchsorted(distance, reach * np.arange(1, _CLASSES + 1) / _CLASSES, side="right")
    found: list[tuple[float, float, int]] = []
    start = 0
    for number, end in enumerate(ends):
        last = number == len(ends) - 1
        if end - start < _FEWEST_PAIRS and not (last and not found and end > start):
            continue
        count = end - start
        gamma = root[start:end].mean() ** 4 / (0.457 + 0.494 / count) / 2
        found.append((distance[start:end].mean(), gamma, count))
        start = end
    if not found:
        raise ConfigError("a variogram needs pairs of points within half of their extent")
    columns = np.array(found).T
    return EmpiricalVariogram(columns[0], columns[1], columns[2].astype(np.int64))


def fit_variogram(empirical: EmpiricalVariogram, kind: str | None = None) -> Variogram:
    """Weighted least squares with Cressie's weights N(h) / gamma(h)^2 (1985, Mathematical Geology 17, 563-586).

    For every range of a fine grid, nugget and partial sill are the best ones that are not negative.

    Parameters
    ----------
    kind : of `KINDS`; None takes the one that fits better
    """
    kinds = KINDS if kind is None else (kind,)
    if not set(kinds) <= set(KINDS):
        raise ConfigError(f"variogram {kind!r}: give one of {', '.join(KINDS)}")
    lags = empirical.distance
    ranges = np.geomspace(max(lags[0], lags[-1] * 1e-3), 2.0 * lags[-1], _RANGES)
    fitted = [_at_range(empirical, name, float(reach)) for name in kinds for reach in ranges]
    return min(fitted, key=lambda pair: pair[0])[1]


def _at_range(empirical: EmpiricalVariogram, kind: str, reach: float) -> tuple[float, Variogram]:
    """Misfit and model at a given range."""
    shape = 1.0 - _STRUCTURES[kind](empirical.distance, reach)
    design = np.stack([np.ones_like(shape), shape], axis=1)
    floor = 1e-6 * float(empirical.gamma.max()) or 1.0
    expected = np.maximum(empirical.gamma, floor)
    parts = np.zeros(2)
    for _ in range(_ROUNDS):
        weight = np.sqrt(empirical.pairs) / expected
        parts = nnls(design * weight[:, None], empirical.gamma * weight)[0]
        expected = np.maximum(design @ parts, floor)
    misfit = float((empirical.pairs * (empirical.gamma / expected - 1.0) ** 2).sum())
    return misfit if math.isfinite(misfit) else math.inf, Variogram(kind, float(parts[0]), float(parts[1]), reach)
