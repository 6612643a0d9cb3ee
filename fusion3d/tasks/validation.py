"""Held-out plots in the way that validation protocols of biomass products ask for: by range of what was measured, and aggregated.

The good practices of CEOS (Duncanson et al. 2021, Aboveground Woody Biomass Product Validation Good Practices Protocol; reviewed
in Duncanson et al. 2019, Surveys in Geophysics 40) want the difference of product and reference by range of reference biomass,
since a map that is right on average is often too high where there is little and too low where there is much, and at coarser
support, since most users want totals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion3d.tasks.coverage import Coverage, coverage
from fusion3d.tasks.held_out import HeldOut
from fusion3d.tasks.scores import Scores, score

Float64 = npt.NDArray[np.float64]

BIOMASS_EDGES = (0.0, 50.0, 100.0, 150.0, 200.0, 250.0, 300.0, 400.0, math.inf)
"""Mg/ha."""
_PER_HECTARE = ("mg/ha", "t/ha", "mg ha-1", "t ha-1", "mg.ha-1", "t.ha-1")
_FIFTHS = 5
_PER_BLOCK = 3
"""Plots that a block must have for its mean to be compared."""


@dataclass(frozen=True)
class RangeScores:
    """Plots whose measured value lies in [low, high).

    Attributes
    ----------
    measured, predicted : means
    scores : differences are predicted - measured
    coverage : of the intervals of prediction
    """

    low: float
    high: float
    measured: float
    predicted: float
    scores: Scores
    coverage: Coverage


@dataclass(frozen=True)
class Validation:
    """Held-out plots by range of what was measured, and means over blocks of ground.

    Attributes
    ----------
    ranges : rising, those without a plot left out
    slope, intercept : of measured on predicted values by least squares; 1 and 0 for a product without a trend in its error
    blocks : scores of means over blocks of three plots or more; None where fewer than three blocks have as many
    per_block : mean number of plots of these
    """

    ranges: tuple[RangeScores, ...]
    slope: float
    intercept: float
    blocks: Scores | None
    per_block: float


def validate(plots: HeldOut, unit: str, *, resamples: int = 2000, seed: int = 0) -> Validation:
    """Compare held-out predictions with what was measured.

    Parameters
    ----------
    unit : ranges are those of `BIOMASS_EDGES` where it is mass per hectare, else fifths of the plots
    resamples : of the bootstrap over blocks

    Raises
    ------
    ConfigError
        There are no plots, or a value is not finite.
    """
    measured, predicted = plots.measured, plots.predicted
    edges = range_edges(measured, unit)
    inside = np.searchsorted(edges[1:-1], measured, side="right")
    nothing = np.full(len(measured), np.nan)
    lower = nothing if plots.lower is None else plots.lower
    upper = nothing if plots.upper is None else plots.upper
    ranges = []
    for at in np.unique(inside):
        chosen = inside == at
        scores = score(measured[chosen], predicted[chosen], groups=plots.block[chosen], resamples=resamples, seed=seed)
        covered = coverage(measured[chosen], lower[chosen], upper[chosen])
        means = float(measured[chosen].mean()), float(predicted[chosen].mean())
        ranges.append(RangeScores(float(edges[at]), float(edges[at + 1]), *means, scores, covered))
    slope, intercept = _line(predicted, measured)
    return Validation(tuple(ranges), slope, intercept, *_blocks(plots, resamples, seed))


def range_edges(measured: Float64, unit: str) -> Float64:
    """[R + 1] rising ends of ranges that hold every value."""
    if unit.strip().lower() in _PER_HECTARE and measured.min() >= 0:
        return np.array(BIOMASS_EDGES)
    inner = np.unique(np.quantile(measured, np.arange(1, _FIFTHS) / _FIFTHS))
    inner = inner[inner > measured.min()]
    return np.concatenate([[measured.min()], inner, [math.inf]])


def _line(predicted: Float64, measured: Float64) -> tuple[float, float]:
    spread = predicted - predicted.mean()
    if not (spread**2).sum() > 0:
        return math.nan, math.nan
    slope = float(spread @ (measured - measured.mean()) / (spread @ spread))
    return slope, float(measured.mean() - slope * predicted.mean())


def _blocks(plots: HeldOut, resamples: int, seed: int) -> tuple[Scores | None, float]:
    _, member, count = np.unique(plots.block, return_inverse=True, return_counts=True)
    member = member.reshape(-1)
    enough = count >= _PER_BLOCK
    if enough.sum() < _PER_BLOCK:
        return None, math.nan
    means = [np.bincount(member, values)[enough] / count[enough] for values in (plots.measured, plots.predicted)]
    return score(*means, resamples=resamples, seed=seed), float(count[enough].mean())
