"""A fitted model applied to every cell of a map of embeddings: estimate, error, interval, and where it extrapolates."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusion3d.io.delivery import delivery, final_name
from fusion3d.mapping.cell_by_cell import Blocks, CellMap, Layer, check_name
from fusion3d.mapping.map_columns import check_columns, write_columns
from fusion3d.tasks.conformal import check_level, plots_needed
from fusion3d.tasks.domain import EXTRAPOLATION
from fusion3d.tasks.held_out import PREDICTIONS_FILE, HeldOut
from fusion3d.tasks.model import TargetModel, same_origin
from fusion3d.tasks.model_file import read_model, write_model

_LARGER = 2.0
"""Area of plots over that of cells from which errors of plots say too little of cells."""


@dataclass(frozen=True)
class PredictSummary:
    """What was mapped.

    Attributes
    ----------
    output : file
    columns : table of the cells; None where that was not asked for
    target, unit : of what is mapped
    bands : names
    rows, cols : of the map
    cell : side of a cell, metres
    level : of the interval
    mapped : cells with a value
    low, mean, high : of the values, in `unit`
    clipped : cells of a model of a non-negative target whose value is 0, because it went there or below; uncut, 0 or less
    error : mean standard error, in `unit`; NaN where it is not mapped
    extrapolated : cells outside of the model's domain; None where that is not mapped
    notes : in words
    seconds : wall time
    """

    output: Path | str
    columns: Path | str | None
    target: str
    unit: str
    bands: tuple[str, ...]
    rows: int
    cols: int
    cell: float
    level: float
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
        at = "at 0" if self.low >= 0 else "at 0 or below"
        text = (
            f"{self.output}: {self.target} on {self.mapped} of {self.rows * self.cols} cells of {self.cell:g} m, mean "
            f"{self.mean:.4g}{unit} ({self.low:.4g} to {self.high:.4g}), {self.clipped} {at}"
        )
        if not math.isnan(self.error):
            text += f", mean standard error {self.error:.4g}{unit}"
        if self.extrapolated is not None:
            text += f", {self.extrapolated} extrapolated"
        text += f"; {self.seconds:.0f} s"
        if self.columns is not None:
            text += f"\n{self.columns}: a row for each of the {self.mapped} cells"
        return "\n".join([*(f"note: {note}" for note in self.notes), text])


def predict(
    model: str | Path | TargetModel,
    embedding_map: str | Path,
    out: str | Path,
    *,
    level: float | None = None,
    estimate_only: bool = False,
    uncut: bool = False,
    resolution: float | None = None,
    crs: str | None = None,
    columns: str | Path | None = None,
    block: int = 256,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = False,
) -> PredictSummary:
    """Write the model's value for every cell of a map of embeddings as a COG on the same cells.

    Bands are named by target and unit: `agb_Mg_ha`, its standard error `agb_se_Mg_ha`, the ends of its interval
    `agb_lower90_Mg_ha` and `agb_upper90_Mg_ha`, and `extrapolation`, 1 where the model is outside of its domain and 0
    elsewhere. A model of an older version has the first one alone. Cells without an embedding are nodata (NaN) in all of them.

    A killed run is continued by the next one of the same model, raster and options, to the same bits; what a run of others left
    unfinished there is dropped.

    Parameters
    ----------
    model : folder or model.json of `fusion3d fit`, or the model itself
    out : file that ends in .tif; as `columns` also a URL, such as s3://bucket/agb.tif
    level : of the interval; None for that of the fit
    estimate_only : the first band alone
    uncut : the estimate of a target that cannot be negative keeps its values below 0; error and interval are those of the cut one
    resolution : side of a cell, metres: a multiple of the raster's, whose bands are averaged over a cell as the fit does over a
        plot; mapped where data cover half of it. None for the raster's cells
    crs : of a raster without one
    columns : GeoParquet of the mapped cells, a row each
    block : side of the squares that are computed at once, cells: more memory when larger, the same values
    workers : threads: the same values
    scheduler : address of a Dask scheduler whose workers compute instead: the same values
    progress : draw a progress bar

    Raises
    ------
    InputError
        A file cannot be read or written, the bands are not those of the fit, or the map has no data; nothing is left under `out`.
    ConfigError
        An option is out of range.
    """
    began = time.monotonic()
    check_name(out, embedding_map)
    if columns is not None:
        check_columns(columns)
    if level is not None:
        check_level(level)
    plot = None if isinstance(model, TargetModel) else _plot_area(model)
    model = model if isinstance(model, TargetModel) else read_model(model)
    bands = _Bands(model, model.level if level is None else level, estimate_only, uncut)
    tally, blocks = _Tally(len(bands.names)), Blocks(block, workers, scheduler, progress)
    with delivery([out] if columns is None else [out, columns]) as (path, *tables):
        layer = Layer(path, bands.names, bands.units)
        cells = CellMap.open(model, embedding_map, [path, *tables], resolution=resolution, crs=crs)
        went = cells.write(
            [layer], cells.tags(**bands.tags), bands.layers, lambda found: tally.add(found[0]), write_model, blocks
        )
        for table in tables:
            write_columns(path, table)
    difference = same_origin(model, cells.file.tags)
    size = None if plot is None or estimate_only else _size_note(plot, cells)
    notes = (*went, *bands.notes, *(note for note in (size, difference) if note is not None))
    means = dict(zip(bands.names, tally.totals / tally.count, strict=True))
    outside = means.get(EXTRAPOLATION)
    return PredictSummary(
        output=final_name(out),
        columns=None if columns is None else final_name(columns),
        target=model.target,
        unit=model.unit,
        bands=bands.names,
        rows=cells.lattice.rows,
        cols=cells.lattice.cols,
        cell=cells.metres,
        level=bands.level,
        mapped=tally.count,
        low=tally.low,
        mean=float(tally.totals[0] / tally.count),
        high=tally.high,
        clipped=tally.zeros if model.nonnegative else 0,
        error=float(means.get(model.band_named("se"), math.nan)),
        extrapolated=None if outside is None else round(outside * tally.count),
        notes=notes,
        seconds=time.monotonic() - began,
    )


def _plot_area(model: str | Path) -> float | None:
    """Median area of the plots of a fit, m2, from the table beside the model; None where it does not say."""
    folder = Path(model)
    table = (folder if folder.is_dir() else folder.parent) / PREDICTIONS_FILE
    area = HeldOut.read(table).area if table.is_file() else None
    return None if area is None or not len(area) else float(np.median(area))


def _size_note(plot: float, cells: CellMap[TargetModel]) -> str | None:
    """In words, that cells are much smaller than plots; None where they are not."""
    if plot <= _LARGER * cells.metres**2:
        return None
    own = cells.metres / cells.merge
    return (
        f"cells of {cells.metres**2:.4g} m2 vary more than the plots of {plot:.4g} m2 (median) whose errors the bands state: "
        f"--resolution {max(1, round(math.sqrt(plot) / own)) * own:g} maps cells of about their size"
    )


class _Bands:
    """What is mapped of a model: names, units and values of the bands."""

    def __init__(self, model: TargetModel, level: float, estimate_only: bool, uncut: bool) -> None:
        self.model, self.level, self.uncut = model, level, uncut
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
        if self.uncut and model.nonnegative:
            found["uncut"] = (
                "the estimate keeps its values below 0, for means of many cells; error and interval are of the cut one"
            )
        if self.intervals is not None:
            found["level"] = f"{self.level:g}"
        if self.domain is not None:
            found["extrapolation"] = (
                f"1 where the dissimilarity index exceeds {self.domain.threshold:.6g} (Meyer and Pebesma 2021)"
            )
        return found

    def of(self, cells: np.ndarray) -> np.ndarray:
        """[B, n] float32 from the bands [D, n] of cells with data."""
        estimate = self.model.predict_bands_uncut(cells)
        predicted = self.model.cut(estimate)
        found = [estimate if self.uncut else predicted]
        if self.intervals is not None:
            found.append(self.intervals.standard_error(predicted))
            found += self.intervals.bounds(predicted, self.level, self.model.nonnegative)
        if self.domain is not None:
            found.append(self.domain.outside(cells).astype(np.float64))
        return np.stack(found).astype(np.float32)

    def layers(self, cells: np.ndarray) -> list[np.ndarray]:
        """The only layer of the map."""
        return [self.of(cells)]


class _Tally:
    """Count, sums and ends of the values of a map as they are written; ends and zeros (0 or less) are those of the first band."""

    def __init__(self, bands: int) -> None:
        self.count, self.zeros, self.low, self.high = 0, 0, math.inf, -math.inf
        self.totals = np.zeros(bands)

    def add(self, values: np.ndarray) -> None:
        """Of cells [B, n]."""
        self.count += values.shape[1]
        self.zeros += int((values[0] <= 0).sum())
        self.totals += values.sum(axis=1, dtype=np.float64)
        self.low, self.high = min(self.low, float(values[0].min())), max(self.high, float(values[0].max()))
