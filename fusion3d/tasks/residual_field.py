"""What held-out plots say of a map's errors: their mean by prediction, their spread, and how alike they are at a distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion3d.errors import InputError
from fusion3d.evaluation.blocks import blocks_of, default_side
from fusion3d.tasks.area_variance import independent_cells, variance_of_sum
from fusion3d.tasks.estimators import ErrorLine, Spread
from fusion3d.tasks.variogram import Variogram, empirical_variogram, fit_variogram

Float64 = npt.NDArray[np.float64]

FEWEST_PLOTS = 6
FEWEST_FOR_VARIOGRAM = 30
"""Below, a variogram says nothing; errors then count as alike within a block of held-out ground."""
_BLOCKS_WHEN_NONE = 5


@dataclass(frozen=True)
class ResidualField:
    """Errors of a map at plots that its model had not seen.

    Attributes
    ----------
    errors : [P] measured - predicted
    line : their mean by prediction
    spread : standard deviation of what is left, by prediction
    correlation : variogram of what is left over its spread; sill 1 or more
    highest : greatest prediction of a plot
    notes : in words
    """

    errors: Float64
    line: ErrorLine
    spread: Spread
    correlation: Variogram
    highest: float
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, places: Float64, measured: Float64, predicted: Float64, block: npt.NDArray[np.int64], side: float | None,
        *, path: str = "predictions", seed: int = 0,
    ) -> ResidualField:  # fmt: skip
        """From held-out plots.

        Parameters
        ----------
        places : [P, 2] centres, metres
        block : [P] block of ground of each; side : of the blocks, metres, None where plots were held out at random
        path : named in errors

        Raises
        ------
        InputError
            There are fewer than six plots, or they lie in one block.
        """
        if len(measured) < FEWEST_PLOTS:
            raise InputError(path, f"holds {len(measured)} plots", f"at least {FEWEST_PLOTS} are needed")
        notes = []
        if side is None:
            side = default_side(places, _BLOCKS_WHEN_NONE)
            block = blocks_of(places, side)
            notes.append(f"plots were held out at random: they are resampled in blocks of {side:g} m all the same")
        if len(np.unique(block)) < 2:
            raise InputError(path, "has all plots in one block", "fit again with a smaller --block")
        errors = measured - predicted
        line = ErrorLine.of(predicted, measured, block, seed=seed)
        left = errors - (line.error + line.slope * (predicted - line.centre))
        spread = Spread.of(predicted, left)
        sizes = spread(predicted)
        scaled = np.divide(left, sizes, out=np.zeros_like(left), where=sizes > 0)
        correlation = _correlation(places, scaled, side, notes)
        return cls(errors, line, spread, correlation, float(predicted.max()), tuple(notes))

    @property
    def degrees(self) -> float:
        """Of freedom: independent blocks less the two parameters of the line."""
        return max(1.0, self.line.blocks - 2.0)

    def variance_of_mean(self, weights: Float64, cell: float, split: int, area: float) -> float:
        """Variance of the mean residual over an area.

        Parameters
        ----------
        weights, cell, split : sums of covered area times `spread`, as for `variance_of_sum`
        area : covered, m2
        """
        return variance_of_sum(weights, cell, self.correlation.covariance, split=split) / area**2

    def independent(self, weights: Float64, cell: float, split: int) -> float:
        """How many independent residuals an area is worth."""
        return independent_cells(weights, cell, self.correlation.covariance, split=split) if weights.any() else math.inf


def _correlation(places: Float64, scaled: Float64, side: float, notes: list[str]) -> Variogram:
    if len(scaled) < FEWEST_FOR_VARIOGRAM:
        notes.append(
            f"{len(scaled)} plots are too few for a variogram (at least {FEWEST_FOR_VARIOGRAM}): residuals count as correlated "
            f"up to {side:g} m, the side of a block"
        )
        return Variogram("spherical", 0.0, 1.0, side)
    empirical = empirical_variogram(places, scaled)
    fitted = fit_variogram(empirical)
    shortest = float(empirical.distance[0])
    if fitted.sill <= 0:
        return Variogram("spherical", 0.0, 1.0, shortest)
    # a robust sill leaves out the tails, which count in a mean; and no pair says how far the nugget reaches below the first class
    return Variogram(fitted.kind, fitted.nugget, fitted.partial_sill, fitted.range, shortest).scaled(max(1.0, fitted.sill))
