"""Biomass from relative heights, as level 4A predicts it: a linear model between square roots.

Form of Duncanson et al. 2022 (doi:10.1016/j.rse.2021.112845): sqrt(AGBD) = b0 + b1 sqrt(RH50 + 100) + b2 sqrt(RH98 + 100),
squared and multiplied with Snowdon's (1991) ratio of means. Standard errors and intervals are worked out as in the L4A files
(Kellner et al. 2021, "GEDI L4A algorithm theoretical basis document"), where `agbd_se` is the squared standard error of the fit's
units times the ratio.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

Float64 = npt.NDArray[np.float64]

RH_INDICES = (50, 98)
OFFSET = 100.0
"""Metres added to relative heights: they are negative where there is little but ground."""
ALPHA = 0.1
"""The prediction interval leaves out this share."""
MIN_FOOTPRINTS = 10


@dataclass(frozen=True)
class BiomassModel:
    """A fitted model.

    Attributes
    ----------
    coefficients, covariance : [3], [3, 3] of intercept and the two transformed heights
    residual_error : residual standard error, sqrt(Mg/ha)
    freedom : footprints less coefficients
    ratio : mean of the observed over mean of the back-transformed biomass
    largest : [2] transformed heights beyond which the model extrapolates
    largest_response : Mg/ha
    r2 : share of the variance of the observed biomass that the predictions explain, on the footprints of the fit
    """

    coefficients: Float64
    covariance: Float64
    residual_error: float
    freedom: int
    ratio: float
    largest: Float64
    largest_response: float
    r2: float


@dataclass(frozen=True)
class Biomass:
    """Predictions, [F] each: Mg/ha, `root` and `root_error` in the fit's units, `heights` [F, 2] transformed."""

    density: Float64
    error: Float64
    lower: Float64
    upper: Float64
    root: Float64
    root_error: Float64
    heights: Float64


def transform(rh: npt.NDArray[np.floating]) -> Float64:
    """[F, 2] predictors of relative heights [F, 101]."""
    return np.sqrt(np.asarray(rh, np.float64)[:, list(RH_INDICES)] + OFFSET)


def fit(rh: npt.NDArray[np.floating], observed: Float64) -> BiomassModel | None:
    """Fit over footprints with known biomass; None with fewer than `MIN_FOOTPRINTS`.

    Parameters
    ----------
    rh : [F, 101] metres
    observed : [F] Mg/ha
    """
    count = len(observed)
    if count < MIN_FOOTPRINTS:
        return None
    predictors = transform(rh)
    design = np.column_stack([np.ones(count), predictors])
    # The pseudo-inverse stands for the footprints that are all alike: bare ground only.
    inverse = np.linalg.pinv(design.T @ design)
    coefficients = inverse @ (design.T @ np.sqrt(observed))
    fitted = design @ coefficients
    freedom = count - design.shape[1]
    variance = float(((np.sqrt(observed) - fitted) ** 2).sum() / freedom)
    squared = np.maximum(fitted, 0.0) ** 2
    ratio = float(observed.sum() / squared.sum()) if squared.sum() > 0 and observed.sum() > 0 else 1.0
    scatter = float(((observed - observed.mean()) ** 2).sum())
    residual = float(((observed - ratio * squared) ** 2).sum())
    return BiomassModel(
        coefficients=coefficients,
        covariance=variance * inverse,
        residual_error=variance**0.5,
        freedom=freedom,
        ratio=ratio,
        largest=predictors.max(axis=0),
        largest_response=float(observed.max()),
        r2=1.0 - residual / scatter if scatter > 0 else float("nan"),
    )


def predict(model: BiomassModel, rh: npt.NDArray[np.floating]) -> Biomass:
    """Biomass of footprints with relative heights [F, 101], metres."""
    heights = transform(rh)
    design = np.column_stack([np.ones(len(heights)), heights])
    root = design @ model.coefficients
    leverage = np.einsum("fi,ij,fj->f", design, model.covariance, design)
    error = np.sqrt(model.residual_error**2 + leverage)
    return back_transform(root, error, model.ratio, model.freedom, heights)


def back_transform(root: Float64, error: Float64, ratio: float, freedom: float, heights: Float64) -> Biomass:
    """Mg/ha from predictions [F] in the fit's units and their standard errors.

    None is negative: the lower end is 0 where the real files leave it out, because it would be negative before squaring.
    """
    reach = student.ppf(1.0 - ALPHA / 2.0, freedom) * error
    lower, middle, upper = (ratio * np.maximum(value, 0.0) ** 2 for value in (root - reach, root, root + reach))
    return Biomass(middle, ratio * error**2, lower, upper, root, error, heights)
