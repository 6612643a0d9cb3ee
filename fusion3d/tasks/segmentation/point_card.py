"""What a classification of points is worth, as a file: `scores.json` with confusion matrix, scores per class and baselines."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from fusion3d import __version__
from fusion3d.evaluation.figures import Estimate
from fusion3d.evaluation.table import text_table
from fusion3d.io.json_file import has_format
from fusion3d.tasks.card_file import SCORES_FILE, CardFile
from fusion3d.tasks.classes.scores import PER_CLASS
from fusion3d.tasks.scorecard import FoldFacts
from fusion3d.tasks.segmentation.point_scores import PointScores


@dataclass(frozen=True)
class PointCard(CardFile):
    """Scores on held-out points; the keys of `scores.json`, beside "format".

    Attributes
    ----------
    store, checkpoint : as given
    classes, codes : [K] names, and codes in the files
    points : that were scored; every one by a model that had not seen its fold
    folds : how points were held out
    voxel : metres
    finetuned : steps that the encoder was trained on the labels, 0 where it was frozen
    temperature, calibration_error : of the confidence, as for other classes
    model : scores of the pretrained encoder
    random_weights : of the same with weights that were never pretrained
    forest : of a random forest on features of points and their neighbourhood
    commonest : of the commonest class of what was trained with
    notes : what was left out or should be known, in words
    version : of fusion3d
    """

    FORMAT: ClassVar[str] = "fusion3d point class scores"
    CALLED: ClassVar[str] = "a file of point class scores"
    REMEDY: ClassVar[str] = "give the file that `fusion3d fit --task segmentation` wrote"

    store: str
    checkpoint: str
    classes: tuple[str, ...]
    codes: tuple[int, ...]
    points: int
    folds: FoldFacts
    voxel: float
    finetuned: int
    temperature: float
    calibration_error: float
    model: PointScores
    random_weights: PointScores
    forest: PointScores
    commonest: PointScores
    notes: tuple[str, ...] = ()
    version: str = __version__

    @property
    def method(self) -> str:
        """In a sentence, for reports."""
        trained = f"trained on the labels for {self.finetuned} steps" if self.finetuned else "frozen"
        return (
            f"sparse U-Net of the pretrained als encoder ({trained}) on voxels of {self.voxel:g} m, whose finest features, with "
            "each point's place in its voxel, height, returns and intensity, go through two hidden layers"
        )

    def overall(self) -> list[list[str]]:
        """Name, points, accuracy, macro F1 and mean IoU of what is compared."""
        rows = [
            ("pretrained encoder" + (", finetuned" if self.finetuned else ""), self.model),
            ("the same from random weights", self.random_weights),
            ("random forest on point features", self.forest),
            ("commonest class", self.commonest),
        ]
        return [
            [name, str(each.found.n), *map(_text, (each.found.accuracy, each.found.macro_f1, each.mean_iou))]
            for name, each in rows
        ]

    def table(self) -> str:
        """The scores as text, with 90 % intervals in brackets."""
        parts = [text_table(["predicted from", "points", "accuracy", "macro F1", "mean IoU"], self.overall())]
        header = ["class", "code", "points", "predicted", *PER_CLASS, "IoU of the forest"]
        rows = []
        for at, (name, found) in enumerate(zip(self.classes, self.model.found.classes, strict=True)):
            counts = [str(self.codes[at]), str(found.measured), str(found.predicted)]
            scores = [_text(getattr(found, score)) for score in PER_CLASS]
            rows.append([name, *counts, *scores, _text(self.forest.found.classes[at].iou)])
        parts += ["", text_table(header, rows)]
        matrix = [[name, *map(str, row)] for name, row in zip(self.classes, self.model.found.confusion, strict=True)]
        parts += ["", text_table(["true class \\ predicted", *self.classes], matrix)]
        error = 100 * self.calibration_error
        parts += ["", f"expected calibration error of the confidence: {error:.1f} % (temperature {self.temperature:.2f})"]
        return "\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        plain = {"format": self.FORMAT, **{item.name: getattr(self, item.name) for item in fields(self)}}
        plain["folds"] = asdict(self.folds)
        for name in _SCORES:
            plain[name] = getattr(self, name).to_json()
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        plain["folds"] = FoldFacts(**plain["folds"])
        for name in ("classes", "codes", "notes"):
            plain[name] = tuple(plain[name])
        for name in _SCORES:
            plain[name] = PointScores.from_json(plain[name])
        found = cls(**plain)
        if any(len(getattr(found, name).found.classes) != len(found.classes) for name in _SCORES):
            raise ValueError("the scores are not of the classes")
        return found


_SCORES = ("model", "random_weights", "forest", "commonest")


def is_point_fit(folder: str | Path) -> bool:
    """Whether the scores in a folder are those of a classification of points; False for what cannot be read."""
    return has_format(folder, SCORES_FILE, PointCard.FORMAT)


def _text(found: Estimate) -> str:
    return "-" if math.isnan(found.value) else found.text()
