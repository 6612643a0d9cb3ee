"""What every family of classifiers offers: a fit, probabilities cell by cell, and its numbers as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from fusion3d.tasks.regressors.protocol import Float64, Int64, Parts, numbers

__all__ = ["Classifier", "ClassifierFamily", "FittedClassifier", "Float64", "Int64", "Parts", "numbers", "places"]


class Classifier(Protocol):
    """A fitted function from features to probabilities of classes."""

    def probabilities(self, bands: npt.NDArray[np.floating]) -> Float64:
        """[K, ...] of sum 1 from [D, ...]; a value does not depend on those that are computed with it.

        Classes that training did not hold have probability 0.
        """
        ...


C = TypeVar("C", bound=Classifier)


@dataclass(frozen=True)
class FittedClassifier(Generic[C]):
    """A fitted classifier, and what was chosen on the rows themselves, by name (the penalty)."""

    classifier: C
    chosen: dict[str, float] = field(default_factory=dict)


class ClassifierFamily(Protocol[C]):
    """A kind of classifier; one file and one line of the registry each.

    Attributes
    ----------
    name : as in `--model`
    method : what it is and how its settings come about, one sentence for reports, with its source
    """

    name: str
    method: str

    def fit(
        self, features: Float64, place: Int64, weights: Float64, *, classes: int, groups: Int64, seed: int
    ) -> FittedClassifier[C]:
        """Fit features [N, D] to places [N] among `classes` classes, row i counting `weights` [N]; whatever is chosen is so by
        holding out `groups` [N] of these rows.

        Raises
        ------
        ConfigError
            The family cannot be fitted to such rows.
        """
        ...

    def pack(self, classifier: C) -> Parts:
        """Its numbers."""
        ...

    def unpack(self, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], dimensions: int, classes: int) -> C:
        """The inverse of `pack`.

        Raises
        ------
        KeyError, TypeError, ValueError, ConfigError
            The numbers are no such classifier of that many features and classes.
        """
        ...


def places(values: Any, classes: int) -> Int64:
    """Rising places among that many classes, at least one, or ValueError."""
    found = np.asarray(values)
    rising = found.ndim == 1 and found.dtype.kind in "iu" and len(found) and (np.diff(found.astype(np.int64)) > 0).all()
    if not rising or found[0] < 0 or found[-1] >= classes:
        raise ValueError(f"rising places among {classes} classes were expected")
    return found.astype(np.int64)
