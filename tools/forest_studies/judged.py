"""Models judged on plots that they had not seen: what a row of a study's tables is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError
from fusion3d.evaluation.blocks import Folds
from fusion3d.tasks.classes import classifier_family
from fusion3d.tasks.classes.scores import ClassScores, class_scores
from fusion3d.tasks.conformal import Conformal
from fusion3d.tasks.coverage import Coverage, coverage, quartiles
from fusion3d.tasks.cross_fit import fit_arrays
from fusion3d.tasks.regressors import family
from fusion3d.tasks.scores import Scores, score

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

LEVEL = 0.9
HEADS = ("ridge", "forest", "boosting", "mlp", "power")


@dataclass(frozen=True)
class Values:
    """A measured variable of plots.

    Attributes
    ----------
    name, unit : of the variable
    values : [P]
    nonnegative : it has no values below 0
    """

    name: str
    unit: str
    values: Float64
    nonnegative: bool = True


@dataclass(frozen=True)
class Row:
    """One model of one variable on held-out plots.

    Attributes
    ----------
    target, unit, features, model, folds : what was judged, in words
    scores : None where the model could not be fitted (`note` says why)
    covered : of the 90 % intervals that `fit` gives; by quarter of the prediction, from low to high
    one_width, one_width_quarters : of intervals of one width, from the same residuals
    measured, predicted : [P], for pictures
    """

    target: str
    unit: str
    features: str
    model: str
    folds: str
    scores: Scores | None = None
    covered: Coverage | None = None
    quarters: tuple[Coverage, ...] = ()
    one_width: Coverage | None = None
    one_width_quarters: tuple[Coverage, ...] = ()
    note: str = ""
    measured: Float64 = field(default_factory=lambda: np.zeros(0))
    predicted: Float64 = field(default_factory=lambda: np.zeros(0))

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in ("target", "unit", "features", "model", "folds", "note")}
        for name in ("scores", "covered", "one_width"):
            found = getattr(self, name)
            plain[name] = None if found is None else found.to_json()
        for name in ("quarters", "one_width_quarters"):
            plain[name] = [found.to_json() for found in getattr(self, name)]
        return plain


@dataclass(frozen=True)
class ClassRow:
    """One classifier on held-out trees or cells."""

    target: str
    features: str
    model: str
    folds: str
    scores: ClassScores

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        about = {name: getattr(self, name) for name in ("target", "features", "model", "folds")}
        return {**about, "scores": self.scores.to_json()}


@dataclass(frozen=True)
class Study:
    """What a study found.

    Attributes
    ----------
    name, title : of the data
    reference : figures of others, or plain ones, to read the rows against
    remarks : what the data are, what is and what is not shown
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    classes: tuple[ClassRow, ...] = ()
    reference: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "name": self.name,
            "title": self.title,
            "reference": list(self.reference),
            "remarks": list(self.remarks),
            "rows": [row.to_json() for row in self.rows],
            "classes": [row.to_json() for row in self.classes],
        }


def judged(
    target: Values,
    features: str,
    described: tuple[tuple[str, ...], Float64],
    split: Folds,
    folds: str,
    *,
    heads: Sequence[str] = HEADS,
    groups: Int64 | None = None,
    calibrated: bool = True,
) -> list[Row]:
    """A row for each head.

    Parameters
    ----------
    features, folds : what plots are described by, and what is held out, in words
    described : names and values [P, F] of the features
    groups : [P] plots that the bootstrap draws together; those that are not split for None
    calibrated : whether there are plots enough for intervals
    """
    names, values = described
    groups = split.group if groups is None else groups
    rows = []
    for head in heads:
        about = {"target": target.name, "unit": target.unit, "features": features, "model": head, "folds": folds}
        try:
            found = fit_arrays(
                family(head), values, target.values, split, names=names, level=LEVEL, target=target.name, unit=target.unit,
                transform="none", nonnegative=target.nonnegative,
            )  # fmt: skip
        except ConfigError as error:
            rows.append(Row(**about, note=str(error)))
            continue
        predicted = found.held_out.predicted
        row: dict[str, Any] = {**about, "scores": score(target.values, predicted, groups=groups)}
        row |= {"measured": target.values, "predicted": predicted}
        if calibrated:
            plain = _one_width(target, predicted, split)
            row |= {"covered": coverage(target.values, found.lower, found.upper), "one_width": coverage(target.values, *plain)}
            row |= {"quarters": _by_quarter(target.values, predicted, found.lower, found.upper)}
            row |= {"one_width_quarters": _by_quarter(target.values, predicted, *plain)}
        rows.append(Row(**row))
    return rows


def _one_width(target: Values, predicted: Float64, split: Folds) -> tuple[Float64, Float64]:
    """Ends [P] of split conformal intervals from plain absolute residuals of the other folds."""
    lower, upper = np.full((2, len(predicted)), np.nan)
    for number in range(split.count):
        others, held_out = split.split(number)
        residual = np.sort(np.abs(target.values[others] - predicted[others]))
        plain = Conformal(np.zeros(1), np.ones(1), residual)
        lower[held_out], upper[held_out] = plain.bounds(predicted[held_out], LEVEL, target.nonnegative)
    return lower, upper


def _by_quarter(measured: Float64, predicted: Float64, lower: Float64, upper: Float64) -> tuple[Coverage, ...]:
    return tuple(coverage(measured[part], lower[part], upper[part]) for part in quartiles(predicted))


def judged_classes(
    target: str,
    places: Int64,
    classes: int,
    features: str,
    values: Float64,
    split: Folds,
    folds: str,
    *,
    heads: Sequence[str] = ("linear", "forest"),
) -> list[ClassRow]:
    """A row for each classifier of places [P] on features [P, F]; the bootstrap draws the folds."""
    rows = []
    for head in heads:
        predicted = np.zeros(len(places), np.int64)
        for number in range(split.count):
            training, held_out = split.split(number)
            fitted = classifier_family(head).fit(
                values[training], places[training], np.ones(int(training.sum())), classes=classes,
                groups=split.group[training], seed=split.seed,
            )  # fmt: skip
            predicted[held_out] = fitted.classifier.probabilities(values[held_out].T).argmax(axis=0)
        rows.append(ClassRow(target, features, head, folds, class_scores(places, predicted, classes, split.fold)))
    return rows
