"""From a map of embeddings and labelled ground to a classifier of cells, scored on ground that it never saw.

A cell with a class is a sample that counts as far as the class covers it. Blocks of ground are held out in turn, whole polygons
with them; all that is chosen or estimated is so from the other blocks. Held-out probabilities also calibrate those of maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.blocks import check_split
from fusion3d.evaluation.lattice import Lattice
from fusion3d.grid import map_crs, metric_unit
from fusion3d.io.raster import RasterFile, open_raster
from fusion3d.tasks.classes import CLASS_TASKS, ClassifierFamily, classifier_family
from fusion3d.tasks.classes.calibration import calibration_error, fit_temperature, tempered
from fusion3d.tasks.classes.cell_features import cell_bands, cell_statistics
from fusion3d.tasks.classes.cell_folds import CellFolds, cell_folds
from fusion3d.tasks.classes.cell_samples import LabelledCells
from fusion3d.tasks.classes.class_card import ClassCard
from fusion3d.tasks.classes.class_model import ClassModel
from fusion3d.tasks.classes.class_model_file import write_class_model
from fusion3d.tasks.classes.held_out_cells import HeldOutCells
from fusion3d.tasks.classes.labelled_cells import is_raster, labelled_cells
from fusion3d.tasks.classes.legend import read_class_names, read_confidence
from fusion3d.tasks.classes.scores import ClassScores, by_lot, class_scores
from fusion3d.tasks.fit_folder import out_folder, write_fit
from fusion3d.tasks.model import ORIGIN_TAGS
from fusion3d.tasks.support import band_names, require_map

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MOST_CELLS = 50_000
"""That are fitted and scored; more are drawn from."""
_FEWEST_CELLS = 10
_FEW_UNITS = 5


@dataclass(frozen=True)
class ClassFit:
    """A fitted classifier, its scores and the held-out cells behind them; `out` is the folder that holds the three as files."""

    out: Path
    model: ClassModel
    card: ClassCard
    held_out: HeldOutCells

    def __str__(self) -> str:
        card = self.card
        head = f"{card.target}: {card.kind} on {card.dimensions} bands, {card.cells} cells, {_folds_text(card)}"
        return "\n".join([head, "", card.table(), "", *(f"note: {text}" for text in card.notes), f"model and scores: {self.out}"])


def fit_classes(
    embedding_map: str | Path,
    labels: str | Path,
    target: str | None,
    out: str | Path,
    *,
    task: str = "landcover",
    model: str = "linear",
    classes: str | Path | None = None,
    confidence: str | Path | None = None,
    radius: float | None = None,
    layer: str | None = None,
    crs: str | None = None,
    stratum: str | None = None,
    scheme: str = "blocks",
    block: float | None = None,
    folds: int = 5,
    buffer: float | None = None,
    baseline: str | Path | None = None,
    most_cells: int = MOST_CELLS,
    seed: int = 0,
) -> ClassFit:
    """Fit a classifier of cells on embeddings, score it on held-out ground and calibrate its probabilities.

    Parameters
    ----------
    embedding_map : raster of `fusion3d embed`; any raster with square pixels, north up
    labels, target, radius, layer, crs, stratum : as for `labelled_cells`
    out : folder for model.json and model.safetensors, scores.json and predictions.csv
    task : landcover, or crops, whose polygons are fields
    model : linear or forest
    classes : YAML with names (and colours) of labels, as `read_class_names` says
    confidence : YAML with how far labels of a class are trusted, as `read_confidence` says
    scheme, block, folds, buffer : as for `cell_folds`
    baseline : any raster: the same kind of model on its mean and percentiles over cells is scored beside
    most_cells : more than that are drawn from by lot
    seed : of folds, bootstrap, draws and models that draw lots

    Raises
    ------
    InputError
        A file cannot be used, or too few cells or classes are left.
    ConfigError
        An option is out of range.
    """
    if task not in CLASS_TASKS:
        raise ConfigError(f"--task {task!r}: give one of {', '.join(CLASS_TASKS)}")
    check_split(scheme, seed)
    family = classifier_family(model)
    if scheme == "strata" and (stratum is None or is_raster(labels)):
        raise ConfigError("--scheme strata needs polygons and --stratum COLUMN")
    folder = out_folder(out)
    names = None if classes is None else read_class_names(classes)
    embedding = require_map(open_raster(embedding_map, crs=crs))
    scale = metric_unit(map_crs(embedding.crs))
    cells = labelled_cells(embedding, labels, target, names=names, radius=radius, layer=layer, crs=crs, stratum=stratum)
    cells, features = _on_data(cells, embedding, most_cells, seed)
    weights, trust = _weights(cells, confidence)
    position = _centres(cells, embedding)
    split = cell_folds(
        cells, position * scale, embedding.pixel * scale, scale, scheme=scheme, block=block, folds=folds, buffer=buffer, seed=seed
    )
    found = _cross_fit(family, features, cells, weights, split)
    beside = None if baseline is None else _baseline(family, open_raster(baseline, crs=crs), embedding, cells, weights, split)
    notes = [*cells.notes, *split.notes, *_on_classes(cells, split, task), *(() if beside is None else beside.notes)]
    if trust is not None:
        notes.append("labels count by --confidence in training; scores count them all, as if they were right")
    count, legend = len(cells.legend), cells.legend
    predicted = found.probabilities.argmax(axis=0)
    confident, temperature = _calibrate(found.probabilities, cells.place, weights, split)
    scores = class_scores(cells.place, predicted, count, split.group, seed)
    null = class_scores(cells.place, found.commonest, count, split.group, seed)
    if not scores.accuracy.value > null.accuracy.value:
        notes.append("warning: held-out cells are told apart no better than by their commonest class: do not trust a map of it")
    whole = family.fit(features, cells.place, weights, classes=count, groups=split.group, seed=seed)
    trained_on = {
        "embedding": str(embedding_map), **{name: embedding.tags[name] for name in ORIGIN_TAGS if name in embedding.tags},
        "labels": str(labels), "cells": str(len(cells)),
    }  # fmt: skip
    fitted = ClassModel(task, cells.target, legend, band_names(embedding), whole.classifier, model, temperature, trained_on)
    card = ClassCard(
        task=task,
        target=cells.target,
        embedding=str(embedding_map),
        labels=str(labels),
        baseline_file=None if baseline is None else str(baseline),
        dimensions=features.shape[1],
        classes=legend.names,
        codes=legend.codes,
        cells=len(cells),
        units=None if cells.unit_names is None else tuple(np.bincount(cells.unit_place, minlength=count).tolist()),
        folds=split.facts,
        kind=model,
        method=family.method,
        chosen=whole.chosen,
        fold_chosen=found.chosen,
        temperature=temperature,
        calibration_error=calibration_error(confident, predicted == cells.place),
        model=scores,
        commonest=null,
        by_lot=by_lot(cells.place, count),
        baseline=None if beside is None else beside.scores(cells.place, count, split.group, seed),
        fields=_of_units(cells, predicted, found.probabilities, split, seed),
        confidence=trust,
        notes=tuple(notes),
    )
    held_out = _table(cells, position, split, predicted, confident, found.commonest, beside)
    write_fit(folder, lambda path: write_class_model(fitted, path), card, held_out)
    return ClassFit(folder, fitted, card, held_out)


def _on_data(cells: LabelledCells, embedding: RasterFile, most: int, seed: int) -> tuple[LabelledCells, npt.NDArray[np.float64]]:
    """Cells with data, at most that many, and their bands."""
    if most < _FEWEST_CELLS:
        raise ConfigError(f"at least {_FEWEST_CELLS} cells are needed, not {most}")
    if len(cells) > most:
        drawn = np.zeros(len(cells), np.bool_)
        drawn[np.random.default_rng(seed).choice(len(cells), most, replace=False)] = True
        cells = cells.take(drawn, f"{most} of {len(cells)} cells with a class drawn by lot")
    values, seen = cell_bands(embedding, cells.row, cells.col)
    if not seen.all():
        gone = int((~seen).sum())
        cells = cells.take(seen, f"{gone} cell{'s' if gone > 1 else ''} left out: without data")
    if len(cells) < _FEWEST_CELLS:
        problem = f"{len(cells)} of its cells lie on data of {embedding.path} ({'; '.join(cells.notes) or 'none left out'})"
        raise InputError(
            cells.path, problem, f"at least {_FEWEST_CELLS} are needed: check the labels' CRS, or map more of the place"
        )
    if len(cells.legend) < 2:
        raise InputError(cells.path, f"has one class there, {cells.legend.names[0]}", "give labels of at least two classes")
    return cells, values[seen].astype(np.float64)


def _weights(cells: LabelledCells, confidence: str | Path | None) -> tuple[Float64, dict[str, float] | None]:
    """[N] of the samples, and the confidence of classes by name where one is given."""
    if confidence is None:
        return cells.share, None
    legend = cells.legend
    by_name = {**{str(code): name for code, name in zip(legend.codes, legend.names)}, **{name: name for name in legend.names}}
    given = read_confidence(confidence)
    unknown = [name for name in given if name not in by_name]
    if unknown:
        raise InputError(confidence, f"names {unknown[0]!r}", f"the classes are {', '.join(legend.names)}")
    found = dict.fromkeys(legend.names, 1.0) | {by_name[name]: value for name, value in given.items()}
    weights = cells.share * np.array([found[name] for name in legend.names])[cells.place]
    if len(np.unique(cells.place[weights > 0])) < 2:
        raise InputError(confidence, "leaves labels of fewer than two classes", "give a confidence above 0 to more of them")
    return weights, found


def _centres(cells: LabelledCells, embedding: RasterFile) -> Float64:
    """[N, 2] in CRS units."""
    lattice = Lattice.of(embedding)
    return np.stack([lattice.x0 + (cells.col + 0.5) * lattice.cell, lattice.y0 - (cells.row + 0.5) * lattice.cell], axis=1)


@dataclass(frozen=True)
class _Held:
    """Probabilities [K, N] of models of other folds (NaN where a cell was not used), the commonest class [N] of what they were
    trained with, and what they chose."""

    probabilities: Float64
    commonest: Int64
    chosen: tuple[dict[str, float], ...]


def _cross_fit(
    family: ClassifierFamily[Any], features: Float64, cells: LabelledCells, weights: Float64, split: CellFolds,
    used: BoolArray | None = None,
) -> _Held:  # fmt: skip
    used = np.ones(len(cells), np.bool_) if used is None else used
    count = len(cells.legend)
    probabilities, commonest, chosen = np.full((count, len(cells)), np.nan), np.zeros(len(cells), np.int64), []
    for number in range(split.count):
        training, held_out = (part & used for part in split.split(number))
        training &= weights > 0
        if not held_out.any():
            continue
        if len(np.unique(cells.place[training])) < 2:
            left = ", ".join(cells.legend.names[at] for at in np.unique(cells.place[training])) or "no class"
            raise ConfigError(
                f"with fold {number} held out, {left} is all that is left to learn from: give more polygons of the other classes "
                "(a polygon is held out whole), or pass a smaller --block"
            )
        place = cells.place[training]
        fitted = family.fit(
            features[training], place, weights[training], classes=count, groups=split.group[training], seed=split.facts.seed
        )
        probabilities[:, held_out] = fitted.classifier.probabilities(features[held_out].T)
        commonest[held_out] = np.bincount(place, minlength=count).argmax()
        chosen.append(fitted.chosen)
    return _Held(probabilities, commonest, tuple(chosen))


@dataclass(frozen=True)
class _Beside:
    """Places [N] predicted from the baseline raster, where it has data [N], and what to know of it."""

    predicted: Int64
    used: BoolArray
    notes: tuple[str, ...]

    def scores(self, place: Int64, count: int, group: Int64, seed: int) -> ClassScores:
        return class_scores(place[self.used], self.predicted[self.used], count, group[self.used], seed)


def _baseline(
    family: ClassifierFamily[Any], raster: RasterFile, embedding: RasterFile, cells: LabelledCells, weights: Float64,
    split: CellFolds,
) -> _Beside:  # fmt: skip
    values, used = cell_statistics(raster, embedding, cells.row, cells.col)
    if used.sum() < _FEWEST_CELLS:
        raise InputError(raster.path, f"has data in {int(used.sum())} of {len(cells)} cells", "give one of the same place")
    found = _cross_fit(family, values, cells, weights, split, used)
    missing = int((~used).sum())
    left = f"the baseline raster has no data in {missing} cells: it is scored on the other {int(used.sum())}"
    return _Beside(np.nan_to_num(found.probabilities).argmax(axis=0), used, (left,) if missing else ())


def _calibrate(probabilities: Float64, place: Int64, weights: Float64, split: CellFolds) -> tuple[Float64, float]:
    """Probability [N] of what was predicted, calibrated on other folds, and the temperature of all."""
    confident = np.zeros(len(place))
    for number in range(split.count):
        inside = split.fold == number
        other = fit_temperature(probabilities[:, ~inside], place[~inside], weights[~inside])
        confident[inside] = tempered(probabilities[:, inside], other).max(axis=0)
    return confident, fit_temperature(probabilities, place, weights)


def _of_units(cells: LabelledCells, predicted: Int64, probabilities: Float64, split: CellFolds, seed: int) -> ClassScores | None:
    """Of whole polygons, by majority vote of their cells; of equally many votes the class of more probability."""
    if cells.unit_names is None:
        return None
    votes = np.zeros((len(cells.unit_names), len(cells.legend)))
    np.add.at(votes, (cells.unit, predicted), 1.0)
    sums = np.zeros_like(votes)
    np.add.at(sums, cells.unit, probabilities.T)
    said = np.where(votes == votes.max(axis=1, keepdims=True), 1.0 + sums, 0.0).argmax(axis=1)
    group = np.zeros(len(votes), np.int64)
    group[cells.unit] = split.group
    return class_scores(cells.unit_place, said, len(cells.legend), group, seed)


def _on_classes(cells: LabelledCells, split: CellFolds, task: str) -> list[str]:
    """Which classes are too rare to be scored, or lie in one fold."""
    notes, raster = [], cells.unit_names is None
    group, what = (split.group, "blocks") if raster else (cells.unit, "polygons")
    for at, name in enumerate(cells.legend.names):
        mine = cells.place == at
        count = len(np.unique(group[mine]))
        few = f"class {name} is rare ({count} {what if count > 1 else what[:-1]}, {int(mine.sum())} cells): its scores say little"
        if len(np.unique(split.fold[mine])) == 1:
            notes.append(f"class {name} is in one fold only ({int(mine.sum())} cells): held out, it can never be predicted")
        elif count < _FEW_UNITS:
            notes.append(few)
    if task == "crops" and raster:
        notes.append("a raster has no fields: there are scores of cells alone; give field polygons to have them of fields")
    return notes


def _table(
    cells: LabelledCells, position: Float64, split: CellFolds, predicted: Int64, confident: Float64, commonest: Int64,
    beside: _Beside | None,
) -> HeldOutCells:  # fmt: skip
    names = cells.legend.names
    return HeldOutCells(
        cells.row, cells.col, position[:, 0], position[:, 1],
        ("",) * len(cells) if cells.unit_names is None else tuple(cells.unit_names[at] for at in cells.unit),
        split.fold, split.group, cells.share,
        *(tuple(names[at] for at in places) for places in (cells.place, predicted, commonest)), confident,
        None if beside is None else tuple(names[at] if known else "" for at, known in zip(beside.predicted, beside.used)),
    )  # fmt: skip


def _folds_text(card: ClassCard) -> str:
    return card.folds.of("cells")
