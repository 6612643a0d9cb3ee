"""How a fused embedding bears missing, gappy, noisy and misplaced sensors, on ground that nothing was trained on.

Sensors missing altogether (EMM), columns missing at random (RMM) and noisy sensors (NM) follow Liao et al. 2025 (Benchmarking
Multi-modal Semantic Segmentation under Sensor Failures, CVPR Workshops); added is a shift of one sensor against the others.

Nothing here is trained for what goes wrong. A linear probe is fitted once, on the fused embedding of all sensors as they are over
the training part, and judges every condition; that of a subset is also fitted anew on the subset, which tells what was lost
from what only looks different. Gaps, noise and shifts are done to what a sensor measured, before its encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusion3d.encoders import FUSIONS, kind_of
from fusion3d.encoders.fusion import check_fusion
from fusion3d.errors import ConfigError
from fusion3d.evaluation import disturbance
from fusion3d.evaluation.checkpoint import choose_sensors, load_pretraining
from fusion3d.evaluation.columns import BoolArray, EmbeddedColumns, SensorColumns, embed_columns
from fusion3d.evaluation.disturbance import Alter
from fusion3d.evaluation.judges import Judge, Model, ProbeJudge, RetrievalJudge, Sensors, Told, fused
from fusion3d.evaluation.labels import LabelSource
from fusion3d.evaluation.places import Patch, held_out_windows, patches, probe_places
from fusion3d.evaluation.probe_tasks import ProbeOptions, ProbeTasks, choose_tasks
from fusion3d.evaluation.robustness_rows import ScoreBook
from fusion3d.evaluation.robustness_table import ALONE, FUSED, MISSING, NOISE, REFITTED, SHIFT, RobustnessReport
from fusion3d.evaluation.subsets import choose_subsets
from fusion3d.grid import Grid, Window
from fusion3d.progress import progress_bar
from fusion3d.store import Store

if TYPE_CHECKING:
    from fusion3d.pretraining.module import CrossModalPretraining

SHARES = (0.25, 0.5, 0.75)
"""Of the columns of each sensor that are missing at random."""
_POOL = 4
"""Held-out columns embedded for each one of a gallery: sensors see different ones."""


@dataclass(frozen=True)
class RobustnessOptions:
    """What is tried.

    Attributes
    ----------
    subsets : of the sensors, at most
    draws : of missing columns and of noise; directions of a shift (4 at most)
    columns : in the gallery of retrieval, at most
    fusions : ways to fuse; None for all that the checkpoint has
    retrieval : whether to judge by retrieval too, where there are labels
    seed : of subsets, columns, gaps, noise and intervals
    """

    subsets: int = 127
    draws: int = 3
    columns: int = 1000
    fusions: tuple[str, ...] | None = None
    retrieval: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--subsets", self.subsets, 1),
            ("--robustness-draws", self.draws, 1),
            ("--robustness-columns", self.columns, 50),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                raise ConfigError(f"{option} {value} must be at least {least}")
        for way in self.fusions or ():
            check_fusion(way)


def robustness(
    checkpoint: str | Path,
    store: str | Path | Store,
    sources: Sequence[LabelSource] = (),
    options: RobustnessOptions | None = None,
    *,
    label_options: ProbeOptions | None = None,
    sensors: Sequence[str] | None = None,
    device: str = "auto",
    progress: bool = False,
) -> RobustnessReport:
    """Judge the fused embedding of a checkpoint under what goes wrong with sensors.

    Parameters
    ----------
    checkpoint : .ckpt, or run folder of `fusion3d pretrain`
    store : of the pretraining (its held-out part is tested on), or one of another place
    sources : of labels for probes; without them retrieval alone is judged
    label_options : how labelled places are chosen; their seed is that of `options`
    sensors : names; None takes all that both have
    progress : draw a progress bar

    Raises
    ------
    ConfigError
        An option is out of range, fewer than two sensors are there, or nothing was held out.
    InputError
        A file cannot be used, or no variable has labels that differ, to learn from and to test on.
    """
    options = options or RobustnessOptions()
    module = load_pretraining(checkpoint, device)
    store = store if isinstance(store, Store) else Store.open(store)
    names = choose_sensors(module, store, sensors)
    if len(names) < 2:
        raise ConfigError(f"--robustness needs two sensors, but checkpoint and store share {', '.join(names)}")
    ways = _ways(module, options)
    subsets = choose_subsets(names, options.subsets, options.seed)
    run = _Run(module, store, names, options, ways)
    run.choose(sources, label_options)
    with progress_bar("robustness", run.work(subsets), progress) as advance:
        run.embed(advance)
        run.subsets(subsets, advance)
        run.disturb(advance)
    return RobustnessReport(
        checkpoint=str(checkpoint),
        store=store.path,
        steps=module.trained_steps,
        sensors=tuple(names),
        fusions=ways,
        subsets=len(subsets),
        possible=2 ** len(names) - 1,
        draws=options.draws,
        columns=options.columns,
        held_out=len(run.test.columns),
        margin=run.margin,
        seed=options.seed,
        noise_units={name: disturbance.NOISE[kind_of(name)][1] for name in names},
        tasks=tuple(run.book.tasks),
        rows=tuple(run.book.rows()),
        notes=tuple(dict.fromkeys(run.notes)),
    )


def _ways(module: CrossModalPretraining, options: RobustnessOptions) -> tuple[str, ...]:
    if module.fusion is not None:
        return tuple(dict.fromkeys(options.fusions or FUSIONS))
    for way in options.fusions or ():
        if way != "mean":
            raise ConfigError(f"--fusion {way} needs a fusion, and the checkpoint was trained without one (--model.prediction 0)")
    return ("mean",)


class _Run:
    """One run: embeds what was measured, as it is and disturbed, and has it judged."""

    def __init__(
        self,
        module: CrossModalPretraining,
        store: Store,
        names: Sequence[str],
        options: RobustnessOptions,
        ways: Sequence[str],
    ) -> None:
        self.module, self.store, self.names, self.options, self.ways = module, store, list(names), options, ways
        self.notes: list[str] = []
        self.judges: list[Judge] = []
        self._alone: dict[tuple[int, str, str], Model | None] = {}
        self.steps = {name: disturbance.shift_steps(store, name) for name in names}
        self.margin = math.ceil(max(max(steps) for steps in self.steps.values()) - 1e-9)
        self.directions = disturbance.DIRECTIONS[: options.draws]

    # -- what is embedded

    def choose(self, sources: Sequence[LabelSource], label_options: ProbeOptions | None) -> None:
        """Patches and columns to learn from and to test on."""
        seed, grid = self.options.seed, self.store.grid
        self.tasks: ProbeTasks | None = None
        wanted = np.zeros((grid.rows, grid.cols), np.bool_)
        chosen: list[Patch] = []
        if sources:
            places = probe_places([self.module], self.store, self.names, seed)
            self.tasks = choose_tasks(sources, places, self.store, label_options or ProbeOptions(seed=seed))
            self.notes += self.tasks.notes
            windows: Sequence[Window] = places.test
            wanted |= self.tasks.columns(grid)
            chosen += self.tasks.test
        else:
            windows = held_out_windows(self.module, self.store)
        if self.options.retrieval or not sources:
            for patch in _some_patches(windows, _POOL * self.options.columns, seed):
                chosen.append(patch)
                wanted[patch.own.row : patch.own.row_stop, patch.own.col : patch.own.col_stop] = True
        self.patches, self.wanted = list(dict.fromkeys(chosen)), wanted

    def work(self, subsets: Sequence[tuple[str, ...]]) -> int:
        """Patches to read and subsets to judge, for the progress bar."""
        training = 0 if self.tasks is None else len(self.tasks.training)
        levels = {name: len(disturbance.NOISE[kind_of(name)][0]) for name in self.names}
        altered = len(self.names) * len(SHARES) * self.options.draws + sum(levels.values()) * self.options.draws
        altered += sum(len(steps) - 1 for steps in self.steps.values()) * len(self.directions)
        return training + len(self.patches) * (1 + altered) + len(subsets)

    def embed(self, advance: Callable[[], None]) -> None:
        """What sensors say undisturbed, and the judges."""
        self.test = embed_columns(self.module, self.store, self.patches, self.names, self.wanted, advance=advance)
        self.training: EmbeddedColumns | None = None
        seed, options = self.options.seed, self.options
        if self.tasks is not None:
            self.training = embed_columns(self.module, self.store, self.tasks.training, self.names, self.wanted, advance=advance)
            for task in self.tasks.tasks:
                self._admit(ProbeJudge(task, self.training, self.test, seed), task.variable.name)
        if options.retrieval or self.tasks is None:
            footprint = _footprint_columns(self.store, self.patches).ravel()[self.test.columns]
            for name in self.names:
                judge = RetrievalJudge(name, self.test, self.store.grid.cols, footprint, options.columns, seed)
                self._admit(judge, f"retrieval of {name}")
        if not self.judges:
            raise ConfigError(f"{self.store.path}: the sensors share too few held-out columns to judge anything")
        self.book = ScoreBook([judge.task for judge in self.judges])
        self.models: dict[tuple[int, str], Model | None] = {
            (number, way): judge.model(self._learnt(judge.sensors, way))
            for number, judge in enumerate(self.judges)
            for way in self.ways
        }
        self.inner = _inner_columns(self.patches, self.store.grid, self.margin).ravel()[self.test.columns]

    def _admit(self, judge: ProbeJudge | RetrievalJudge, name: str) -> None:
        if judge.problem is None:
            self.judges.append(judge)
        else:
            self.notes.append(f"{name} left out: {judge.problem}")

    def _learnt(self, names: Sequence[str], way: str) -> Told | None:
        """What sensors say of the training columns."""
        return None if self.training is None else self._fused(_some(self.training.sensors, names), way)

    def _fused(self, sensors: Sensors, way: str) -> Told:
        return fused(self.module.fusion, sensors, way)

    # -- every subset

    def subsets(self, subsets: Sequence[tuple[str, ...]], advance: Callable[[], None]) -> None:
        """Score what is left when the other sensors are missing altogether."""
        for names in subsets:
            for way in self.ways:
                told = self._fused(_some(self.test.sensors, names), way)
                for number, judge in enumerate(self.judges):
                    if not set(names) <= set(judge.sensors):
                        continue
                    found = {FUSED: judge.score([told], self.models[number, way])}
                    if isinstance(judge, ProbeJudge):
                        found[REFITTED] = judge.score([told], judge.model(self._learnt(names, way)))
                    self.book.add_subset(judge.task, way, names, found, float(told.present.mean()))
            advance()
        for judge in self.judges:
            self.book.add_expected(judge.task, self.ways, len(judge.sensors))

    # -- what is there but disturbed

    def disturb(self, advance: Callable[[], None]) -> None:
        """Score gaps in all sensors, then noise on one and a shift of one."""
        draws, seed = range(self.options.draws), self.options.seed
        for share in (0.0, *SHARES):
            altered = {
                name: [self._altered(name, disturbance.gappy(name, share, seed, draw), advance) for draw in draws]
                if share
                else [self.test.sensors[name]]
                for name in self.names
            }
            self._judge(MISSING, tuple(self.names), share, altered)
        for name in self.names:
            for level in (0.0, *disturbance.NOISE[kind_of(name)][0]):
                noisy = (
                    [self._altered(name, disturbance.noisy(name, level, seed, draw), advance) for draw in draws] if level else []
                )
                self._judge(NOISE, (name,), level, {name: noisy or [self.test.sensors[name]]})
        if self.inner.any():
            for name in self.names:
                for step in self.steps[name]:
                    moves = (
                        [disturbance.shifted(name, east * step, south * step) for east, south in self.directions] if step else []
                    )
                    found = [self._altered(name, move, advance) for move in moves]
                    self._judge(SHIFT, (name,), step, {name: found or [self.test.sensors[name]]}, self.inner)
        else:
            self.notes.append(f"no shift was judged: held-out windows are narrower than twice {self.margin} columns")

    def _altered(self, name: str, alter: Alter, advance: Callable[[], None]) -> SensorColumns:
        return embed_columns(self.module, self.store, self.patches, [name], self.wanted, alter=alter, advance=advance).sensors[
            name
        ]

    def _judge(
        self,
        part: str,
        sensors: tuple[str, ...],
        amount: float,
        altered: dict[str, list[SensorColumns]],
        inner: BoolArray | None = None,
    ) -> None:
        """Scores of all sensors, some of them altered, and of an altered one alone."""
        draws = max(len(found) for found in altered.values())
        for way in self.ways:
            alone = [self._fused({sensors[0]: each}, way) for each in altered[sensors[0]]] if len(sensors) == 1 else []
            for number, judge in enumerate(self.judges):
                if not set(altered) & set(judge.sensors) or (len(altered) == 1 and sensors[0] not in judge.sensors):
                    continue
                told = [
                    self._fused(
                        {name: altered[name][draw] if name in altered else self.test.sensors[name] for name in judge.sensors}, way
                    )
                    for draw in range(draws)
                ]
                found = {FUSED: judge.score(told, self.models[number, way], inner)}
                if alone:
                    found[ALONE] = judge.score(alone, self._model_alone(number, sensors[0], way), inner)
                self.book.add(judge.task, way, part, sensors, amount, found)

    def _model_alone(self, number: int, name: str, way: str) -> Model | None:
        if (number, way, name) not in self._alone:
            self._alone[number, way, name] = self.judges[number].model(self._learnt([name], way))
        return self._alone[number, way, name]


def _some(sensors: Sensors, names: Sequence[str]) -> Sensors:
    return {name: sensors[name] for name in names}


# -- places


def _some_patches(windows: Sequence[Window], columns: int, seed: int) -> list[Patch]:
    """Patches in an order by the seed, until they have as many columns as are wanted."""
    todo = [patch for window in windows for patch in patches(window)]
    found: list[Patch] = []
    for at in np.random.default_rng(seed).permutation(len(todo)):
        if sum(patch.own.size for patch in found) >= columns:
            break
        found.append(todo[at])
    return found


def _footprint_columns(store: Store, chosen: Sequence[Patch]) -> BoolArray:
    """[rows, cols] columns that hold the centre of a GEDI footprint."""
    grid = store.grid
    found = np.zeros((grid.rows, grid.cols), np.bool_)
    if "gedi" not in store.sensors:
        return found
    for patch in chosen:
        table = store.footprints(patch.own)
        row, col = grid.cell_of(table.x, table.y)
        found[row, col] = True
    return found


def _inner_columns(chosen: Sequence[Patch], grid: Grid, margin: int) -> BoolArray:
    """[rows, cols] columns whose patch reaches that far around them."""
    found = np.zeros((grid.rows, grid.cols), np.bool_)
    for patch in chosen:
        row, row_stop = max(patch.own.row, patch.window.row + margin), min(patch.own.row_stop, patch.window.row_stop - margin)
        col, col_stop = max(patch.own.col, patch.window.col + margin), min(patch.own.col_stop, patch.window.col_stop - margin)
        if row < row_stop and col < col_stop:
            found[row:row_stop, col:col_stop] = True
    return found
