"""Wall-to-wall embeddings of a store: one unit vector for every cell that a chosen sensor saw.

The values do not depend on the tiles: each tile is read with the halo that every sensor's encoder declares (`mapping.mapper`).
Tiles are computed by workers, in any order, and kept beside the first file until all are there; then the files are put together.
Cells that no chosen sensor saw are nodata.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusion3d import __version__
from fusion3d.errors import ConfigError, InputError, StoreError
from fusion3d.evaluation.checkpoint import checkpoint_file, choose_sensors, device_named, load_pretraining
from fusion3d.evaluation.tuned_file import read_answers
from fusion3d.grid import Window
from fusion3d.io.alignment import planar
from fusion3d.io.binary_file import is_url
from fusion3d.io.delivery import delivery, final_name
from fusion3d.io.geotiff import CogWriter, is_tif
from fusion3d.mapping.embedded_tiles import (
    Recipe,
    checkpoint_hash,
    exact_convolutions,
    holding,
    layers_of,
    store_hash,
    tile_layers,
)
from fusion3d.mapping.finished_blocks import FinishedBlocks, Layers, on_workers
from fusion3d.mapping.geoparquet import EmbeddingTable
from fusion3d.mapping.mapper import Mapper
from fusion3d.mapping.tiles import read_ahead
from fusion3d.store import Store
from fusion3d.workers import DEFAULT, Workers

_PARQUET = (".parquet", ".geoparquet")


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
    notes : in words
    seconds : wall time
    """

    outputs: tuple[Path | str, ...]
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
    notes: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        seen = ", ".join(f"{name} {count}" for name, count in self.seen.items())
        text = (
            f"{', '.join(map(str, self.outputs))}: {self.observed} of {self.rows * self.cols} cells of {self.cell:g} m in "
            f"{self.dimensions} dimensions (seen by {seen}; fusion: {self.fusion}); {self.tiles} tiles, {self.empty} empty, "
            f"{self.seconds:.0f} s"
        )
        return "\n".join([*(f"note: {note}" for note in self.notes), text])


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
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
) -> EmbedSummary:
    """Write the fused embedding of every observed cell of a store.

    A killed run is continued by the next one of the same checkpoint, store, options and version; what a run of others left
    unfinished there is dropped. The folder with the finished tiles stands beside the first file and takes as much disk as the map
    without compression.

    Values are the same bits for any number of workers from 2 on, here or on a cluster, on the same kind of processor. One worker
    uses torch's threads, whose sums are rounded in another way (below 1e-6); with OMP_NUM_THREADS=1 it gives those bits too.

    Parameters
    ----------
    checkpoint : .ckpt, or run folder of `fusion3d pretrain`
    store : folder or fsspec URL
    out : one file or several; .tif is a COG with bands emb_000, emb_001, ..., .parquet a GeoParquet with a row per observed cell;
        also URLs, such as s3://bucket/emb.tif
    fusion : mean, precision or attention; None takes precision where the checkpoint has a trained fusion, else mean
    features : shared gives the unit vectors that sensors are compared with; all adds the fused features as fused_000, fused_001,
        ..., which also keep what only one sensor knows; sensors adds to the shared ones the features of each sensor's encoder as
        als_000, ..., s2_000, ...: 0 where that sensor did not see the cell; answer gives the one band of what encoders that
        were fine-tuned on labels answer. None takes answer for a fine-tuned run and shared for others
    sensors : to use; None takes all that checkpoint and store have; of answers, those that were fine-tuned
    resolution : side of a cell, metres: the column size times or over an integer; None for the column
    tile : side of a tile, columns: more memory when larger, the same values
    workers : processes that each read tiles and encode them with one thread; 1 is this process, with torch's threads
    scheduler : address of a Dask scheduler whose workers compute instead; they open checkpoint and store under the same names
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
    pool = Workers(workers, scheduler)
    store = store if isinstance(store, Store) else Store.open(store)
    module = load_pretraining(checkpoint, device)
    file = checkpoint_file(checkpoint).absolute()
    answers = read_answers(file, module)
    features = features or ("shared" if answers is None else "answer")
    names = choose_sensors(module, store, sensors)
    if features == "answer" and answers is not None:
        names = _with_heads(names, answers[1].names, asked=sensors is not None)
    mapper = Mapper(module, store, names, resolution, fusion, features, answers)
    tiles = mapper.map.tiles(tile)
    recipe = Recipe(
        str(file), checkpoint_hash(file), store.path if is_url(store.path) else str(Path(store.path).absolute()),
        store_hash(store), tuple(names), resolution, fusion, features, device,
    )  # fmt: skip
    about = {"sensors": ",".join(names), "checkpoint": str(checkpoint), "resolution": f"{mapper.map.cell:g}"}
    about |= {"fusion": mapper.fusion, "features": features}
    if store.attributes.simulated:
        about["simulated"] = "yes"
    option = {"tags": about, "tile": tile, "device": module.device.type}
    key = {"checkpoint": recipe.checkpoint_hash, "store": recipe.store_hash, "option": option, "version": __version__}
    with delivery(outputs) as paths:
        _check_places(paths)
        work = FinishedBlocks(paths[0], key)
        try:
            with pool, exact_convolutions(), holding(recipe, mapper):
                if pool.count == 1 and pool.scheduler is None:
                    compute = _in_this_process(mapper)
                else:
                    compute = on_workers(pool, "embed", tile_layers, (recipe,))
                filled, notes = work.fill(tiles, compute, title="embed", unit="tiles", progress=progress, workers=pool)
            tally = _assemble(work, tiles, paths, mapper, about) if filled else None
            work.remove()
        finally:
            work.close()
        if tally is None:
            raise StoreError(store.path, f"{', '.join(names)} saw none of its columns", "choose other sensors with --sensors")
    grid = mapper.map
    return EmbedSummary(
        outputs=tuple(final_name(path) for path in outputs),
        sensors=tuple(names),
        fusion=mapper.fusion,
        dimensions=len(mapper.bands),
        cell=grid.cell,
        rows=grid.rows,
        cols=grid.cols,
        observed=tally.observed,
        seen=dict(zip(names, map(int, tally.seen), strict=True)),
        tiles=len(tiles),
        empty=tally.empty,
        notes=notes,
        seconds=time.monotonic() - began,
    )


def default_workers(device: str) -> int:
    """Workers of the command line unless it says otherwise: a GPU is one process's."""
    return 1 if device_named(device).type == "cuda" else DEFAULT


