"""Models of all folds but one, asked for the plots of that one: predictions that no plot had a part in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError
from fusion3d.evaluation.blocks import Folds
from fusion3d.tasks.conformal import Conformal, nested_bounds
from fusion3d.tasks.domain import Domain
from fusion3d.tasks.label_noise import fit_rows, transformed_noise
from fusion3d.tasks.model import TargetModel
from fusion3d.tasks.regressors import Family, Fitted
from fusion3d.tasks.transform import forward

Float64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_FEWEST_TRAINING = 3


@dataclass(frozen=True)
class CrossFit:
    """Held-out plots.

    Attributes
    ----------
    predicted : [P] in the target's unit, NaN where a plot was not used
    chosen : what each fold's model chose, by name
    """

    predicted: Float64
    chosen: tuple[dict[str, float], ...]


def cross_fit(
    family: Family[Any],
    features: Float64,
    values: Float64,
    split: Folds,
    about: dict[str, Any],
    used: BoolArray | None = None,
    noise: Float64 | None = None,
) -> CrossFit:
    """Each plot predicted by a model of the other folds.

    Parameters
    ----------
    features, values : [P, D] and [P]
    about : target, unit, transform and nonnegative, as for `TargetModel`
    used : [P] plots to take; all for None
    noise : [P] standard errors of the values, by which plots weigh; None for equal weights

    Raises
    ------
    ConfigError
        A fold leaves too few plots to train with, or the family cannot be fitted to them.
    """
    used = np.ones(len(values), np.bool_) if used is None else used
    predicted, chosen = np.full(len(values), np.nan), []
    names = tuple(map(str, range(features.shape[1])))
    for number in range(split.count):
        training, held_out = (part & used for part in split.split(number))
        if not held_out.any():
            continue
        if training.sum() < _FEWEST_TRAINING:
            problem = f"fold {number} leaves {int(training.sum())} plots to train with"
            raise ConfigError(f"{problem}; pass a smaller --block or --buffer, or give more plots")
        fitted = _fit(family, features[training], values[training], about["transform"], noise, training, split)
        model = TargetModel.of(fitted, features=names, kind=family.name, **about)
        predicted[held_out] = model.predict(features[held_out])
        chosen.append(fitted.chosen)
    return CrossFit(predicted, tuple(chosen))


def _fit(
    family: Family[Any],
    features: Float64,
    values: Float64,
    transform: str,
    noise: Float64 | None,
    which: BoolArray,
    split: Folds,
) -> Fitted[Any]:
    """A fit to features and values of the plots `which` [P]."""
    errors = None if noise is None else transformed_noise(transform, values, noise[which])
    return fit_rows(family, features, forward(transform, values), errors, groups=split.group[which], seed=split.seed)


@dataclass(frozen=True)
class WholeFit:
    """The model of all plots, what it chose, and the held-out predictions and bounds [P] that its intervals rest on."""

    model: TargetModel
    chosen: dict[str, float]
    held_out: CrossFit
    lower: Float64
    upper: Float64


def fit_arrays(
    family: Family[Any],
    features: Float64,
    values: Float64,
    split: Folds,
    *,
    names: tuple[str, ...],
    level: float,
    noise: Float64 | None = None,
    **about: Any,
) -> WholeFit:
    """A model of features [P, D] with intervals and domain from the cross-validation of `split`; `noise` as for
    `cross_fit`, other arguments as for `TargetModel`.

    Raises
    ------
    ConfigError
        As for `cross_fit`.
    """
    plain = {name: about[name] for name in ("target", "unit", "transform", "nonnegative")}
    found = cross_fit(family, features, values, split, plain, noise=noise)
    lower, upper = nested_bounds(values, found.predicted, split, level, about["nonnegative"])
    everything = np.ones(len(values), np.bool_)
    fitted = _fit(family, features, values, about["transform"], noise, everything, split)
    model = TargetModel.of(
        fitted,
        features=names,
        kind=family.name,
        level=level,
        intervals=Conformal.of(values, found.predicted),
        domain=Domain.of(features, fitted.regressor, split),
        **about,
    )
    return WholeFit(model, fitted.chosen, found, lower, upper)
