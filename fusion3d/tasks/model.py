"""A fitted model of a measured variable: what it predicts, in what unit, from which bands, how surely, and where."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from fusion3d import __version__
from fusion3d.errors import ConfigError, InputError
from fusion3d.tasks.conformal import LEVEL, Conformal, check_level
from fusion3d.tasks.domain import Domain
from fusion3d.tasks.regressors import Fitted, Regressor, family
from fusion3d.tasks.transform import back, check_transform

Float64 = npt.NDArray[np.float64]

ORIGIN_TAGS = ("checkpoint", "sensors", "resolution")
"""Tags of a map of embeddings that say how it was made."""


@dataclass(frozen=True)
class TargetModel:
    """A model of a measured variable on the bands of a raster.

    Attributes
    ----------
    target, unit : what is predicted; unit "" when not stated
    features : [D] names of the bands, in order
    regressor : predicts on the transformed scale
    transform : of the target before the fit: none, sqrt or log1p
    residuals : [N] held-out residuals on that scale, less their mean, rising: the smearing estimate averages over them
    nonnegative : predictions below 0 become 0
    kind : name of the regressor's family
    trained_on : what the model was fitted on, by name (embedding map, its checkpoint and sensors, labels, plots)
    level : of the intervals that were asked for
    intervals : what makes intervals of predictions; None where that was not measured
    domain : where the model does not extrapolate; None where that was not measured
    version : of fusion3d
    """

    target: str
    unit: str
    features: tuple[str, ...]
    regressor: Regressor
    transform: str
    residuals: Float64
    nonnegative: bool
    kind: str = "ridge"
    trained_on: dict[str, str] = field(default_factory=dict)
    level: float = LEVEL
    intervals: Conformal | None = None
    domain: Domain | None = None
    version: str = __version__

    def __post_init__(self) -> None:
        family(self.kind)
        check_transform(self.transform)
        check_level(self.level)
        if not len(self.residuals) or not np.isfinite(self.residuals).all() or (np.diff(self.residuals) < 0).any():
            raise ConfigError("the residuals of a model must be finite, in rising order, and at least one")

    @classmethod
    def of(cls, fitted: Fitted[Any], **about: Any) -> Self:
        """A model from a fit; `about` is the rest of the attributes."""
        residuals = np.sort(fitted.residuals - fitted.residuals.mean())
        return cls(regressor=fitted.regressor, residuals=residuals, **about)

    @property
    def band_name(self) -> str:
        """Name of a map's band: target and unit, as `agb_Mg_ha`."""
        return self.band_named("")

    def band_named(self, what: str) -> str:
        """The same with what the band is of the target, as `agb_se_Mg_ha`."""
        return "_".join(filter(None, (_plain(self.target), what, _plain(self.unit))))

    def predict_bands(self, bands: npt.NDArray[np.floating]) -> Float64:
        """Predictions [...] in the target's unit from bands [D, ...]; all of them finite."""
        return self.cut(self.predict_bands_uncut(bands))

    def predict_bands_uncut(self, bands: npt.NDArray[np.floating]) -> Float64:
        """The same, also below 0 where the target cannot be: their mean is not raised by what noise is cut off."""
        if len(bands) != len(self.features):
            raise ConfigError(f"the model has {len(self.features)} features, not {len(bands)}")
        return back(self.transform, self.regressor.predict_bands(bands), self.residuals)

    def cut(self, predicted: Float64) -> Float64:
        """Predictions [...], those below 0 raised to it where the target cannot be negative."""
        return np.maximum(predicted, 0.0) if self.nonnegative else predicted

    def predict(self, features: Float64) -> Float64:
        """Predictions [N] from features [N, D]."""
        return self.predict_bands(features.T)

    def check_bands(self, names: tuple[str, ...], path: str | Path) -> None:
        """Refuse a raster whose bands are not those of the fit.

        Raises
        ------
        InputError
            Number or names of the bands differ.
        """
        require_bands(names, self.features, path)


def require_bands(names: tuple[str, ...], features: tuple[str, ...], path: str | Path) -> None:
    """Refuse a raster whose bands are not those that a model was fitted on.

    Raises
    ------
    InputError
        Number or names of the bands differ.
    """
    if len(names) != len(features):
        problem = f"has {len(names)} bands, the model was fitted on {len(features)}"
    elif names != features:
        at = next(at for at, pair in enumerate(zip(names, features)) if pair[0] != pair[1])
        problem = f"its band {at + 1} is {names[at]!r}, the model was fitted on {features[at]!r}"
    else:
        return
    raise InputError(path, problem, "map the embeddings of the same checkpoint")


def _plain(text: str) -> str:
    """A text as part of a band's name: runs of anything but letters and digits become one underscore."""
    kept = "".join(letter if letter.isalnum() else " " for letter in text.replace("%", " percent "))
    return "_".join(kept.split())


class Trained(Protocol):
    """A model that knows what it was fitted on."""

    @property
    def trained_on(self) -> dict[str, str]: ...


def same_origin(model: Trained, tags: dict[str, str]) -> str | None:
    """In words, in what a map of embeddings differs from the one of the fit; None when it does not."""
    differing = [
        f"{name} {tags[name]} instead of {model.trained_on[name]}"
        for name in ORIGIN_TAGS
        if name in tags and name in model.trained_on and tags[name] != model.trained_on[name]
    ]
    return f"the map was embedded with {', '.join(differing)}" if differing else None
