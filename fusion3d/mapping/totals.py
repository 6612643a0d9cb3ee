"""Means and totals of areas from a map and the plots behind its model, with standard errors and intervals.

Which estimator is used is decided for each area and said with it: see `fusion3d.tasks.estimators`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.discs import discs
from fusion3d.io.raster import open_raster
from fusion3d.mapping.area_cells import AreaCells, MapCells
from fusion3d.mapping.areas import Areas, read_areas
from fusion3d.mapping.totals_table import AreaTotal, Totals, check_out
from fusion3d.tasks.card_file import SCORES_FILE
from fusion3d.tasks.estimators import FEWEST_IN_STRATUM, MeanEstimate, greg, model_dependent, stratified_greg
from fusion3d.tasks.held_out import PREDICTIONS_FILE, HeldOut
from fusion3d.tasks.residual_field import ResidualField
from fusion3d.tasks.scorecard import Scorecard

Float64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

DESIGNS = ("none", "random", "stratified")
FEWEST_FOR_GREG = 10
"""Plots inside an area: with fewer, the variance of their residuals is itself too uncertain."""
_LEAST_HULL = 0.5
_MOST_ABOVE = 0.1
_MOST_SHIFTED = 0.2
_MOST_TWICE = 0.01
"""Share of the strata's ground that borders drawn twice may count twice."""
_PER_HECTARE = re.compile(r"^(?P<what>.+?)(?:\s*/\s*ha|[\s·.*]+ha\s*\^?\s*[-−]\s*1)$")
_SQUARE_METRES = 1e4


def totals(
    map_file: str | Path,
    model: str | Path,
    out: str | Path,
    *,
    areas: str | Path | None = None,
    name: str | None = None,
    layer: str | None = None,
    crs: str | None = None,
    design: str = "none",
    strata: str | Path | None = None,
    stratum: str | None = None,
    level: float = 0.9,
    seed: int = 0,
) -> Totals:
    """Mean and total of every area, or of the whole map, written as a table.

    Parameters
    ----------
    map_file : raster of `fusion3d map`; its first band is the estimate
    model : folder of `fusion3d fit` that made it: its held-out plots say how wrong the map is
    out : .csv, .gpkg or .json
    areas : polygons; None for the whole map
    name, layer, crs : of `areas`: column of names; layer of a file of several; CRS of a file without one
    design : how the plots were chosen: "random" (a simple random or systematic sample of the place), "stratified" (such a sample
        in each stratum) or "none" (no probability sample)
    strata : polygons of the strata, with the names that the plots' strata have; for "stratified"
    stratum : column of the names in `strata`
    level : of the intervals
    seed : of the bootstrap

    Raises
    ------
    InputError
        A file cannot be used, map and model do not belong together, or no area holds data; nothing is left under `out`.
    ConfigError
        An option is out of range.
    """
    if design not in DESIGNS:
        raise ConfigError(f"--design {design!r}: give one of {', '.join(DESIGNS)}")
    if not 0.0 < level < 1.0:
        raise ConfigError(f"--level {level} must lie between 0 and 1, such as 0.9")
    if (design == "stratified") != (strata is not None):
        raise ConfigError("--design stratified needs --strata, polygons of the strata, and --strata is for that design alone")
    if areas is None and (name is not None or layer is not None):
        raise ConfigError("--name and --layer are of --areas: give that too")
    check_out(Path(out))
    _keep_inputs(out, areas, strata)
    surface = MapCells(map_file)
    card, plots = Scorecard.read(model), HeldOut.read(model)
    unit = _same_variable(surface, card, model)
    if len(plots.measured) != card.plots:
        problem = f"holds {len(plots.measured)} plots, {SCORES_FILE} beside it says {card.plots}"
        raise InputError(Path(model) / PREDICTIONS_FILE, problem, "fit again")
    places = np.stack([plots.x, plots.y], axis=1)
    mapped, predicted, remarks = _on_the_map(surface, plots, model)
    field = ResidualField.of(
        places * surface.scale, plots.measured, predicted, plots.block, card.folds.side,
        path=str(Path(model) / PREDICTIONS_FILE), seed=seed,
    )  # fmt: skip
    wanted = _whole(surface) if areas is None else read_areas(areas, surface.file.crs, name=name, layer=layer, crs=crs)
    layers, doubts = (None, []) if strata is None else _strata(surface, plots, strata, stratum, model)
    estimator = _Estimator(surface, places, plots.measured - mapped, field, design, layers, level, unit)
    rows, aside = [], list(wanted.set_aside)
    for label, polygon in zip(wanted.names, wanted.geometry):
        found = estimator.area(label, polygon)
        if isinstance(found, str):
            aside.append((label, found))
        else:
            rows.append(found)
    if not rows:
        reason = "; ".join(f"{label}: {text}" for label, text in aside[:3])
        raise InputError(wanted.path, f"none of its areas can be estimated ({reason})", "check the CRS, or map more of the place")
    inside = int(shapely.contains_xy(surface.extent, plots.x, plots.y).sum())
    notes = [*remarks, *doubts, *field.notes]
    if inside == 0:
        notes.append("warning: no plot lies on the map: it is of another place than the plots, where the model may be wrong")
    if _total_unit(unit) is None:
        said = f"unit {unit!r} is not per hectare" if unit else "the map does not state its unit"
        notes.append(f"{said}: means are given, totals are not (fit with --unit such as Mg/ha)")
    result = Totals(
        Path(out), str(map_file), str(model), card.target, unit, design, level, len(plots.measured), field.correlation,
        tuple(rows), tuple(aside), tuple(notes),
    )  # fmt: skip
    result.write(surface.file.crs)
    return result


