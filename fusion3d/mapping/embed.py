"""Wall-to-wall embeddings of a store: one unit vector for every cell that a chosen sensor saw.

The values do not depend on the tiles (`mapping.mapper`). Cells that no chosen sensor saw are nodata.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fusion3d.errors import ConfigError, StoreError
from fusion3d.evaluation.checkpoint import checkpoint_file, choose_sensors, load_pretraining
from fusion3d.evaluation.tuned_file import read_answers
from fusion3d.io.alignment import planar
from fusion3d.io.geotiff import CogWriter
from fusion3d.mapping.geoparquet import EmbeddingTable
from fusion3d.mapping.mapper import Cells, Mapper
from fusion3d.mapping.tiles import read_ahead
from fusion3d.store import Store

_TIFF, _PARQUET = (".tif", ".tiff"), (".parquet", ".geoparquet")


@dataclass(frozen=True)
class EmbedSummary:
    """What was mapped.

    Attributes
    ----------
    outputs : files
    sensors : used
    fusion : how they were fused
    dimensions : length of an embedding
    cell : metres
    rows, cols : of the map
    observed : cells with an embedding
    seen : cells that each sensor saw
    tiles, empty : tiles, and those that no sensor saw
    seconds : wall time
    """

    outputs: tuple[Path, ...]
    sensors: tuple[str, ...]
    fusion: str
    dimensions: int
    cell: float
    rows: int
    cols: int
    observed: int
    seen: dict[str, int]
    tiles: int
    empty: int
    seconds: float

    def __str__(self) -> str:
        seen = ", ".join(f"{name} {count}" for name, count in self.seen.items())
        return (
            f"{', '.join(map(str, self.outputs))}: {self.observed} of {self.rows * self.cols} cells of {self.cell:g} m in "
            f"{self.dimensions} dimensions (seen by {seen}; fusion: {self.fusion}); {self.tiles} tiles, {self.empty} empty, "
            f"{self.seconds:.0f} s"
        )


def embed(
    checkpoint: str | Path,
    store: str | Path | Store,
    out: str | Path | Sequence[str | Path],
    *,
    sensors: Sequence[str] | None = None,
    resolution: float | None = None,
    tile: int = 64,
    fusion: str | None = None,
    features: str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> EmbedSummary:
    """Write the fused embedding of every observed cell of a store.

    Parameters
    ----------
    checkpoint : .ckpt, or run folder of `fusion3d pretrain`
    out : one file or several; .tif is a COG with bands emb_000, emb_001, ..., .parquet a GeoParquet with a row per observed cell
    fusion : mean, precision or attention; None takes precision where the checkpoint has a trained fusion, else mean
    features : shared gives the unit vectors that sensors are compared with; all adds the fused features as fused_000, fused_001,
        ..., which also keep what only one sensor knows; sensors adds to the shared ones the features of each sensor's encoder as
        als_000, ..., s2_000, ...: 0 where that sensor did not see the cell; answer gives the one band of what encoders that
        were fine-tuned on labels answer. None takes answer for a fine-tuned run and shared for others
    sensors : to use; None takes all that checkpoint and store have; of answers, those that were fine-tuned
    resolution : side of a cell, metres: the column size times or over an integer; None for the column
    tile : side of a tile, columns: more memory when larger, the same values
    progress : draw a progress bar

    Raises
    ------
    ConfigError
        A sensor is not in checkpoint and store, the resolution does not fit, or a file's ending is not known.
    InputError
        A file cannot be read or written; nothing is left under the names of `out` that was not there before.
    """
    began = time.monotonic()
    outputs = _outputs(out)
    store = store if isinstance(store, Store) else Store.open(store)
    module = load_pretraining(checkpoint, device)
    answers = read_answers(checkpoint_file(checkpoint), module)
    features = features or ("shared" if answers is None else "answer")
    names = choose_sensors(module, store, sensors)
    if features == "answer" and answers is not None:
        names = _with_heads(names, answers[1].names, asked=sensors is not None)
    mapper = Mapper(module, store, names, resolution, fusion, features, answers)
    tiles = mapper.map.tiles(tile)
    empty, observed, seen = 0, 0, dict.fromkeys(names, 0)
    about = {"sensors": ",".join(names), "checkpoint": str(checkpoint), "resolution": f"{mapper.map.cell:g}"}
    about |= {"fusion": mapper.fusion, "features": features}
    if store.attributes.simulated:
        about["simulated"] = "yes"
    with ExitStack() as stack, _exact_convolutions():
        writers = [stack.enter_context(_writer(path, mapper, about)) for path in outputs]
        advance = stack.enter_context(_bar(len(tiles), progress))
        for window, batches in read_ahead(tiles, mapper.read):
            cells = mapper.embed(window, batches) if batches else None
            if cells is None or not cells.observed.any():
                empty += 1
            else:
                observed += int(cells.observed.sum())
                for name, mask in cells.seen.items():
                    seen[name] += int(mask.sum())
                for writer in writers:
                    _write(writer, mapper, cells)
            advance()
        if not observed:
            raise StoreError(store.path, f"{', '.join(names)} saw none of its columns", "choose other sensors with --sensors")
    grid = mapper.map
    seconds = time.monotonic() - began
    return EmbedSummary(
        tuple(outputs),
        tuple(names),
        mapper.fusion,
        len(mapper.bands),
        grid.cell,
        grid.rows,
        grid.cols,
        observed,
        seen,
        len(tiles),
        empty,
        seconds,
    )


def _with_heads(names: Sequence[str], tuned: Sequence[str], *, asked: bool) -> list[str]:
    """Of the sensors to use, those that were fine-tuned; every one that was asked for has to be."""
    kept = [name for name in names if name in tuned]
    if not kept or (asked and len(kept) < len(names)):
        other = next(name for name in names if name not in tuned)
        raise ConfigError(f"sensor {other!r} was not fine-tuned; the run answers from {', '.join(tuned)}")
    return kept


def _outputs(out: str | Path | Sequence[str | Path]) -> list[Path]:
    paths = [Path(item) for item in ([out] if isinstance(out, str | Path) else out)]
    if not paths:
        raise ConfigError("name a file to write with --out")
    for path in paths:
        if path.suffix.lower() not in (*_TIFF, *_PARQUET):
            raise ConfigError(f"--out {path}: give a name that ends in .tif (COG) or .parquet (GeoParquet)")
    if len(set(paths)) != len(paths):
        raise ConfigError("--out names the same file twice")
    return paths


# -- writing


def _writer(path: Path, mapper: Mapper, about: dict[str, str]) -> CogWriter | EmbeddingTable:
    grid, crs = mapper.map, planar(mapper.store.grid.pyproj_crs)
    names = mapper.bands
    if path.suffix.lower() in _PARQUET:
        return EmbeddingTable(path, crs=crs, names=names, sensors=mapper.names, about=about)
    place = {"x0": grid.grid.x0, "y0": grid.grid.y0, "pixel": grid.pixel, "width": grid.cols, "height": grid.rows, "crs": crs}
    return CogWriter(path, **place, count=len(names), dtype="float32", nodata=math.nan, band_names=names, units="1", tags=about)


def _write(writer: CogWriter | EmbeddingTable, mapper: Mapper, cells: Cells) -> None:
    window, grid = cells.window, mapper.map
    if isinstance(writer, CogWriter):
        writer.write(cells.values, window.row, window.col)
        return
    row, col = np.nonzero(cells.observed)
    seen = np.stack([cells.seen.get(name, np.zeros_like(cells.observed))[row, col] for name in mapper.names], axis=1)
    embedding = cells.values[:, row, col].T
    row, col = row + window.row, col + window.col
    x, y = grid.grid.x0 + (col + 0.5) * grid.pixel, grid.grid.y0 - (row + 0.5) * grid.pixel
    writer.write(x, y, row, col, seen, embedding)


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """Float32 convolutions in float32 on GPUs too: TF32 rounds to 10 bits, and which kernel runs would depend on the tile."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("embed"), BarColumn(), MofNCompleteColumn(), TextColumn("tiles"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("embed", total=total)
        yield lambda: bar.advance(task)
