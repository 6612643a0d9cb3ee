"""Plot metrics of the returns in many cells at once; `metric_catalogue` says what each of them is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fusion3d.tasks.metric_catalogue import (
    COVER_HEIGHTS,
    DECILES,
    EXTINCTION,
    GAP_LAYERS,
    HEIGHT_PERCENTILES,
    INTENSITY_PERCENTILES,
    LEAF_BASE,
    RETURN_NUMBERS,
    VCI_TOP,
    Metric,
)
from fusion3d.tasks.sorted_cells import SortedCells

BoolArray = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

LEAST_RETURNS = 10
"""Returns of the kind that a metric counts, below which it is NaN: four are the least that its L-moments need, and percentiles
of fewer than ten say little."""
GROUND_CLASS = 2
NEAR_EDGE = 1e-5
"""Metres up to which a point counts as on an edge: stored places are float32 within a column."""
_ON_GROUND = 1e-6
"""Metres: less is what rounding leaves of returns on the ground model. A metric of such heights is no number to learn from: a
model that scales it to unit variance takes 1 m for 10^12 of them."""
_MOST_ECHOES = 16
_PIXEL = 1.0
"""Metres, of the canopy surface."""


@dataclass(frozen=True)
class CellReturns:
    """Returns in cells, in any order.

    Attributes
    ----------
    cell : [N] int64, cell of each return, in [0, cells)
    height : [N] metres above ground, finite
    place : [N, 2] metres east and south of the cell's north-west corner
    attributes : [N] each, by name: return_number, number_of_returns, intensity, classification, as far as there are
    cells : M
    size : metres, eastward and southward extent of the cells
    """

    cell: Int64
    height: Float32
    place: Float64
    attributes: dict[str, npt.NDArray[np.generic]]
    cells: int
    size: tuple[float, float]


def cell_metrics(
    returns: CellReturns, metrics: Sequence[Metric], *, min_height: float = 0.0, least: int = LEAST_RETURNS
) -> Float64:
    """Metrics [M, F] of each cell.

    Parameters
    ----------
    min_height : metres; height, L-moment and intensity metrics count the returns above it, 0 or less stands for all returns.
        Cover, gaps, leaf area, echoes and rumple always count all
    least : returns that a metric needs at least (of those it counts), else it is NaN
    """
    table = _Table(returns, min_height)
    found: dict[str, Float64] = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        for group in dict.fromkeys(metric.group for metric in metrics):
            found |= _GROUPS[group](table)
    values = np.full((returns.cells, len(metrics)), np.nan)
    for number, metric in enumerate(metrics):
        enough = table.counts(metric.returns) >= least
        values[enough, number] = found[metric.name][enough]
    return values


class _Table:
    """The returns of cells, sorted in the ways that groups of metrics need."""

    def __init__(self, returns: CellReturns, min_height: float) -> None:
        self.returns, self.cells = returns, returns.cells
        height = returns.height.astype(np.float32)
        self.height = np.where(height < _ON_GROUND, np.float32(0), height)
        self.floor = max(0.0, float(min_height))
        self._upper = None if self.floor == 0 else self.height > self.floor

    @cached_property
    def all(self) -> SortedCells:
        return SortedCells(self.returns.cell, self.height, self.cells)

    @cached_property
    def upper(self) -> SortedCells:
        if self._upper is None:
            return self.all
        return SortedCells(self.returns.cell[self._upper], self.height[self._upper], self.cells)

    @cached_property
    def intensity(self) -> SortedCells:
        values = self.returns.attributes["intensity"]
        if self._upper is None:
            return SortedCells(self.returns.cell, values, self.cells)
        return SortedCells(self.returns.cell[self._upper], values[self._upper], self.cells)

    @cached_property
    def echoes(self) -> Int64:
        """[M, 16, 16] returns by return number and number of returns; 15 stands for more, 0 for unknown."""
        parts = (
            np.minimum(self.returns.attributes[name], _MOST_ECHOES - 1) if name in self.returns.attributes else 0
            for name in ("return_number", "number_of_returns")
        )
        number, of = parts
        code = (self.returns.cell * _MOST_ECHOES + number) * _MOST_ECHOES + of
        return np.bincount(code, minlength=self.cells * _MOST_ECHOES**2).reshape(-1, _MOST_ECHOES, _MOST_ECHOES)

    def counts(self, kind: str) -> Int64:
        """[M] returns that a metric counts."""
        if kind == "first":
            return self.echoes[:, 1].sum(axis=1)
        return self.upper.counts if kind == "upper" else self.all.counts


def _ratio(part: Float64, whole: Float64, spread: BoolArray) -> Float64:
    """Quotient, 0 where the values have no spread."""
    return np.where(spread, part / whole, 0.0)


def _heights(table: _Table) -> dict[str, Float64]:
    heights = table.upper
    low, high, mean = heights.low, heights.high, heights.mean
    sd, skew, kurt, deviation = heights.moments()
    spread = high > low
    above = heights.counts - heights.count_at_most(np.nan_to_num(mean)[:, None])[:, 0]
    return {
        "zmax": high,
        "zmean": mean,
        "zsd": sd,
        "zcv": _ratio(100 * sd, mean, spread),
        "zskew": np.where(spread, skew, 0.0),
        "zkurt": np.where(spread, kurt, 0.0),
        "zMADmean": deviation,
        "CRR": _ratio(mean - low, high - low, spread),
        # the mean of equal heights may come out a rounding error below them
        "pzabovezmean": np.where(spread, 100 * above / heights.counts, 0.0),
    }


def _percentiles(table: _Table) -> dict[str, Float64]:
    ranks = table.upper.quantiles(np.array(HEIGHT_PERCENTILES) / 100)
    found = {f"zq{rank}": values for rank, values in zip(HEIGHT_PERCENTILES, ranks.T, strict=True)}
    return {**found, "ziqr": found["zq75"] - found["zq25"]}


def _layers(table: _Table) -> dict[str, Float64]:
    heights = table.upper
    layer = heights.values.astype(np.int64)
    places, cell = heights.runs(layer)
    number = np.floor(np.nan_to_num(heights.high)) + 1
    entropy = _entropy(np.diff(places), cell, table.cells)
    low = layer[places[:-1]] < VCI_TOP
    fixed = _entropy(np.diff(places)[low], cell[low], table.cells)
    return {"zentropy": _ratio(entropy, np.log(number), number > 1), "VCI": fixed / np.log(VCI_TOP)}


def _entropy(counts: Int64, cell: Int64, cells: int) -> Float64:
    """[M] Shannon's entropy of counts [R] in layers of cells [R], natural logarithm; 0 where there is one layer or none."""
    total = np.bincount(cell, counts, cells)
    share = counts / total[cell]
    found: Float64 = np.bincount(cell, -share * np.log(share), cells).astype(np.float64)
    return found


