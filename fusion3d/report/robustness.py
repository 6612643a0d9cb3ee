"""Robustness as pictures and tables: what a fused embedding is worth when sensors are missing, gappy, noisy or misplaced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion3d.evaluation.figures import Estimate
from fusion3d.evaluation.outcome import ROBUSTNESS
from fusion3d.evaluation.robustness_rows import FAILURES
from fusion3d.evaluation.robustness_table import (
    ALONE,
    FAILURE,
    FUSED,
    MISSING,
    NOISE,
    REFITTED,
    RETRIEVAL,
    SHIFT,
    SIZE,
    SUBSET,
    RobustnessReport,
    RobustnessRow,
    RobustnessTask,
)
from fusion3d.io.json_file import parsing, read_json
from fusion3d.report.drawing import COLOURS, INK, Picture, render, sheet, style
from fusion3d.report.markup import Cell, figure, folded, sentence, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REMEDY = "make it again with `fusion3d evaluate RUN STORE --robustness --out retrieval.json`"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_FLOOR = -0.5
"""Lowest R2 that is drawn; what lies below is at the lower edge, and in the table."""


def read_robustness(path: Path) -> RobustnessReport | None:
    """Robustness in the figures that `fusion3d evaluate --out` wrote; None when it was not measured.

    Raises
    ------
    InputError
        Not such a file, or a damaged one.
    """
    with parsing(path, "damaged figures of robustness", _REMEDY):
        plain = read_json(path)
        return RobustnessReport.from_json(plain[ROBUSTNESS]) if ROBUSTNESS in plain else None


def robustness_section(report: RobustnessReport) -> str:
    """What was tried, and for each task two pictures and folded tables."""
    subsets = f"all {report.possible}" if report.subsets == report.possible else f"{report.subsets} of the {report.possible}"
    body = sentence(
        f"Held-out columns are embedded from {subsets} subsets of the {len(report.sensors)} sensors, and from all sensors of "
        f"which one is noisy, one is shifted, or all have gaps. A linear probe that was fitted to the embedding of all sensors "
        f"as they are judges each of them; for subsets also one that was fitted to the subset. All are judged on the same "
        f"places: where nothing is left of the sensors, a probe guesses, and retrieval has not found the column."
    )
    way = report.carried
    edge = f" Scores below {_FLOOR:g} are drawn at the edge."
    for task in report.shown:
        found = (
            f"a column is found among {task.tested} (on average) of a left-out sensor; chance is {100 * task.chance:.1f} %."
            if task.kind == RETRIEVAL
            else f"{task.training} labels to learn from, {task.tested} places to test on."
        )
        caption = (
            f"{task.title}: {found} Left: by the number of sensors that are left; dots are subsets, lines their means. Middle: "
            f"expected score when each sensor fails by itself. Right: columns of each sensor missing at random, with the "
            f"standard deviation of {report.draws} draws."
        )
        caption += edge if task.kind == "values" else ""
        body += figure(draw_missing(report, task), caption, f"Missing sensors: {task.title}")
        caption = (
            f"{task.title}, fused by {way}. Left: noise on one sensor, in levels of the table below. Right: one sensor shifted "
            f"against the others; places within {report.margin} columns of a window's edge are not judged. Filled: all sensors "
            f"fused; open and dotted: the disturbed sensor alone."
        )
        caption += edge if task.kind == "values" else ""
        body += figure(draw_disturbed(report, task, way), caption, f"Disturbed sensors: {task.title}")
        body += _tables(report, task)
    return body + "".join(sentence(f"Note: {note}", "note") for note in report.notes)


# -- tables


def _tables(report: RobustnessReport, task: RobustnessTask) -> str:
    body = ""
    for name, left, header, rows in report.tables(task):
        cells: list[list[str | Cell]] = [[_cell(value) if at >= left else value for at, value in enumerate(row)] for row in rows]
        body += table(header, cells, left=left, caption=name)
    return folded(f"All figures: {task.title}", body)


def _cell(value: str) -> Cell:
    first, _, rest = value.partition(" ")
    return Cell(first, rest) if rest != "%" else Cell(value)


# -- pictures


def draw_missing(report: RobustnessReport, task: RobustnessTask) -> Picture:
    """Scores by number of sensors left, under independent failure, and with gaps."""
    with style():
        drawn = sheet(3.9)
        left, middle, right = drawn.subplots(1, 3, width_ratios=(1.3, 1.0, 1.0), sharey=True)
        handles: dict[str, Any] = {}
        for number, way in enumerate(report.fusions):
            colour, beside = COLOURS[number], 0.16 * (number - (len(report.fusions) - 1) / 2)
            subsets = report.of(task, SUBSET, way)
            values = [_value(row.scores.get(FUSED)) for row in subsets]
            left.scatter([len(row.sensors) + beside for row in subsets], values, s=9, color=colour, alpha=0.35, linewidths=0)
            for score, line, fill, name in ((FUSED, "-", colour, way), (REFITTED, ":", "white", f"{way}, probe refitted")):
                for axes, part in ((left, SIZE), (middle, FAILURE), (right, MISSING)):
                    rows = sorted((row for row in report.of(task, part, way) if score in row.scores), key=_amount)
                    if not rows:
                        continue
                    shift = beside if axes is left else 0.02 * (number - (len(report.fusions) - 1) / 2)
                    x = [(row.amount or 0.0) + shift for row in rows]
                    found = [row.scores[score] for row in rows]
                    handles[name] = _line(axes, x, found, colour, line, "o", fill)
        _finish(left, report.chance(task, SIZE), "sensors left", "missing altogether")
        left.set_ylabel(f"{task.score} on held-out ground")
        left.set_xticks(range(1, 1 + max((len(row.sensors) for row in report.of(task, SUBSET)), default=1)))
        _finish(middle, report.chance(task, FAILURE), "chance that a sensor fails", "expected under failure")
        middle.set_xticks(FAILURES, [f"{100 * chance:g} %" for chance in FAILURES])
        _finish(right, report.chance(task, MISSING), "share of columns missing", "gaps in every sensor")
        shares = sorted({row.amount or 0.0 for row in report.of(task, MISSING)})
        right.set_xticks(shares, [f"{100 * share:g} %" for share in shares])
        _limits(left, report, task, (SUBSET, SIZE, FAILURE, MISSING))
        drawn.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6)
        return render(drawn)


def draw_disturbed(report: RobustnessReport, task: RobustnessTask, way: str) -> Picture:
    """Scores by level of noise on one sensor and by its shift."""
    with style():
        drawn = sheet(3.9)
        left, right = drawn.subplots(1, 2, sharey=True)
        handles: dict[str, Any] = {}
        for number, sensor in enumerate(report.sensors):
            colour, marker = COLOURS[number % len(COLOURS)], _MARKERS[number % len(_MARKERS)]
            for axes, part in ((left, NOISE), (right, SHIFT)):
                rows = sorted((row for row in report.of(task, part, way) if row.sensors == (sensor,)), key=_amount)
                for score, line, fill in ((FUSED, "-", colour), (ALONE, ":", "white")):
                    known = [(at, row) for at, row in enumerate(rows) if score in row.scores]
                    if not known:
                        continue
                    beside = 0.012 * (number - (len(report.sensors) - 1) / 2) * (3 if axes is left else 2)
                    x = [(at if axes is left else _amount(row)) + beside for at, row in known]
                    container = _line(axes, x, [row.scores[score] for _, row in known], colour, line, marker, fill)
                    if score == FUSED:
                        handles[sensor] = container
        _finish(left, report.chance(task, NOISE), "noise", "noise on one sensor")
        left.set_xticks(range(4), ["none", "low", "middle", "high"])
        left.set_ylabel(f"{task.score} on held-out ground")
        _finish(right, report.chance(task, SHIFT), "shift, columns", "one sensor shifted")
        _limits(left, report, task, (NOISE, SHIFT))
        drawn.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=8)
        return render(drawn)


def _amount(row: RobustnessRow) -> float:
    return row.amount or 0.0


def _value(estimate: Estimate | None) -> float:
    return math.nan if estimate is None else max(estimate.value, _FLOOR)


def _line(axes: Axes, x: Sequence[float], found: Sequence[Estimate], colour: str, line: str, marker: str, fill: str) -> Any:
    # at the edge a bar would stand for nothing
    spread = [(each.spread or 0.0) * (each.value > _FLOOR) for each in found]
    return axes.errorbar(
        x,
        [_value(each) for each in found],
        yerr=spread,
        color=colour,
        linestyle=line,
        marker=marker,
        markersize=4.5,
        linewidth=1.5,
        elinewidth=0.9,
        markerfacecolor=fill,
    )


def _finish(axes: Axes, chance: float, label: str, title: str) -> None:
    if chance > 0:
        axes.axhline(chance, color=INK, linewidth=0.8, linestyle="--")
    axes.set_xlabel(label)
    axes.set_title(title)
    axes.grid(True, axis="y")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _limits(axes: Axes, report: RobustnessReport, task: RobustnessTask, parts: Sequence[str]) -> None:
    """Room for all that is drawn: retrieval by its scores, which may be small, probes from 0 or the floor."""
    values = [
        _value(each)
        for part in parts
        for row in report.of(task, part)
        for each in row.scores.values()
        if each.value == each.value
    ]
    lowest, highest = min(values, default=0.0), max(values, default=1.0)
    if task.kind == "values" and lowest < 0:
        axes.axhline(0.0, color=INK, linewidth=0.8)
    axes.set_ylim(min(0.0, lowest) - 0.03 * (lowest < 0), min(1.02, max(1.15 * highest, 1.5 * task.chance, 0.05)))
