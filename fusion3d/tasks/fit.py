"""From a map of embeddings and plots to a model of a continuous variable, scored on ground that it never saw.

Each plot is described by the area-weighted mean of the embeddings under it, a GEDI footprint by the mean with its Gaussian's
weights; a model predicts the measured value from that.
Blocks of ground are held out in turn: everything that is chosen or estimated, the penalty and the bias correction included, is
so from the other plots. Held-out residuals also make the intervals of predictions; whether these cover is measured with those
of other folds.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.blocks import Folds, check_split, random_folds, spatial_folds, stratum_folds
from fusion3d.evaluation.label_tables import LabelOptions, Labels, named, read_labels
from fusion3d.evaluation.plots import PlotTable
from fusion3d.grid import map_crs, metric_unit
from fusion3d.io.raster import RasterFile, open_raster
from fusion3d.tasks.area_based import ABA, METHODS, area_based, described_by_returns
from fusion3d.tasks.conformal import LEVEL, check_level
from fusion3d.tasks.cross_fit import cross_fit, fit_arrays
from fusion3d.tasks.fit_folder import out_folder
from fusion3d.tasks.label_noise import noise_note
from fusion3d.tasks.model import ORIGIN_TAGS
from fusion3d.tasks.regressors import family
from fusion3d.tasks.regressors.banded import groups_of
from fusion3d.tasks.scored_fit import FEWEST_PLOTS, Compared, FitResult, score_fit
from fusion3d.tasks.support import PlotFeatures, means_under, require_map, statistics_under
from fusion3d.tasks.transform import check_transform

Float64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

TASKS = ("biomass",)
_ABA_METHOD = "the area-based approach (Naesset 2002), plot metrics of the returns inside each plot: "


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
    model : ridge, banded, forest, boosting, mlp or power; or aba, a random forest on the metrics of the returns inside each plot:
        `embedding_map` is then a map of `fusion3d metrics`, and `store` where the returns are
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
    check_split(scheme, seed)
    kind = METHODS["area-based, random forest"] if model == ABA else model
    chosen_family = family(kind)
    check_transform(transform)
    check_level(level)
    if transform not in chosen_family.transforms:
        raise ConfigError(f"--model {model} has its own way with a skewed target: leave --transform {transform} away")
    if scheme == "strata" and stratum is None:
        raise ConfigError("--scheme strata needs --stratum COLUMN")
    folder = out_folder(out)
    embedding = require_map(open_raster(embedding_map, crs=crs))
    scale = metric_unit(map_crs(embedding.crs))
    options = LabelOptions(unit, crs, radius, layer, stratum, band, label_nodata, sensitivity, geolocation)
    table = read_labels(labels, target, options, embedding.crs, embedding.bounds)
    notes = list(table.notes)
    if not table.unit:
        notes.append(f"no --unit given: the map will not say what its {target} is in")
    if model == ABA:
        described = described_by_returns(store, table, embedding)
    else:
        described = means_under(embedding, table.geometry, table.gaussian)
    table, features = _on_data(table, described, embedding, notes)
    chosen_family = family(kind, features.names)
    split = folds_of(table, scheme, embedding.pixel * scale, scale, block, folds, buffer, seed)
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
    beside = None if raster is None else _baseline(kind, raster, table, split, about, notes)
    standard = None if store is None else area_based(store, table, split, about, notes, FEWEST_PLOTS)
    return score_fit(
        folder, table, split, found, fitted=found.model.predict(features.values), beside=Compared(beside, standard),
        cell=embedding.pixel, crs=embedding.crs, scheme=scheme, seed=seed, notes=notes,
        remarks=chosen_family.remarks(found.model.regressor, features.names), task=task, embedding=str(embedding_map),
        labels=named(labels), baseline_file=None if baseline is None else str(baseline), dimensions=len(features.names),
        kind=model, method=(_ABA_METHOD if model == ABA else "") + chosen_family.method,
        store=None if store is None else str(store),
    )  # fmt: skip


def folds_of(
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
    if usable.sum() < FEWEST_PLOTS:
        raise InputError(
            table.path,
            f"{int(usable.sum())} of its plots lie on data of {embedding.path} ({'; '.join(notes) or 'none left out'})",
            f"at least {FEWEST_PLOTS} are needed: check the plots' CRS, or map more of the place",
        )
    return table.take(usable), PlotFeatures(features.names, features.values[usable], features.covered[usable])


def _baseline(model: str, raster: RasterFile, table: PlotTable, split: Folds, about: dict[str, Any], notes: list[str]) -> Float64:
    """[P] held-out predictions from a raster's mean and percentiles under each plot, in the same folds."""
    found = statistics_under(raster, table.to_crs(raster.crs).geometry)
    used, missing = found.usable, int((~found.usable).sum())
    if used.sum() < FEWEST_PLOTS:
        raise InputError(raster.path, f"has data under {int(used.sum())} of {len(table)} plots", "give one of the same place")
    if missing:
        notes.append(f"the baseline raster has no data under {missing} plots: it is scored on the other {int(used.sum())}")
    values, kind = np.where(used[:, None], found.values, 0.0), family(model, found.names)
    return cross_fit(kind, values, table.values, split, about, used, table.noise).predicted
