"""How the losses went: every term that training logged, over steps."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusion3d.errors import InputError
from fusion3d.report.drawing import COLOURS, Picture, render, sheet, style
from fusion3d.report.markup import figure, missing, number, sentence, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))


@dataclass(frozen=True)
class Curve:
    """A logged term: its name, and its value at steps."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def term(self) -> str:
        return self.name.partition("/")[2]

    @property
    def held_out(self) -> bool:
        return self.name.startswith("val/")


def read_losses(run: Path) -> list[Curve]:
    """What a run logged, in the order of its names; nothing when it logged nothing.

    A run that was resumed logged in several folders; where they overlap, the later one counts.

    Raises
    ------
    InputError
        A log is there but cannot be read.
    """
    logs = sorted(run.glob("logs/version_*"), key=lambda folder: _version(folder.name))
    found: dict[str, dict[int, float]] = {}
    for log in logs:
        read = _from_csv(log / "metrics.csv") if (log / "metrics.csv").exists() else _from_events(log)
        begin = min((step for points in read.values() for step in points), default=0)
        for points in found.values():
            for step in [step for step in points if read and step >= begin]:
                del points[step]
        for name, points in read.items():
            found.setdefault(name, {}).update(points)
    return [
        Curve(name, tuple(sorted(points)), tuple(points[step] for step in sorted(points)))
        for name, points in sorted(found.items())
        if points
    ]


def _version(name: str) -> int:
    digits = re.search(r"\d+$", name)
    return int(digits.group()) if digits else -1


def _from_csv(path: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                step = int(row.pop("step"))
                for name, value in row.items():
                    if "/" in (name or "") and value not in (None, ""):
                        found.setdefault(name, {})[step] = float(value)
    except (OSError, UnicodeDecodeError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise InputError(path, f"not a readable log ({type(error).__name__}: {error})", "train again") from None
    return found


def _from_events(folder: Path) -> dict[str, dict[int, float]]:
    """Scalars of TensorBoard, for a run whose loggers were replaced."""
    if not any(folder.glob("events*")):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {name: {item.step: item.value for item in events.Scalars(name)} for name in events.Tags()["scalars"] if "/" in name}


def last_step(curves: Sequence[Curve]) -> int | None:
    """Steps of training that the log knows of; steps are counted from 0."""
    return max((curve.steps[-1] + 1 for curve in curves), default=None)


def losses_section(run: Path, command: str) -> str:
    curves = read_losses(run)
    if not curves:
        return missing("This run has logged no losses", command)
    picture = draw_losses(curves)
    # A mean over the steps since the last line is no figure of one step.
    caption = (
        "Each training value is the mean over the steps since the one before. Filled lines: columns trained on; open circles: "
        "columns held out. Contrast: cross-entropy of finding a column's own partner of the other sensor among the columns of a "
        "batch, nats. Retention: error of what an encoder tells of the part of its own input that was hidden (Huber "
        "loss of the normalised signal, no unit). The total of training counts a sampled pair as often as there are pairs, so "
        "that its mean is the sum over all of them; that of held-out columns is the mean contrast of a pair."
    )
    terms = sorted({curve.term for curve in curves if _is_loss(curve)}, key=_order)
    by_name = {curve.name: curve for curve in curves}
    rows = []
    for term in terms:
        train, held_out = by_name.get(f"train/{term}"), by_name.get(f"val/{term}")
        shown = [number(train.values[0]), number(train.values[-1])] if train else ["–", "–"]
        rows.append([_spoken(term), *shown, number(held_out.values[-1]) if held_out else "–"])
    header = ["term", "first", "last", "last, held out"]
    note = (
        "" if any(curve.held_out for curve in curves) else sentence("Nothing was logged for held-out columns in so short a run.")
    )
    return figure(picture, caption, "Loss terms over training steps") + note + table(header, rows, caption="Terms of the loss")


def _is_loss(curve: Curve) -> bool:
    return curve.term == "loss" or curve.term.startswith(("contrast_", "retention_"))


def _spoken(term: str) -> str:
    """ "contrast_als-s1_asc" as "contrast als – s1_asc": names of sensors hold underscores, but no hyphens."""
    kind, _, names = term.partition("_")
    return f"{kind} {names.replace('-', ' – ')}".strip()


def _order(term: str) -> tuple[bool, str]:
    return term != "loss", term


def draw_losses(curves: Sequence[Curve]) -> Picture:
    """Total, contrast of each pair and retention of each sensor side by side, then what else was logged."""
    groups = [
        ("Total loss", [curve for curve in curves if curve.term == "loss"]),
        ("Contrast, by pair of sensors", [curve for curve in curves if curve.term.startswith("contrast_")]),
        ("Retention, by sensor", [curve for curve in curves if curve.term.startswith("retention_")]),
        ("Temperature of the contrast", [curve for curve in curves if curve.term == "temperature"]),
    ]
    groups = [(title, members) for title, members in groups if members]
    with style():
        across = min(2, len(groups))
        down = math.ceil(len(groups) / across)
        drawn = sheet(3.1 * down + 0.1)
        for (title, members), axes in zip(groups, drawn.subplots(down, across, squeeze=False).flat, strict=False):
            _draw_group(axes, title, members)
        for axes in drawn.axes[len(groups) :]:
            axes.set_visible(False)
        return render(drawn)


def _draw_group(axes: Axes, title: str, curves: Sequence[Curve]) -> None:
    from matplotlib.ticker import MaxNLocator

    terms = sorted({curve.term for curve in curves})
    labelled = set()
    for curve in curves:
        at = terms.index(curve.term)
        colour, dash = COLOURS[at % len(COLOURS)], _DASHES[at // len(COLOURS) % len(_DASHES)]
        label = _spoken(curve.term).partition(" ")[2] if curve.term not in labelled else None
        labelled.add(curve.term)
        steps = [step + 1 for step in curve.steps]
        if curve.held_out:
            axes.plot(steps, curve.values, color=colour, linestyle=":", linewidth=1, marker="o", markersize=5,
                      markerfacecolor="white", label=label, zorder=3)  # fmt: skip
        else:
            alone = "." if len(steps) == 1 else ""
            axes.plot(steps, curve.values, color=colour, linestyle=dash, linewidth=1.6, marker=alone, label=label)
    axes.set_title(title, loc="left")
    axes.set_xlabel("training step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(True, axis="y")
    axes.spines[["top", "right"]].set_visible(False)
    if len(terms) > 1:
        columns = 1 if len(terms) <= 8 else 2
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), ncols=columns, handlelength=2.2, borderaxespad=0.2)
