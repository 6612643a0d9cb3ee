"""What a cross-validated fit is worth: scores on held-out plots, the coverage of its intervals, and the folder with both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS

from fusion3d.evaluation.blocks import Folds, centres
from fusion3d.evaluation.plots import PlotTable
from fusion3d.grid import map_crs, metric_unit
from fusion3d.tasks.conformal import plots_needed
from fusion3d.tasks.coverage import Coverage, coverage, quartiles
from fusion3d.tasks.cross_fit import WholeFit
from fusion3d.tasks.fit_folder import write_fit
from fusion3d.tasks.held_out import HeldOut
from fusion3d.tasks.model import TargetModel
from fusion3d.tasks.model_file import write_model
from fusion3d.tasks.scorecard import FoldFacts, Quartile, Scorecard
from fusion3d.tasks.scores import Scores, score

Float64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

FEWEST_PLOTS = 6
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


@dataclass(frozen=True)
class Compared:
    """What a fit is compared with, predicted in the same folds: [P] of a baseline raster, and by name of other methods."""

    baseline: Float64 | None = None
    others: dict[str, Float64] | None = None


def score_fit(
    folder: Path,
    table: PlotTable,
    split: Folds,
    found: WholeFit,
    *,
    fitted: Float64,
    beside: Compared,
    cell: float,
    crs: CRS,
    scheme: str,
    seed: int,
    notes: list[str],
    remarks: tuple[str, ...],
    write: Callable[[Path], Sequence[str]] | None = None,
    **about: Any,
) -> FitResult:
    """Score the held-out predictions of a fit and write its folder.

    Parameters
    ----------
    fitted : [P] what the model of all plots predicts
    cell : side of a cell of the map that the model is for, in units of `crs`, which is the plots'
    notes, remarks : what should be known, before and after the remarks on the scores
    write : as `write_more` of `write_fit`
    about : attributes of the `Scorecard` that do not follow from the rest
    """
    scale = metric_unit(map_crs(crs))
    held_out = HeldOut(
        plot=table.ids,
        x=centres(table.geometry)[:, 0],
        y=centres(table.geometry)[:, 1],
        fold=split.fold,
        block=split.group,
        measured=table.values,
        predicted=found.held_out.predicted,
        null=_training_means(table.values, split),
        baseline=beside.baseline,
        stratum=table.strata,
        lower=found.lower,
        upper=found.upper,
        fitted=fitted,
        area=shapely.area(table.geometry) * scale**2,
    )
    scores = _score(held_out.predicted, held_out, seed)
    _remark(notes, scores, len(table))
    covered = _coverage(held_out)
    notes += [*remarks, *_on_intervals(table, found.model, covered, cell, scale, split)]
    card = Scorecard(
        target=found.model.target,
        unit=table.unit,
        transform=found.model.transform,
        plots=len(table),
        folds=FoldFacts(scheme, split.count, split.groups, split.side, split.buffer, seed),
        chosen=found.chosen,
        fold_chosen=found.held_out.chosen,
        model=scores,
        null=_score(held_out.null, held_out, seed),
        baseline=None if beside.baseline is None else _score(beside.baseline, held_out, seed),
        area_based=None
        if beside.others is None
        else {name: _score(predicted, held_out, seed) for name, predicted in beside.others.items()},
        strata=None
        if table.strata is None
        else {name: _score(held_out.predicted, held_out, seed, at) for name, at in _strata(table)},
        quartiles=_by_quartile(held_out, seed),
        level=found.model.level,
        coverage=covered,
        strata_coverage=None if table.strata is None else {name: _coverage(held_out, at) for name, at in _strata(table)},
        notes=tuple(notes),
        **about,
    )
    write_fit(folder, lambda path: write_model(found.model, path), card, held_out, write)
    return FitResult(folder, found.model, card, held_out)


def _training_means(values: Float64, split: Folds) -> Float64:
    """[P] mean of the plots that a held-out plot's model was trained with."""
    found = np.full(len(values), np.nan)
    for number in range(split.count):
        training, held_out = split.split(number)
        found[held_out] = values[training].mean()
    return found


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


def _on_intervals(table: PlotTable, model: TargetModel, covered: Coverage, side: float, scale: float, split: Folds) -> list[str]:
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
    plot, cell = float(np.median(shapely.area(table.geometry))), side**2
    if plot > _LARGER * cell:
        unit = scale**2
        notes.append(
            f"intervals are those of areas like the plots (median {plot * unit:.4g} m2); "
            f"single cells of {cell * unit:.4g} m2 vary more"
        )
    return notes
