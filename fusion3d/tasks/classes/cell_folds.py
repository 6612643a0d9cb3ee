"""Folds of cells: blocks of ground, held out whole and with all cells of the polygons that belong to them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError
from fusion3d.evaluation.blocks import random_folds, spatial_folds, stratum_folds
from fusion3d.tasks.classes.cell_samples import LabelledCells
from fusion3d.tasks.scorecard import FoldFacts

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CellFolds:
    """Which cells are held out together.

    Attributes
    ----------
    facts : how
    fold, group : [N] from 0; groups are blocks (polygons when folds are random)
    position : [N, 2] centres of the cells, metres
    notes : in words
    """

    facts: FoldFacts
    fold: Int64
    group: Int64
    position: Float64
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return int(self.fold.max()) + 1

    def split(self, number: int) -> tuple[BoolArray, BoolArray]:
        """[N] cells to train with, without those near a held-out one, and [N] cells held out."""
        held_out = self.fold == number
        training = ~held_out
        if self.facts.buffer > 0 and held_out.any() and training.any():
            from scipy.spatial import cKDTree

            reach = self.facts.buffer * (1 + 1e-9)
            apart, _ = cKDTree(self.position[held_out]).query(self.position[training], distance_upper_bound=reach)
            training[training] = apart > reach
        return training, held_out


def cell_folds(
    cells: LabelledCells,
    position: Float64,
    pixel: float,
    scale: float,
    *,
    scheme: str = "blocks",
    block: float | None = None,
    folds: int = 5,
    buffer: float | None = None,
    seed: int = 0,
) -> CellFolds:
    """Deal cells to folds.

    Parameters
    ----------
    position : [N, 2] centres of the cells, metres
    pixel : side of a cell, metres
    scale : metres in a unit of the map's CRS
    scheme : "blocks" of ground by the centroid of a polygon, "random" polygons (or cells), or "strata" of polygons
    block : side of a block, metres; None chooses it from polygons or cells
    buffer : metres between centres of held-out cells and those trained with; None for the diagonal of a cell with blocks and
        strata, so that no cell is trained with beside a held-out one

    Raises
    ------
    ConfigError
        None can be held out, or an option is out of range.
    """
    apart = math.sqrt(2) * pixel if buffer is None and scheme != "random" else buffer or 0.0
    if not (math.isfinite(apart) and apart >= 0):
        raise ConfigError(f"--buffer {buffer} must be a number of metres, 0 or more")
    if scheme == "random":
        units = random_folds(cells.geometry, scale, folds=folds, seed=seed)
    elif scheme == "strata":
        units = stratum_folds(cells.geometry, scale, cells.strata or (), side=block, seed=seed)
    else:
        units = spatial_folds(cells.geometry, scale, side=block, folds=folds, seed=seed)
    facts = FoldFacts(scheme, units.count, units.groups, units.side, apart, seed)
    notes = tuple(note.replace("a plot is", f"{cells.units} are").replace("plots", cells.units) for note in units.notes)
    return CellFolds(facts, units.fold[cells.unit], units.group[cells.unit], position, notes)
