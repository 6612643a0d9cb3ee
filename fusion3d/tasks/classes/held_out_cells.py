"""Held-out cells as a table: `predictions.csv`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusion3d.io.csv_table import write_table

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HeldOutCells:
    """Every cell with the class that a model which had not seen it gave it; the columns of `predictions.csv`.

    Attributes
    ----------
    row, col : [N] of the map
    x, y : [N] centres in the map's CRS
    unit : [N] name of its polygon, "" for a raster
    fold, block : [N] numbers
    share : [N] of the cell that its class has
    measured, predicted, commonest : [N] names of classes; commonest is that of the cells that were trained with
    confidence : [N] probability of what was predicted, calibrated on other folds
    baseline : [N] name of a class, "" where the baseline raster has no data; None without one
    """

    row: Int64
    col: Int64
    x: Float64
    y: Float64
    unit: tuple[str, ...]
    fold: Int64
    block: Int64
    share: Float64
    measured: tuple[str, ...]
    predicted: tuple[str, ...]
    commonest: tuple[str, ...]
    confidence: Float64
    baseline: tuple[str, ...] | None = None

    def write(self, path: str | Path) -> Path:
        """Write the table as CSV, whole or not at all."""
        return write_table(path, self)
