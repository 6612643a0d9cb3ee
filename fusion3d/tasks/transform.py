"""Transforms of a skewed target, and the way back without bias.

The inverse of a transform, applied to a mean, is not the mean of the inverse. Duan's smearing estimate (1983, Journal of the
American Statistical Association 78) averages the inverse over the residuals: E[y | x] = mean of h(z + e_i), where z is the
prediction on the transformed scale and e_i are residuals, which need not be normal.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError

Float64 = npt.NDArray[np.float64]

TRANSFORMS = ("none", "sqrt", "log1p")
_LARGEST_LOG = 80.0
"""exp of more than this is beyond float32."""


def check_transform(name: str) -> None:
    """Refuse a transform that does not exist."""
    if name not in TRANSFORMS:
        raise ConfigError(f"--transform {name!r}: give one of {', '.join(TRANSFORMS)}")


def forward(name: str, values: Float64) -> Float64:
    """Values on the scale on which the model is linear.

    Raises
    ------
    ConfigError
        The transform is unknown, or a value is below 0 and it has no place for that.
    """
    check_transform(name)
    if name == "none":
        return values
    if (values < 0).any():
        raise ConfigError(f"--transform {name} needs values of 0 or more; use --transform none")
    return np.sqrt(values) if name == "sqrt" else np.log1p(values)


def back(name: str, linear: Float64, residuals: Float64) -> Float64:
    """Mean of the inverse over residuals: what is expected on the target's own scale.

    Parameters
    ----------
    linear : predictions on the transformed scale, any shape
    residuals : [N] of mean 0, in rising order; what is below 0 on the scale of the root counts as 0
    """
    check_transform(name)
    if name == "none":
        return linear
    if name == "log1p":
        return np.exp(np.minimum(linear, _LARGEST_LOG)) * np.exp(residuals).mean() - 1.0
    # mean of max(z + e, 0)^2: the sums over the residuals above -z come from running sums from the top
    count = len(residuals)
    above = count - np.searchsorted(residuals, -linear, side="right")
    first, second = (np.concatenate([[0.0], np.cumsum(residuals[::-1] ** power)]) for power in (1, 2))
    return (above * linear**2 + 2.0 * linear * first[above] + second[above]) / count
