"""Figures of probes, as a text table, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from fusion3d.evaluation.figures import Estimate
from fusion3d.evaluation.table import text_table

PRETRAINED, ALL_FEATURES, ALONE = "pretrained", "pretrained, sensors side by side", "pretrained on this sensor alone"
RANDOM, RANDOM_ALL = "random weights", "random weights, sensors side by side"
RAW, SUPERVISED, NOTHING = "raw features", "from scratch", "nothing"
FUSED = "fused"
"""Input that stands for all sensors together."""
SCORES = {"values": ("R2", "RMSE"), "classes": ("accuracy", "macro F1")}
"""Names of the first and second score, by kind of variable."""


@dataclass(frozen=True)
class ProbeVariable:
    """What was probed for.

    Attributes
    ----------
    name, kind, unit : see `labels.Variable`
    source : file, or als:classes
    training, test : labelled places
    classes : names of the classes among the training labels
    """

    name: str
    kind: str
    unit: str
    source: str
    training: int
    test: int
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProbeRow:
    """Scores of one way to predict a variable, by share of the labels.

    Attributes
    ----------
    variable : its name
    input : sensor, or "fused"
    features : what is known of a place: one of the constants of this file
    probe : linear, knn, forest, end to end, or guess
    tested : places that the input saw
    labels : learnt from, by share
    score, second : by share; R2 and RMSE of values, accuracy and macro F1 of classes
    """

    variable: str
    input: str
    features: str
    probe: str
    tested: int
    labels: Mapping[float, int]
    score: Mapping[float, Estimate]
    second: Mapping[float, Estimate]


@dataclass(frozen=True)
class ProbeDifference:
    """How much better a sensor's encoder is, from training with the others, than one trained on that sensor alone.

    Attributes
    ----------
    difference : first score with the others less that alone, linear probe, same places and labels; by share
    """

    variable: str
    sensor: str
    difference: Mapping[float, Estimate]


@dataclass(frozen=True)
class ProbeReport:
    """Probes of frozen encoders with their baselines.

    Attributes
    ----------
    steps : of training
    shares : of the labels that were learnt from
    draws : of each share below 1
    seed : of columns, draws and intervals
    supervised_steps : of the network trained from scratch; 0 for none
    alone : checkpoint trained on a sensor alone, by sensor
    notes : what was left out or should be known, in words
    """

    checkpoint: str
    store: str
    steps: int
    sensors: tuple[str, ...]
    shares: tuple[float, ...]
    draws: int
    seed: int
    supervised_steps: int
    alone: Mapping[str, str]
    variables: tuple[ProbeVariable, ...]
    rows: tuple[ProbeRow, ...]
    differences: tuple[ProbeDifference, ...] = ()
    notes: tuple[str, ...] = ()

    def of(self, variable: str) -> list[ProbeRow]:
        """Rows of a variable."""
        return [row for row in self.rows if row.variable == variable]

    def table(self) -> str:
        """The figures as text: mean and standard deviation over draws of few labels, 90 % interval where all labels are used."""
        parts = [self._title()]
        for variable in self.variables:
            header = ["input", "features", "probe", "tested", "labels", *map(share_text, self.shares)]
            rows = [[*_words(row), *(_short(row.score.get(share)) for share in self.shares)] for row in self.of(variable.name)]
            parts += ["", self._heading(variable), "", text_table(header, rows, left=3)]
        if self.differences:
            header = ["variable", "sensor", *map(share_text, self.shares)]
            rows = [
                [item.variable, item.sensor, *(_text(item.difference.get(share)) for share in self.shares)]
                for item in self.differences
            ]
            parts += [
                "",
                "Trained with the other sensors, less trained on the sensor alone",
                "",
                text_table(header, rows, left=2),
            ]
        return "\n".join([*parts, *(f"note: {text}" for text in self.notes)])

    def markdown(self) -> str:
        """The figures as Markdown tables, every one with both of its spreads."""
        parts = [f"## Probes\n\n{self._title()}"]
        for variable in self.variables:
            first, second = SCORES[variable.kind]
            shares = [f"{name}, {share_text(share)}" for name in (first, second) for share in self.shares]
            header = ["input", "features", "probe", "tested", "labels", *shares]
            rows = [
                [*_words(row), *(_text(part.get(share)) for part in (row.score, row.second) for share in self.shares)]
                for row in self.of(variable.name)
            ]
            parts.append(f"### {self._heading(variable)}\n\n{markdown_table(header, rows, left=3)}")
        if self.differences:
            rows = [
                [item.variable, item.sensor, *(_text(item.difference.get(share)) for share in self.shares)]
                for item in self.differences
            ]
            table = markdown_table(["variable", "sensor", *map(share_text, self.shares)], rows, left=2)
            parts.append(f"### Trained with the other sensors, less trained on the sensor alone\n\n{table}")
        parts += [f"Note: {text}" for text in self.notes]
        return "\n\n".join(parts) + "\n"

    def _title(self) -> str:
        return (
            f"Frozen probes on columns never trained on, {self.steps} steps of training; {self.draws} draws of the labels below "
            f"100 % (± is their standard deviation), 90 % intervals over blocks of tested ground in brackets, seed {self.seed}"
        )

    def _heading(self, variable: ProbeVariable) -> str:
        unit = f" ({variable.unit})" if variable.unit else ""
        kinds = f", {len(variable.classes)} classes" if variable.classes else ""
        return (
            f"{variable.name}{unit}: {SCORES[variable.kind][0]} by share of {variable.training} labels, "
            f"tested on {variable.test}{kinds}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain types; shares are keyed by their text in percent, what is not defined is null."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        plain["variables"] = [asdict(item) for item in self.variables]
        plain["rows"] = [
            {**asdict(row), "labels": {f"{100 * share:g}": count for share, count in row.labels.items()},
             "score": _plain(row.score), "second": _plain(row.second)}
            for row in self.rows
        ]  # fmt: skip
        plain["differences"] = [{**asdict(item), "difference": _plain(item.difference)} for item in self.differences]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; KeyError, TypeError or ValueError when something is missing or of another type."""
        values = dict(plain)
        values["variables"] = tuple(ProbeVariable(**{**item, "classes": tuple(item["classes"])}) for item in values["variables"])
        values["rows"] = tuple(
            ProbeRow(**{**item, "labels": {float(key) / 100: int(count) for key, count in item["labels"].items()},
                        "score": _estimates(item["score"]), "second": _estimates(item["second"])})
            for item in values["rows"]
        )  # fmt: skip
        values["differences"] = tuple(
            ProbeDifference(**{**item, "difference": _estimates(item["difference"])}) for item in values["differences"]
        )
        for name in ("sensors", "shares", "notes"):
            values[name] = tuple(values[name])
        return cls(**values)


def share_text(share: float) -> str:
    """As "10 %"."""
    return f"{100 * share:g} %"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose first `left` columns are words, the others numbers."""
    rule = ["---" if at < left else "---:" for at in range(len(header))]
    lines = [header, rule, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _words(row: ProbeRow) -> list[str]:
    labels = "/".join(str(count) for count in row.labels.values())
    return [row.input, row.features, row.probe, str(row.tested), labels]


def _text(estimate: Estimate | None) -> str:
    return "-" if estimate is None else estimate.text()


def _short(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return (estimate if estimate.spread is None else Estimate(estimate.value, estimate.spread)).text()


def _plain(found: Mapping[float, Estimate]) -> dict[str, Any]:
    return {f"{100 * share:g}": estimate.to_json() for share, estimate in found.items()}


def _estimates(plain: Mapping[str, Any]) -> dict[float, Estimate]:
    return {float(share) / 100: Estimate.from_json(item) for share, item in plain.items()}