def _in_this_process(mapper: Mapper) -> Callable[[list[Window]], Iterator[tuple[Window, Layers]]]:
    """Tile by tile with torch's threads, the next one being read meanwhile."""

    def compute(pending: list[Window]) -> Iterator[tuple[Window, Layers]]:
        for window, batches in read_ahead(pending, mapper.read):
            yield window, layers_of(mapper, window, batches)

    return compute


def _with_heads(names: Sequence[str], tuned: Sequence[str], *, asked: bool) -> list[str]:
    """Of the sensors to use, those that were fine-tuned; every one that was asked for has to be."""
    kept = [name for name in names if name in tuned]
    if not kept or (asked and len(kept) < len(names)):
        other = next(name for name in names if name not in tuned)
        raise ConfigError(f"sensor {other!r} was not fine-tuned; the run answers from {', '.join(tuned)}")
    return kept


def _outputs(out: str | Path | Sequence[str | Path]) -> list[str | Path]:
    paths = [out] if isinstance(out, str | Path) else list(out)
    if not paths:
        raise ConfigError("name a file to write with --out")
    for path in paths:
        if not is_tif(path) and not str(path).lower().endswith(_PARQUET):
            raise ConfigError(f"--out {path}: give a name that ends in .tif (COG) or .parquet (GeoParquet)")
    if len(set(map(str, paths))) != len(paths):
        raise ConfigError("--out names the same file twice")
    return paths


def _check_places(paths: Sequence[Path]) -> None:
    """Refuse before hours of work what cannot be written after them."""
    for path in paths:
        if path.is_dir():
            raise InputError(path, "is a folder", "give the name of a file")
        if not path.absolute().parent.is_dir():
            raise InputError(path, "cannot be written: its folder does not exist", "create the folder first")


# -- writing


def _writer(path: Path, mapper: Mapper, about: dict[str, str]) -> CogWriter | EmbeddingTable:
    grid, crs = mapper.map, planar(mapper.store.grid.pyproj_crs)
    names = mapper.bands
    if path.suffix.lower() in _PARQUET:
        return EmbeddingTable(path, crs=crs, names=names, sensors=mapper.names, about=about)
    place = {"x0": grid.grid.x0, "y0": grid.grid.y0, "pixel": grid.pixel, "width": grid.cols, "height": grid.rows, "crs": crs}
    return CogWriter(path, **place, count=len(names), dtype="float32", nodata=math.nan, band_names=names, units="1", tags=about)


@dataclass
class _Tally:
    """Cells with an embedding, cells that each sensor saw [S], and tiles that none saw."""

    observed: int
    seen: npt.NDArray[np.int64]
    empty: int


def _assemble(
    work: FinishedBlocks, tiles: Sequence[Window], paths: Sequence[Path], mapper: Mapper, about: dict[str, str]
) -> _Tally:
    """Make the files of all tiles, in the folder of the tiles, and give them their names."""
    tally = _Tally(0, np.zeros(len(mapper.names), np.int64), 0)
    names = {f"{number}_{path.name}": path for number, path in enumerate(paths)}
    with ExitStack() as stack:
        writers = [stack.enter_context(_writer(work.folder / name, mapper, about)) for name in names]
        for tile in tiles:
            layers = work.load(tile)
            if not layers:
                tally.empty += 1
                continue
            tally.observed += int(layers[1].sum())
            tally.seen += layers[2].sum(axis=(1, 2))
            for writer in writers:
                _write(writer, mapper, mapper.map.cells_of(tile), layers)
    work.publish(names)
    return tally


def _write(writer: CogWriter | EmbeddingTable, mapper: Mapper, window: Window, layers: Layers) -> None:
    values, observed, seen = layers
    if isinstance(writer, CogWriter):
        writer.write(values, window.row, window.col)
        return
    row, col = np.nonzero(observed[0])
    grid, east, south = mapper.map, col + window.col, row + window.row
    x, y = grid.grid.x0 + (east + 0.5) * grid.pixel, grid.grid.y0 - (south + 0.5) * grid.pixel
    writer.write(x, y, south, east, seen[:, row, col].T, values[:, row, col].T)
