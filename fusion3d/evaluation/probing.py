"""Frozen probes of a checkpoint, with the baselines they have to beat, on ground that nothing was trained on.

Everything is learnt from labels in the part that pretraining trained on, and tested on the part that it held out. What is known
of a column comes from the encoders as they are (frozen), from the same encoders with random weights, from raw features, from the
same encoders trained on the labels alone, and from encoders trained on a sensor alone; all on the same places and the same draws
of labels. A sensor is judged where it saw the ground, so sensors of other coverage are tested on other places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation import figures
from fusion3d.evaluation.checkpoint import choose_sensors, load_pretraining
from fusion3d.evaluation.columns import BoolArray, EmbeddedColumns, Int64, columns_of, embed_columns
from fusion3d.evaluation.figures import Blocks, Scored
from fusion3d.evaluation.labels import LabelSource, Samples, Variable
from fusion3d.evaluation.places import Patch, patches, probe_places
from fusion3d.evaluation.probe_table import (
    ALL_FEATURES,
    ALONE,
    FUSED,
    NOTHING,
    PRETRAINED,
    RANDOM,
    RANDOM_ALL,
    RAW,
    SUPERVISED,
    ProbeDifference,
    ProbeReport,
    ProbeRow,
    ProbeVariable,
)
from fusion3d.evaluation.probes import PROBES, Probe, forest, guess, linear
from fusion3d.evaluation.raw_features import raw_features
from fusion3d.evaluation.shares import draw_labels
from fusion3d.evaluation.supervised import Labels, predict_supervised, sample_columns, train_supervised
from fusion3d.store import Store

if TYPE_CHECKING:
    from fusion3d.pretraining.module import CrossModalPretraining

Float64 = npt.NDArray[np.float64]

LEAST_SEEN = 0.5
"""Share of a labelled place that a sensor must have seen."""
_BLOCK = 8
"""Columns on the side of a block of ground that is drawn, or held out for the choice of a penalty, as a whole."""
_POOL = 2
"""Labelled columns gathered for each one that is drawn, where there are so many: few windows would hold neighbours."""
_FEWEST = 5
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
            ("--label-columns", self.columns, 2 * _FEWEST),
            ("--supervised-steps", self.supervised_steps, 0),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                raise ConfigError(f"{option} {value} must be at least {least}")


def probe(
    checkpoint: str | Path,
    store: str | Path | Store,
    sources: Sequence[LabelSource],
    options: ProbeOptions | None = None,
    *,
    sensors: Sequence[str] | None = None,
    alone: Mapping[str, str | Path] | None = None,
    device: str = "auto",
    progress: bool = False,
) -> ProbeReport:
    """Probe a checkpoint for labelled variables.

    Parameters
    ----------
    checkpoint : .ckpt, or run folder of `fusion3d pretrain`
    store : of the pretraining (its held-out part is tested on), or one of another place (a quarter of it is)
    sources : of labels (`labels.open_labels`)
    sensors : names; None takes all that both have
    alone : by sensor, a checkpoint that was trained on that sensor alone
    progress : draw a progress bar

    Raises
    ------
    ConfigError
        An option is out of range, a sensor is not there, or nothing was held out.
    InputError
        A file cannot be used, or no variable has labels that differ, to learn from and to test on.
    """
    options = options or ProbeOptions()
    module = load_pretraining(checkpoint, device)
    store = store if isinstance(store, Store) else Store.open(store)
    names = choose_sensors(module, store, sensors)
    others = {name: _alone(name, path, names, store, device) for name, path in (alone or {}).items()}
    places = probe_places([module, *others.values()], store, names, options.seed)
    chosen, variables, notes = _choose(sources, (places.training, places.test), store, options)
    run = _Run(checkpoint, device, module, others, store, names, chosen, variables, options)
    with _bar(run.work(), progress) as advance:
        run.read(advance)
        rows, differences = run.rows(advance, notes)
    return ProbeReport(
        checkpoint=str(checkpoint),
        store=store.path,
        steps=module.trained_steps,
        sensors=tuple(names),
        shares=options.shares,
        draws=options.draws,
        seed=options.seed,
        supervised_steps=options.supervised_steps if options.baselines else 0,
        alone={name: str(path) for name, path in (alone or {}).items()},
        variables=tuple(item.facts for item in variables),
        rows=tuple(rows),
        differences=tuple(differences),
        notes=tuple(dict.fromkeys(notes)),
    )


def _alone(name: str, path: str | Path, names: Sequence[str], store: Store, device: str) -> CrossModalPretraining:
    if name not in names:
        raise ConfigError(f"--alone {name}: that sensor is not probed; there are {', '.join(names)}")
    module = load_pretraining(path, device)
    choose_sensors(module, store, [name])
    return module


# -- labels


@dataclass(frozen=True)
class _Task:
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


Chosen = tuple[list[Patch], list[Patch]]


def _choose(
    sources: Sequence[LabelSource], windows: tuple[Sequence, Sequence], store: Store, options: ProbeOptions
) -> tuple[Chosen, list[_Task], list[str]]:
    """Patches to learn from and to test on, variables that can be probed, and notes on those that cannot."""
    chosen: Chosen = tuple(_enough(sources, part, options) for part in windows)  # type: ignore[assignment]
    found, notes, problems = [], [], []
    for source in sources:
        notes += [f"{source.path}: {note}" for note in source.notes]
        parts = [source.samples([patch.own for patch in part]) for part in chosen]
        for variable, training, test in zip(source.variables, *parts, strict=True):
            task = _task(source, variable, training, test, chosen, store, options)
            if isinstance(task, str):
                problems.append((source.path, variable.name, task))
            else:
                found.append(task)
    if not found:
        path, name, problem = problems[0]
        raise InputError(path, f"{name} {problem}", "give labels that differ over both parts of the store")
    return chosen, found, notes + [f"{name} of {path} left out: it {problem}" for path, name, problem in problems]


def _enough(sources: Sequence[LabelSource], windows: Sequence, options: ProbeOptions) -> list[Patch]:
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
    source: LabelSource, variable: Variable, training: Samples, test: Samples, chosen: Chosen, store: Store, options: ProbeOptions
) -> _Task | str:
    """A variable ready to be probed, or why it cannot be."""
    inside = [columns_of(part, store.grid.cols) for part in chosen]
    shares = [[samples.weight_on(columns) for columns in inside] for samples in (training, test)]
    # a place that straddles the two parts would tell of one what is asked of the other
    sides = [
        samples.take(np.flatnonzero((own[side] >= LEAST_SEEN - 1e-9) & (own[1 - side] <= 0)))
        for side, (samples, own) in enumerate(zip((training, test), shares))
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
    if min(counts) < _FEWEST:
        return f"has {counts[0]} labelled places to learn from and {counts[1]} to test on; at least {_FEWEST} of each are needed"
    for samples, what in zip(sides, ("to learn from", "to test on")):
        if np.ptp(samples.values) <= 1e-9 * np.abs(samples.values).max():
            return f"is the same, {variable.class_name(samples.values[0])}, in every place {what}"
    codes = np.unique(sides[0].values) if variable.kind == "classes" else []
    names = tuple(variable.class_name(code) for code in codes)
    facts = ProbeVariable(variable.name, variable.kind, variable.unit, source.path, *counts, names)
    blocks = [_blocks(samples, store.grid.cols) for samples in sides]
    return _Task(variable, facts, *sides, *blocks)


def _blocks(samples: Samples, cols: int) -> Int64:
    row, col = np.divmod(sample_columns(samples), cols)
    return (row // _BLOCK) * (cols // _BLOCK + 1) + col // _BLOCK


# -- features


@dataclass(frozen=True)
class _Features:
    """What is known of columns, [N, F] and where; the probes that it is given to, by the name in the table."""

    input: str
    name: str
    values: npt.NDArray[np.floating]
    probes: Mapping[str, Probe]


class _Run:
    """One run of probes: reads every column once for each set of weights, then goes through variables and inputs."""

    def __init__(
        self, checkpoint: str | Path, device: str, module: CrossModalPretraining, others: Mapping[str, CrossModalPretraining],
        store: Store, names: Sequence[str], chosen: Chosen, tasks: Sequence[_Task], options: ProbeOptions,
    ) -> None:  # fmt: skip
        self.checkpoint, self.device, self.module, self.others = checkpoint, device, module, others
        self.store, self.names, self.chosen, self.tasks, self.options = store, list(names), chosen, tasks, options
        self.probes = {name: PROBES[name] for name in options.probes}
        self.inputs = [FUSED, *self.names] if len(self.names) > 1 else self.names
        self.steps = options.supervised_steps if options.baselines else 0

    def work(self) -> int:
        """Patches to read and steps to train, for the progress bar."""
        every = len(self.chosen[0]) + len(self.chosen[1])
        trained = len(self.tasks) * len(self.options.shares) * (self.steps + len(self.chosen[1])) if self.steps else 0
        return every * (1 + 2 * self.options.baselines + len(self.others)) + trained

    def read(self, advance: Callable[[], None]) -> None:
        """What each set of weights, and no weights, says of the labelled columns."""
        chosen, wanted = [*self.chosen[0], *self.chosen[1]], self._wanted()
        embedded = embed_columns(self.module, self.store, chosen, self.names, wanted, advance=advance)
        self.columns = embedded.columns
        self.present = {name: part.present for name, part in embedded.sensors.items()}
        self.present[FUSED] = np.logical_or.reduce(list(self.present.values()))
        self.features = [*self._of(embedded, PRETRAINED, ALL_FEATURES)]
        for name, other in self.others.items():
            found = embed_columns(other, self.store, chosen, [name], wanted, advance=advance)
            self.features.append(_Features(name, ALONE, found.sensors[name].features, self.probes))
        if self.options.baselines:
            untrained = load_pretraining(self.checkpoint, self.device, untrained=True)
            random = embed_columns(untrained, self.store, chosen, self.names, wanted, advance=advance)
            self.features += self._of(random, RANDOM, RANDOM_ALL)
            _, raw = raw_features(self.store, chosen, self.names, wanted, advance=advance)
            both = {"linear": linear, "forest": forest}
            self.features += [_Features(name, RAW, values, both) for name, values in raw.items()]
            if FUSED in self.inputs:
                self.features.append(_Features(FUSED, RAW, np.concatenate(list(raw.values()), axis=1), both))

    def _of(self, embedded: EmbeddedColumns, name: str, joined: str) -> Iterator[_Features]:
        for sensor, part in embedded.sensors.items():
            yield _Features(sensor, name, part.features, self.probes)
        if FUSED in self.inputs:
            yield _Features(FUSED, name, embedded.fused()[0], self.probes)
            if "linear" in self.probes:
                yield _Features(FUSED, joined, embedded.joined()[0], {"linear": linear})

    def _wanted(self) -> BoolArray:
        grid = self.store.grid
        mask = np.zeros(grid.rows * grid.cols, np.bool_)
        for task in self.tasks:
            mask[task.training.columns] = mask[task.test.columns] = True
        return mask.reshape(grid.rows, grid.cols)

    def rows(self, advance: Callable[[], None], notes: list[str]) -> tuple[list[ProbeRow], list[ProbeDifference]]:
        """Scores of every variable and input."""
        rows, differences = [], []
        for task in self.tasks:
            for source in self.inputs:
                kept = [self._seen(samples, source) for samples in (task.training, task.test)]
                problem = _too_few(task, kept)
                if problem:
                    notes.append(f"{task.variable.name} from {source} left out: {problem}")
                    continue
                view = _View(task, kept, self.options)
                if source == self.inputs[0]:
                    rows.append(view.row(source, NOTHING, "guess", np.zeros((len(self.columns), 1)), self.columns, guess))
                linear_of: dict[str, dict[float, Scored]] = {}
                for item in self.features:
                    if item.input != source:
                        continue
                    for name, model in item.probes.items():
                        rows.append(view.row(source, item.name, name, item.values, self.columns, model, self.present[source]))
                        if name == "linear":
                            linear_of[item.name] = view.last
                if self.steps and source == self.inputs[0]:
                    rows.append(self._supervised(task, view, source, advance))
                if {PRETRAINED, ALONE} <= set(linear_of):
                    pair = linear_of[PRETRAINED], linear_of[ALONE]
                    gain = {share: pair[0][share].minus(pair[1][share]) for share in pair[0]}
                    differences.append(ProbeDifference(task.variable.name, source, gain))
        return rows, differences

    def _seen(self, samples: Samples, source: str) -> Int64:
        _, share = samples.mean(self.columns, np.zeros((len(self.columns), 1)), self.present[source])
        return np.flatnonzero(share >= LEAST_SEEN - 1e-9)

    def _supervised(self, task: _Task, view: _View, source: str, advance: Callable[[], None]) -> ProbeRow:
        """Scores of encoders trained end to end on one draw of each share."""
        windows, found, wanted = [patch.own for patch in self.chosen[0]], {}, self._wanted()
        training, test = task.training.take(view.kept[0]), task.test.take(view.kept[1])
        for share in self.options.shares:
            drawn = training.take(view.draws[share][0])
            labels = Labels(drawn, np.unique(drawn.values) if task.classes else None)
            untrained = load_pretraining(self.checkpoint, self.device, untrained=True)
            model = train_supervised(untrained, self.store, self.names, windows, labels, self.steps, self.options.seed, advance)
            embedded = embed_columns(untrained, self.store, self.chosen[1], self.names, wanted, advance=advance)
            found[share] = predict_supervised(model, embedded, test)[None]
        return view.scored(source, SUPERVISED, f"{self.steps} steps", found)


def _too_few(task: _Task, kept: Sequence[Int64]) -> str | None:
    for samples, rows, what in zip((task.training, task.test), kept, ("to learn from", "to test on")):
        if len(rows) < _FEWEST:
            return f"it saw {len(rows)} labelled places {what}"
        if np.ptp(samples.values[rows]) <= 0:
            return f"the label is the same in all {len(rows)} places {what} that it saw"
    return None


class _View:
    """A variable on the places that one input saw: draws of the labels, and scores of predictions."""

    def __init__(self, task: _Task, kept: Sequence[Int64], options: ProbeOptions) -> None:
        self.task, self.kept, self.options = task, kept, options
        self.labels, self.measured = (part.values[rows] for part, rows in zip((task.training, task.test), kept))
        self.draws = {
            share: draw_labels(self.labels, share, task.classes, options.draws, options.seed) for share in options.shares
        }
        self.blocks = Blocks(task.test_block[kept[1]], options.seed)
        self.last: dict[float, Scored] = {}

    def row(
        self, source: str, name: str, probe: str, values: npt.NDArray[np.floating], columns: Int64, model: Probe,
        present: BoolArray | None = None,
    ) -> ProbeRow:  # fmt: skip
        """Scores of a probe on features [N, F] of columns."""
        here = np.ones(len(columns), np.bool_) if present is None else present
        training, test = (
            samples.take(rows).mean(columns, values, here)[0]
            for samples, rows in zip((self.task.training, self.task.test), self.kept)
        )
        training, test = _filled(training, test)
        block = self.task.training_block[self.kept[0]]
        predicted = {}
        for share, draws in self.draws.items():
            predicted[share] = np.stack(
                [
                    model(training[rows], self.labels[rows], block[rows], test, self.task.classes, self.options.seed + number)
                    for number, rows in enumerate(draws)
                ]
            )
        return self.scored(source, name, probe, predicted)

    def scored(self, source: str, name: str, probe: str, predicted: Mapping[float, Float64]) -> ProbeRow:
        """Scores of predictions [D, N] by share; `last` keeps the first score with its resampling."""
        first, second = (figures.accuracy, figures.macro_f1) if self.task.classes else (figures.r2, figures.rmse)
        self.last = {share: first(self.measured, found, self.blocks) for share, found in predicted.items()}
        return ProbeRow(
            variable=self.task.variable.name,
            input=source,
            features=name,
            probe=probe,
            tested=len(self.measured),
            labels={share: int(np.mean([len(rows) for rows in self.draws[share]])) for share in predicted},
            score={share: found.figure for share, found in self.last.items()},
            second={share: second(self.measured, found, self.blocks).figure for share, found in predicted.items()},
        )


def _filled(training: Float64, test: Float64) -> tuple[Float64, Float64]:
    """Features without NaN: what is missing becomes the median over the training part (0 where it never is known)."""
    known = np.isfinite(training)
    if known.all() and np.isfinite(test).all():
        return training, test
    middle = np.array([np.median(part[there]) if there.any() else 0.0 for part, there in zip(training.T, known.T)])
    return np.where(known, training, middle), np.where(np.isfinite(test), test, middle)


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("probe"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("probe", total=total)
        yield lambda: bar.advance(task)
