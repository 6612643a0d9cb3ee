"""From a map of embeddings and field plots to a model of a continuous variable, scored on ground that it never saw.

Each plot is described by the area-weighted mean of the embeddings under it; a ridge regression predicts the measured value from
that. Blocks of ground are held out in turn: everything that is chosen or estimated, the penalty and the bias correction
included, is so from the other plots.
"""

from __future__ import annotations

import math
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.blocks import SCHEMES, Folds, centres, random_folds, spatial_folds
from fusion3d.evaluation.plots import PlotTable, read_plots
from fusion3d.evaluation.ridge import fit_ridge
from fusion3d.grid import map_crs, metric_unit
from fusion3d.io.raster import RasterFile, open_raster
from fusion3d.tasks.model import MODEL_FILE, ORIGIN_TAGS, TargetModel
from fusion3d.tasks.scorecard import PREDICTIONS_FILE, SCORES_FILE, FoldFacts, HeldOut, Scorecard
from fusion3d.tasks.scores import Scores, score
from fusion3d.tasks.support import PlotFeatures, means_under, require_map, statistics_under
from fusion3d.tasks.transform import check_transform, forward

Float64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

TASKS = ("biomass",)
_FEWEST_PLOTS = 6
_FEWEST_TRAINING = 3
_FEW_PLOTS = 30


@dataclass(frozen=True)
class FitResult:
    """A fitted model, its scores and the held-out predictions behind them; `out` is the folder that holds the three as files."""

    out: Path
    model: TargetModel
    scorecard: Scorecard
    held_out: HeldOut

    def __str__(self) -> str:
        card = self.scorecard
        unit = f" ({card.unit})" if card.unit else ""
        head = f"{card.target}{unit}: ridge on {card.dimensions} bands, {card.plots} plots, {card.folds}"
        return "\n".join([head, "", card.table(), "", *(f"note: {text}" for text in card.notes), f"model and scores: {self.out}"])


def fit(
    embedding_map: str | Path,
    labels: str | Path,
    target: str,
    out: str | Path,
    *,
    task: str = "biomass",
    unit: str | None = None,
    radius: float | None = None,
    layer: str | None = None,
    crs: str | None = None,
    stratum: str | None = None,
    transform: str = "none",
    scheme: str = "blocks",
    block: float | None = None,
    folds: int = 5,
    buffer: float | None = None,
    baseline: str | Path | None = None,
    seed: int = 0,
) -> FitResult:
    """Fit a ridge model of plots on embeddings and score it on held-out plots.

    Parameters
    ----------
    embedding_map : raster of `fusion3d embed`; any raster with square pixels, north up
    labels, target, unit, radius, layer, crs, stratum : as for `read_plots`; `crs` also stands for rasters without one
    out : folder for model.json, scores.json and predictions.csv
    task : biomass: the variable has no negative values
    transform : of the target: none, sqrt or log1p
    scheme : "blocks" of ground, or "random" plots (with a warning)
    block : side of a block, metres; None chooses it from the plots
    folds : to hold out in turn
    buffer : metres between held-out plots and those trained with; None for the diagonal of a cell with blocks, so that no cell
        is on both sides
    baseline : any raster, for instance of canopy height: the same ridge on its mean and percentiles is scored beside
    seed : of folds and bootstrap

    Raises
    ------
    InputError
        A file cannot be used, or too few plots lie on data.
    ConfigError
        An option is out of range.
    """
    if task not in TASKS:
        raise ConfigError(f"--task {task!r}: give one of {', '.join(TASKS)}")
    if scheme not in SCHEMES:
        raise ConfigError(f"folds are {' or '.join(SCHEMES)}, not {scheme!r}")
    check_transform(transform)
    if seed < 0:
        raise ConfigError(f"--seed {seed} must not be negative")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(folder, "is a file, not a folder", "give another --out")
    embedding = require_map(open_raster(embedding_map, crs=crs))
    scale = metric_unit(map_crs(embedding.crs))
    table = read_plots(labels, target, radius=radius, layer=layer, unit=unit, crs=crs, stratum=stratum).to_crs(embedding.crs)
    notes = list(table.notes)
    if not table.unit:
        notes.append(f"no --unit given: the map will not say what its {target} is in")
    table, features = _on_data(table, means_under(embedding, table.geometry), embedding, notes)
    if scheme == "random":
        split = random_folds(table.geometry, scale, folds=folds, buffer=buffer, seed=seed)
    else:
        apart = math.sqrt(2) * embedding.pixel * scale if buffer is None else buffer
        split = spatial_folds(table.geometry, scale, side=block, folds=folds, buffer=apart, seed=seed)
    notes += split.notes
    about = {"target": target, "unit": table.unit, "transform": transform, "nonnegative": True}
    predicted, penalties = _held_out(features.values, table.values, split, about)
    raster = None if baseline is None else open_raster(baseline, crs=crs)
    beside = None if raster is None else _baseline(raster, table, split, about, notes)
    held_out = HeldOut(
        plot=table.ids,
        x=centres(table.geometry)[:, 0],
        y=centres(table.geometry)[:, 1],
        fold=split.fold,
        block=split.group,
        measured=table.values,
        predicted=predicted,
        null=_training_means(table.values, split),
        baseline=beside,
        stratum=table.strata,
    )
    scores = _score(predicted, held_out, seed)
    _remark(notes, scores, len(table))
    fitted = fit_ridge(features.values, forward(transform, table.values), groups=split.group, seed=seed)
    origin = {name: embedding.tags[name] for name in ORIGIN_TAGS if name in embedding.tags}
    trained_on = {"embedding": str(embedding_map), **origin, "labels": str(labels), "plots": str(len(table))}
    model = TargetModel.of(fitted, features=features.names, trained_on=trained_on, **about)
    card = Scorecard(
        task=task,
        target=target,
        unit=table.unit,
        transform=transform,
        embedding=str(embedding_map),
        labels=str(labels),
        baseline_file=None if baseline is None else str(baseline),
        dimensions=len(features.names),
        plots=len(table),
        folds=FoldFacts(scheme, split.count, split.groups, split.side, split.buffer, seed),
        penalty=model.ridge.penalty,
        fold_penalties=penalties,
        model=scores,
        null=_score(held_out.null, held_out, seed),
        baseline=None if beside is None else _score(beside, held_out, seed),
        strata=None if table.strata is None else _by_stratum(held_out, seed),
        notes=tuple(notes),
    )
    _write(folder, model, card, held_out)
    return FitResult(folder, model, card, held_out)


