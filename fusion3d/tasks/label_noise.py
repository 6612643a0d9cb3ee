"""Labels that are estimates themselves: plots weigh 1 / (se^2 + residual variance) in a fit.

The error of a plot has two parts: what is wrong with its label, known by the standard error se, and what the model cannot
explain. The variance s2 of the second is the one with which the sum of r^2 / (se^2 + s2) over the residuals r is their number
(Paule and Mandel 1982, Journal of Research of the National Bureau of Standards 87); r are those of a fit where it had not
looked, at first with equal weights, then with those that follow, until s2 stays. Where labels explain all of the error, s2 is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.tasks.regressors import Family, Fitted

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

RESIDUAL_SD = "residual_sd"
"""Key of the choices of a weighted fit: the root of s2, on the scale of the fit."""
_HALVINGS = 100
_ROUNDS = 4
_SETTLED = 0.1
"""Change of s2, as a share of it, at which weights stay."""


def residual_variance(residuals: Float64, noise: Float64) -> float:
    """s2 of residuals [N] with standard errors [N] of their labels."""
    squares, known = np.square(residuals), np.square(noise)
    if (squares / known).mean() <= 1:
        return 0.0
    low, high = 0.0, float(squares.mean())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if (squares / (known + middle)).mean() > 1 else (low, middle)
    return high


def transformed_noise(transform: str, values: Float64, noise: Float64) -> Float64:
    """Standard errors [N] on the scale of a transform, by its slope at the value; at its standard error where that is larger,
    so that the root of a small value is not taken for worthless."""
    if transform == "none":
        return noise
    at = np.maximum(values, noise)
    return noise / (2 * np.sqrt(at)) if transform == "sqrt" else noise / (1 + at)


def fit_rows(
    family: Family[Any], features: Float64, target: Float64, noise: Float64 | None, *, groups: Int64, seed: int
) -> Fitted[Any]:
    """Fit a family to rows whose targets have standard errors `noise` [N], on the scale of the target; arguments as for
    `Family.fit`. Without errors, or where the family takes no weights, rows weigh the same."""
    found = family.fit(features, target, groups=groups, seed=seed)
    if noise is None or not family.weighted:
        return found
    variance = residual_variance(found.residuals, noise)
    for _ in range(_ROUNDS):
        found = family.fit(features, target, groups=groups, seed=seed, weights=1 / (np.square(noise) + variance))
        before, variance = variance, residual_variance(found.residuals, noise)
        if abs(variance - before) <= _SETTLED * max(variance, before):
            break
    return Fitted(found.regressor, found.residuals, {**found.chosen, RESIDUAL_SD: float(np.sqrt(variance))})


def noise_note(family: Family[Any], noise: Float64 | None, transform: str, chosen: dict[str, float], unit: str) -> list[str]:
    """What a user should know of the weights, in words."""
    if noise is None:
        return []
    errors = f"standard errors of the labels ({noise.min():.3g} to {noise.max():.3g}{f' {unit}' if unit else ''})"
    if RESIDUAL_SD not in chosen:
        return [f"{errors} are not used: --model {family.name} takes no weights, all plots count alike"]
    scale = "" if transform == "none" else f" on the scale of {transform}"
    spread = chosen[RESIDUAL_SD]
    return [f"plots weigh 1/(se^2 + {spread:.3g}^2){scale}: {errors} and residual variance"]
