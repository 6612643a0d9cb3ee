"""What a classification is worth, as a file: `scores.json` with confusion matrix, scores per class and how they came about."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from dataclasses import fields as attributes
from pathlib import Path
from typing import Any, ClassVar, Self

from fusion3d import __version__
from fusion3d.evaluation.figures import Estimate
from fusion3d.evaluation.table import text_table
from fusion3d.io.json_file import has_format
from fusion3d.tasks.card_file import SCORES_FILE, CardFile
from fusion3d.tasks.classes.scores import PER_CLASS, ClassScores
from fusion3d.tasks.scorecard import FoldFacts

_SCORES = ("model", "commonest", "baseline", "fields")
_WIDEST = 12
"""Classes up to which the confusion matrix is printed."""


@dataclass(frozen=True)
class ClassCard(CardFile):
    """Scores on held-out cells; the keys of `scores.json`, beside "format".

    Attributes
    ----------
    task, target : as asked for
    embedding, labels : files; baseline_file : raster of the baseline or None
    dimensions : bands of the embedding
    classes : [K] names; codes : [K] in a map's pixels
    cells : used
    units : what is not split: polygons (None for a raster), and how many of each class
    folds : how cells were held out
    kind, method : of the model, and in a sentence, with its source
    chosen : what the model on all cells chose; fold_chosen : those that were scored
    temperature : of the calibration; calibration_error : expected, of held-out cells, each calibrated on other folds
    model : scores of the model on the embedding
    commonest : of the commonest class of the cells trained with; by_lot : accuracy and macro F1 of classes drawn in their shares
    baseline : of the same kind of model on the baseline raster, on the cells that it covers; None without one
    fields : of whole polygons, by majority vote of their held-out cells; None for a raster
    confidence : of the labels of a class, by name; None where all count the same
    notes : what was left out or should be known, in words
    version : of fusion3d
    """

    FORMAT: ClassVar[str] = "fusion3d class scores"
    CALLED: ClassVar[str] = "a file of class scores"
    REMEDY: ClassVar[str] = "give the file that `fusion3d fit --task landcover` wrote"

    task: str
    target: str
    embedding: str
    labels: str
    baseline_file: str | None
    dimensions: int
    classes: tuple[str, ...]
    codes: tuple[int, ...]
    cells: int
    units: tuple[int, ...] | None
    folds: FoldFacts
    kind: str
    method: str
    chosen: dict[str, float]
    fold_chosen: tuple[dict[str, float], ...]
    temperature: float
    calibration_error: float
    model: ClassScores
    commonest: ClassScores
    by_lot: tuple[float, float]
    baseline: ClassScores | None = None
    fields: ClassScores | None = None
    confidence: dict[str, float] | None = None
    notes: tuple[str, ...] = ()
    version: str = __version__

    def table(self) -> str:
        """The scores as text, with 90 % intervals in brackets."""
        parts = [text_table(["predicted from", "n", "accuracy", "macro F1"], self.overall())]
        header = ["class", "cells", *(() if self.units is None else ("polygons",)), "predicted", *PER_CLASS]
        rows = []
        for at, (name, found) in enumerate(zip(self.classes, self.model.classes, strict=True)):
            counts = [str(found.measured), *(() if self.units is None else (str(self.units[at]),)), str(found.predicted)]
            rows.append([name, *counts, *(_text(getattr(found, score)) for score in PER_CLASS)])
        parts += ["", text_table(header, rows)]
        if len(self.classes) <= _WIDEST:
            matrix = [[name, *map(str, row)] for name, row in zip(self.classes, self.model.confusion, strict=True)]
            parts += ["", text_table(["true class \\ predicted", *self.classes], matrix)]
        error = 100 * self.calibration_error
        parts += ["", f"expected calibration error of the probabilities: {error:.1f} % (temperature {self.temperature:.2f})"]
        return "\n".join(parts)

    def overall(self) -> list[list[str]]:
        """Name, samples, accuracy and macro F1 of what is compared."""
        rows: list[tuple[str, ClassScores]] = [("embedding", self.model)]
        if self.baseline is not None:
            rows.append((f"baseline {Path(self.baseline_file or '').name}", self.baseline))
        rows.append(("commonest class", self.commonest))
        found = [[name, str(each.n), _text(each.accuracy), _text(each.macro_f1)] for name, each in rows]
        found.append(["classes drawn by lot", str(self.cells), *(f"{value:.2f}" for value in self.by_lot)])
        if self.fields is not None:
            whole = "fields" if self.task == "crops" else "polygons"
            each = self.fields
            found.append([f"embedding, whole {whole}", str(each.n), _text(each.accuracy), _text(each.macro_f1)])
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        plain = {"format": self.FORMAT, **{item.name: getattr(self, item.name) for item in attributes(self)}}
        plain["folds"] = asdict(self.folds)
        for name in _SCORES:
            found = getattr(self, name)
            plain[name] = None if found is None else found.to_json()
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        plain["folds"] = FoldFacts(**plain["folds"])
        for name in ("classes", "codes", "fold_chosen", "by_lot", "notes"):
            plain[name] = tuple(plain[name])
        plain["units"] = None if plain["units"] is None else tuple(plain["units"])
        for name in _SCORES:
            plain[name] = None if plain[name] is None else ClassScores.from_json(plain[name])
        found = cls(**plain)
        if not len(found.classes) == len(found.codes) == len(found.model.classes):
            raise ValueError("the scores are not of the classes")
        return found


def is_class_fit(folder: str | Path) -> bool:
    """Whether the scores in a folder are those of a classification; False for what cannot be read."""
    return has_format(folder, SCORES_FILE, ClassCard.FORMAT)


def _text(found: Estimate) -> str:
    return "-" if math.isnan(found.value) else found.text()