def _on_data(table: PlotTable, features: PlotFeatures, embedding: RasterFile, notes: list[str]) -> tuple[PlotTable, PlotFeatures]:
    """Plots with data under at least half of their area."""
    usable = features.usable
    xmin, ymin, xmax, ymax = embedding.bounds
    outside = ~shapely.intersects(table.geometry, shapely.box(xmin, ymin, xmax, ymax))
    for which, problem in ((outside, "outside the map"), (~usable & ~outside, "without data under half of the area")):
        if which.any():
            notes.append(f"{int(which.sum())} plot{'s' if which.sum() > 1 else ''} left out: {problem}")
    if usable.sum() < _FEWEST_PLOTS:
        raise InputError(
            table.path,
            f"{int(usable.sum())} of its plots lie on data of {embedding.path} ({'; '.join(notes) or 'none left out'})",
            f"at least {_FEWEST_PLOTS} are needed: check the plots' CRS, or map more of the place",
        )
    return table.take(usable), PlotFeatures(features.names, features.values[usable], features.covered[usable])


def _held_out(
    features: Float64, values: Float64, split: Folds, about: dict[str, Any], used: BoolArray | None = None
) -> tuple[Float64, tuple[float, ...]]:
    """[P] what models of the other folds predict, NaN where not `used`, and their penalties."""
    used = np.ones(len(values), np.bool_) if used is None else used
    predicted, penalties = np.full(len(values), np.nan), []
    names = tuple(map(str, range(features.shape[1])))
    for number in range(split.count):
        training, held_out = (part & used for part in split.split(number))
        if not held_out.any():
            continue
        if training.sum() < _FEWEST_TRAINING:
            problem = f"fold {number} leaves {int(training.sum())} plots to train with"
            raise ConfigError(f"{problem}; pass a smaller --block or --buffer, or give more plots")
        target = forward(about["transform"], values[training])
        fitted = fit_ridge(features[training], target, groups=split.group[training], seed=split.seed)
        predicted[held_out] = TargetModel.of(fitted, features=names, **about).predict(features[held_out])
        penalties.append(fitted.ridge.penalty)
    return predicted, tuple(penalties)


def _training_means(values: Float64, split: Folds) -> Float64:
    """[P] mean of the plots that a held-out plot's model was trained with."""
    found = np.full(len(values), np.nan)
    for number in range(split.count):
        training, held_out = split.split(number)
        found[held_out] = values[training].mean()
    return found


def _baseline(raster: RasterFile, table: PlotTable, split: Folds, about: dict[str, Any], notes: list[str]) -> Float64:
    """[P] held-out predictions from a raster's mean and percentiles under each plot, in the same folds."""
    found = statistics_under(raster, table.to_crs(raster.crs).geometry)
    used, missing = found.usable, int((~found.usable).sum())
    if used.sum() < _FEWEST_PLOTS:
        raise InputError(raster.path, f"has data under {int(used.sum())} of {len(table)} plots", "give one of the same place")
    if missing:
        notes.append(f"the baseline raster has no data under {missing} plots: it is scored on the other {int(used.sum())}")
    return _held_out(np.where(used[:, None], found.values, 0.0), table.values, split, about, used)[0]


def _score(predicted: Float64, held_out: HeldOut, seed: int, which: BoolArray | None = None) -> Scores:
    known = np.isfinite(predicted) if which is None else np.isfinite(predicted) & which
    return score(held_out.measured[known], predicted[known], groups=held_out.block[known], seed=seed)


def _by_stratum(held_out: HeldOut, seed: int) -> dict[str, Scores]:
    labels = np.array(held_out.stratum, dtype=object)
    return {name: _score(held_out.predicted, held_out, seed, labels == name) for name in sorted(set(labels))}


def _remark(notes: list[str], scores: Scores, plots: int) -> None:
    if plots < _FEW_PLOTS:
        notes.append(f"{plots} plots are few: mind the intervals")
    if not scores.r2.value > 0:
        notes.append("warning: the model predicts held-out plots no better than their mean does: do not trust a map of it")


def _write(folder: Path, model: TargetModel, card: Scorecard, held_out: HeldOut) -> None:
    draft = folder / f".{uuid.uuid4().hex[:8]}.draft"
    try:
        draft.mkdir(parents=True)
        held_out.write(draft / PREDICTIONS_FILE)
        card.write(draft / SCORES_FILE)
        model.write(draft / MODEL_FILE)
        # renamed only when all are whole, so that a full disk does not leave a new model with old scores
        for name in (PREDICTIONS_FILE, SCORES_FILE, MODEL_FILE):
            os.replace(draft / name, folder / name)
    except OSError as error:
        raise InputError(folder, f"cannot be written ({error.strerror or error})", "give another --out") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
