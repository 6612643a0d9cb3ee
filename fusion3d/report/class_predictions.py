"""Predicted against true classes of cells that the fit did not see: confusion matrix and scores per class."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from fusion3d.evaluation.figures import Estimate
from fusion3d.report.drawing import INK, Picture, render, sheet, style
from fusion3d.report.markup import Cell, figure, sentence, table
from fusion3d.tasks.classes.class_card import ClassCard
from fusion3d.tasks.classes.scores import PER_CLASS, ClassScores

_PRINTED = 16
"""Classes up to which counts stand in the squares of the matrix."""
_TITLES = {"precision": "precision", "recall": "recall", "f1": "F1", "iou": "IoU"}


def class_predictions_section(folder: Path) -> str:
    """Confusion matrix and scores of the folder that `fusion3d fit --task landcover` wrote."""
    card = ClassCard.read(folder)
    what = f"{card.model.n} cells by true class and predicted class of {card.target}"
    body = confusion_figure(card.model, card.classes, what, card.folds.of("cells"), card.method, "cells")
    body += overall_table(["predicted from", "samples", "accuracy", "macro F1"], card.overall())
    body += class_table(card.classes, card.model, card.units)
    return body + class_notes(card.calibration_error, card.notes)


def confusion_figure(scores: ClassScores, names: tuple[str, ...], what: str, folds: str, method: str, samples: str) -> str:
    """The confusion matrix of held-out samples.

    Parameters
    ----------
    what : is in the matrix, in words; samples : what its numbers count
    folds : how they were held out, in words
    """
    caption = (
        f"{what}; each was predicted by a model that had not seen its fold ({folds}). Shades are shares of a true class (of its "
        f"row), numbers are {samples}. Model: {method}."
    )
    return figure(draw_confusion(scores, names), caption, f"Confusion matrix of {samples}")


def class_notes(calibration_error: float, notes: tuple[str, ...]) -> str:
    """How far probabilities are off, and what should be known."""
    text = (
        f"Expected calibration error of the probabilities (Naeini et al. 2015): {100 * calibration_error:.1f} %, each fold "
        "calibrated on the others by temperature scaling (Guo et al. 2017)."
    )
    return sentence(text, "note") + "".join(sentence(f"Note: {note}", "note") for note in notes)


def overall_table(header: list[str], overall: list[list[str]]) -> str:
    """Scores of all classes together: rows of a name, a number of samples, and scores as texts."""
    rows: list[list[str | Cell]] = [[name, n, *(_parted(text) for text in figures)] for name, n, *figures in overall]
    return table(header, rows, caption="Scores on held-out ground, 90 % interval in brackets")


def class_table(names: tuple[str, ...], scores: ClassScores, units: tuple[int, ...] | None = None, what: str = "cells") -> str:
    """Scores of each class; squares of better ones are darker. `units` are numbers of polygons, `what` the samples."""
    header = ["class", what, *(() if units is None else ("polygons",)), *(_TITLES[name] for name in PER_CLASS)]
    rows: list[list[str | Cell]] = []
    for at, (name, found) in enumerate(zip(names, scores.classes, strict=True)):
        counts = [str(found.measured)] if units is None else [str(found.measured), str(units[at])]
        rows.append([name, *counts, *(_score(getattr(found, score)) for score in PER_CLASS)])
    return table(header, rows, caption="Scores by class, 90 % interval in brackets")


def _score(found: Estimate) -> Cell:
    if math.isnan(found.value):
        return Cell("–")
    value, aside = _halves(found.text())
    return Cell(value, aside, shade=found.value)


def _parted(text: str) -> Cell:
    return Cell(*_halves(text))


def _halves(text: str) -> tuple[str, str]:
    value, _, aside = text.partition(" ")
    return value, aside


def draw_confusion(scores: ClassScores, names: tuple[str, ...]) -> Picture:
    """The matrix: true classes down, predicted ones across."""
    counts = np.array(scores.confusion, np.float64)
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    count = len(names)
    side = float(np.clip(0.55 * count, 2.4, 7.5))
    label = min(2.2, 0.075 * max(map(len, names)) + 0.3)
    with style():
        drawn = sheet(side + label + 0.5, side + label + 1.4)
        axes = drawn.add_subplot()
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(
            range(count), names, rotation=45 if count > 3 or label > 1 else 0, ha="right" if count > 3 or label > 1 else "center"
        )
        axes.set_yticks(range(count), names)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(True, which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        if count <= _PRINTED:
            for row in range(count):
                for col in range(count):
                    if counts[row, col]:
                        colour = "white" if share[row, col] > 0.6 else INK
                        axes.text(col, row, f"{int(counts[row, col])}", ha="center", va="center", color=colour, fontsize=8)
        drawn.colorbar(image, ax=axes, label="share of the true class", shrink=0.8, pad=0.02)
        return render(drawn)
