"""What is probed for: labelled places to learn from and to test on, in which windows they lie, and how many of them are taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.columns import BoolArray, Int64, columns_of
from fusion3d.evaluation.labels import LabelSource, Samples, Variable, sample_columns
from fusion3d.evaluation.places import Patch, ProbePlaces, patches
from fusion3d.evaluation.probe_table import ProbeVariable
from fusion3d.evaluation.probes import PROBES
from fusion3d.grid import Grid, Window
from fusion3d.store import Store

LEAST_SEEN = 0.5
"""Share of a labelled place that a sensor must have seen."""
BLOCK = 8
"""Columns on the side of a block of ground that is drawn, or held out for the choice of a penalty, as a whole."""
_POOL = 2
"""Labelled columns gathered for each one that is drawn, where there are so many: few windows would hold neighbours."""
FEWEST_PLACES = 5
"""Labelled places to learn from, and to test on, at least."""


@dataclass(frozen=True)
class ProbeOptions:
    """How to probe.

    Attributes
    ----------
    probes : names in `PROBES`
    shares : of the labels to learn from
    draws : of each share below 1
    columns : labelled places to learn from, and to test on, at most
    baselines : whether to probe random weights and raw features too
    supervised_steps : of the network trained from scratch on the labels; 0 leaves it out
    seed : of columns, draws and intervals
    """

    probes: tuple[str, ...] = ("linear", "knn")
    shares: tuple[float, ...] = (0.01, 0.1, 1.0)
    draws: int = 5
    columns: int = 2000
    baselines: bool = True
    supervised_steps: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.probes) - set(PROBES))
        if unknown or not self.probes:
            raise ConfigError(f"--probe {unknown[0] if unknown else ''!r}: give one of {', '.join(PROBES)}")
        if not self.shares or not all(math.isfinite(share) and 0 < share <= 1 for share in self.shares):
            raise ConfigError("--share is a percentage of the labels: above 0, at most 100")
        for option, value, least in (
            ("--draws", self.draws, 1),
            ("--label-columns", self.columns, 2 * FEWEST_PLACES),
            ("--supervised-steps", self.supervised_steps, 0),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                raise ConfigError(f"{option} {value} must be at least {least}")


@dataclass(frozen=True)
class ProbeTask:
    """A variable with its samples to learn from and to test on, and the blocks of ground they lie in."""

    variable: Variable
    facts: ProbeVariable
    training: Samples
    test: Samples
    training_block: Int64
    test_block: Int64

    @property
    def classes(self) -> bool:
        return self.variable.kind == "classes"


@dataclass(frozen=True)
class ProbeTasks:
    """What to probe for, where.

    Attributes
    ----------
    training, test : patches that hold the samples to learn from, and those to test on
    tasks : variables that can be probed
    notes : what was left out, in words
    """

    training: tuple[Patch, ...]
    test: tuple[Patch, ...]
    tasks: tuple[ProbeTask, ...]
    notes: tuple[str, ...]

    @property
    def patches(self) -> tuple[Patch, ...]:
        """All of them, to be embedded once."""
        return (*self.training, *self.test)

    def columns(self, grid: Grid) -> BoolArray:
        """[rows, cols] columns under the samples."""
        mask = np.zeros(grid.rows * grid.cols, np.bool_)
        for task in self.tasks:
            mask[task.training.columns] = mask[task.test.columns] = True
        return mask.reshape(grid.rows, grid.cols)


def choose_tasks(sources: Sequence[LabelSource], places: ProbePlaces, store: Store, options: ProbeOptions) -> ProbeTasks:
    """Labelled places of both parts of a store, as many as are wanted.

    Raises
    ------
    InputError
        No variable has labels that differ, to learn from and to test on.
    """
    chosen = tuple(_enough(sources, part, options) for part in (places.training, places.test))
    inside = [columns_of(part, store.grid.cols) for part in chosen]
    found, notes, problems = [], [], []
    for source in sources:
        notes += [f"{source.path}: {note}" for note in source.notes]
        parts = [source.samples([patch.own for patch in part]) for part in chosen]
        for variable, *sides in zip(source.variables, *parts, strict=True):
            task = _task(source, variable, sides, inside, store.grid.cols, options)
            if isinstance(task, str):
                problems.append((source.path, variable.name, task))
            else:
                found.append(task)
    if not found:
        path, name, problem = problems[0]
        raise InputError(path, f"{name} {problem}", "give labels that differ over both parts of the store")
    notes += [f"{name} of {path} left out: it {problem}" for path, name, problem in problems]
    return ProbeTasks(tuple(chosen[0]), tuple(chosen[1]), tuple(found), tuple(notes))


def _enough(sources: Sequence[LabelSource], windows: Sequence[Window], options: ProbeOptions) -> list[Patch]:
    """Patches in an order by the seed, until every variable has as many labelled columns as are wanted."""
    todo = [patch for window in windows for patch in patches(window)]
    have, most = [np.zeros(len(source.variables), np.int64) for source in sources], _POOL * options.columns
    found = []
    for at in np.random.default_rng(options.seed).permutation(len(todo)):
        if all((count >= most).all() for count in have):
            break
        here = [source.labelled(todo[at].own).sum(axis=(1, 2)) for source in sources]
        if any(((new > 0) & (count < most)).any() for new, count in zip(here, have)):
            found.append(todo[at])
            have = [count + new for count, new in zip(have, here)]
    return found


def _task(
    source: LabelSource, variable: Variable, found: Sequence[Samples], inside: Sequence[Int64], cols: int, options: ProbeOptions
) -> ProbeTask | str:
    """A variable ready to be probed, or why it cannot be."""
    shares = [[samples.weight_on(columns) for columns in inside] for samples in found]
    # a place that straddles the two parts would tell of one what is asked of the other
    sides = [
        samples.take(np.flatnonzero((own[side] >= LEAST_SEEN - 1e-9) & (own[1 - side] <= 0)))
        for side, (samples, own) in enumerate(zip(found, shares))
    ]
    generator = np.random.default_rng([options.seed, 1])
    sides = [
        samples.take(np.sort(generator.choice(len(samples), options.columns, replace=False)))
        if len(samples) > options.columns
        else samples
        for samples in sides
    ]
    counts = [len(samples) for samples in sides]
    if not any(counts):
        return "has no label on the store's columns (nodata, or beside them)"
    if min(counts) < FEWEST_PLACES:
        here = f"has {counts[0]} labelled places to learn from and {counts[1]} to test on"
        return f"{here}; at least {FEWEST_PLACES} of each are needed"
    for samples, what in zip(sides, ("to learn from", "to test on")):
        if np.ptp(samples.values) <= 1e-9 * np.abs(samples.values).max():
            return f"is the same, {variable.class_name(samples.values[0])}, in every place {what}"
    training, test = sides
    codes = np.unique(training.values) if variable.kind == "classes" else np.zeros(0)
    names = tuple(variable.class_name(code) for code in codes)
    facts = ProbeVariable(variable.name, variable.kind, variable.unit, source.path, len(training), len(test), names)
    return ProbeTask(variable, facts, training, test, _blocks(training, cols), _blocks(test, cols))


def _blocks(samples: Samples, cols: int) -> Int64:
    row, col = np.divmod(sample_columns(samples), cols)
    return (row // BLOCK) * (cols // BLOCK + 1) + col // BLOCK
