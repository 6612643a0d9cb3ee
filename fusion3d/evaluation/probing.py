"""Frozen probes of a checkpoint, with the baselines they have to beat, on ground that nothing was trained on.

Everything is learnt from labels in the part that pretraining trained on, and tested on the part that it held out. What is known
of a column comes from the encoders as they are (frozen), from the same encoders with random weights, from raw features, from the
same encoders trained on the labels alone, and from encoders trained on a sensor alone; all on the same places and the same draws
of labels. A sensor is judged where it saw the ground, so sensors of other coverage are tested on other places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError
from fusion3d.evaluation import figures
from fusion3d.evaluation.checkpoint import choose_sensors, load_pretraining
from fusion3d.evaluation.columns import BoolArray, EmbeddedColumns, Int64, embed_columns
from fusion3d.evaluation.figures import Blocks, Scored
from fusion3d.evaluation.labels import LabelSource, Samples
from fusion3d.evaluation.places import probe_places
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
)
from fusion3d.evaluation.probe_tasks import FEWEST_PLACES, LEAST_SEEN, ProbeOptions, ProbeTask, ProbeTasks, choose_tasks
from fusion3d.evaluation.probes import PROBES, Probe, forest, guess, linear
from fusion3d.evaluation.raw_features import raw_features
from fusion3d.evaluation.shares import draw_labels
from fusion3d.evaluation.supervised import Labels, predict_supervised, train_supervised
from fusion3d.progress import progress_bar
from fusion3d.store import Store

if TYPE_CHECKING:
    from fusion3d.pretraining.module import CrossModalPretraining

Float64 = npt.NDArray[np.float64]


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
    tasks = choose_tasks(sources, places, store, options)
    notes = list(tasks.notes)
    run = _Run(checkpoint, device, module, others, store, names, tasks, options)
    with progress_bar("probe", run.work(), progress) as advance:
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
        variables=tuple(task.facts for task in tasks.tasks),
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
        store: Store, names: Sequence[str], tasks: ProbeTasks, options: ProbeOptions,
    ) -> None:  # fmt: skip
        self.checkpoint, self.device, self.module, self.others = checkpoint, device, module, others
        self.store, self.names, self.tasks, self.options = store, list(names), tasks, options
        self.probes = {name: PROBES[name] for name in options.probes}
        self.inputs = [FUSED, *self.names] if len(self.names) > 1 else self.names
        self.steps = options.supervised_steps if options.baselines else 0

    def work(self) -> int:
        """Patches to read and steps to train, for the progress bar."""
        every, test, count = len(self.tasks.patches), len(self.tasks.test), len(self.tasks.tasks)
        trained = count * len(self.options.shares) * (self.steps + test) if self.steps else 0
        return every * (1 + 2 * self.options.baselines + len(self.others)) + trained

    def read(self, advance: Callable[[], None]) -> None:
        """What each set of weights, and no weights, says of the labelled columns."""
        chosen, wanted = self.tasks.patches, self.tasks.columns(self.store.grid)
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

    def rows(self, advance: Callable[[], None], notes: list[str]) -> tuple[list[ProbeRow], list[ProbeDifference]]:
        """Scores of every variable and input."""
        rows, differences = [], []
        for task in self.tasks.tasks:
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

    def _supervised(self, task: ProbeTask, view: _View, source: str, advance: Callable[[], None]) -> ProbeRow:
        """Scores of encoders trained end to end on one draw of each share."""
        windows, found = [patch.own for patch in self.tasks.training], {}
        wanted = self.tasks.columns(self.store.grid)
        training, test = task.training.take(view.kept[0]), task.test.take(view.kept[1])
        for share in self.options.shares:
            drawn = training.take(view.draws[share][0])
            labels = Labels(drawn, np.unique(drawn.values) if task.classes else None)
            untrained = load_pretraining(self.checkpoint, self.device, untrained=True)
            model = train_supervised(untrained, self.store, self.names, windows, labels, self.steps, self.options.seed, advance)
            embedded = embed_columns(untrained, self.store, self.tasks.test, self.names, wanted, advance=advance)
            found[share] = predict_supervised(model, embedded, test)[None]
        return view.scored(source, SUPERVISED, f"{self.steps} steps", found)


def _too_few(task: ProbeTask, kept: Sequence[Int64]) -> str | None:
    for samples, rows, what in zip((task.training, task.test), kept, ("to learn from", "to test on")):
        if len(rows) < FEWEST_PLACES:
            return f"it saw {len(rows)} labelled places {what}"
        if np.ptp(samples.values[rows]) <= 0:
            return f"the label is the same in all {len(rows)} places {what} that it saw"
    return None


class _View:
    """A variable on the places that one input saw: draws of the labels, and scores of predictions."""

    def __init__(self, task: ProbeTask, kept: Sequence[Int64], options: ProbeOptions) -> None:
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
