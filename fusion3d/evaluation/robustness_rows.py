"""Scores of robustness as they come in, and the rows of the report that they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from fusion3d.evaluation.figures import Scored
from fusion3d.evaluation.robustness_table import (
    FAILURE,
    FUSED,
    MEAN,
    RETRIEVAL,
    SIZE,
    SUBSET,
    RobustnessRow,
    RobustnessTask,
)
from fusion3d.evaluation.subsets import Subset, expected, mean_scored

FAILURES = (0.1, 0.3, 0.5)
"""Chances that a sensor fails."""

_Key = tuple[str, str, Subset, float | None]
"""Way to fuse, part, sensors, amount."""
_Scores = Mapping[str, Scored | None]


class ScoreBook:
    """Scores by task and condition.

    Parameters
    ----------
    tasks : of the judges; where several are retrievals, their mean is a task of its own, the first of them
    """

    def __init__(self, tasks: Sequence[RobustnessTask]) -> None:
        self._own = list(tasks)
        self._found: dict[RobustnessTask, dict[_Key, dict[str, Scored]]] = {task: {} for task in tasks}
        self._seen: dict[tuple[str, Subset], float] = {}
        retrievals = [task for task in tasks if task.kind == RETRIEVAL]
        self._mean: RobustnessTask | None = None
        if retrievals:
            self._mean = replace(
                retrievals[0], name=MEAN, tested=round(fmean(task.tested for task in retrievals)),
                chance=fmean(task.chance for task in retrievals),
            )  # fmt: skip

    @property
    def tasks(self) -> list[RobustnessTask]:
        """Variables, the mean of the retrievals, and each of them."""
        probes = [task for task in self._own if task.kind != RETRIEVAL]
        return [*probes, *([self._mean] if self._mean else []), *(task for task in self._own if task.kind == RETRIEVAL)]

    def add(self, task: RobustnessTask, way: str, part: str, sensors: Subset, amount: float | None, scores: _Scores) -> None:
        """Scores under one condition; None is left out."""
        known = {name: score for name, score in scores.items() if score is not None}
        if known:
            self._found[task][way, part, sensors, amount] = known

    def add_subset(self, task: RobustnessTask, way: str, sensors: Subset, scores: _Scores, seen: float) -> None:
        """Scores of a subset and the share of the columns that it saw."""
        self.add(task, way, SUBSET, sensors, None, scores)
        self._seen[way, sensors] = seen

    def add_expected(self, task: RobustnessTask, ways: Iterable[str], count: int) -> None:
        """Means over the known subsets of a task by size, and what is expected when each of `count` sensors may fail."""
        for way in ways:
            by_size: dict[str, dict[int, list[Scored]]] = {}
            for (fusion, part, sensors, _), scores in self._found[task].items():
                if (fusion, part) == (way, SUBSET):
                    for name, score in scores.items():
                        by_size.setdefault(name, {}).setdefault(len(sensors), []).append(score)
            means = {name: {size: mean_scored(parts) for size, parts in found.items()} for name, found in by_size.items()}
            for size in sorted(means.get(FUSED, {})):
                self.add(task, way, SIZE, (), float(size), {name: found[size] for name, found in means.items()})
            for failure in FAILURES:
                scores = {name: expected(found, count, failure) for name, found in means.items()}
                self.add(task, way, FAILURE, (), failure, scores)

    def rows(self) -> Iterator[RobustnessRow]:
        """All rows, those of the mean of the retrievals among them."""
        for task in self.tasks:
            found = self._mean_of_retrievals() if task is self._mean else self._found[task]
            for (way, part, sensors, amount), scores in found.items():
                seen = self._seen[way, sensors] if part == SUBSET else None
                figures = {name: score.figure for name, score in scores.items()}
                yield RobustnessRow(task.name, task.kind, way, part, sensors, amount, figures, seen)

    def _mean_of_retrievals(self) -> dict[_Key, dict[str, Scored]]:
        """Of each condition, over the left-out sensors that it has scores for."""
        parts: dict[_Key, dict[str, list[Scored]]] = {}
        for task in self._own:
            if task.kind == RETRIEVAL:
                for key, scores in self._found[task].items():
                    for name, score in scores.items():
                        parts.setdefault(key, {}).setdefault(name, []).append(score)
        return {key: {name: mean_scored(each) for name, each in found.items()} for key, found in parts.items()}
