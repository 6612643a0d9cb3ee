"""Predicted against measured, a panel for each row of a study."""

from __future__ import annotations

import math
from pathlib import Path

from forest_studies.judged import Study
from fusion3d.report.drawing import COLOURS, style

_ACROSS = 5


def scatter(study: Study, path: Path) -> None:
    """Write a PNG; the line is where both are equal."""
    from matplotlib.figure import Figure

    rows = [row for row in study.rows if row.scores is not None]
    down = math.ceil(len(rows) / _ACROSS)
    with style():
        figure = Figure(figsize=(2.6 * _ACROSS, 2.8 * down), layout="constrained")
        panels = figure.subplots(down, _ACROSS, squeeze=False).reshape(-1)
        for panel, row in zip(panels, rows, strict=False):
            low = min(row.measured.min(), row.predicted.min())
            high = max(row.measured.max(), row.predicted.max())
            panel.plot([low, high], [low, high], color="0.6", linewidth=0.8)
            panel.scatter(row.predicted, row.measured, s=8, color=COLOURS[0], alpha=0.7, linewidths=0)
            panel.set_title(f"{row.target}\n{row.features}\n{row.model}, {row.folds}", fontsize=6)
            panel.tick_params(labelsize=6)
        for panel in panels[len(rows) :]:
            panel.set_axis_off()
        figure.supxlabel("predicted")
        figure.supylabel("measured")
        figure.savefig(path, dpi=80)
