"""What als encoders say of squares of ground: pretrained ones, and the same with random weights as a control."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from fusion3d.evaluation.checkpoint import choose_sensors, load_pretraining
from fusion3d.mapping.mapper import Mapper
from fusion3d.mapping.tiles import read_ahead
from fusion3d.store import Store

Float64 = npt.NDArray[np.float64]
Polygons = npt.NDArray[np.object_]

SQUARE = 10.0
"""Metres: side of the squares."""
_TILE = 64
_INSIDE = 0.01


@dataclass(frozen=True)
class Scale:
    """Metres that a store is prepared with: voxels, and columns of which a whole number makes the side of a square."""

    voxel: float = 1.0
    column: float = SQUARE


@dataclass(frozen=True)
class AlsEncoders:
    """Run folders of `fusion3d pretrain` by the name that tables give them."""

    runs: Mapping[str, Path]

    def scales(self) -> dict[str, Scale]:
        """By name of the run, what its training's store was prepared with; of no run, the default under "" for metrics alone."""
        found = {}
        for name, run in self.runs.items():
            scene = load_pretraining(run, "cpu").hparams["scene"]
            found[name] = Scale(float(scene["voxel"]), float(scene["column"]))
        return found or {"": Scale()}

    def reach(self, name: str, scale: Scale) -> float:
        """Metres around a column that the encoder of a run sees, in whole columns; 0 without a run."""
        if not name:
            return 0.0
        module = load_pretraining(self.runs[name], "cpu")
        return scale.column * float(module.encoders["als"].receptive_field(scale.column, voxel=scale.voxel))

    def embedded(self, name: str, store: Store, squares: Polygons) -> Iterator[tuple[str, tuple[str, ...], Float64]]:
        """In words, names of dimensions, and [squares, D] means over the columns in each that hold a return: pretrained, then
        random. Nothing without a run."""
        for untrained in (False, True) if name else ():
            module = load_pretraining(self.runs[name], "cpu", untrained=untrained)
            fusion, features = ("mean", "shared") if module.fusion is None else ("attention", "all")
            mapper = Mapper(module, store, choose_sensors(module, store, ["als"]), fusion=fusion, features=features)
            words = f"als, random weights of {name}" if untrained else f"als, pretrained on {name}"
            yield words, tuple(mapper.bands), _means(_all_cells(mapper), store, squares)


def _all_cells(mapper: Mapper) -> Float64:
    """[D, rows, cols] of a store's columns, NaN without a return."""
    values = np.full((len(mapper.bands), mapper.map.rows, mapper.map.cols), np.nan)
    for window, batches in read_ahead(mapper.map.tiles(_TILE), mapper.read):
        if batches:
            cells = mapper.embed(window, batches)
            at = cells.window
            values[:, at.row : at.row_stop, at.col : at.col_stop] = cells.values
    return values


def _means(cells: Float64, store: Store, squares: Polygons) -> Float64:
    rows = []
    for square in squares:
        # a hair smaller, so that rounding does not take in the columns beside
        window = store.grid.covering_window(shapely.buffer(square, -_INSIDE).bounds)
        assert window.rows == window.cols == math.ceil(SQUARE / store.grid.column - _INSIDE)
        rows.append(np.nanmean(cells[:, window.row : window.row_stop, window.col : window.col_stop], axis=(1, 2)))
    return np.array(rows)
