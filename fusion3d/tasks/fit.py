"""From a map of embeddings and plots to a model of a continuous variable, scored on ground that it never saw.

Each plot is described by the area-weighted mean of the embeddings under it, a GEDI footprint by the mean with its Gaussian's
weights; a model predicts the measured value from that.
Blocks of ground are held out in turn: everything that is chosen or estimated, the penalty and the bias correction included, is
so from the other plots. Held-out residuals also make the intervals of predictions; whether these cover is measured with those
of other folds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.blocks import SCHEMES, Folds, centres, random_folds, spatial_folds, stratum_folds
from fusion3d.evaluation.label_tables import LabelOptions, Labels, named, read_labels
from fusion3d.evaluation.plots import PlotTable
from fusion3d.grid import map_crs, metric_unit
from fusion3d.io.raster import RasterFile, open_raster
from fusion3d.tasks.area_based import area_based
from fusion3d.tasks.conformal import LEVEL, check_level, plots_needed
from fusion3d.tasks.coverage import Coverage, coverage, quartiles
from fusion3d.tasks.cross_fit import cross_fit, fit_arrays
from fusion3d.tasks.fit_folder import write_fit
from fusion3d.tasks.held_out import HeldOut
from fusion3d.tasks.label_noise import noise_note
from fusion3d.tasks.model import ORIGIN_TAGS, TargetModel
from fusion3d.tasks.model_file import write_model
from fusion3d.tasks.regressors import family
from fusion3d.tasks.regressors.banded import groups_of
from fusion3d.tasks.scorecard import FoldFacts, Quartile, Scorecard
from fusion3d.tasks.scores import Scores, score
from fusion3d.tasks.support import PlotFeatures, means_under, require_map, statistics_under
from fusion3d.tasks.transform import check_transform

Float64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

TASKS = ("biomass",)
_FEWEST_PLOTS = 6
_FEW_PLOTS = 30
_LARGER = 2.0


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
        head = f"{card.target}{unit}: {card.kind} on {card.dimensions} bands, {card.plots} plots, {card.folds}"
        return "\n".join([head, "", card.table(), "", *(f"note: {text}" for text in card.notes), f"model and scores: {self.out}"])


def fit(
    embedding_map: str | Path,
    labels: Labels,
    target: str,
    out: str | Path,
    *,
    task: str = "biomass",
    model: str = "ridge",
    unit: str | None = None,
    radius: float | None = None,
    layer: str | None = None,
    crs: str | None = None,
    stratum: str | None = None,
    band: int | None = None,
    label_nodata: float | None = None,
    sensitivity: float | None = None,
    geolocation: float | None = None,
    transform: str = "none",
    scheme: str = "blocks",
    block: float | None = None,
    folds: int = 5,
    buffer: float | None = None,
    baseline: str | Path | None = None,
    store: str | Path | None = None,
    level: float = LEVEL,
    seed: int = 0,
) -> FitResult:
    """Fit a model of plots on embeddings, score it on held-out plots and calibrate its intervals.

    Parameters
    ----------
    embedding_map : raster of `fusion3d embed`; any raster with square pixels, north up
    labels : field plots, GEDI L4A files (one, several or a folder), a column store with L4A footprints, or a raster of labels
    target, unit, radius, layer, crs, stratum : as for `read_plots`; `crs` also stands for rasters without one
    band, label_nodata : of a raster of labels, as for `read_raster_labels`
    sensitivity, geolocation : of footprints, as for `read_l4a`; 0.9 and 10 m for None
    out : folder for model.json and model.safetensors, scores.json and predictions.csv
    task : biomass: the variable has no negative values
    model : ridge, banded, forest, boosting, mlp or power
    transform : of the target: none, sqrt or log1p
    scheme : "blocks" of ground, "random" plots (with a warning), or "strata", each held out in turn
    block : side of a block, metres; None chooses it from the plots
    folds : to hold out in turn
    buffer : metres between held-out plots and those trained with; None for the diagonal of a cell with blocks, and twice what
        footprints reach beyond their discs, so that no cell is on both sides
    baseline : any raster, for instance of canopy height: the same kind of model on its mean and percentiles is scored beside
    store : column store with aerial LiDAR: the area-based approach on its points is scored beside, as `area_based` says
    level : share of measured values that intervals of predictions shall cover
    seed : of folds, bootstrap and models that draw lots

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
    chosen_family = family(model)
    check_transform(transform)
    check_level(level)
    if transform not in chosen_family.transforms:
        raise ConfigError(f"--model {model} has its own way with a skewed target: leave --transform {transform} away")
    if scheme == "strata" and stratum is None:
        raise ConfigError("--scheme strata needs --stratum COLUMN")
    if seed < 0:
        raise ConfigError(f"--seed {seed} must not be negative")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(folder, "is a file, not a folder", "give another --out")
    embedding = require_map(open_raster(embedding_map, crs=crs))
    scale = metric_unit(map_crs(embedding.crs))
    options = LabelOptions(unit, crs, radius, layer, stratum, band, label_nodata, sensitivity, geolocation)
    table = read_labels(labels, target, options, embedding.crs, embedding.bounds)
    notes = list(table.notes)
    if not table.unit:
        notes.append(f"no --unit given: the map will not say what its {target} is in")
    table, features = _on_data(table, means_under(embedding, table.geometry, table.gaussian), embedding, notes)
    chosen_family = family(model, features.names)
    split = _folds(table, scheme, embedding.pixel * scale, scale, block, folds, buffer, seed)
    notes += split.notes
    if model == "ridge" and len(several := groups_of(features.names)) > 2:
        notes.append(f"the bands are of {', '.join(several)}: --model banded gives each its own weight, ridge one to all")
    about = {"target": target, "unit": table.unit, "transform": transform, "nonnegative": True}
    origin = {name: embedding.tags[name] for name in ORIGIN_TAGS if name in embedding.tags}
    trained_on = {"embedding": str(embedding_map), **origin, "labels": named(labels), "plots": str(len(table))}
    found = fit_arrays(
        chosen_family, features.values, table.values, split, names=features.names, level=level, noise=table.noise,
        trained_on=trained_on, **about,
    )  # fmt: skip
    notes += noise_note(chosen_family, table.noise, transform, found.chosen, table.unit)
    raster = None if baseline is None else open_raster(baseline, crs=crs)
    beside = None if raster is None else _baseline(model, raster, table, split, about, notes)
    standard = None if store is None else area_based(store, table, split, about, notes, _FEWEST_PLOTS)
    held_out = HeldOut(
        plot=table.ids,
        x=centres(table.geometry)[:, 0],
        y=centres(table.geometry)[:, 1],
        fold=split.fold,
        block=split.group,
        measured=table.values,
        predicted=found.held_out.predicted,
        null=_training_means(table.values, split),
        baseline=beside,
        stratum=table.strata,
        lower=found.lower,
        upper=found.upper,
        fitted=found.model.predict(features.values),
        area=shapely.area(table.geometry) * scale**2,
    )
    scores = _score(held_out.predicted, held_out, seed)
    _remark(notes, scores, len(table))
    covered = _coverage(held_out)
    notes += [
        *chosen_family.remarks(found.model.regressor, features.names),
        *_on_intervals(table, found.model, covered, embedding, split),
    ]
    card = Scorecard(
        task=task,
        target=target,
        unit=table.unit,
        transform=transform,
        embedding=str(embedding_map),
        labels=named(labels),
        baseline_file=None if baseline is None else str(baseline),
        dimensions=len(features.names),
        plots=len(table),
        folds=FoldFacts(scheme, split.count, split.groups, split.side, split.buffer, seed),
        chosen=found.chosen,
        fold_chosen=found.held_out.chosen,
        model=scores,
        null=_score(held_out.null, held_out, seed),
        kind=model,
        method=chosen_family.method,
        baseline=None if beside is None else _score(beside, held_out, seed),
        area_based=None if standard is None else {name: _score(found, held_out, seed) for name, found in standard.items()},
        store=None if store is None else str(store),
        strata=None
        if table.strata is None
        else {name: _score(held_out.predicted, held_out, seed, at) for name, at in _strata(table)},
        quartiles=_by_quartile(held_out, seed),
        level=level,
        coverage=covered,
        strata_coverage=None if table.strata is None else {name: _coverage(held_out, at) for name, at in _strata(table)},
        notes=tuple(notes),
    )
    write_fit(folder, lambda path: write_model(found.model, path), card, held_out)
    return FitResult(folder, found.model, card, held_out)


