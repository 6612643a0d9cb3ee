"""Predicted against true classes of points that the fit did not see: confusion matrix, baselines and scores per class."""

from __future__ import annotations

from pathlib import Path

from fusion3d.report.class_predictions import class_notes, class_table, confusion_figure, overall_table
from fusion3d.report.markup import sentence
from fusion3d.tasks.segmentation.point_card import PointCard


def point_predictions_section(folder: Path) -> str:
    """Confusion matrix and scores of the folder that `fusion3d fit --task segmentation` wrote."""
    card = PointCard.read(folder)
    what = f"{card.points} points by the class in their files and the predicted class"
    body = confusion_figure(card.model.found, card.classes, what, card.folds.of("points"), card.method, "points")
    body += overall_table(["predicted from", "points", "accuracy", "macro F1", "mean IoU"], card.overall())
    body += class_table(card.classes, card.model.found, what="points")
    body += sentence("Heights above ground are from positions alone, not from the ground class.", "note")
    return body + class_notes(card.calibration_error, card.notes)