def _deciles(table: _Table) -> dict[str, Float64]:
    heights = table.upper
    high = np.nan_to_num(heights.high)[:, None]
    floor = np.full((table.cells, 1), table.floor)
    outside = heights.count_at_most(floor)
    total = heights.counts[:, None] - outside
    below = heights.count_below(floor + np.maximum(high - floor, 0) * np.array(DECILES) / 10)
    share = np.where(total > 0, 100 * (below - outside) / total, 0.0)
    return {f"zpcum{tenth}": values for tenth, values in zip(DECILES, share.T, strict=True)}


def _l_moments(table: _Table) -> dict[str, Float64]:
    heights = table.upper
    first, second, third, fourth = heights.l_moments()
    spread = heights.high > heights.low
    ratios = {"Lskew": (third, second), "Lkurt": (fourth, second), "Lcv": (second, first)}
    found = {"L1": first, "L2": second, "L3": third, "L4": fourth}
    return found | {name: _ratio(part, whole, spread) for name, (part, whole) in ratios.items()}


def _cover(table: _Table) -> dict[str, Float64]:
    heights = table.all
    share = 100 - 100 * heights.count_at_most(np.array(COVER_HEIGHTS, np.float64)) / heights.counts[:, None]
    return {f"pzabove{height}": values for height, values in zip(COVER_HEIGHTS, share.T, strict=True)}


def _first_cover(table: _Table) -> dict[str, Float64]:
    first = table.returns.attributes["return_number"] == 1
    steps = len(COVER_HEIGHTS) + 1
    passed = np.searchsorted(np.array(COVER_HEIGHTS, np.float32), table.height[first])
    number = np.bincount(table.returns.cell[first] * steps + passed, minlength=table.cells * steps).reshape(-1, steps)
    above = number[:, ::-1].cumsum(axis=1)[:, ::-1]
    return {f"pfirstabove{height}": 100 * above[:, step + 1] / above[:, 0] for step, height in enumerate(COVER_HEIGHTS)}


def _gaps(table: _Table) -> dict[str, Float64]:
    edges = sorted({edge for layer in GAP_LAYERS for edge in layer})
    passed = dict(zip(edges, table.all.count_at_most(np.array(edges, np.float64)).T, strict=True))
    return {f"gf{low}_{high}": _ratio(passed[low].astype(np.float64), passed[high], passed[high] > 0) for low, high in GAP_LAYERS}


