"""A fitted model applied to every cell of a map of embeddings: estimate, error, interval, and where it extrapolates."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusion3d.mapping.cell_by_cell import CellSource, Layer
from fusion3d.tasks.conformal import check_level, plots_needed
from fusion3d.tasks.domain import EXTRAPOLATION
from fusion3d.tasks.model import TargetModel, same_origin
from fusion3d.tasks.model_file import read_model


@dataclass(frozen=True)
class PredictSummary:
    """What was mapped.

    Attributes
    ----------
    output : file
    target, unit : of what is mapped
    bands : names
    rows, cols : of the map
    mapped : cells with a value
    low, mean, high : of the values, in `unit`
    clipped : cells of a model of a non-negative target whose value is 0: it went there or below
    error : mean standard error, in `unit`; NaN where it is not mapped
    extrapolated : cells outside of the model's domain; None where that is not mapped
    notes : in words
    seconds : wall time
    """

    output: Path
    target: str
    unit: str
    bands: tuple[str, ...]
    rows: int
    cols: int
    mapped: int
    low: float
    mean: float
    high: float
    clipped: int
    error: float
    extrapolated: int | None
    notes: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        text = (
            f"{self.output}: {self.target} on {self.mapped} of {self.rows * self.cols} cells, mean {self.mean:.4g}{unit} "
            f"({self.low:.4g} to {self.high:.4g}), {self.clipped} at 0"
        )
        if not math.isnan(self.error):
            text += f", mean standard error {self.error:.4g}{unit}"
        if self.extrapolated is not None:
            text += f", {self.extrapolated} extrapolated"
        text += f"; {self.seconds:.0f} s"
        return "\n".join([*(f"note: {note}" for note in self.notes), text])


def predict(
    model: str | Path | TargetModel,
    embedding_map: str | Path,
    out: str | Path,
    *,
    level: float | None = None,
    estimate_only: bool = False,
    block: int = 256,
    progress: bool = False,
) -> PredictSummary:
    """Write the model's value for every cell of a map of embeddings as a COG on the same cells.

    Bands are named by target and unit: `agb_Mg_ha`, its standard error `agb_se_Mg_ha`, the ends of its interval
    `agb_lower90_Mg_ha` and `agb_upper90_Mg_ha`, and `extrapolation`, 1 where the model is outside of its domain and 0
    elsewhere. A model of an older version has the first one alone. Cells without an embedding are nodata (NaN) in all of them.

    Parameters
    ----------
    model : folder or model.json of `fusion3d fit`, or the model itself
    out : file that ends in .tif
    level : of the interval; None for that of the fit
    estimate_only : the first band alone
    block : side of the squares that are computed at once, cells: more memory when larger, the same values
    progress : draw a progress bar

    Raises
    ------
    InputError
        A file cannot be read or written, the bands are not those of the fit, or the map has no data; nothing is left under `out`.
    ConfigError
        An option is out of range.
    """
    began = time.monotonic()
    if level is not None:
        check_level(level)
    model = model if isinstance(model, TargetModel) else read_model(model)
    bands = _Bands(model, model.level if level is None else level, estimate_only)
    layer, tally = Layer(Path(out), bands.names, bands.units), _Tally(len(bands.names))
    source = CellSource.open(embedding_map, model, [layer.path], block)
    source.write(
        [layer], source.tags(model, **bands.tags), lambda cells: [bands.of(cells)], lambda found: tally.add(found[0]),
        block=block, progress=progress,
    )  # fmt: skip
    difference = same_origin(model, source.file.tags)
    notes = (*bands.notes, *(() if difference is None else (difference,)))
    means = dict(zip(bands.names, tally.totals / tally.count, strict=True))
    outside = means.get(EXTRAPOLATION)
    return PredictSummary(
        layer.path, model.target, model.unit, bands.names, source.lattice.rows, source.lattice.cols, tally.count, tally.low,
        float(tally.totals[0] / tally.count), tally.high, tally.zeros if model.nonnegative else 0,
        float(means.get(model.band_named("se"), math.nan)), None if outside is None else round(outside * tally.count), notes,
        time.monotonic() - began,
    )  # fmt: skip


class _Bands:
    """What is mapped of a model: names, units and values of the bands."""

    def __init__(self, model: TargetModel, level: float, estimate_only: bool) -> None:
        self.model, self.level = model, level
        self.intervals = None if estimate_only else model.intervals
        self.domain = None if estimate_only else model.domain
        percent = f"{100 * level:g}".replace(".", "_")
        names, notes = [model.band_name], []
        if self.intervals is not None:
            names += [model.band_named(what) for what in ("se", f"lower{percent}", f"upper{percent}")]
            count = len(self.intervals.scaled)
            if math.isinf(self.intervals.quantile(level)):
                problem = f"{count} plots are too few for {100 * level:g} % intervals, whose bands are empty"
                notes.append(f"{problem}: {plots_needed(level)} are needed")
        units = [model.unit] * len(names)
        if self.domain is not None:
            names.append(EXTRAPOLATION)
            units.append("1")
        if not estimate_only and len(names) == 1:
            notes.append("the model holds neither intervals nor a domain: fit it again to map them")
        self.names, self.units, self.notes = tuple(names), units, tuple(notes)

    @property
    def tags(self) -> dict[str, str]:
        """What a reader of the file must know of the bands."""
        model = self.model
        found = {"unit": model.unit, "transform": model.transform, "nonnegative": str(model.nonnegative).lower()}
        if self.intervals is not None:
            found["level"] = f"{self.level:g}"
        if self.domain is not None:
            found["extrapolation"] = (
                f"1 where the dissimilarity index exceeds {self.domain.threshold:.6g} (Meyer and Pebesma 2021)"
            )
        return found

    def of(self, cells: np.ndarray) -> np.ndarray:
        """[B, n] float32 from the bands [D, n] of cells with data."""
        predicted = self.model.predict_bands(cells)
        found = [predicted]
        if self.intervals is not None:
            found.append(self.intervals.standard_error(predicted))
            found += self.intervals.bounds(predicted, self.level, self.model.nonnegative)
        if self.domain is not None:
            found.append(self.domain.outside(cells).astype(np.float64))
        return np.stack(found).astype(np.float32)


class _Tally:
    """Count, sums and ends of the values of a map as they are written; ends and zeros are those of the first band."""

    def __init__(self, bands: int) -> None:
        self.count, self.zeros, self.low, self.high = 0, 0, math.inf, -math.inf
        self.totals = np.zeros(bands)

    def add(self, values: np.ndarray) -> None:
        """Of cells [B, n]."""
        self.count += values.shape[1]
        self.zeros += int((values[0] == 0).sum())
        self.totals += values.sum(axis=1, dtype=np.float64)
        self.low, self.high = min(self.low, float(values[0].min())), max(self.high, float(values[0].max()))
