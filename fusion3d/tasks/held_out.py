"""Held-out plots as a table: `predictions.csv`."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fusion3d.io.csv_table import write_table
from fusion3d.io.json_file import file_of, parsing

Float64 = npt.NDArray[np.float64]

PREDICTIONS_FILE = "predictions.csv"
_OPTIONAL = ("baseline", "fitted", "area", "lower", "upper")
_REMEDY = "give the file that `fusion3d fit` wrote"


@dataclass(frozen=True)
class HeldOut:
    """Every plot with what a model that had not seen it predicted; the columns of `predictions.csv`.

    Attributes
    ----------
    plot : [P] names
    x, y : [P] centres in the embedding map's CRS
    fold, block : [P] numbers
    measured, predicted, null : [P] in the target's unit; null is the mean of the training plots
    baseline : [P], NaN where the baseline raster has no data (an empty field); None without one
    stratum : [P] or None
    fitted : [P] what the model that was trained with all plots predicts
    area : [P] of the plots, m2
    lower, upper : [P] ends of the interval of the prediction, calibrated on other folds; NaN (an empty field) where too few plots
        are there for the level; None in tables of older versions
    """

    plot: tuple[str, ...]
    x: Float64
    y: Float64
    fold: npt.NDArray[np.int64]
    block: npt.NDArray[np.int64]
    measured: Float64
    predicted: Float64
    null: Float64
    baseline: Float64 | None = None
    stratum: tuple[str, ...] | None = None
    fitted: Float64 | None = None
    area: Float64 | None = None
    lower: Float64 | None = None
    upper: Float64 | None = None

    def write(self, path: str | Path) -> Path:
        """Write the table as CSV, whole or not at all."""
        return write_table(path, self)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The table from its file, or from the folder that holds it.

        Raises
        ------
        InputError
            It is missing or lacks a column.
        """
        path = file_of(path, PREDICTIONS_FILE, "no predictions there", _REMEDY)
        with parsing(path, "is not a table of predictions", _REMEDY):
            with path.open(encoding="utf-8", newline="") as file:
                header, *rows = csv.reader(file)
            columns = {name: [row[at] for row in rows] for at, name in enumerate(header)}
            read: dict[str, Any] = {name: tuple(columns[name]) for name in ("plot", "stratum") if name in columns}
            read |= {name: np.array(columns[name], dtype=np.int64) for name in ("fold", "block")}
            numbers = [name for name in ("x", "y", "measured", "predicted", "null", *_OPTIONAL) if name in columns]
            read |= {name: np.array([float(value or "nan") for value in columns[name]]) for name in numbers}
            return cls(**read)