def check_request(
    model: str | Path, out: str | Path, raster: str | Path, areas: str | Path, *, name: str | None, layer: str | None,
    crs: str | None,
) -> None:  # fmt: skip
    """Refuse what `totals` would refuse of a map of a raster that is still to be made.

    Raises
    ------
    InputError
        Plots or areas cannot be read.
    ConfigError
        The table's name has another ending.
    """
    check_out(Path(out), "--summary")
    _keep_inputs(out, areas)
    HeldOut.read(model)
    read_areas(areas, open_raster(raster, crs=crs).crs, name=name, layer=layer, crs=crs)


@dataclass(frozen=True)
class _Strata:
    """Names [H], geometry [H] in the map's CRS and the number of each plot's stratum [P]."""

    names: tuple[str, ...]
    geometry: npt.NDArray[np.object_]
    of_plot: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Estimator:
    """Estimates one area after the other.

    `places` [P, 2] are the plots' centres in the map's CRS, `differences` [P] measured - mapped, NaN where the map has no data.
    """

    surface: MapCells
    places: Float64
    differences: Float64
    field: ResidualField
    design: str
    strata: _Strata | None
    level: float
    unit: str

    def area(self, name: str, polygon: shapely.Geometry) -> AreaTotal | str:
        """Its row, or why there is none."""
        surface, field = self.surface, self.field
        if not shapely.intersects(polygon, surface.extent):
            return "outside the map"
        cells = surface.cells(polygon, field.spread, field.highest)
        if not cells.covered > 0:
            return "the map has no data there"
        parameters = field.line.variance(cells.mean)
        residual = field.variance_of_mean(cells.weights, cells.cell, cells.split, cells.covered)
        plots = shapely.contains_xy(polygon, self.places[:, 0], self.places[:, 1]) & np.isfinite(self.differences)
        estimator, found, reason = self._estimate(polygon, cells, plots)
        if found is None:
            found = model_dependent(cells.mean + field.line.correction(cells.mean), parameters, residual, field.degrees)
        dependent = estimator == "model-dependent"
        low, high = found.interval(self.level)
        hectares = cells.covered / _SQUARE_METRES
        total_unit = _total_unit(self.unit)
        total = [math.nan if total_unit is None else hectares * value for value in (found.mean, found.standard_error, low, high)]
        return AreaTotal(
            area=name,
            area_ha=cells.area / _SQUARE_METRES,
            data_ha=hectares,
            data_share=min(1.0, cells.covered / cells.area),
            mean=found.mean,
            mean_se=found.standard_error,
            mean_low=low,
            mean_high=high,
            unit=self.unit,
            total=total[0],
            total_se=total[1],
            total_low=total[2],
            total_high=total[3],
            total_unit=total_unit or "",
            plots=int(plots.sum()),
            estimator=estimator,
            reason=reason,
            map_mean=cells.mean,
            correction=found.mean - cells.mean,
            parameter_se=math.sqrt(parameters) if dependent else math.nan,
            residual_se=math.sqrt(residual) if dependent else math.nan,
            independent_cells=field.independent(cells.weights, cells.cell, cells.split) if dependent else math.nan,
            extrapolated_share=cells.extrapolated,
            note="; ".join(self._remarks(polygon, cells, plots, low, dependent)),
            geometry=polygon,
        )

    def _estimate(self, polygon: shapely.Geometry, cells: AreaCells, plots: BoolArray) -> tuple[str, MeanEstimate | None, str]:
        """Name, estimate (None for the model-dependent one) and reason."""
        count = int(plots.sum())
        if self.design == "none":
            return "model-dependent", None, "the plots are taken to be no probability sample (--design none)"
        if count < FEWEST_FOR_GREG:
            return "model-dependent", None, f"{_inside(count)}, GREG needs {FEWEST_FOR_GREG}: estimated from the model alone"
        differences, residuals = self.differences[plots], self.field.errors[plots]
        if self.strata is None:
            return "GREG", greg(cells.mean, differences, residuals), f"{count} plots of a random sample inside"
        shares, uncovered = self._shares(polygon, cells)
        if uncovered > 0.01:
            return (
                "model-dependent",
                None,
                f"{100 * uncovered:.0f} % of the area lies in no stratum: estimated from the model alone",
            )
        member = self.strata.of_plot[plots]
        few = [
            f"{name} has {int((member == at).sum())}"
            for at, name in enumerate(self.strata.names)
            if shares[at] > 0 and (member == at).sum() < FEWEST_IN_STRATUM
        ]
        if few:
            text = (
                f"GREG needs {FEWEST_IN_STRATUM} plots in every stratum inside, {', '.join(few)}: estimated from the model alone"
            )
            return "model-dependent", None, text
        found = stratified_greg(cells.mean, differences, residuals, member, shares)
        return "stratified GREG", found, f"{count} plots of a stratified random sample inside"

    def _shares(self, polygon: shapely.Geometry, cells: AreaCells) -> tuple[Float64, float]:
        """[H] share of each stratum in what the strata cover of the area with data, and the share that they do not cover."""
        assert self.strata is not None
        parts = shapely.intersection(self.strata.geometry, polygon)
        sizes = np.array([0.0 if shapely.is_empty(part) else self.surface.covered(part) for part in parts])
        known = float(sizes.sum())
        return (sizes / known if known > 0 else sizes), max(0.0, 1.0 - known / cells.covered)

    def _remarks(self, polygon: shapely.Geometry, cells: AreaCells, plots: BoolArray, low: float, dependent: bool) -> list[str]:
        found = []
        share = cells.covered / cells.area
        if share < 0.9995:
            found.append(f"covers the {100 * share:.3g} % of the area that has data")
        if low < 0:
            found.append("the interval reaches below 0: the plots are too few for the area")
        if dependent and cells.above_plots > _MOST_ABOVE:
            found.append(f"on {100 * cells.above_plots:.0f} % of it the map is above the predictions of all plots")
        if not dependent:
            hull = shapely.convex_hull(shapely.multipoints(self.places[plots]))
            held = shapely.area(shapely.intersection(hull, polygon)) * self.surface.scale**2 / cells.covered
            if held < _LEAST_HULL:
                found.append(f"warning: its plots enclose {100 * held:.0f} % of it: were they drawn from all of it?")
        return found


