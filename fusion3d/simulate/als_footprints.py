"""Points of aerial LiDAR under footprints: gathered file by file, and turned into the energy of a waveform.

Weights of a return (Hancock et al. 2019, doi:10.1029/2018EA000506): the footprint's Gaussian, over the density of
pulses around it (overlapping flight lines must not count twice), times one of

- fraction: 1 / number of returns of its pulse, so that every pulse carries the same energy
- count: 1
- intensity: as recorded
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion3d.simulate.waveform import FOOTPRINT_RADIUS, Returns, footprint_weight

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

WEIGHTINGS = ("fraction", "count", "intensity")
NOMINAL_REFLECTANCE = 0.45
"""All waveforms return this share of the light: aerial data do not know the absolute."""

_CELL = 3.0
"""Metres; pulses are counted in cells of this side."""
_HASH = 2.0 * FOOTPRINT_RADIUS
_LAYOUT = np.dtype([("z", "f4"), ("dx", "f4"), ("dy", "f4"), ("fraction", "f4"), ("intensity", "f4"), ("ground", "?")])


@dataclass(frozen=True)
class PointsUnder:
    """Points under one footprint, [N] records: height z, offset from its centre (metres), share of a pulse, intensity, ground."""

    records: np.ndarray

    def __len__(self) -> int:
        return len(self.records)

    @property
    def pulses(self) -> float:
        """Pulses per m2 of the footprint."""
        return float(self.records["fraction"].sum() / (math.pi * FOOTPRINT_RADIUS**2))

    @property
    def covered(self) -> float:
        """Share of the footprint's energy that falls on cells with points."""
        middle = (np.arange(math.floor(-FOOTPRINT_RADIUS / _CELL), math.ceil(FOOTPRINT_RADIUS / _CELL)) + 0.5) * _CELL
        weight = footprint_weight(*np.meshgrid(middle, middle))
        rows, cols = _cells(self.records)
        known = np.zeros(weight.shape, bool)
        known[rows, cols] = True
        return float(weight[known].sum() / weight.sum())

    def returns(self, weighting: str) -> Returns:
        """Energy by height; sums to `NOMINAL_REFLECTANCE`, or has no energy where all weights are 0."""
        records = self.records
        rows, cols = _cells(records)
        side = int(max(rows.max(initial=0), cols.max(initial=0))) + 1
        cell = rows * side + cols
        pulses = np.bincount(cell, records["fraction"].astype(np.float64), side * side)
        own = {"fraction": records["fraction"], "count": np.ones(len(records)), "intensity": records["intensity"]}[weighting]
        energy = self._light() * own / pulses[cell]
        total = energy.sum()
        return Returns(records["z"].astype(np.float64), energy * (NOMINAL_REFLECTANCE / total) if total > 0 else energy)

    def ground(self) -> float:
        """Mean height of the points classified as ground, weighted by the footprint's light; NaN without any."""
        light = self._light()[self.records["ground"]]
        return (
            float(light @ self.records["z"][self.records["ground"]].astype(np.float64) / light.sum())
            if light.sum() > 0
            else np.nan
        )

    def _light(self) -> Float64:
        return footprint_weight(self.records["dx"].astype(np.float64), self.records["dy"].astype(np.float64))


def _cells(records: np.ndarray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    first = math.floor(-FOOTPRINT_RADIUS / _CELL)
    return tuple(np.floor(records[axis] / _CELL).astype(np.int64) - first for axis in ("dy", "dx"))  # type: ignore[return-value]


class PointCollector:
    """Gathers the points under many footprints; those of a footprint are given away once and then forgotten.

    Parameters
    ----------
    x, y : [F] centres, metres
    """

    def __init__(self, x: Float64, y: Float64) -> None:
        self.x, self.y = x, y
        self._held: dict[int, list[np.ndarray]] = {}
        self._footprints: dict[tuple[int, int], list[int]] = {}
        for row in range(len(x)):
            for cell in _touched(x[row], y[row]):
                self._footprints.setdefault(cell, []).append(row)

    def add(
        self, x: Float64, y: Float64, z: Float64, fraction: Float64, intensity: npt.NDArray, ground: npt.NDArray[np.bool_]
    ) -> None:
        """Points [N]; coordinates in metres."""
        cols, rows = np.floor(x / _HASH).astype(np.int64), np.floor(y / _HASH).astype(np.int64)
        order = np.lexsort((cols, rows))
        cols, rows = cols[order], rows[order]
        if not len(x):
            return
        fresh = np.concatenate([[True], (cols[1:] != cols[:-1]) | (rows[1:] != rows[:-1])])
        starts = np.flatnonzero(fresh).tolist()
        for start, stop in zip(starts, [*starts[1:], len(x)], strict=True):
            for footprint in self._footprints.get((int(cols[start]), int(rows[start])), ()):
                which = order[start:stop]
                dx, dy = x[which] - self.x[footprint], y[which] - self.y[footprint]
                near = dx * dx + dy * dy < FOOTPRINT_RADIUS**2
                if not near.any():
                    continue
                which = which[near]
                records = np.empty(len(which), _LAYOUT)
                records["z"], records["dx"], records["dy"] = z[which], dx[near], dy[near]
                records["fraction"], records["intensity"], records["ground"] = fraction[which], intensity[which], ground[which]
                self._held.setdefault(footprint, []).append(records)

    def take(self, footprint: int) -> PointsUnder:
        """The points of a footprint, in an order that does not depend on that of the files."""
        return PointsUnder(np.sort(np.concatenate([np.empty(0, _LAYOUT), *self._held.pop(footprint, [])])))


def _touched(x: float, y: float) -> list[tuple[int, int]]:
    columns = sorted({math.floor((x + reach) / _HASH) for reach in (-FOOTPRINT_RADIUS, FOOTPRINT_RADIUS)})
    rows = sorted({math.floor((y + reach) / _HASH) for reach in (-FOOTPRINT_RADIUS, FOOTPRINT_RADIUS)})
    return [(col, row) for row in rows for col in columns]
