"""A fitted model as a file: what it predicts, in which unit, from which bands, and every number that it takes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fusion3d import __version__
from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.ridge import Ridge, RidgeFit
from fusion3d.io.whole_file import write_whole
from fusion3d.tasks.transform import back, check_transform

Float64 = npt.NDArray[np.float64]

MODEL_FILE = "model.json"
ORIGIN_TAGS = ("checkpoint", "sensors", "resolution")
"""Tags of a map of embeddings that say how it was made."""
_FORMAT = "fusion3d ridge model"
_VERSION = 1
_REMEDY = "give the folder or the model.json that `fusion3d fit` wrote"


@dataclass(frozen=True)
class TargetModel:
    """A ridge model of a measured variable on the bands of a raster.

    Attributes
    ----------
    target, unit : what is predicted; unit "" when not stated
    features : [D] names of the bands, in order
    ridge : linear on the transformed scale
    transform : of the target before the fit: none, sqrt or log1p
    residuals : [N] held-out residuals on that scale, less their mean, rising: the smearing estimate averages over them
    nonnegative : predictions below 0 become 0
    trained_on : what the model was fitted on, by name (embedding map, its checkpoint and sensors, labels, plots)
    version : of fusion3d
    """

    target: str
    unit: str
    features: tuple[str, ...]
    ridge: Ridge
    transform: str
    residuals: Float64
    nonnegative: bool
    trained_on: dict[str, str] = field(default_factory=dict)
    version: str = __version__

    def __post_init__(self) -> None:
        check_transform(self.transform)
        if len(self.features) != len(self.ridge.coefficients):
            raise ConfigError(f"{len(self.features)} features with {len(self.ridge.coefficients)} coefficients")
        if not len(self.residuals) or not np.isfinite(self.residuals).all() or (np.diff(self.residuals) < 0).any():
            raise ConfigError("the residuals of a model must be finite, in rising order, and at least one")

    @classmethod
    def of(cls, fitted: RidgeFit, **about: Any) -> Self:
        """A model from a fit; `about` is the rest of the attributes."""
        residuals = np.sort(fitted.residuals - fitted.residuals.mean())
        return cls(ridge=fitted.ridge, residuals=residuals, **about)

    @property
    def band_name(self) -> str:
        """Name of a map's band: target and unit, as `agb_Mg_ha`."""
        return "_".join(filter(None, (_plain(self.target), _plain(self.unit))))

    def predict_bands(self, bands: npt.NDArray[np.floating]) -> Float64:
        """Predictions [...] in the target's unit from bands [D, ...]; NaN where a band is NaN."""
        found = back(self.transform, self.ridge.predict_bands(bands), self.residuals)
        return np.maximum(found, 0.0) if self.nonnegative else found

    def predict(self, features: Float64) -> Float64:
        """Predictions [N] from features [N, D]."""
        return self.predict_bands(features.T)

    def write(self, path: str | Path) -> Path:
        """Write the model as JSON, whole or not at all."""
        plain = {"format": _FORMAT, "format_version": _VERSION, **asdict(self)}
        plain["residuals"] = self.residuals.tolist()
        plain["ridge"] = {name: np.asarray(value).tolist() for name, value in plain["ridge"].items()}
        return write_whole(Path(path), json.dumps(plain, indent=1, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """A model from its file, or from the folder that holds it.

        Raises
        ------
        InputError
            It is missing, is no such model, is of a newer version, or is damaged.
        """
        path = Path(path)
        path = path / MODEL_FILE if path.is_dir() else path
        if not path.is_file():
            raise InputError(path, "no model there", _REMEDY)
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(path, f"cannot be read as JSON ({' '.join(str(error).split())[:80]})", _REMEDY) from None
        if not isinstance(plain, dict) or plain.pop("format", None) != _FORMAT:
            raise InputError(path, "is not a model", _REMEDY)
        if plain.pop("format_version", None) != _VERSION:
            raise InputError(path, "is a model of another version of fusion3d", "fit it again, or update fusion3d")
        try:
            ridge = plain["ridge"]
            arrays = {name: _vector(ridge[name]) for name in ("mean", "scale", "coefficients")}
            plain["ridge"] = Ridge(**arrays, intercept=float(ridge["intercept"]), penalty=float(ridge["penalty"]))
            plain["residuals"] = _vector(plain["residuals"])
            plain["features"] = tuple(map(str, plain["features"]))
            plain["nonnegative"] = bool(plain["nonnegative"])
            return cls(**plain)
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise InputError(path, f"is damaged ({type(error).__name__}: {str(error)[:100]})", "fit the model again") from None

    def check_bands(self, names: tuple[str, ...], path: str | Path) -> None:
        """Refuse a raster whose bands are not those of the fit.

        Raises
        ------
        InputError
            Number or names of the bands differ.
        """
        if len(names) != len(self.features):
            problem = f"has {len(names)} bands, the model was fitted on {len(self.features)}"
        elif names != self.features:
            at = next(at for at, pair in enumerate(zip(names, self.features)) if pair[0] != pair[1])
            problem = f"its band {at + 1} is {names[at]!r}, the model was fitted on {self.features[at]!r}"
        else:
            return
        raise InputError(path, problem, "map the embeddings of the same checkpoint")


def _vector(values: Any) -> Float64:
    found = np.array(values, dtype=np.float64)
    if found.ndim != 1 or not np.isfinite(found).all():
        raise ValueError("a list of numbers is not one")
    return found


def _plain(text: str) -> str:
    """A text as part of a band's name: runs of anything but letters and digits become one underscore."""
    kept = "".join(letter if letter.isalnum() else " " for letter in text.replace("%", " percent "))
    return "_".join(kept.split())


def same_origin(model: TargetModel, tags: dict[str, str]) -> str | None:
    """In words, in what a map of embeddings differs from the one of the fit; None when it does not."""
    differing = [
        f"{name} {tags[name]} instead of {model.trained_on[name]}"
        for name in ORIGIN_TAGS
        if name in tags and name in model.trained_on and tags[name] != model.trained_on[name]
    ]
    return f"the map was embedded with {', '.join(differing)}" if differing else None
