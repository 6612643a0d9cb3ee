"""Mean of an area from a map and plots, with a variance that can be defended.

Two schools (Stahl et al. 2016, Forest Ecosystems 3, 5), for two kinds of plots:

- **model-assisted**, for plots that are a probability sample of the area. The generalised regression estimator (GREG; Saerndal,
  Swensson and Wretman 1992, Model Assisted Survey Sampling, ch. 6; Naesset et al. 2011 and McRoberts et al. 2013, Remote Sensing
  of Environment 115, 3599-3614 and 128, 268-275): the map's mean, corrected by the mean of measured - mapped at the plots. The
  variance comes from the random choice of plots, so neither a wrong model nor spatial correlation biases it. It is computed from
  held-out residuals: those of a flexible model on its own training plots are too small (Breidt and Opsomer 2017, Statistical
  Science 32, 190-205).
- **model-dependent**, for plots chosen in another way, and for areas with few plots of their own. The map's mean, corrected by
  the straight line of its errors at held-out plots, wherever these lie. The variance is that of the parameters plus that of the
  mean residual over the area, whose cells are alike in space (McRoberts 2006, Remote Sensing of Environment 103, 56-66; Stahl et
  al. 2011, Canadian Journal of Forest Research 41, 96-107; Saarela et al. 2016, Annals of Forest Science 73, 895-910). With a map
  that covers the area, the hybrid estimator is this one: its further term, for a sample of auxiliary data, is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from scipy.stats import t as student

from fusion3d.errors import ConfigError

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

FEWEST_IN_STRATUM = 2
_DRAWS = 2000
_LEAST_VARIANCE = 0.05
_LEAST_SPREAD = 0.1


@dataclass(frozen=True)
class MeanEstimate:
    """An estimated mean.

    Attributes
    ----------
    mean : in units of the values
    variance : squared units
    degrees : of freedom of the variance
    """

    mean: float
    variance: float
    degrees: float

    @property
    def standard_error(self) -> float:
        return math.sqrt(self.variance)

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Ends of the two-sided interval of Student's t."""
        reach = float(student.ppf(0.5 + level / 2, self.degrees)) * self.standard_error
        return self.mean - reach, self.mean + reach


def greg(map_mean: float, differences: Float64, residuals: Float64) -> MeanEstimate:
    """Generalised regression estimator under simple random sampling: map mean + mean(d), variance s^2(e) / n.

    Approximately unbiased over samples whatever the model is worth. The share of the area that the plots cover is taken to be
    negligible (no finite population correction).

    Parameters
    ----------
    map_mean : mean of the map over the whole area
    differences : [n] d, measured - mapped, at the plots inside
    residuals : [n] e, measured - predicted by models that had not seen the plot; the differences themselves where the map's model
        had seen none

    Raises
    ------
    ConfigError
        There are fewer than two plots.
    """
    count = len(residuals)
    if count < FEWEST_IN_STRATUM:
        raise ConfigError(f"the variance of {count} plots cannot be estimated")
    return MeanEstimate(map_mean + float(differences.mean()), float(residuals.var(ddof=1)) / count, count - 1)


def stratified_greg(map_mean: float, differences: Float64, residuals: Float64, stratum: Int64, shares: Float64) -> MeanEstimate:
    """The same by stratum: map mean + sum of W_h mean_h(d), variance sum of W_h^2 s_h^2(e) / n_h.

    For plots drawn at random in each stratum, and for post-stratification, given the numbers that fell into the strata (Saerndal
    et al. 1992, ch. 7.6). Degrees of freedom by Satterthwaite (Cochran 1977, Sampling Techniques, eq. 5.16).

    Parameters
    ----------
    differences, residuals : [n] as for `greg`
    stratum : [n] from 0
    shares : [H] of the area that each stratum covers; their sum is 1

    Raises
    ------
    ConfigError
        A stratum with a share has fewer than two plots, or the shares are none.
    """
    if (shares < 0).any() or not math.isclose(float(shares.sum()), 1.0, abs_tol=1e-6):
        raise ConfigError("shares of strata must not be negative and their sum must be 1")
    mean, variance, spread = map_mean, 0.0, 0.0
    for number in np.flatnonzero(shares):
        inside = stratum == number
        own = residuals[inside]
        if len(own) < FEWEST_IN_STRATUM:
            raise ConfigError(f"stratum {number} has {len(own)} plots, at least {FEWEST_IN_STRATUM} are needed")
        part = shares[number] ** 2 * float(own.var(ddof=1)) / len(own)
        mean += float(shares[number] * differences[inside].mean())
        variance += part
        spread += part**2 / (len(own) - 1)
    degrees = variance**2 / spread if spread > 0 else len(residuals) - np.count_nonzero(shares)
    return MeanEstimate(mean, variance, max(float(degrees), 1.0))