def _leaves(table: _Table) -> dict[str, Float64]:
    """Leaf area density of the layers (k, k + 1]; a layer that no return leaves downwards is unknown, and so are those below."""
    heights, cells = table.all, table.cells
    layer = np.maximum(np.ceil(heights.values).astype(np.int64) - 1, LEAF_BASE - 1)
    places, cell = heights.runs(layer)
    entered, left = places[1:] - heights.splits[cell], places[:-1] - heights.splits[cell]
    of_leaves = (layer[places[:-1]] >= LEAF_BASE) & (left > 0)
    density, cell = np.log(entered[of_leaves] / left[of_leaves]) / EXTINCTION, cell[of_leaves]
    bottom = np.full(cells, LEAF_BASE, np.int64)
    filled = heights.counts > 0
    lowest = layer[heights.splits[:-1][filled]]
    bottom[filled] = np.where(lowest >= LEAF_BASE, lowest + 1, LEAF_BASE)
    number = np.maximum(np.ceil(np.nan_to_num(heights.high)) - bottom, 0)
    total, squares = np.bincount(cell, density, cells), np.bincount(cell, density**2, cells)
    least, most = np.full(cells, np.inf), np.zeros(cells)
    np.minimum.at(least, cell, density)
    np.maximum.at(most, cell, density)
    mean = np.where(number > 0, total / number, 0.0)
    # sum of squared deviations; the layers without returns are as far from the mean as the mean is large
    apart = np.bincount(cell, (density - mean[cell]) ** 2, cells) + (number - np.bincount(cell, minlength=cells)) * mean**2
    hidden = (number == 0) & (heights.high > LEAF_BASE)
    found = {
        "lad_min": np.where(np.bincount(cell, minlength=cells) == number, np.where(number > 0, least, 0.0), 0.0),
        "lad_max": most,
        "lad_mean": mean,
        "lad_cv": _ratio(np.sqrt(apart / (number - 1)), mean, (number > 1) & (squares > 0)),
        "lad_sum": total,
    }
    return {name: np.where(hidden, np.nan, values) for name, values in found.items()}


def _return_numbers(table: _Table) -> dict[str, Float64]:
    number = table.echoes.sum(axis=2)
    return {f"p{rank}th": 100 * number[:, rank] / table.counts("all") for rank in RETURN_NUMBERS}


def _echoes(table: _Table) -> dict[str, Float64]:
    number, of = np.mgrid[:_MOST_ECHOES, :_MOST_ECHOES]
    known = (number >= 1) & (number <= of)
    kinds = {"p_intermediate": (number > 1) & (number < of), "p_last": (number > 1) & (number == of), "p_single": of == 1}
    total = table.echoes[:, known].sum(axis=1)
    return {name: 100 * table.echoes[:, known & which].sum(axis=1) / total for name, which in kinds.items()}


def _intensity(table: _Table) -> dict[str, Float64]:
    values = table.intensity
    high, (sd, skew, kurt, _) = values.high, values.moments()
    spread = high > values.low
    ranks = values.quantiles(np.array(INTENSITY_PERCENTILES) / 100)
    return {
        "imax": high,
        "imean": values.mean,
        "isd": sd,
        "iskew": np.where(spread, skew, 0.0),
        "ikurt": np.where(spread, kurt, 0.0),
        **{f"iq{rank}": found for rank, found in zip(INTENSITY_PERCENTILES, ranks.T, strict=True)},
    }


def _rumple(table: _Table) -> dict[str, Float64]:
    returns = table.returns
    width, height = (max(1, int(np.ceil(length / _PIXEL - NEAR_EDGE))) for length in returns.size)
    pixel = np.floor((returns.place + NEAR_EDGE) / _PIXEL).astype(np.int64)
    col, row = np.clip(pixel[:, 0], 0, width - 1), np.clip(pixel[:, 1], 0, height - 1)
    # bit patterns of non-negative floats rise as the floats do, and integers compare many times faster; -1 is a NaN
    top = np.full(table.cells * height * width, -1, np.int32)
    np.maximum.at(top, (returns.cell * height + row) * width + col, table.height.view(np.int32))
    surface = top.view(np.float32).reshape(table.cells, height, width).astype(np.float64)
    return {"rumple": _roughness(surface)}


def _roughness(surface: Float64) -> Float64:
    """[M] mean of the area over planimetric area of triangles of three pixels of a square of four, NaN where there are none.

    Parameters
    ----------
    surface : [M, rows, cols] heights, NaN where unknown

    Each square is cut along both diagonals: its four triangles cover it twice, and no direction is preferred.
    """
    east, south = np.diff(surface, axis=2) / _PIXEL, np.diff(surface, axis=1) / _PIXEL
    north_side, south_side, west_side, east_side = east[:, :-1], east[:, 1:], south[:, :, :-1], south[:, :, 1:]
    total, number = np.zeros(len(surface)), np.zeros(len(surface), np.int64)
    for along in (north_side, south_side):
        for down in (west_side, east_side):
            area = np.sqrt(1 + along**2 + down**2).reshape(len(surface), -1)
            total += np.nansum(area, axis=1)
            number += np.isfinite(area).sum(axis=1)
    return total / number


def _ground(table: _Table) -> dict[str, Float64]:
    cell = table.returns.cell[table.returns.attributes["classification"] == GROUND_CLASS]
    return {"pground": 100 * np.bincount(cell, minlength=table.cells) / table.counts("all")}


def _number(table: _Table) -> dict[str, Float64]:
    return {"n": table.counts("all").astype(np.float64)}


_GROUPS: dict[str, Callable[[_Table], dict[str, Float64]]] = {
    "heights": _heights,
    "percentiles": _percentiles,
    "layers": _layers,
    "deciles": _deciles,
    "l_moments": _l_moments,
    "cover": _cover,
    "first_cover": _first_cover,
    "gaps": _gaps,
    "leaves": _leaves,
    "return_numbers": _return_numbers,
    "echoes": _echoes,
    "intensity": _intensity,
    "rumple": _rumple,
    "ground": _ground,
    "number": _number,
}
