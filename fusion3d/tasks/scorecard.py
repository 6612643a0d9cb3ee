"""What a fit is worth, as files: `scores.json` with scores and how they came about, `predictions.csv` with held-out plots."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fusion3d import __version__
from fusion3d.errors import InputError
from fusion3d.evaluation.table import text_table
from fusion3d.io.whole_file import write_whole
from fusion3d.tasks.scores import Scores

Float64 = npt.NDArray[np.float64]

SCORES_FILE, PREDICTIONS_FILE = "scores.json", "predictions.csv"
_FORMAT = "fusion3d scores"
_REMEDY = "give the file that `fusion3d fit` wrote"


@dataclass(frozen=True)
class FoldFacts:
    """How plots were held out.

    Attributes
    ----------
    scheme : "blocks" (of ground) or "random"
    count : folds
    groups : blocks that hold plots
    side : of a block, metres; None when random
    buffer : metres; no plot that close to a held-out one was trained with
    seed : of the assignment of blocks to folds
    """

    scheme: str
    count: int
    groups: int
    side: float | None
    buffer: float
    seed: int

    def __str__(self) -> str:
        kept = f", plots within {self.buffer:.3g} m of a held-out one not trained with" if self.buffer else ""
        if self.side is None:
            return f"{self.count} random folds{kept}"
        return f"{self.count} folds of {self.groups} blocks of {self.side:g} m{kept}"


@dataclass(frozen=True)
class Scorecard:
    """Scores on held-out plots; the keys of `scores.json`, beside "format".

    Attributes
    ----------
    task, target, unit, transform : as asked for
    embedding, labels : files; baseline_file : raster of the baseline or None
    dimensions : bands of the embedding
    plots : used
    folds : how they were held out
    penalty : of the model on all plots; fold_penalties : of those that were scored
    model : scores of the ridge model on the embedding
    null : of the mean of the training plots
    baseline : of the same ridge on the baseline raster's mean and percentiles, on the plots that it covers; None without one
    strata : of the ridge model, by stratum; None without strata
    notes : what was left out or should be known, in words
    version : of fusion3d
    """

    task: str
    target: str
    unit: str
    transform: str
    embedding: str
    labels: str
    baseline_file: str | None
    dimensions: int
    plots: int
    folds: FoldFacts
    penalty: float
    fold_penalties: tuple[float, ...]
    model: Scores
    null: Scores
    baseline: Scores | None = None
    strata: dict[str, Scores] | None = None
    notes: tuple[str, ...] = ()
    version: str = __version__

    def table(self) -> str:
        """The scores as text, with 90 % intervals in brackets."""
        unit = f" {self.unit}" if self.unit else ""
        header = ["model", "n", "R2", f"RMSE{unit}", "RMSE %", f"MAE{unit}", f"bias{unit}"]
        named = [("embedding", self.model), ("mean of training plots", self.null)]
        if self.baseline is not None:
            named.insert(1, (f"baseline {Path(self.baseline_file or '').name}", self.baseline))
        named += [(f"stratum {name or '(none)'}", found) for name, found in (self.strata or {}).items()]
        return text_table(header, [[name, str(found.n), *_row(found)] for name, found in named])

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        plain = {"format": _FORMAT, **{item.name: getattr(self, item.name) for item in fields(self)}}
        plain["folds"] = asdict(self.folds)
        for name in ("model", "null", "baseline"):
            found = getattr(self, name)
            plain[name] = None if found is None else found.to_json()
        plain["strata"] = None if self.strata is None else {name: found.to_json() for name, found in self.strata.items()}
        return plain

    def write(self, path: str | Path) -> Path:
        """Write `scores.json`, whole or not at all."""
        return write_whole(Path(path), json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """A scorecard from its file, or from the folder that holds it.

        Raises
        ------
        InputError
            It is missing or is no such file.
        """
        path = Path(path)
        path = path / SCORES_FILE if path.is_dir() else path
        if not path.is_file():
            raise InputError(path, "no scores there", _REMEDY)
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            if plain.pop("format") != _FORMAT:
                raise ValueError("another format")
            plain["folds"] = FoldFacts(**plain["folds"])
            for name in ("fold_penalties", "notes"):
                plain[name] = tuple(plain[name])
            for name in ("model", "null", "baseline"):
                plain[name] = None if plain[name] is None else Scores.from_json(plain[name])
            if plain["strata"] is not None:
                plain["strata"] = {name: Scores.from_json(found) for name, found in plain["strata"].items()}
            return cls(**plain)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:80]
            raise InputError(path, f"is not a file of scores ({type(error).__name__}: {reason})", _REMEDY) from None


def _row(found: Scores) -> list[str]:
    relative = found.relative_rmse
    percent = type(relative)(100 * relative.value, 100 * relative.low, 100 * relative.high)
    return [found.r2.text(), *(_significant(figure) for figure in (found.rmse, percent, found.mae, found.bias))]


def _significant(figure: Any) -> str:
    """Three digits for what is below 100, whole numbers above."""
    size = max(abs(value) for value in (figure.value, 0.0) if value == value)
    return str(figure.text(0 if size >= 100 else 1 if size >= 10 else 2))


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

    def write(self, path: str | Path) -> Path:
        """Write the table as CSV, whole or not at all."""
        text = io.StringIO()
        names = [item.name for item in fields(self) if getattr(self, item.name) is not None]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        for row in zip(*(getattr(self, name) for name in names), strict=True):
            writer.writerow([_cell(value) for value in row])
        return write_whole(Path(path), text.getvalue())

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The table from its file, or from the folder that holds it.

        Raises
        ------
        InputError
            It is missing or lacks a column.
        """
        path = Path(path)
        path = path / PREDICTIONS_FILE if path.is_dir() else path
        if not path.is_file():
            raise InputError(path, "no predictions there", _REMEDY)
        try:
            with path.open(encoding="utf-8", newline="") as file:
                header, *rows = csv.reader(file)
            columns = {name: [row[at] for row in rows] for at, name in enumerate(header)}
            read = {name: tuple(columns[name]) for name in ("plot", "stratum") if name in columns}
            read |= {name: np.array(columns[name], dtype=np.int64) for name in ("fold", "block")}
            numbers = [name for name in ("x", "y", "measured", "predicted", "null", "baseline") if name in columns]
            read |= {name: np.array([float(value or "nan") for value in columns[name]]) for name in numbers}
            return cls(**read)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            reason = " ".join(str(error).split())[:80]
            raise InputError(path, f"is not a table of predictions ({type(error).__name__}: {reason})", _REMEDY) from None


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "" if value != value else repr(float(value))
    return str(value)
