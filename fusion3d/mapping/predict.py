"""A fitted model applied to every cell of a map of embeddings."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.lattice import Lattice
from fusion3d.grid import Window
from fusion3d.io.geotiff import CogWriter
from fusion3d.io.raster import open_raster
from fusion3d.mapping.tiles import read_ahead
from fusion3d.tasks.model import TargetModel, same_origin
from fusion3d.tasks.support import band_names, read_window, require_map


@dataclass(frozen=True)
class PredictSummary:
    """What was mapped.

    Attributes
    ----------
    output : file
    target, unit : of its band
    rows, cols : of the map
    mapped : cells with a value
    low, mean, high : of the values, in `unit`
    clipped : cells of a model of a non-negative target whose value is 0: it went there or below
    notes : in words
    seconds : wall time
    """

    output: Path
    target: str
    unit: str
    rows: int
    cols: int
    mapped: int
    low: float
    mean: float
    high: float
    clipped: int
    notes: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        text = (
            f"{self.output}: {self.target} on {self.mapped} of {self.rows * self.cols} cells, mean {self.mean:.4g}{unit} "
            f"({self.low:.4g} to {self.high:.4g}), {self.clipped} at 0; {self.seconds:.0f} s"
        )
        return "\n".join([*(f"note: {note}" for note in self.notes), text])


def predict(
    model: str | Path | TargetModel, embedding_map: str | Path, out: str | Path, *, block: int = 256, progress: bool = False
) -> PredictSummary:
    """Write the model's value for every cell of a map of embeddings as a COG on the same cells.

    Cells without an embedding are nodata (NaN). The band is named by target and unit, as `agb_Mg_ha`.

    Parameters
    ----------
    model : folder or model.json of `fusion3d fit`, or the model itself
    out : file that ends in .tif
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
    path = Path(out)
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise ConfigError(f"--out {path}: give a name that ends in .tif")
    if block < 1:
        raise ConfigError(f"--block {block} must be at least 1 cell")
    model = model if isinstance(model, TargetModel) else TargetModel.read(model)
    source = require_map(open_raster(embedding_map))
    model.check_bands(band_names(source), embedding_map)
    if path.exists() and path.samefile(embedding_map):
        raise ConfigError(f"--out {path} is the map of embeddings itself; give another name")
    lattice = Lattice.of(source)
    windows = [
        Window(row, col, min(block, lattice.rows - row), min(block, lattice.cols - col))
        for row in range(0, lattice.rows, block)
        for col in range(0, lattice.cols, block)
    ]
    tally = _Tally()
    about = _tags(model, embedding_map, source.tags)
    writer = CogWriter(
        path, x0=lattice.x0, y0=lattice.y0, pixel=lattice.cell, width=lattice.cols, height=lattice.rows, count=1, crs=source.crs,
        dtype="float32", nodata=math.nan, band_names=[model.band_name], units=model.unit, tags=about,
    )  # fmt: skip
    with writer:
        tiles = read_ahead(windows, lambda window: read_window(source, lattice, window))
        shown = track(tiles, "map", len(windows), console=Console(stderr=True), disable=not progress)
        for window, (bands, seen) in shown:
            if not seen.any():
                continue
            values = np.full(seen.shape, np.nan, np.float32)
            values[seen] = model.predict_bands(bands[:, seen])
            tally.add(values[seen])
            writer.write(values[None], window.row, window.col)
        if not tally.count:
            raise InputError(embedding_map, "holds no data: there is nothing to map", "embed a place that a sensor saw")
    difference = same_origin(model, source.tags)
    return PredictSummary(
        path, model.target, model.unit, lattice.rows, lattice.cols, tally.count, tally.low, tally.total / tally.count, tally.high,
        tally.zeros if model.nonnegative else 0, () if difference is None else (difference,), time.monotonic() - began,
    )  # fmt: skip


class _Tally:
    """Count, sum and ends of the values of a map as they are written."""

    def __init__(self) -> None:
        self.count, self.zeros, self.total, self.low, self.high = 0, 0, 0.0, math.inf, -math.inf

    def add(self, values: np.ndarray) -> None:
        self.count += values.size
        self.zeros += int((values == 0).sum())
        self.total += float(values.sum(dtype=np.float64))
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))


def _tags(model: TargetModel, embedding_map: str | Path, tags: Mapping[str, str]) -> dict[str, str]:
    made = {"target": model.target, "unit": model.unit, "transform": model.transform, "embedding": str(embedding_map)}
    fitted = {f"fitted_on_{name}": value for name, value in model.trained_on.items()}
    simulated = {"simulated": tags["simulated"]} if "simulated" in tags else {}
    return {**made, **simulated, "nonnegative": str(model.nonnegative).lower(), **fitted, "fusion3d": model.version}
