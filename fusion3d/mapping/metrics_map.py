"""Wall-to-wall plot metrics of a store's aerial LiDAR: the map that the area-based approach fits and predicts on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

import fusion3d
from fusion3d.data.chips import NOISE_CLASSES
from fusion3d.errors import ConfigError, StoreError
from fusion3d.grid import Window
from fusion3d.io.alignment import planar
from fusion3d.io.delivery import delivery, final_name
from fusion3d.io.geotiff import CogWriter, check_tif_name
from fusion3d.mapping.tiles import MapGrid, read_ahead
from fusion3d.progress import progress_bar
from fusion3d.store import Store
from fusion3d.tasks.cell_metrics import LEAST_RETURNS, CellReturns, cell_metrics
from fusion3d.tasks.metric_catalogue import Metric
from fusion3d.tasks.plot_metrics import WindowReturns, check_options, choose_metrics, read_returns

DEFAULT_RESOLUTION = 20.0
"""Metres: about the area of the field plots that national inventories measure."""
_POINTS = 1_000_000
"""In memory at once, unless one row of cells of a block holds more."""


@dataclass(frozen=True)
class MetricsSummary:
    """What was mapped.

    Attributes
    ----------
    output : file or fsspec URL
    metrics : names of the bands
    cell : metres
    rows, cols : of the map
    mapped : cells with a metric; complete : cells with all of them
    points : returns that were counted
    seconds : wall time
    set_aside : path and reason of tiles that could not be used
    """

    output: Path | str
    metrics: tuple[str, ...]
    cell: float
    rows: int
    cols: int
    mapped: int
    complete: int
    points: int
    seconds: float
    set_aside: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.output}: {len(self.metrics)} metrics of {self.points:,} returns on {self.mapped} of {self.rows * self.cols} "
            f"cells of {self.cell:g} m, all of them on {self.complete}; {self.seconds:.0f} s"
        )


def metrics_map(
    store: str | Path | Store,
    out: str | Path,
    *,
    resolution: float = DEFAULT_RESOLUTION,
    names: Sequence[str] | None = None,
    min_height: float = 0.0,
    least: int = LEAST_RETURNS,
    block: int | None = None,
    progress: bool = False,
) -> MetricsSummary:
    """Write plot metrics of every cell as a COG, a band each; a cell has the metrics of the plot that is its square.

    Cells with too few returns are nodata (NaN) in the metrics that lack them.

    Parameters
    ----------
    out : file or fsspec URL that ends in .tif
    resolution : side of a cell, metres: a multiple of the column
    names : of metrics in `metric_catalogue.CATALOGUE`; None for every predictor that the store's points allow
    min_height, least : as for `cell_metrics`
    block : side of the squares that are read at once, columns; None for the store's blocks. Changes memory, never the values
    progress : draw a progress bar

    Raises
    ------
    StoreError
        The store cannot be read, or holds no aerial LiDAR or no return that metrics count.
    ConfigError
        An option is out of range.
    InputError
        The map cannot be written; nothing is left under `out` that was not there before.
    """
    check_tif_name(out)
    with delivery([out]) as (path,):
        found = _written(store, path, resolution, names, min_height, least, block, progress)
    return replace(found, output=final_name(out))


def _written(
    store: str | Path | Store,
    path: Path,
    resolution: float,
    names: Sequence[str] | None,
    min_height: float,
    least: int,
    block: int | None,
    progress: bool,
) -> MetricsSummary:
    """As `metrics_map`, of a local file."""
    began = time.monotonic()
    store = store if isinstance(store, Store) else Store.open(store)
    metrics = choose_metrics(store, names)
    check_options(min_height, least)
    place = _cells(store, resolution)
    about = _tags(store, place, min_height, least)
    points = mapped = complete = 0
    writer = CogWriter(
        path, x0=store.grid.x0, y0=store.grid.y0, pixel=place.pixel, width=place.cols, height=place.rows, count=len(metrics),
        crs=planar(store.grid.pyproj_crs), dtype="float32", nodata=math.nan, band_names=[metric.name for metric in metrics],
        units=[metric.unit for metric in metrics], tags=about,
    )  # fmt: skip
    with writer:
        windows = list(_windows(store, place, block or store.grid.block))
        tiles = read_ahead(windows, lambda window: read_returns(store, window, metrics))
        with progress_bar("metrics", len(windows), progress, unit="windows") as advance:
            for window, found in tiles:
                cells = place.cells_of(window)
                values = _window_metrics(found, place, cells, metrics, min_height, least)
                known = np.isfinite(values)
                points += len(found.height)
                mapped += int(known.any(axis=0).sum())
                complete += int(known.all(axis=0).sum())
                writer.write(values, cells.row, cells.col)
                advance()
        if not mapped:
            raise StoreError(store.path, f"no cell holds {least} returns", "map larger cells or give a lower --min-returns")
    names_written = tuple(metric.name for metric in metrics)
    return MetricsSummary(
        path, names_written, place.cell, place.rows, place.cols, mapped, complete, points, time.monotonic() - began
    )


def _cells(store: Store, resolution: float) -> MapGrid:
    place = MapGrid.of(store.grid, resolution)
    if place.split != 1:
        column = store.grid.column
        raise ConfigError(f"--resolution {resolution:g} is finer than the columns of {column:g} m; give a multiple of them")
    return place


def _windows(store: Store, place: MapGrid, block: int) -> Iterator[Window]:
    """Windows of whole cells that hold points and cover the grid, cut between rows of cells where they hold too many."""

    @lru_cache(maxsize=16)
    def per_column(block_row: int, block_col: int) -> npt.NDArray[np.int64]:
        window = store.grid.block_window(block_row, block_col)
        splits, _ = store.block_values(block_row, block_col, ())
        return np.diff(splits).reshape(window.rows, window.cols)

    def points_by_row(window: Window) -> npt.NDArray[np.int64]:
        found = np.zeros(window.rows, np.int64)
        for where in store.grid.blocks_in(window):
            whole = store.grid.block_window(*where)
            part = whole.intersection(window)
            rows = slice(part.row - whole.row, part.row_stop - whole.row)
            cols = slice(part.col - whole.col, part.col_stop - whole.col)
            found[part.row - window.row : part.row_stop - window.row] += per_column(*where)[rows, cols].sum(axis=1)
        return found

    for tile in place.tiles(block):
        counts = points_by_row(tile).reshape(-1, place.merge).sum(axis=1)
        first, held = 0, 0
        for row, count in enumerate([*counts, 0]):
            if row == len(counts) or (held and held + count > _POINTS):
                if held:
                    yield Window(tile.row + first * place.merge, tile.col, (row - first) * place.merge, tile.cols)
                first, held = row, 0
            held += int(count)


def _window_metrics(
    found: WindowReturns, place: MapGrid, cells: Window, metrics: Sequence[Metric], min_height: float, least: int
) -> npt.NDArray[np.float32]:
    """[F, rows, cols] metrics of the cells of a window."""
    row, col = found.row // place.merge, found.col // place.merge
    corner = np.stack([col, row], axis=1) * place.cell
    returns = CellReturns(
        row * cells.cols + col, found.height, found.place - corner, found.attributes, cells.size, (place.cell, place.cell)
    )
    values = cell_metrics(returns, metrics, min_height=min_height, least=least)
    return values.T.reshape(len(metrics), cells.rows, cells.cols).astype(np.float32)


def _tags(store: Store, place: MapGrid, min_height: float, least: int) -> dict[str, str]:
    als = store.attributes.als
    about = {
        "sensors": "als",
        "resolution": f"{place.cell:g}",
        "metrics": "area-based plot metrics; definitions in fusion3d.tasks.metric_catalogue",
        "min_height": f"{min_height:g}",
        "min_returns": f"{least}",
        "left_out": f"classes {', '.join(map(str, NOISE_CLASSES))}, withheld points, points of unknown height",
        "ground": str(als.ground.get("method", "")) if als is not None else "",
        "store": store.path,
        "fusion3d": fusion3d.__version__,
    }
    return about | ({"simulated": "yes"} if store.attributes.simulated else {})
