"""How far predictions are from measurements, each figure with a bootstrap interval."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError

Float64 = npt.NDArray[np.float64]

LEVEL = 0.9
"""Of the intervals."""
_RESAMPLES = 2000


@dataclass(frozen=True)
class Figure:
    """A score and the ends of its 90 % interval; NaN where it is not defined."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def text(self, digits: int = 2) -> str:
        """As "0.71 (0.62 to 0.78)"."""
        if math.isnan(self.value):
            return "-"
        ends = "" if math.isnan(self.low) else f" ({self.low:.{digits}f} to {self.high:.{digits}f})"
        return f"{self.value:.{digits}f}{ends}"


@dataclass(frozen=True)
class Scores:
    """Predicted against measured.

    Attributes
    ----------
    n : plots
    measured_mean : of the measured values, in their unit
    r2 : 1 - SSE / SST, SST about the mean of the measured values; may be negative
    rmse, mae : in units of the values
    relative_rmse : rmse over the mean of the measured values
    bias : mean of predicted - measured, in units of the values
    """

    n: int
    measured_mean: float
    r2: Figure
    rmse: Figure
    relative_rmse: Figure
    mae: Figure
    bias: Figure

    def to_json(self) -> dict[str, Any]:
        """Plain types; what is not defined is null."""
        plain = asdict(self)
        plain["measured_mean"] = _null(self.measured_mean)
        for name in FIGURES:
            plain[name] = {key: _null(value) for key, value in plain[name].items()}
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `to_json`; KeyError or TypeError when something is missing."""
        figures = {name: Figure(**{key: _nan(value) for key, value in plain[name].items()}) for name in FIGURES}
        return cls(n=int(plain["n"]), measured_mean=_nan(plain["measured_mean"]), **figures)


FIGURES = tuple(item.name for item in fields(Scores) if item.name not in ("n", "measured_mean"))


def score(
    measured: Float64,
    predicted: Float64,
    *,
    groups: npt.NDArray[np.int64] | None = None,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> Scores:
    """Scores of predictions [N], with percentile bootstrap intervals (Efron and Tibshirani 1993).

    Parameters
    ----------
    groups : [N] plots that are drawn together, since their errors are alike (cluster bootstrap); each alone when None
    resamples : 0 for no intervals

    Raises
    ------
    ConfigError
        There is nothing to score, or a value is not finite.
    """
    if len(measured) == 0 or len(measured) != len(predicted):
        raise ConfigError(f"{len(measured)} measured and {len(predicted)} predicted values cannot be scored")
    if not (np.isfinite(measured).all() and np.isfinite(predicted).all()):
        raise ConfigError("measured and predicted values must be finite to be scored")
    centre = float(measured.mean())
    error, offset = predicted - measured, measured - centre
    # about the overall mean, so that the variance of large values is not lost in their squares
    terms = np.stack([np.ones_like(error), offset, offset**2, error, error**2, np.abs(error)], axis=1)
    whole = _figures(terms.sum(axis=0)[None], centre)[0]
    low = high = np.full(len(FIGURES), np.nan)
    member = np.arange(len(error)) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    count = int(member.max()) + 1
    if resamples > 0 and count > 1:
        sums = np.zeros((count, terms.shape[1]))
        np.add.at(sums, member, terms)
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
        found = _figures(drawn @ sums, centre)
        tail = 50 * (1 - LEVEL)
        known = np.isfinite(found).any(axis=0)
        low, high = np.full((2, len(FIGURES)), np.nan)
        low[known], high[known] = np.nanpercentile(found[:, known], [tail, 100 - tail], axis=0)
    figures = (Figure(*map(float, ends)) if math.isfinite(ends[0]) else Figure(math.nan) for ends in zip(whole, low, high))
    return Scores(len(error), centre, *figures)


def _figures(sums: Float64, centre: float) -> Float64:
    """[B, 5] in the order of `FIGURES`, from sums [B, 6] of 1, y, y^2, e, e^2 and |e|, with y from `centre`."""
    count, first, second, error, squared, absolute = sums.T
    total = second - first**2 / count
    mean = centre + first / count
    rmse = np.sqrt(squared / count)
    flat = total <= 1e-12 * np.maximum(second, np.finfo(np.float64).tiny)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(flat, np.nan, 1 - squared / total)
        relative = np.where(mean == 0, np.nan, rmse / mean)
    return np.stack([r2, rmse, relative, absolute / count, error / count], axis=1)


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