def _folds(
    table: PlotTable, scheme: str, pixel: float, scale: float, block: float | None, folds: int, buffer: float | None, seed: int
) -> Folds:
    if scheme == "random":
        return random_folds(table.geometry, scale, folds=folds, buffer=buffer, seed=seed)
    reach = 0.0 if table.gaussian is None else table.gaussian.reach
    apart = math.sqrt(2) * pixel + 2 * reach if buffer is None else buffer
    if scheme == "strata":
        return stratum_folds(table.geometry, scale, table.strata or (), side=block, buffer=apart, seed=seed)
    return spatial_folds(table.geometry, scale, side=block, folds=folds, buffer=apart, seed=seed)


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


def _training_means(values: Float64, split: Folds) -> Float64:
    """[P] mean of the plots that a held-out plot's model was trained with."""
    found = np.full(len(values), np.nan)
    for number in range(split.count):
        training, held_out = split.split(number)
        found[held_out] = values[training].mean()
    return found


def _baseline(model: str, raster: RasterFile, table: PlotTable, split: Folds, about: dict[str, Any], notes: list[str]) -> Float64:
    """[P] held-out predictions from a raster's mean and percentiles under each plot, in the same folds."""
    found = statistics_under(raster, table.to_crs(raster.crs).geometry)
    used, missing = found.usable, int((~found.usable).sum())
    if used.sum() < _FEWEST_PLOTS:
        raise InputError(raster.path, f"has data under {int(used.sum())} of {len(table)} plots", "give one of the same place")
    if missing:
        notes.append(f"the baseline raster has no data under {missing} plots: it is scored on the other {int(used.sum())}")
    values, kind = np.where(used[:, None], found.values, 0.0), family(model, found.names)
    return cross_fit(kind, values, table.values, split, about, used, table.noise).predicted


