"""How good a fused embedding is on held-out ground, by one task: a linear probe of a labelled variable, or retrieval of a sensor.

All that is compared is judged on the same places: those that the task's sensors, undisturbed, saw. Where a subset of them, or
what is left of it, saw nothing, a probe answers with what it knows without looking (the mean of the training labels, or their
commonest class), and retrieval has not found the column. So a sensor that sees little scores little, and expected scores mean
something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from fusion3d.encoders import ColumnEmbedding, ColumnFusion, fuse
from fusion3d.evaluation import figures
from fusion3d.evaluation.columns import BoolArray, EmbeddedColumns, Float32, Int64, SensorColumns
from fusion3d.evaluation.figures import Blocks, Float64, Scored
from fusion3d.evaluation.labels import Samples
from fusion3d.evaluation.probe_table import SCORES
from fusion3d.evaluation.probe_tasks import BLOCK, FEWEST_PLACES, LEAST_SEEN, ProbeTask
from fusion3d.evaluation.probes import fit_linear, guess
from fusion3d.evaluation.retrieval import ranks
from fusion3d.evaluation.robustness_table import RETRIEVAL, RobustnessTask

RECALL = 10
"""k of recall at k."""

Sensors = Mapping[str, SensorColumns]
Model = Callable[[Float64], Float64]


# -- fusion of a subset


@dataclass(frozen=True)
class Told:
    """What a subset of sensors says of N columns.

    Attributes
    ----------
    shared : [N, D] unit vectors
    features : [N, F] what probes are given: the unit vectors, with attention its fused features beside them
    present : [N] one of the sensors saw the column
    """

    shared: Float32
    features: Float32
    present: BoolArray


@torch.inference_mode()
def fused(trained: ColumnFusion | None, sensors: Sensors, way: str) -> Told:
    """One embedding of each column by one of `fusion.FUSIONS`; only the mean needs no trained fusion."""
    if trained is None:
        parts = {name: (torch.from_numpy(part.shared), torch.from_numpy(part.present)) for name, part in sensors.items()}
        mean, observed = fuse(parts)
        return Told(mean.numpy(), mean.numpy(), observed.numpy())
    device = next(trained.parameters()).device
    found = trained.fuse({name: _embedding(part, device) for name, part in sensors.items()}, way)
    shared, features = (values.float().cpu().numpy() for values in (found.shared, found.features))
    return Told(shared, np.concatenate([shared, features], axis=1), found.observed.cpu().numpy())


def _embedding(part: SensorColumns, device: torch.device) -> ColumnEmbedding:
    shared, features, present = (torch.from_numpy(values).to(device) for values in (part.shared, part.features, part.present))
    return ColumnEmbedding(shared, features, present, cell=1.0, rows=1, cols=len(shared))


# -- judges


class Judge(Protocol):
    """A task that subsets of sensors are judged by.

    Attributes
    ----------
    task : its facts
    sensors : that may take part
    """

    task: RobustnessTask
    sensors: tuple[str, ...]

    def model(self, told: Told | None) -> Model | None:
        """What is learnt from what sensors say of the training columns; None where nothing is learnt."""
        ...

    def score(self, told: Sequence[Told], model: Model | None, inner: BoolArray | None = None) -> Scored | None:
        """Score of what is said of the test columns, by draw.

        Parameters
        ----------
        model : of `model`
        inner : [N] test columns that count; all when None. None is given back where too few places are left
        """
        ...


class ProbeJudge:
    """A linear probe of a variable.

    Parameters
    ----------
    task : with the samples to learn from and to test on
    training, test : what each sensor says of the columns under them
    seed : of the folds and of the resampling
    """

    def __init__(self, task: ProbeTask, training: EmbeddedColumns, test: EmbeddedColumns, seed: int) -> None:
        self.sensors = tuple(test.sensors)
        self._classes, self._seed = task.classes, seed
        self._training_columns, self._columns = training.columns, test.columns
        self._present = np.logical_or.reduce([part.present for part in test.sensors.values()])
        everything = np.logical_or.reduce([part.present for part in training.sensors.values()])
        learnt = _seen(task.training, training.columns, everything)
        self._training, self._training_block = task.training.take(learnt), task.training_block[learnt]
        tested = _seen(task.test, test.columns, self._present)
        self._test, self._block = task.test.take(tested), task.test_block[tested]
        values = self._training.values
        self._guess = (
            float(guess(np.zeros((0, 1)), values, learnt, np.zeros((1, 1)), task.classes, seed)[0]) if len(values) else 0.0
        )
        facts = task.facts
        self.task = RobustnessTask(
            facts.name, facts.kind, SCORES[facts.kind][0], facts.unit, len(self._training), len(self._test), 0.0
        )

    @property
    def problem(self) -> str | None:
        """Why it cannot judge."""
        for samples, what in ((self._training, "to learn from"), (self._test, "to test on")):
            if len(samples) < FEWEST_PLACES or np.ptp(samples.values) <= 0:
                return f"the sensors saw {len(samples)} labelled places {what}, or the label is the same in all"
        return None

    def model(self, told: Told | None) -> Model | None:
        """A ridge model; one that guesses where the sensors saw too few of the labels, or of one class."""
        assert told is not None
        rows = _seen(self._training, self._training_columns, told.present)
        labels = self._training.values[rows]
        if len(rows) < FEWEST_PLACES or np.ptp(labels) <= 0:
            return lambda asked: np.full(len(asked), self._guess)
        values, _ = self._training.take(rows).mean(self._training_columns, told.features, told.present)
        return fit_linear(values, labels, self._training_block[rows], self._classes, self._seed)

    def score(self, told: Sequence[Told], model: Model | None, inner: BoolArray | None = None) -> Scored | None:
        """R2 of values, accuracy of classes."""
        assert model is not None
        rows = np.arange(len(self._test))
        if inner is not None:
            rows = _seen(self._test, self._columns, self._present & inner)
        measured = self._test.values[rows]
        if len(rows) < FEWEST_PLACES or np.ptp(measured) <= 0:
            return None
        samples, predicted = self._test.take(rows), []
        for part in told:
            here = part.present if inner is None else part.present & inner
            values, share = samples.mean(self._columns, part.features, here)
            found = np.full(len(rows), self._guess)
            found[share > 0] = model(values[share > 0])
            predicted.append(found)
        score = figures.accuracy if self._classes else figures.r2
        return score(measured, np.stack(predicted), Blocks(self._block[rows], self._seed))


def _seen(samples: Samples, columns: Int64, present: BoolArray) -> Int64:
    _, share = samples.mean(columns, np.zeros((len(columns), 1)), present)
    return np.flatnonzero(share >= LEAST_SEEN - 1e-9)


class RetrievalJudge:
    """Whether a column is found among those of a left-out sensor by what the others say of it: R@10.

    Parameters
    ----------
    target : the left-out sensor
    test : what each sensor says of the columns
    cols : columns of the grid in a row
    footprint : [N] columns that hold the centre of a GEDI footprint: the gallery of gedi, since what it says of the other columns
        under a footprint is the same
    most : columns in the gallery
    seed : of their choice and of the resampling
    """

    def __init__(self, target: str, test: EmbeddedColumns, cols: int, footprint: BoolArray, most: int, seed: int) -> None:
        self.sensors = tuple(name for name in test.sensors if name != target)
        others = np.logical_or.reduce([test.sensors[name].present for name in self.sensors])
        known = test.sensors[target].present & others
        candidates = np.flatnonzero(known & footprint if target == "gedi" else known)
        if len(candidates) > most:
            candidates = np.sort(np.random.default_rng(seed).choice(candidates, most, replace=False))
        self._rows = candidates
        self._gallery = test.sensors[target].shared[candidates].astype(np.float64)
        row, col = np.divmod(test.columns, cols)
        # of all columns, so that the resampling is the same for all targets
        self._blocks = Blocks((row // BLOCK) * (cols // BLOCK + 1) + col // BLOCK, seed)
        self._count = len(test.columns)
        chance = min(1.0, RECALL / len(candidates)) if len(candidates) else 0.0
        self.task = RobustnessTask(target, RETRIEVAL, f"R@{RECALL}", "", 0, len(candidates), chance)

    @property
    def problem(self) -> str | None:
        """Why it cannot judge."""
        return None if len(self._rows) > 2 * RECALL else f"{len(self._rows)} held-out candidates"

    def model(self, told: Told | None) -> Model | None:
        """Nothing is learnt."""
        return None

    def score(self, told: Sequence[Told], model: Model | None, inner: BoolArray | None = None) -> Scored | None:
        """Share of the columns that are among the first ten."""
        counted = np.zeros(self._count)
        counted[self._rows] = 1.0 if inner is None else inner[self._rows]
        if counted.sum() < FEWEST_PLACES:
            return None
        terms = [counted]
        for part in told:
            found = ranks(part.shared[self._rows].astype(np.float64), self._gallery) <= RECALL
            hit = np.zeros(self._count)
            hit[self._rows] = found & part.present[self._rows]
            terms.append(hit * counted)
        return figures.share(np.column_stack(terms), self._blocks)
