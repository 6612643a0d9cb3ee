"""What a fit is worth, as a file: `scores.json` with scores, coverage and how they came about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from fusion3d import __version__
from fusion3d.evaluation.table import text_table
from fusion3d.tasks.card_file import CardFile
from fusion3d.tasks.conformal import LEVEL
from fusion3d.tasks.coverage import Coverage
from fusion3d.tasks.scores import Scores


@dataclass(frozen=True)
class FoldFacts:
    """How plots were held out.

    Attributes
    ----------
    scheme : "blocks" (of ground), "random" or "strata"
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
        return self.of("plots")

    def of(self, samples: str) -> str:
        """In words, for samples such as "plots", "cells" or "points"."""
        kept = f", {samples} within {self.buffer:.3g} m of a held-out one not trained with" if self.buffer else ""
        if self.side is None:
            return f"{self.count} random folds{kept}"
        if self.scheme == "strata":
            return f"{self.count} strata held out in turn{kept}"
        return f"{self.count} folds of {self.groups} blocks of {self.side:g} m{kept}"


@dataclass(frozen=True)
class Quartile:
    """A quarter of the held-out plots by what was predicted for them.

    Attributes
    ----------
    low, high : least and largest prediction
    scores : of the model there
    coverage : of its intervals; None where none were asked for
    """

    low: float
    high: float
    scores: Scores
    coverage: Coverage | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        covered = None if self.coverage is None else self.coverage.to_json()
        return {"low": self.low, "high": self.high, "scores": self.scores.to_json(), "coverage": covered}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `to_json`; KeyError or TypeError when something is missing."""
        covered = None if plain["coverage"] is None else Coverage.from_json(plain["coverage"])
        return cls(float(plain["low"]), float(plain["high"]), Scores.from_json(plain["scores"]), covered)


@dataclass(frozen=True)
class Scorecard(CardFile):
    """Scores on held-out plots; the keys of `scores.json`, beside "format".

    Attributes
    ----------
    task, target, unit, transform : as asked for
    embedding, labels : files; baseline_file : raster of the baseline or None
    dimensions : bands of the embedding
    plots : used
    folds : how they were held out
    chosen : what the model on all plots chose on them, by name (the penalty); fold_chosen : those that were scored
    model : scores of the model on the embedding
    null : of the mean of the training plots
    kind : of the model; method : in a sentence, with its source
    baseline : of the same kind of model on the baseline raster's mean and percentiles, on the plots that it covers; None without
        one
    area_based : of other methods in the same folds, by name: the area-based approach on the points of `store`, for instance
    strata : of the model, by stratum; None without strata
    quartiles : of the model, by quarter of prediction
    level : of intervals
    coverage : of the intervals of held-out plots, each calibrated on other folds; None in files of older versions
    strata_coverage : the same by stratum
    notes : what was left out or should be known, in words
    version : of fusion3d
    """

    FORMAT: ClassVar[str] = "fusion3d scores"
    CALLED: ClassVar[str] = "a file of scores"
    REMEDY: ClassVar[str] = "give the file that `fusion3d fit` wrote"

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
    chosen: dict[str, float]
    fold_chosen: tuple[dict[str, float], ...]
    model: Scores
    null: Scores
    kind: str = "ridge"
    method: str = ""
    baseline: Scores | None = None
    area_based: dict[str, Scores] | None = None
    store: str | None = None
    strata: dict[str, Scores] | None = None
    quartiles: tuple[Quartile, ...] = ()
    level: float = LEVEL
    coverage: Coverage | None = None
    strata_coverage: dict[str, Coverage] | None = None
    notes: tuple[str, ...] = ()
    version: str = __version__

    def table(self) -> str:
        """The scores as text, with 90 % intervals in brackets."""
        unit = f" {self.unit}" if self.unit else ""
        header = ["model", "n", "R2", f"RMSE{unit}", "RMSE %", f"MAE{unit}", f"bias{unit}"]
        rows: list[tuple[str, Scores, Coverage | None]] = [("embedding", self.model, self.coverage)]
        if self.baseline is not None:
            rows.append((f"baseline {Path(self.baseline_file or '').name}", self.baseline, None))
        rows += [(name, found, None) for name, found in (self.area_based or {}).items()]
        rows.append(("mean of training plots", self.null, None))
        for name, found in (self.strata or {}).items():
            rows.append((f"stratum {name or '(none)'}", found, (self.strata_coverage or {}).get(name)))
        rows += [(f"predicted {item.low:.4g} to {item.high:.4g}", item.scores, item.coverage) for item in self.quartiles]
        cells = [[name, str(found.n), *score_cells(found)] for name, found, _ in rows]
        if self.coverage is not None:
            header.append(f"within {100 * self.level:g} % interval")
            for row, (*_, covered) in zip(cells, rows, strict=True):
                row.append("-" if covered is None else covered.share.text())
        return text_table(header, cells)

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        plain = {"format": self.FORMAT, **{item.name: getattr(self, item.name) for item in fields(self)}}
        plain["folds"] = asdict(self.folds)
        for name in ("model", "null", "baseline", "coverage"):
            found = getattr(self, name)
            plain[name] = None if found is None else found.to_json()
        for name in ("area_based", "strata", "strata_coverage"):
            parts = getattr(self, name)
            plain[name] = None if parts is None else {key: found.to_json() for key, found in parts.items()}
        plain["quartiles"] = [found.to_json() for found in self.quartiles]
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `to_json`; files of older versions lack what came later."""
        if "penalty" in plain:
            plain["chosen"] = {"penalty": plain.pop("penalty")}
            plain["fold_chosen"] = [{"penalty": found} for found in plain.pop("fold_penalties")]
        plain["folds"] = FoldFacts(**plain["folds"])
        for name in ("fold_chosen", "notes"):
            plain[name] = tuple(plain[name])
        for name, kind in _READ.items():
            if plain.get(name) is not None:
                plain[name] = kind(plain[name])
        return cls(**plain)


_READ: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("model", "null", "baseline"), Scores.from_json),
    "coverage": Coverage.from_json,
    **dict.fromkeys(("area_based", "strata"), lambda plain: {name: Scores.from_json(found) for name, found in plain.items()}),
    "strata_coverage": lambda plain: {name: Coverage.from_json(found) for name, found in plain.items()},
    "quartiles": lambda plain: tuple(map(Quartile.from_json, plain)),
}


def score_cells(found: Scores) -> list[str]:
    """R2, RMSE, relative RMSE in percent, MAE and bias as text."""
    relative = found.relative_rmse
    percent = type(relative)(100 * relative.value, 100 * relative.low, 100 * relative.high)
    return [found.r2.text(), *(_significant(figure) for figure in (found.rmse, percent, found.mae, found.bias))]


def _significant(figure: Any) -> str:
    """Three digits for what is below 100, whole numbers above."""
    size = max(abs(value) for value in (figure.value, 0.0) if value == value)
    return str(figure.text(0 if size >= 100 else 1 if size >= 10 else 2))
