"""Predicted against measured on plots that the fit did not see."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fusion3d.report.biomass_map import Agreement, agreement
from fusion3d.report.drawing import COLOURS, INK, Picture, render, sheet, style
from fusion3d.report.markup import Cell, figure, number, sentence, table
from fusion3d.tasks.coverage import Coverage
from fusion3d.tasks.held_out import HeldOut
from fusion3d.tasks.scorecard import Scorecard
from fusion3d.tasks.scores import Figure, Scores


def predictions_section(folder: Path) -> str:
    """Scatter and scores of the folder that `fusion3d fit` wrote."""
    plots, card = HeldOut.read(folder), Scorecard.read(folder)
    unit = card.unit or "unit not stated"
    agreed = held_out_agreement(plots)
    caption = (
        f"{agreed.n} plots, {card.target} in {unit}; each was predicted by a model that had not seen its fold ({card.folds}; "
        "folds by colour). The line is 1:1. R² is one minus the residual over the total sum of squares, bias is predicted minus "
        "measured."
    )
    if card.method:
        caption += f" Model: {card.method}."
    body = figure(draw_predictions(plots, card.target, unit), caption, "Predicted against measured")
    body += scores_table(card, unit)
    if card.coverage is not None and card.coverage.n:
        caption = (
            f"Share of the held-out plots whose measured {card.target} lies within the {100 * card.level:g} % interval of its "
            "prediction, for all, by quarter of prediction and by stratum, with 90 % intervals (Wilson); the line is what was "
            "asked for. Each fold's intervals were calibrated on the plots of the other folds."
        )
        body += figure(draw_coverage(card, unit), caption, "Coverage of intervals")
    return body + "".join(sentence(f"Note: {note}", "note") for note in card.notes)


def held_out_agreement(plots: HeldOut) -> Agreement:
    """Of the plots that have a prediction, from the table itself rather than from the scores beside it."""
    return agreement(plots.predicted, plots.measured)


def scores_table(card: Scorecard, unit: str) -> str:
    """Scores with their 90 % intervals: the embedding, what to compare it with, strata, and quarters of prediction."""
    named: list[tuple[str, Scores]] = [("embedding", card.model)]
    if card.baseline is not None:
        named.append((f"baseline: {Path(card.baseline_file or '').name}", card.baseline))
    named += (card.area_based or {}).items()
    named.append(("mean of the training plots", card.null))
    named += [(f"embedding, stratum {name or '(none)'}", found) for name, found in (card.strata or {}).items()]
    named += [(f"embedding, predicted {number(item.low)} to {number(item.high)}", item.scores) for item in card.quartiles]
    rows: list[list[str | Cell]] = [
        [name, str(found.n), Cell(*_share(found.r2)), *(_figure(item) for item in (found.rmse, found.mae, found.bias))]
        for name, found in named
    ]
    header = ["predicted from", "plots", "R²", f"RMSE ({unit})", f"MAE ({unit})", f"bias ({unit})"]
    return table(header, rows, caption="Scores on held-out plots, 90 % interval in brackets")


def _share(found: Figure) -> tuple[str, str]:
    """R2 and its interval with two decimals."""
    value, _, ends = found.text(2).partition(" ")
    return value, ends


def _figure(found: Figure) -> Cell:
    ends = "" if found.low != found.low else f"({number(found.low)} to {number(found.high)})"
    return Cell(number(found.value), ends)


def draw_coverage(card: Scorecard, unit: str) -> Picture:
    """Coverage of intervals, one line a group of plots, against the level."""
    groups: list[tuple[str, Coverage | None]] = [("all plots", card.coverage)]
    groups += [(f"predicted {number(item.low)} to {number(item.high)} {unit}", item.coverage) for item in card.quartiles]
    groups += [(f"stratum {name or '(none)'}", found) for name, found in (card.strata_coverage or {}).items()]
    shown = [(name, found) for name, found in groups if found is not None and found.n]
    with style():
        drawn = sheet(0.9 + 0.34 * len(shown), 7.6)
        axes = drawn.add_subplot()
        axes.axvline(card.level, color=COLOURS[1], linewidth=1.2, zorder=1)
        for at, (_, found) in enumerate(shown):
            share = found.share
            axes.plot([share.low, share.high], [at, at], color=COLOURS[0], linewidth=2, solid_capstyle="butt", zorder=2)
            axes.plot(share.value, at, "o", color=COLOURS[0], markersize=6.5 if at else 8, markeredgecolor="white", zorder=3)
        axes.set_yticks(range(len(shown)), [f"{name} (n = {found.n})" for name, found in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlim(min(0.5, *(found.share.low for _, found in shown)) - 0.02, 1.02)
        axes.set_xlabel(f"share within the {100 * card.level:g} % interval")
        axes.grid(True, axis="x")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        return render(drawn)


def draw_predictions(plots: HeldOut, variable: str, unit: str) -> Picture:
    scores = held_out_agreement(plots)
    low = min(0.0, float(np.nanmin([plots.measured, plots.predicted])))
    high = float(np.nanmax([plots.measured, plots.predicted]))
    high = low + 1.05 * (high - low) if high > low else low + 1.0
    folds = sorted(set(plots.fold.tolist()))
    with style():
        drawn = sheet(5.2, 6.2)
        axes = drawn.add_subplot()
        axes.plot([low, high], [low, high], color=INK, linewidth=1, zorder=1)
        axes.annotate("1:1", (high, high), (-6, -14), textcoords="offset points", ha="right", fontsize=8.5)
        named = len(folds) <= len(COLOURS)
        for at, fold in enumerate(folds):
            chosen = plots.fold == fold
            colour = COLOURS[at % len(COLOURS)] if named else COLOURS[0]
            axes.scatter(plots.measured[chosen], plots.predicted[chosen], s=26, color=colour, alpha=0.75, linewidths=0.4,
                         edgecolors="white", zorder=2)  # fmt: skip
        text = f"n = {scores.n}\nR² = {scores.r2:.2f}\nRMSE = {number(scores.rmse)} {unit}\nbias = {number(scores.bias)} {unit}"
        axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", linespacing=1.4, fontsize=10)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_aspect("equal")
        axes.set_xlabel(f"measured {variable} ({unit})")
        axes.set_ylabel(f"predicted {variable} ({unit})")
        axes.grid(True)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        return render(drawn)
