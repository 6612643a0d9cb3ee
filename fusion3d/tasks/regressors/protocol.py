"""What every family of models offers: a fit, predictions cell by cell, and its numbers as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


class Regressor(Protocol):
    """A fitted function of features."""

    def predict_bands(self, bands: npt.NDArray[np.floating]) -> Float64:
        """[...] from [D, ...], all finite; a value does not depend on those that are computed with it."""
        ...


R = TypeVar("R", bound=Regressor)


@dataclass(frozen=True)
class Fitted(Generic[R]):
    """A fitted model and how far such models were off where they had not looked.

    Attributes
    ----------
    regressor : fitted to all rows
    residuals : [N] measured - predicted of each row, by a model that was fitted without it
    chosen : what was chosen on the rows themselves, by name (the penalty, the number of trees)
    """

    regressor: R
    residuals: Float64
    chosen: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Parts:
    """A regressor as numbers: plain settings for JSON and arrays for a safetensors file, both by name."""

    settings: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]


class Family(Protocol[R]):
    """A kind of model; one file and one line of the registry each.

    Attributes
    ----------
    name : as in `--model`
    method : what it is and how its settings come about, one sentence for reports, with its source
    transforms : of the target that make sense before the fit
    weighted : whether `fit` heeds weights
    """

    name: str
    method: str
    transforms: tuple[str, ...]
    weighted: bool

    def on(self, names: Sequence[str]) -> Family[R]:
        """The family for features of these names."""
        ...

    def fit(self, features: Float64, target: Float64, *, groups: Int64, seed: int, weights: Float64 | None = None) -> Fitted[R]:
        """Fit features [N, D] to a target [N]; whatever is chosen is so by holding out `groups` [N] of these rows.

        `weights` [N] of the rows are positive, of any sum; equal for None. A family that is not `weighted` leaves them aside.

        Raises
        ------
        ConfigError
            The family cannot be fitted to such rows.
        """
        ...

    def pack(self, regressor: R) -> Parts:
        """Its numbers."""
        ...

    def unpack(self, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], dimensions: int) -> R:
        """The inverse of `pack`.

        Raises
        ------
        KeyError, TypeError, ValueError, ConfigError
            The numbers are no such model of that many features.
        """
        ...

    def remarks(self, regressor: R, names: tuple[str, ...]) -> tuple[str, ...]:
        """What a user should know of a fitted model, in words; names [D] of the features."""
        ...


class AnyFeatures:
    """A family to which names of features mean nothing."""

    def on(self, names: Sequence[str]) -> Self:
        """The family itself."""
        return self


def numbers(values: Any, shape: tuple[int, ...] | None = None) -> Float64:
    """Finite float64 numbers of a shape (of any number of rows where it is -1), or ValueError."""
    found = np.asarray(values, dtype=np.float64)
    fits = shape is None or (found.ndim == len(shape) and all(want in (-1, there) for want, there in zip(shape, found.shape)))
    if not fits or not np.isfinite(found).all():
        raise ValueError(f"finite numbers of shape {shape} were expected, not {found.shape}")
    return found