def _on_the_map(surface: MapCells, plots: HeldOut, model: str | Path) -> tuple[Float64, Float64, list[str]]:
    """[P] mean of the map under each plot (NaN where it has no data), the same if its model had not seen that plot, and notes.

    A map of a variable that cannot be negative, averaged over the cells of a plot, is more than the prediction from the averaged
    cells: single cells are cut off at 0. So the held-out prediction is moved by what map and model differ by there.
    """
    if plots.fitted is None or plots.area is None:
        raise InputError(model, "was fitted by an older version of fusion3d", "fit again, and map again")
    shapes = discs(plots.x, plots.y, np.sqrt(plots.area / np.pi), surface.file.crs)
    mapped = surface.means(shapes)
    known = np.isfinite(mapped)
    shift = np.where(known, mapped - plots.fitted, 0.0)
    notes = []
    if known.any() and np.abs(shift[known]).mean() > _MOST_SHIFTED * np.abs(plots.measured - plots.predicted).mean():
        notes.append(
            f"map and model differ by {shift[known].mean():+.3g} on average under the plots, since cells are not of the plots' "
            "size: estimates are corrected for that, a map on cells about as large as a plot needs less of it"
        )
    return mapped, plots.predicted + shift, notes


def _whole(surface: MapCells) -> Areas:
    """The cells with data of the whole map: its area is that of its extent."""
    return Areas(surface.file.path, ("whole map",), np.array([surface.extent, None], dtype=object)[:-1], ())


