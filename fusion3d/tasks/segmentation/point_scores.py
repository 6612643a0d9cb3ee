"""Scores of points from confusion matrices by block of ground: what a million points need no more memory for than a thousand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fusion3d.evaluation.figures import Blocks, Estimate, Scored
from fusion3d.tasks.classes.scores import PER_CLASS, ClassFigures, ClassScores

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PointScores:
    """Scores of held-out points: those of any classification, and the mean of IoU over the classes that the points have."""

    found: ClassScores
    mean_iou: Estimate

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return self.found.to_json() | {"mean_iou": self.mean_iou.to_json()}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `to_json`; KeyError, TypeError or ValueError when something is missing."""
        return cls(ClassScores.from_json(plain), Estimate.from_json(plain["mean_iou"]))


def confusion_by_block(block: Int64, true: Int64, said: Int64, classes: int, blocks: int) -> Int64:
    """[B, K, K] counts by block, true and predicted class."""
    flat = np.bincount((block * classes + true) * classes + said, minlength=blocks * classes**2)
    return flat.reshape(blocks, classes, classes)


def point_scores(confusion: Int64, seed: int = 0) -> PointScores:
    """Scores of confusion matrices [B, K, K] of blocks of ground, which intervals draw anew with replacement."""
    filled = confusion[confusion.sum(axis=(1, 2)) > 0]
    blocks = Blocks(np.arange(len(filled)), seed)
    whole, drawn = (_figures(sums) for sums in blocks.sums(filled.astype(np.float64)))
    estimate = {name: Scored(np.atleast_1d(whole[name])[:1], drawn[name]).figure for name in ("accuracy", "macro_f1", "mean_iou")}
    total = filled.sum(axis=0)
    each = []
    for at in range(total.shape[0]):
        figures = {name: Scored(whole[name][at : at + 1], drawn[name][:, at]).figure for name in PER_CLASS}
        each.append(ClassFigures(int(total[at].sum()), int(total[:, at].sum()), **figures))
    table = tuple(tuple(int(count) for count in row) for row in total)
    scores = ClassScores(int(total.sum()), estimate["accuracy"], estimate["macro_f1"], table, tuple(each))
    return PointScores(scores, estimate["mean_iou"])


def _figures(confusion: Float64) -> dict[str, Float64]:
    """Scores [...] and [..., K] of confusion matrices [..., K, K]."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    real, said = confusion.sum(axis=-1), confusion.sum(axis=-2)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "precision": right / said,
            "recall": right / real,
            "f1": np.where(real > 0, 2 * right / (real + said), np.nan),
            "iou": np.where(real > 0, right / (real + said - right), np.nan),
            "accuracy": right.sum(axis=-1) / real.sum(axis=-1),
        }
    known = (real > 0).sum(axis=-1)
    for name, score in (("macro_f1", "f1"), ("mean_iou", "iou")):
        found[name] = np.nansum(found[score], axis=-1) / np.maximum(known, 1)
    return found
