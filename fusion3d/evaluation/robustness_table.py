"""Figures of robustness, as a text table, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from fusion3d.evaluation.figures import Estimate
from fusion3d.evaluation.probe_table import markdown_table
from fusion3d.evaluation.table import text_table

RETRIEVAL, MEAN = "retrieval", "mean of the sensors"
"""Kind of the tasks that find a left-out sensor's column, and the name of the one that stands for all of them."""
SUBSET, SIZE, FAILURE, MISSING, NOISE, SHIFT = "subset", "size", "failure", "missing", "noise", "shift"
"""What a row is about."""
FUSED, REFITTED, ALONE = "fused", "refitted", "alone"
"""Scores of a row: of the fused embedding, by the probe fitted on all sensors; by a probe fitted on this subset; of the disturbed
sensor without the others, by a probe fitted on it undisturbed."""


@dataclass(frozen=True)
class RobustnessTask:
    """What embeddings were judged by.

    Attributes
    ----------
    name : of the variable, or of the left-out sensor
    kind : values, classes or retrieval
    score : R2, accuracy or R@10
    training, tested : labelled places that were learnt from, and places that were tested
    chance : score of a random order; 0 for probes
    """

    name: str
    kind: str
    score: str
    unit: str
    training: int
    tested: int
    chance: float

    @property
    def title(self) -> str:
        """As "R@10 of s2"."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.score} of {self.name}{unit}"


@dataclass(frozen=True)
class RobustnessRow:
    """Scores under one condition.

    Attributes
    ----------
    task, kind : see `RobustnessTask`
    fusion : mean, precision or attention
    part : one of the constants of this file
    sensors : of the subset; the disturbed one; all
    amount : of sensors (size), chance of a failure, share of missing columns, level of noise, columns of shift; None for a subset
    scores : by FUSED, REFITTED and ALONE
    seen : share of the tested columns that the subset saw; None where it is not one
    """

    task: str
    kind: str
    fusion: str
    part: str
    sensors: tuple[str, ...]
    amount: float | None
    scores: Mapping[str, Estimate]
    seen: float | None = None


@dataclass(frozen=True)
class RobustnessReport:
    """How a fused embedding bears what goes wrong with sensors.

    Attributes
    ----------
    fusions : ways to fuse that were tried
    subsets, possible : subsets that were looked at, and how many there are
    draws : of missing columns and noise, and directions of shifts
    columns : in a gallery, at most
    held_out : test columns that were embedded
    margin : columns from the edge of a window that a shift is not judged on
    noise_units : unit of the levels, by sensor
    """

    checkpoint: str
    store: str
    steps: int
    sensors: tuple[str, ...]
    fusions: tuple[str, ...]
    subsets: int
    possible: int
    draws: int
    columns: int
    held_out: int
    margin: int
    seed: int
    noise_units: Mapping[str, str]
    tasks: tuple[RobustnessTask, ...]
    rows: tuple[RobustnessRow, ...]
    notes: tuple[str, ...] = ()

    def of(self, task: RobustnessTask, part: str, fusion: str | None = None) -> list[RobustnessRow]:
        """Rows of a task."""
        return [
            row
            for row in self.rows
            if (row.task, row.kind, row.part) == (task.name, task.kind, part) and fusion in (None, row.fusion)
        ]

    def chance(self, task: RobustnessTask, part: str) -> float:
        """Score of a random order; of the mean of the retrievals, over those that a part has scores of."""
        if (task.name, task.kind) != (MEAN, RETRIEVAL):
            return task.chance
        known = [each.chance for each in self.tasks if each.kind == RETRIEVAL and each.name != MEAN and self.of(each, part)]
        return sum(known) / len(known) if known else task.chance

    @property
    def shown(self) -> list[RobustnessTask]:
        """Tasks without those that another stands for."""
        return [task for task in self.tasks if task.kind != RETRIEVAL or task.name == MEAN]

    @property
    def carried(self) -> str:
        """The way to fuse that short tables and pictures show by sensor: the one that maps take, where it was tried."""
        return _CARRIED if _CARRIED in self.fusions else self.fusions[0]

    def title(self) -> str:
        """What was done, in a sentence."""
        subsets = "all" if self.subsets == self.possible else f"{self.subsets} of"
        return (
            f"Robustness of the fused embedding on {self.held_out} columns never trained on, {self.steps} steps of training; "
            f"{subsets} {self.possible} subsets of {len(self.sensors)} sensors; {self.draws} draws (± is their standard "
            f"deviation), 90 % intervals over blocks of tested ground in brackets, seed {self.seed}"
        )

    def table(self) -> str:
        """What is expected under failure and disturbance as text; single subsets are in JSON and Markdown."""
        parts = [self.title()]
        for task in self.shown:
            parts += ["", self.heading(task)]
            for name, left, header, rows in self.tables(task, short=True):
                parts += ["", name, "", text_table(header, rows, left=left)]
        return "\n".join([*parts, *(f"note: {text}" for text in self.notes)])

    def markdown(self) -> str:
        """All figures as Markdown tables."""
        parts = [f"## Robustness\n\n{self.title()}"]
        for task in self.tasks:
            parts.append(f"### {self.heading(task)}")
            for name, left, header, rows in self.tables(task):
                parts.append(f"{name}\n\n{markdown_table(header, rows, left=left)}")
        parts += [f"Note: {text}" for text in self.notes]
        return "\n\n".join(parts) + "\n"

    def heading(self, task: RobustnessTask) -> str:
        """Title of a task with its counts."""
        if task.kind == RETRIEVAL:
            return f"{task.title}: found by the other sensors among {task.tested}, chance {100 * task.chance:.1f} %"
        return f"{task.title}: linear probe of {task.training} labels, tested on {task.tested}"

    def tables(self, task: RobustnessTask, short: bool = False) -> Iterable[tuple[str, int, list[str], list[list[str]]]]:
        """Title, columns of words, header and rows of each table of a task."""
        for part, name in _PARTS.items():
            rows = self.of(task, part, self.carried if short and part in (NOISE, SHIFT) else None)
            amounts = sorted({row.amount for row in rows if row.amount is not None})
            lines: dict[tuple[str, ...], dict[float | None, Estimate]] = {}
            for row in rows:
                who = [row.sensors[0], self._unit(row)] if part in (NOISE, SHIFT) else []
                for score, estimate in row.scores.items():
                    lines.setdefault((*who, row.fusion, _WORDS[score]), {})[row.amount] = estimate
            if part == NOISE:  # levels have other units for other sensors
                yield from self._by_level(name, lines)
            elif lines:
                words = ["sensor", "unit", "fusion", "score"] if part == SHIFT else ["fusion", "score"]
                body = [[*line, *(_text(found.get(amount)) for amount in amounts)] for line, found in lines.items()]
                yield name, len(words), [*words, *(amount_text(part, amount) for amount in amounts)], body
        subsets = [] if short else self.of(task, SUBSET)
        if subsets:
            names = list(dict.fromkeys(name for row in subsets for name in row.scores))
            body = [
                [
                    " ".join(row.sensors),
                    row.fusion,
                    f"{100 * (row.seen or 0.0):.0f} %",
                    *(_text(row.scores.get(each)) for each in names),
                ]
                for row in subsets
            ]
            yield "Every subset that was looked at", 2, ["sensors", "fusion", "seen", *(_WORDS[name] for name in names)], body

    def _by_level(
        self, name: str, lines: Mapping[tuple[str, ...], Mapping[float | None, Estimate]]
    ) -> Iterable[tuple[str, int, list[str], list[list[str]]]]:
        body = []
        for (sensor, unit, *words), found in lines.items():
            amounts = sorted(amount for amount in found if amount is not None)
            levels = "/".join(f"{amount:g}" for amount in amounts if amount)
            body.append([sensor, f"{levels} {unit}", *words, *(_text(found[amount]) for amount in amounts)])
        if body:
            yield name, 4, ["sensor", "levels", "fusion", "score", "none", "low", "middle", "high"], body

    def _unit(self, row: RobustnessRow) -> str:
        return self.noise_units.get(row.sensors[0], "") if row.part == NOISE else "columns"

    def to_json(self) -> dict[str, Any]:
        """Plain types; what is not defined is null."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        plain["tasks"] = [asdict(task) for task in self.tasks]
        plain["rows"] = [
            {**asdict(row), "sensors": list(row.sensors), "scores": {name: each.to_json() for name, each in row.scores.items()}}
            for row in self.rows
        ]
        plain["noise_units"] = dict(self.noise_units)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; KeyError, TypeError or ValueError when something is missing or of another type."""
        values = dict(plain)
        values["tasks"] = tuple(RobustnessTask(**task) for task in values["tasks"])
        values["rows"] = tuple(
            RobustnessRow(
                **{
                    **row,
                    "sensors": tuple(row["sensors"]),
                    "scores": {name: Estimate.from_json(each) for name, each in row["scores"].items()},
                }
            )
            for row in values["rows"]
        )
        for name in ("sensors", "fusions", "notes"):
            values[name] = tuple(values[name])
        return cls(**values)


_PARTS = {
    SIZE: "Mean over subsets, by number of sensors",
    FAILURE: "Expected when each sensor fails by itself, by chance of failure (EMM)",
    MISSING: "Columns of each sensor missing at random, by share (RMM)",
    NOISE: "Noise on one sensor (NM)",
    SHIFT: "One sensor shifted, by columns",
}
_CARRIED = "precision"
_WORDS = {FUSED: "fused", REFITTED: "fused, probe refitted", ALONE: "sensor alone"}


def amount_text(part: str, amount: float) -> str:
    """An amount of a part: shares in per cent."""
    return f"{100 * amount:g} %" if part in (FAILURE, MISSING) else f"{amount:g}"


def _text(estimate: Estimate | None) -> str:
    return "-" if estimate is None else estimate.text()