def _strata(
    surface: MapCells, plots: HeldOut, strata: str | Path, column: str | None, model: str | Path
) -> tuple[_Strata, list[str]]:
    """The strata, and what is doubtful of them."""
    if plots.stratum is None:
        raise InputError(model, "its plots have no strata", "fit again with --stratum COLUMN of the plots")
    found = read_areas(strata, surface.file.crs, name=column, merge=True)
    if "" in plots.stratum:
        problem = f"{plots.stratum.count('')} of its plots have no stratum"
        raise InputError(model, problem, "fill in their stratum, or leave these plots away, and fit again")
    missing = sorted(set(plots.stratum) - set(found.names))
    if missing:
        there = ", ".join(found.names)
        raise InputError(
            strata, f"has no stratum {missing[0]!r} of the plots", f"it has {there}; choose the column with --stratum"
        )
    area, union = float(shapely.area(found.geometry).sum()), float(shapely.area(shapely.union_all(found.geometry)))
    if area > (1 + _MOST_TWICE) * union:
        share = f"{100 * (area / union - 1):.0f} %"
        raise InputError(strata, f"its strata overlap: {share} of their ground counts twice", "give each place to one stratum")
    number = {name: at for at, name in enumerate(found.names)}
    of_plot = np.array([number[name] for name in plots.stratum], np.int64)
    assert plots.area is not None
    away = shapely.distance(found.geometry[of_plot], shapely.points(plots.x, plots.y)) * surface.scale
    astray = int((away > np.sqrt(plots.area / np.pi)).sum())
    if 2 * astray > len(of_plot):
        problem = f"{astray} of {len(of_plot)} plots do not lie in the stratum that they are said to be of"
        raise InputError(strata, problem, "give the strata that the plots were drawn from")
    warning = (
        f"warning: {astray} plots do not lie in the stratum that they are said to be of: are these the strata of the sample?"
    )
    return _Strata(found.names, found.geometry, of_plot), [warning] if astray else []


def _same_variable(surface: MapCells, card: Scorecard, model: str | Path) -> str:
    """Unit of the map, which must be of the model's variable in its unit."""
    file = surface.file
    if "target" not in file.tags:
        raise InputError(file.path, "does not say what it is a map of", "give a map that `fusion3d map` wrote")
    target, unit = file.tags["target"], file.units[0] or file.tags.get("unit", "")
    if target != card.target:
        raise InputError(
            file.path, f"is a map of {target}, the model in {model} is of {card.target}", "give map and model of one fit"
        )
    if unit and card.unit and unit != card.unit:
        raise InputError(file.path, f"is in {unit}, the plots in {model} are in {card.unit}", "give map and model of one fit")
    return unit or card.unit


def _total_unit(unit: str) -> str | None:
    """Unit of a total where that of the mean is per hectare (Mg for Mg/ha), else None."""
    found = _PER_HECTARE.match(unit.strip())
    return None if found is None else found["what"].strip()


def _inside(count: int) -> str:
    return "1 plot inside" if count == 1 else f"{count} plots inside"


def _keep_inputs(out: str | Path, *inputs: str | Path | None) -> None:
    """Refuse to write the table over a file that it is made from."""
    for path in inputs:
        if path is not None and Path(out).exists() and Path(path).exists() and Path(out).samefile(path):
            raise InputError(out, "is the file of the polygons, which the table would replace", "give another name for the table")
