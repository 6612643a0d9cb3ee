"""Frozen probes as pictures and tables: what is known from few labels, beside what needs no learning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion3d.evaluation.figures import Estimate
from fusion3d.evaluation.outcome import PROBES
from fusion3d.evaluation.probe_table import (
    ALL_FEATURES,
    ALONE,
    NOTHING,
    PRETRAINED,
    RANDOM,
    RAW,
    SCORES,
    SUPERVISED,
    ProbeReport,
    ProbeRow,
    ProbeVariable,
    share_text,
)
from fusion3d.io.json_file import parsing, read_json
from fusion3d.report.drawing import COLOURS, INK, Picture, render, sheet, style
from fusion3d.report.markup import Cell, figure, folded, sentence, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REMEDY = "make it again with `fusion3d evaluate RUN STORE --labels LABELS --out retrieval.json`"
_LINES = (
    (PRETRAINED, "linear", "pretrained, linear", COLOURS[0], "-", "o"),
    (ALL_FEATURES, "linear", "pretrained, side by side, linear", COLOURS[5], "-", "o"),
    (PRETRAINED, "knn", "pretrained, nearest neighbours", COLOURS[0], ":", "o"),
    (ALONE, "linear", "pretrained on the sensor alone, linear", COLOURS[3], "-", "v"),
    (RAW, "forest", "raw features, random forest", COLOURS[1], "-", "s"),
    (RAW, "linear", "raw features, linear", COLOURS[4], "-", "s"),
    (RANDOM, "linear", "random weights, linear", COLOURS[7], "--", "D"),
    (SUPERVISED, "", "from scratch on the labels", COLOURS[2], "-", "^"),
    (NOTHING, "guess", "nothing", "#8a94a0", "--", "_"),
)
"""Features, probe ("" is any), what the legend calls them, colour, line and marker."""
_FLOOR = -0.5
"""Lowest R2 that is drawn; what lies below is at the lower edge, and in the table."""


def read_probes(path: Path) -> ProbeReport | None:
    """Probes in the figures that `fusion3d evaluate --out` wrote; None when it made none.

    Raises
    ------
    InputError
        Not such a file, or a damaged one.
    """
    with parsing(path, "damaged figures of probes", _REMEDY):
        plain = read_json(path)
        return ProbeReport.from_json(plain[PROBES]) if PROBES in plain else None


def probes_section(report: ProbeReport) -> str:
    """What probes are, and a picture and a folded table for each variable."""
    body = sentence(
        f"The encoders are frozen. A simple model learns a variable from what they say of labelled places in the part that they "
        f"were trained on ({', '.join(share_text(share) for share in report.shares)} of the labels), and is tested on the part "
        f"that was held out. Raw features, the same encoders with random weights and the same encoders trained on the labels "
        f"alone are tested on the same places: an embedding is worth what it adds to them."
    )
    for variable in report.variables:
        first, _ = SCORES[variable.kind]
        rows = report.of(variable.name)
        unit = f" ({variable.unit})" if variable.unit else ""
        caption = (
            f"{variable.name}{unit}, {first}: {variable.training} labels to learn from, {variable.test} places to test on. Left: "
            f"by share of the labels, mean of {report.draws} draws with their standard deviation. Right: with the largest share, "
            f"by sensor, with the 90 % interval over blocks of the tested ground; each sensor is tested where it saw the ground."
        )
        if first == "R2":
            caption += f" Scores below {_FLOOR:g} are drawn at the edge."
        body += figure(draw_probes(report, variable), caption, f"Probes for {variable.name}")
        body += folded(f"All figures of {variable.name}", _table(report, variable, rows))
    if report.differences:
        differences: list[list[str | Cell]] = [
            [item.variable, item.sensor, *(_cell(item.difference.get(share)) for share in report.shares)]
            for item in report.differences
        ]
        title = "Trained with the other sensors, less trained on the sensor alone (linear probe; 90 % interval)"
        body += table(["variable", "sensor", *map(share_text, report.shares)], differences, left=2, caption=title)
    return body + "".join(sentence(f"Note: {note}", "note") for note in report.notes)


def _table(report: ProbeReport, variable: ProbeVariable, rows: Sequence[ProbeRow]) -> str:
    body: list[list[str | Cell]] = [
        [row.input, row.features, row.probe, str(row.tested), *(_cell(row.score.get(share)) for share in report.shares)]
        for row in rows
    ]
    header = ["input", "features", "probe", "tested", *map(share_text, report.shares)]
    return table(header, body, left=3, caption=f"{SCORES[variable.kind][0]} of {variable.name} by share of the labels")


def _cell(estimate: Estimate | None) -> Cell:
    if estimate is None or math.isnan(estimate.value):
        return Cell("–")
    value, _, rest = estimate.text().partition(" ")
    return Cell(value, rest)


# -- pictures


def draw_probes(report: ProbeReport, variable: ProbeVariable) -> Picture:
    """Scores by share of the labels for the first input, and by sensor for the largest share."""
    rows = report.of(variable.name)
    inputs = list(dict.fromkeys(row.input for row in rows))
    with style():
        drawn = sheet(4.4)
        left, right = drawn.subplots(1, 2, width_ratios=(1.0, 1.25), sharey=True)
        handles: dict[str, Any] = {}
        _curves(left, report, rows, inputs[0], handles)
        _by_sensor(right, report, rows, inputs, handles)
        first = SCORES[variable.kind][0]
        left.set_ylabel(f"{first} on held-out ground")
        _limits(left, rows, variable.kind)
        for axes in (left, right):
            axes.grid(True, axis="y")
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        drawn.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
        return render(drawn)


def _drawn(row: ProbeRow) -> tuple[int, tuple[str, str, str, str]] | None:
    """Order, name in the legend, colour, line and marker of a row; None for rows that only tables hold."""
    for at, (features, probe, name, *look) in enumerate(_LINES):
        if row.features == features and probe in ("", row.probe):
            return at, (name, *look)  # type: ignore[return-value]
    return None


def _fill(row: ProbeRow, colour: str) -> str:
    return "white" if row.probe == "knn" else colour


def _curves(axes: Axes, report: ProbeReport, rows: Sequence[ProbeRow], source: str, handles: dict[str, Any]) -> None:
    at = {share: number for number, share in enumerate(sorted(report.shares))}
    for row in rows:
        look = _drawn(row) if row.input == source else None
        if look is None:
            continue
        order, (name, colour, line, marker) = look
        shares = sorted(row.score)
        # beside each other rather than on top
        x = [at[share] + 0.03 * (order - len(_LINES) / 2) for share in shares]
        y = [max(row.score[share].value, _FLOOR) for share in shares]
        # at the edge a bar would stand for nothing
        spread = [(row.score[share].spread or 0.0) * (row.score[share].value > _FLOOR) for share in shares]
        handles[name] = axes.errorbar(
            x,
            y,
            yerr=spread,
            color=colour,
            linestyle=line,
            marker=marker,
            markersize=5,
            linewidth=1.6,
            elinewidth=0.9,
            markerfacecolor=_fill(row, colour),
        )
    axes.set_xticks(list(at.values()), [share_text(share) for share in at])
    axes.set_xlabel("labels learnt from")
    axes.set_title("all sensors, fused" if source == "fused" else source)


def _by_sensor(axes: Axes, report: ProbeReport, rows: Sequence[ProbeRow], inputs: Sequence[str], handles: dict[str, Any]) -> None:
    share = max(report.shares)
    for place, source in enumerate(inputs):
        looks = [(row, look) for row in rows if row.input == source and (look := _drawn(row)) is not None and share in row.score]
        for number, (row, (_, (name, colour, line, marker))) in enumerate(looks):
            found = row.score[share]
            x = place + 0.8 * ((number + 0.5) / len(looks) - 0.5)
            value = max(found.value, _FLOOR)
            ends = [[max(0.0, value - max(found.low, _FLOOR))], [max(0.0, found.high - value)]]
            if not all(math.isfinite(end[0]) for end in ends):
                ends = [[0.0], [0.0]]
            drawn = axes.errorbar(
                [x],
                [value],
                yerr=ends,
                color=colour,
                marker=marker,
                markersize=5,
                linestyle=line,
                linewidth=1.6,
                elinewidth=0.9,
                markerfacecolor=_fill(row, colour),
            )
            handles.setdefault(name, drawn)
        if place:
            axes.axvline(place - 0.5, color="#d8dde3", linewidth=0.8)
    axes.set_xticks(range(len(inputs)), inputs)
    axes.set_xlim(-0.5, len(inputs) - 0.5)
    axes.set_title(f"by sensor, {share_text(share)} of the labels")


def _limits(axes: Axes, rows: Sequence[ProbeRow], kind: str) -> None:
    lowest = min(
        (estimate.value for row in rows for estimate in row.score.values() if estimate.value == estimate.value), default=0
    )
    if kind == "classes":
        axes.set_ylim(0.0, 1.02)
        return
    axes.set_ylim(_FLOOR - 0.03 if lowest < 0 else 0.0, 1.02)
    axes.axhline(0.0, color=INK, linewidth=0.8)
