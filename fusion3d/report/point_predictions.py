"""Predicted against true classes of points that the fit did not see: confusion matrix, baselines and scores per class."""

from __future__ import annotations

from pathlib import Path

from fusion3d.report.class_predictions import class_table, draw_confusion, overall_table
from fusion3d.report.markup import figure, sentence
from fusion3d.tasks.segmentation.point_card import PointCard


def point_predictions_section(folder: Path) -> str:
    """Confusion matrix and scores of the folder that `fusion3d fit --task segmentation` wrote."""
    card = PointCard.read(folder)
    folds = str(card.folds).replace("plots within", "points within")
    caption = (
        f"{card.points} points by the class in their files and the predicted class; each was predicted by a model that had not "
        f"seen its fold ({folds}). Shades are shares of a true class (of its row), numbers are points. Model: {card.method}."
    )
    body = figure(draw_confusion(card.model.found, card.classes), caption, "Confusion matrix of points")
    body += overall_table(["predicted from", "points", "accuracy", "macro F1", "mean IoU"], card.overall())
    body += class_table(card.classes, card.model.found, what="points")
    error = 100 * card.calibration_error
    body += sentence(
        f"Expected calibration error of the confidence (Naeini et al. 2015): {error:.1f} %, each fold calibrated on the others "
        "by temperature scaling (Guo et al. 2017). Heights above ground are from positions alone, not from the ground class.",
        "note",
    )
    return body + "".join(sentence(f"Note: {note}", "note") for note in card.notes)
