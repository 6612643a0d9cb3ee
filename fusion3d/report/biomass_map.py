"""A predicted map beside the truth, on one colour scale, how they differ, and how sure the map is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.errors import Fusion3DError
from fusion3d.report.drawing import Picture, draw_map, map_height, render, sheet, style
from fusion3d.report.markup import damaged, figure, number, sentence, table
from fusion3d.report.raster_view import Float32, Place, facts, read_on
from fusion3d.tasks.domain import EXTRAPOLATION

_LONGEST = 600
_END = re.compile(r"_(lower|upper)\d")
_OUTSIDE = "#e4002b"


@dataclass(frozen=True)
class Agreement:
    """A map against the truth in the n cells that both know: R2 (1 - residual over total sum of squares), RMSE, bias (map minus
    truth)."""

    n: int
    r2: float
    rmse: float
    bias: float


def agreement(predicted: np.ndarray, measured: np.ndarray) -> Agreement:
    """Of two arrays of one shape, where both are finite; R2 is NaN where the truth does not vary."""
    both = np.isfinite(predicted) & np.isfinite(measured)
    error = predicted[both].astype(np.float64) - measured[both]
    if not error.size:
        return Agreement(0, np.nan, np.nan, np.nan)
    total = float(((measured[both] - measured[both].mean(dtype=np.float64)) ** 2).sum(dtype=np.float64))
    r2 = 1 - float((error**2).sum()) / total if total > 0 else np.nan
    return Agreement(error.size, r2, float(np.sqrt((error**2).mean())), float(error.mean()))


def map_section(path: Path, truth: Path | None, variable: str, unit: str) -> str:
    """The map of a variable beside its truth, where that is known.

    Parameters
    ----------
    variable : name of what is mapped
    unit : when the map does not state its own
    """
    header = facts(path, _LONGEST)
    unit = header.unit or unit or "unit not stated"
    place = header.place
    predicted = read_on(path, place, [1])[0]
    spread = map_error(path)
    real, problem = None, ""
    if truth is not None:
        try:
            real = read_on(truth, place, [1])[0]
        except Fusion3DError as error:
            problem = damaged(error)
    panels = [(variable + ", mapped", predicted)] if real is None else [(variable + ", mapped", predicted), ("truth", real)]
    cell = place.pixel * place.unit
    caption = f"{variable} in {unit}, cells of {cell:g} m, north up; grey: not mapped. "
    if real is not None:
        caption += (
            "Map and truth have one colour scale. Difference: map minus truth; orange, the map is too low; purple, too high. "
        )
    if spread is not None:
        caption += f"Last: {spread.name}. "
        if spread.outside is not None:
            share = float(spread.outside[np.isfinite(predicted)].mean()) if np.isfinite(predicted).any() else 0.0
            caption += (
                f"Red there: {100 * share:.1f} % of the mapped cells, in which the model extrapolates (outside the area of "
                "applicability: unlike all plots it was fitted on). "
            )
    body = figure(draw_maps(panels, place, unit, spread), caption, f"Map of {variable}")
    if real is None and truth is not None:
        body += problem
    elif real is None:
        body += sentence(
            f"No truth raster was given; name one with --truth {variable}=FILE.tif to see it beside the map.", "note"
        )
    else:
        found = agreement(predicted, real)
        known = int(np.isfinite(predicted).sum())
        if found.n < 0.9 * known:
            body += sentence(
                f"The truth raster knows {found.n} of the {known} mapped cells: it is of another place, or smaller.", "note"
            )
        theirs = facts(truth, 1).unit
        if theirs and header.unit and theirs != header.unit:
            body += sentence(f"The truth raster is in {theirs}, the map in {header.unit}: they do not compare.", "damaged")
        row = [_count(found.n), number(found.r2), number(found.rmse), number(found.bias)]
        body += table(
            ["cells that both know", "R²", f"RMSE ({unit})", f"bias ({unit})"], [row], left=0, caption="Map against truth"
        )
    return body


def other_truth(truth: Mapping[str, Path]) -> str:
    """Maps of the truth that no map is compared with, by name."""
    body = ""
    for name, path in truth.items():
        header = facts(path, _LONGEST)
        values = read_on(path, header.place, [1])[0]
        caption = f"Truth of {name}, {header.unit or 'unit not stated'}; no map of it was given."
        body += figure(draw_maps([(name, values)], header.place, header.unit), caption, f"Truth of {name}")
    return body


@dataclass(frozen=True)
class MapError:
    """How sure a map is: name and values [rows, cols] of what says so, and where [rows, cols] the model extrapolates."""

    name: str
    values: Float32
    outside: npt.NDArray[np.bool_] | None = None


def map_error(path: Path) -> MapError | None:
    """Width of the interval and mask of extrapolation, as `fusion3d map` writes them; else the second band; None of one band."""
    header = facts(path, _LONGEST)
    if header.count < 2:
        return None
    place, names = header.place, header.names
    ends = {found.group(1): at + 1 for at, name in enumerate(names) if (found := _END.search(name))}
    outside = read_on(path, place, [names.index(EXTRAPOLATION) + 1])[0] > 0.5 if EXTRAPOLATION in names else None
    if ends.keys() == {"lower", "upper"}:
        lower, upper = read_on(path, place, [ends["lower"], ends["upper"]])
        # with too few plots for the level the ends are nowhere
        if np.isfinite(upper).any():
            level = header.tags.get("level", "")
            percent = f"{100 * float(level):g} % " if re.fullmatch(r"0?\.\d+", level) else ""
            return MapError(f"width of the {percent}interval", upper - lower, outside)
    return MapError(names[1], read_on(path, place, [2])[0], outside)


def draw_maps(panels: list[tuple[str, Float32]], place: Place, unit: str, error: MapError | None = None) -> Picture:
    """One or two maps on one colour scale, their difference when they are two, and how sure the first is."""
    shown = np.concatenate([values[np.isfinite(values)] for _, values in panels])
    low, high = np.percentile(shown, (0.5, 99.5)) if shown.size else (0.0, 1.0)
    low = 0.0 if low >= 0 and low < 0.2 * high else low
    high = high if high > low else low + 1
    extra: list[tuple[str, Float32, str, dict[str, Any]]] = []
    if len(panels) == 2:
        difference = panels[0][1] - panels[1][1]
        far = difference[np.isfinite(difference)]
        bound = max(float(np.percentile(np.abs(far), 99)), 1e-9) if far.size else 1.0
        extra.append(("difference", difference, "PuOr", {"vmin": -bound, "vmax": bound, "extend": "both"}))
    if error is not None:
        spread = error.values[np.isfinite(error.values)]
        top = max(float(np.percentile(spread, 99.5)), 1e-9) if spread.size else 1.0
        extra.append((error.name, error.values, "cividis", {"vmin": 0, "vmax": top, "extend": "max"}))
    count = len(panels) + len(extra)
    from matplotlib.colors import to_rgba

    with style():
        width = {1: 6.0, 2: 9.0}.get(count, 11.0)
        drawn = sheet(min(7.0, map_height(place, count, 1.4) if count > 2 else map_height(place, 2, 1.4)), width)
        axes = list(drawn.subplots(1, count, squeeze=False).flat)
        image = None
        for at, (name, values) in enumerate(panels):
            image = draw_map(axes[at], values, place, name, inner=at > 0, cmap="viridis", vmin=low, vmax=high)
        drawn.colorbar(image, ax=axes[: len(panels)], label=unit, extend="both", shrink=0.8, pad=0.015)
        for at, (name, values, colours, limits) in enumerate(extra, start=len(panels)):
            extend = limits.pop("extend")
            image = draw_map(axes[at], values, place, name, inner=True, cmap=colours, **limits)
            drawn.colorbar(image, ax=axes[at], label=unit, extend=extend, shrink=0.8, pad=0.02)
        if error is not None and error.outside is not None:
            left, bottom, right, top = place.bounds
            red = np.where(error.outside[..., None], to_rgba(_OUTSIDE), (0.0, 0.0, 0.0, 0.0))
            axes[-1].imshow(red, origin="upper", extent=(left, right, bottom, top), interpolation="nearest")
        axes[0].set_xlabel(place.axis_label)
        return render(drawn)


def _count(value: int) -> str:
    return f"{value:,}".replace(",", " ")
