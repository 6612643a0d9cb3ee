"""How well classes are told apart on held-out ground: confusion matrix, accuracy, and scores per class with their intervals.

Intervals are of the tested ground: its blocks are drawn anew with replacement, as in `fusion3d.evaluation.figures`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fusion3d.evaluation.figures import Blocks, Estimate, Scored, accuracy, macro_f1

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

PER_CLASS = ("precision", "recall", "f1", "iou")


@dataclass(frozen=True)
class ClassFigures:
    """Of one class: how many samples have it, how many were said to, and its scores; NaN where there is nothing to divide by."""

    measured: int
    predicted: int
    precision: Estimate
    recall: Estimate
    f1: Estimate
    iou: Estimate

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        counts = {"measured": self.measured, "predicted": self.predicted}
        return counts | {name: getattr(self, name).to_json() for name in PER_CLASS}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `to_json`; KeyError, TypeError or ValueError when something is missing."""
        figures = {name: Estimate.from_json(plain[name]) for name in PER_CLASS}
        return cls(int(plain["measured"]), int(plain["predicted"]), **figures)


@dataclass(frozen=True)
class ClassScores:
    """Scores of held-out samples.

    Attributes
    ----------
    n : samples
    accuracy : share of them that is right
    macro_f1 : mean of F1 over the classes that they have
    confusion : [K][K] counts, by true class and predicted class
    classes : [K]
    """

    n: int
    accuracy: Estimate
    macro_f1: Estimate
    confusion: tuple[tuple[int, ...], ...]
    classes: tuple[ClassFigures, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "n": self.n,
            "accuracy": self.accuracy.to_json(),
            "macro_f1": self.macro_f1.to_json(),
            "confusion": [list(row) for row in self.confusion],
            "classes": [found.to_json() for found in self.classes],
        }

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `to_json`; KeyError, TypeError or ValueError when something is missing."""
        confusion = tuple(tuple(int(count) for count in row) for row in plain["confusion"])
        classes = tuple(ClassFigures.from_json(found) for found in plain["classes"])
        if len(confusion) != len(classes) or any(len(row) != len(classes) for row in confusion):
            raise ValueError("the confusion matrix is not of the classes")
        accuracy, macro = (Estimate.from_json(plain[name]) for name in ("accuracy", "macro_f1"))
        return cls(int(plain["n"]), accuracy, macro, confusion, classes)


def class_scores(measured: Int64, predicted: Int64, classes: int, group: Int64, seed: int = 0) -> ClassScores:
    """Scores of places predicted for places measured [N], with blocks of ground [N]."""
    blocks = Blocks(group, seed)
    true, said = measured.astype(np.float64), predicted.astype(np.float64)[None]
    confusion = np.bincount(measured * classes + predicted, minlength=classes**2).reshape(classes, classes)
    actual, guessed = measured[:, None] == np.arange(classes), predicted[:, None] == np.arange(classes)
    whole, resampled = blocks.sums(np.stack([actual, guessed, actual & guessed], axis=1).astype(np.float64))
    figures = _per_class(whole), _per_class(resampled)
    each = []
    for at in range(classes):
        found = {name: Scored(figures[0][name][at : at + 1], figures[1][name][:, at]).figure for name in PER_CLASS}
        each.append(ClassFigures(int(actual[:, at].sum()), int(guessed[:, at].sum()), **found))
    table = tuple(tuple(int(count) for count in row) for row in confusion)
    overall, macro = accuracy(true, said, blocks).figure, macro_f1(true, said, blocks).figure
    return ClassScores(len(measured), overall, macro, table, tuple(each))


def _per_class(sums: Float64) -> dict[str, Float64]:
    """Scores [..., K] from sums [..., 3, K] of measured, predicted, and both."""
    real, said, right = (sums[..., at, :] for at in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "precision": right / said,
            "recall": right / real,
            "f1": np.where(real > 0, 2 * right / (real + said), np.nan),
            "iou": np.where(real > 0, right / (real + said - right), np.nan),
        }


def by_lot(place: Int64, classes: int) -> tuple[float, float]:
    """Accuracy and macro F1 to expect of classes drawn in their shares: the sum of squared shares, and the mean of the shares."""
    share = np.bincount(place, minlength=classes) / max(len(place), 1)
    known = share > 0
    return float((share**2).sum()), float(share[known].mean()) if known.any() else math.nan