def model_dependent(mean: float, parameters: float, residuals: float, degrees: float) -> MeanEstimate:
    """Mean of a model with the sum of two variances; right only as far as the model is unbiased in the area.

    The covariance of the two, by plots inside of the area, would make it smaller; it is left out, which is on the safe side.

    Parameters
    ----------
    mean : of the model's predictions over the area
    parameters : variance of that mean by the uncertain parameters, see `ErrorLine`
    residuals : variance of the mean residual over the area, see `fusion3d.tasks.area_variance`
    degrees : of freedom: independent groups of plots less 1
    """
    return MeanEstimate(mean, parameters + residuals, max(degrees, 1.0))


def block_weights(block: Int64, *, draws: int = _DRAWS, seed: int = 0) -> Float64:
    """[draws, N] how often the block of each plot was drawn: what a model is fitted again with, however it works.

    The cluster bootstrap of Davison and Hinkley (1997, Bootstrap Methods and their Application, ch. 3.8).

    Parameters
    ----------
    block : [N] of each plot
    """
    member = np.unique(block, return_inverse=True)[1].reshape(-1)
    count = int(member.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    return drawn[:, member].astype(np.float64)


@dataclass(frozen=True)
class ErrorLine:
    """Working model of measured values over a map: measured = prediction + error + slope * (prediction - centre) + residual.

    The model behind the map stays a black box: only its predictions of plots that it had not seen are looked at. The two
    parameters are what a model-dependent estimate corrects the map by; their covariance is from a bootstrap of spatial blocks of
    plots, since errors of neighbours are alike.

    Attributes
    ----------
    centre : mean prediction of the plots
    error, slope : least squares
    covariance : [2, 2] of error and slope
    blocks : independent groups of plots
    """

    centre: float
    error: float
    slope: float
    covariance: Float64
    blocks: int

    @classmethod
    def of(cls, predicted: Float64, measured: Float64, block: Int64, *, seed: int = 0) -> ErrorLine:
        """From held-out predictions, measured values and blocks [N].

        Raises
        ------
        ConfigError
            All plots are in one block.
        """
        blocks = len(np.unique(block))
        if blocks < 2:
            raise ConfigError("all plots lie in one block: how uncertain the model is cannot be told")
        centre = float(predicted.mean())
        offset, errors = predicted - centre, measured - predicted
        least = _LEAST_VARIANCE * float((offset**2).mean())

        def line(weights: Float64) -> Float64:
            """[B, 2] error and slope by weighted least squares, from [B, N]."""
            share = weights / weights.sum(axis=1, keepdims=True)
            middle = share @ offset
            spread = share @ offset**2 - middle**2
            covaried = share @ (offset * errors) - middle * (share @ errors)
            # a draw of blocks that are all alike says nothing of the slope
            slope = np.divide(covaried, spread, out=np.zeros_like(spread), where=spread > least)
            return np.stack([share @ errors - slope * middle, slope], axis=1)

        error, slope = line(np.ones((1, len(errors))))[0]
        # draws vary by (B - 1) / B less than samples of B blocks do
        covariance = np.cov(line(block_weights(block, seed=seed)).T) * blocks / (blocks - 1)
        return cls(centre, float(error), float(slope), covariance, blocks)

    def correction(self, prediction: float) -> float:
        """What the mean measured value of places with this mean prediction is expected to be above it."""
        return self.error + self.slope * (prediction - self.centre)

    def variance(self, prediction: float) -> float:
        """Variance of `correction`."""
        at = np.array([1.0, prediction - self.centre])
        return float(at @ self.covariance @ at)


@dataclass(frozen=True)
class Spread:
    """Standard deviation of residuals as a line in the prediction: base + slope * max(prediction, 0) (Glejser 1969, Journal of
    the American Statistical Association 64, 316-323)."""

    base: float
    slope: float

    def __call__(self, predicted: npt.NDArray[np.floating]) -> Float64:
        """[...] standard deviation at predictions [...]."""
        return self.base + self.slope * np.maximum(predicted, 0.0).astype(np.float64)

    @classmethod
    def of(cls, predicted: Float64, residuals: Float64) -> Spread:
        """From held-out predictions [N] and residuals [N]: a line through their absolute values that does not fall, scaled so
        that the residuals over it have mean square 1."""
        size = np.abs(residuals)
        if not size.any():
            return cls(0.0, 0.0)
        floor = _LEAST_SPREAD * float(size.mean())
        design = np.stack([np.ones_like(size), np.maximum(predicted, 0.0)], axis=1)
        base, slope = nnls(design, size)[0]
        base = max(float(base), floor)
        scale = math.sqrt(float(((residuals / (base + slope * design[:, 1])) ** 2).mean()))
        return cls(base * scale, float(slope) * scale)