def _score(predicted: Float64, held_out: HeldOut, seed: int, which: BoolArray | None = None) -> Scores:
    known = np.isfinite(predicted) if which is None else np.isfinite(predicted) & which
    return score(held_out.measured[known], predicted[known], groups=held_out.block[known], seed=seed)


def _strata(table: PlotTable) -> list[tuple[str, BoolArray]]:
    labels = np.array(table.strata, dtype=object)
    return [(name, labels == name) for name in sorted(set(labels))]


def _coverage(held_out: HeldOut, which: BoolArray | None = None) -> Coverage:
    assert held_out.lower is not None
    assert held_out.upper is not None
    kept = np.ones(len(held_out.plot), np.bool_) if which is None else which
    return coverage(held_out.measured[kept], held_out.lower[kept], held_out.upper[kept])


def _by_quartile(held_out: HeldOut, seed: int) -> tuple[Quartile, ...]:
    found = []
    for which in quartiles(held_out.predicted):
        inside = held_out.predicted[which]
        scores = _score(held_out.predicted, held_out, seed, which)
        found.append(Quartile(float(inside.min()), float(inside.max()), scores, _coverage(held_out, which)))
    return tuple(found)


def _remark(notes: list[str], scores: Scores, plots: int) -> None:
    if plots < _FEW_PLOTS:
        notes.append(f"{plots} plots are few: mind the intervals")
    if not scores.r2.value > 0:
        notes.append("warning: the model predicts held-out plots no better than their mean does: do not trust a map of it")


def _on_intervals(table: PlotTable, model: TargetModel, covered: Coverage, embedding: RasterFile, split: Folds) -> list[str]:
    notes, needed, percent = [], plots_needed(model.level), f"{100 * model.level:g} %"
    fewest = min(int(split.split(number)[0].sum()) for number in range(split.count))
    if len(table) < needed:
        notes.append(
            f"{len(table)} plots are too few for {percent} intervals, which have no ends then: at least {needed} are needed"
        )
    elif fewest < needed:
        notes.append(f"coverage cannot be measured in every fold: it leaves {fewest} plots, {percent} intervals need {needed}")
    if covered.share.high < model.level:
        share = f"{100 * covered.share.value:.0f} %"
        notes.append(
            f"warning: {percent} intervals cover {share} of the held-out plots: they are too narrow for places like these"
        )
    plot, cell = float(np.median(shapely.area(table.geometry))), embedding.pixel**2
    if plot > _LARGER * cell:
        unit = metric_unit(map_crs(embedding.crs)) ** 2
        notes.append(
            f"intervals are those of areas like the plots (median {plot * unit:.4g} m2); "
            f"single cells of {cell * unit:.4g} m2 vary more"
        )
    return notes
