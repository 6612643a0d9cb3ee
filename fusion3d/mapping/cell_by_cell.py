"""Maps that a model makes of a raster cell by cell: what those of a variable and those of classes have in common.

Blocks of the map are computed by workers, in any order, and kept beside the map until all are there; then the files are put
together. A value depends on its cell alone, so neither the blocks nor the workers nor a kill in between change a bit. Blocks
need no halo.

Workers of this machine are threads, not processes: decoding a raster and the arithmetic on arrays let other threads run
meanwhile, and a process would have to import everything and be sent the model first. Workers of a Dask cluster are sent model
and metadata of the raster once, and read the raster themselves.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, Protocol, TypeVar

import fsspec
import numpy as np
import numpy.typing as npt

from fusion3d import __version__
from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.lattice import Lattice
from fusion3d.grid import Window, map_crs, metric_unit
from fusion3d.io.binary_file import is_url
from fusion3d.io.geotiff import CogWriter, check_tif_name
from fusion3d.io.raster import RasterFile, is_remote, open_raster
from fusion3d.mapping.finished_blocks import FinishedBlocks, on_workers
from fusion3d.prepare.scene import describe_file
from fusion3d.tasks.model import Trained
from fusion3d.tasks.support import band_names, means_of_squares, read_window, require_map
from fusion3d.workers import Workers

Array = npt.NDArray[Any]

_AT_ONCE = 256
"""Cells of the raster on the side of a square that is read at once, where the map's cells are coarser."""
_MULTIPLE = 1e-6


class CellModel(Trained, Protocol):
    """What a map needs to know of its model."""

    @property
    def target(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def version(self) -> str: ...
    def check_bands(self, names: tuple[str, ...], path: str | Path) -> None: ...


M = TypeVar("M", bound=CellModel)


@dataclass(frozen=True)
class Layer:
    """A file that is mapped: the rest of what `CogWriter` takes.

    Attributes
    ----------
    path : final name
    band_names : of its bands
    units : of one band each; None for none
    """

    path: Path
    band_names: Sequence[str]
    units: Sequence[str] | None = None
    dtype: str = "float32"
    nodata: float = math.nan
    resampling: str | None = None
    palette: Mapping[int, tuple[int, int, int, int]] | None = None


@dataclass(frozen=True)
class Blocks:
    """How a map is computed; none of it changes a value.

    Attributes
    ----------
    side : of the squares that are computed at once, cells of the map
    workers : threads
    scheduler : address of a Dask scheduler whose workers compute, instead of threads
    progress : draw a progress bar
    """

    side: int = 256
    workers: int = 1
    scheduler: str | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ConfigError(f"--block {self.side} must be at least 1 cell")
        self.pool()

    def pool(self) -> Workers:
        """The workers, not yet at work; ConfigError where there are none."""
        return Workers(self.workers, self.scheduler, threads=True)


@dataclass(frozen=True)
class CellMap(Generic[M]):
    """A model on the cells of a raster, or on squares of them.

    Attributes
    ----------
    model : that is applied
    path : of the raster, as it was given
    file : the raster
    lattice : cells of the map
    merge : cells of the raster on the side of one of the map
    """

    model: M
    path: str | Path
    file: RasterFile
    lattice: Lattice
    merge: int

    @classmethod
    def open(
        cls, model: M, path: str | Path, outputs: Sequence[Path], *, resolution: float | None = None, crs: str | None = None
    ) -> CellMap[M]:
        """The map to be made, once raster and files have been found right.

        Parameters
        ----------
        outputs : files that are going to be written, the one of `--out` first
        resolution : side of the map's cells, metres: a multiple of the raster's; None for those
        crs : of a raster without one

        Raises
        ------
        InputError
            The raster cannot be read, or its bands are not those of the fit.
        ConfigError
            An option is out of range.
        """
        out = outputs[0]
        file = require_map(open_raster(path, crs=crs))
        model.check_bands(band_names(file), path)
        for each in outputs:
            if each.is_dir():
                raise InputError(each, "is a folder", "give the name of a file")
            if each.exists() and not is_remote(str(path)) and each.samefile(path):
                which = "" if each == out else f": {each}"
                raise ConfigError(f"--out {out}{which} is the map of embeddings itself; give another name")
        own = Lattice.of(file)
        merge = _merge(path, own.cell * metric_unit(map_crs(file.crs)), resolution)
        lattice = Lattice(own.x0, own.y0, own.cell * merge, -(-own.rows // merge), -(-own.cols // merge))
        return cls(model, path, file, lattice, merge)

    @property
    def metres(self) -> float:
        """Side of a cell of the map."""
        return self.lattice.cell * metric_unit(map_crs(self.file.crs))

    def tags(self, **about: str) -> dict[str, str]:
        """Of the map: what it is of, and how it came about."""
        model = self.model
        made = {"target": model.target, "model": model.kind, "embedding": str(self.path)}
        if self.merge > 1:
            made["cells"] = f"means of {self.merge} x {self.merge} cells of the embedding, where data cover half of them"
        fitted = {f"fitted_on_{name}": value for name, value in model.trained_on.items()}
        simulated = {"simulated": self.file.tags["simulated"]} if "simulated" in self.file.tags else {}
        return {**made, **about, **simulated, **fitted, "fusion3d": model.version}

    def write(
        self,
        layers: Sequence[Layer],
        tags: Mapping[str, str],
        values_of: Callable[[Array], Sequence[Array]],
        tally: Callable[[Sequence[Array]], None],
        save_model: Callable[[M, Path], Any],
        blocks: Blocks,
    ) -> tuple[str, ...]:
        """Fill the layers, COGs on the cells of the map; cells without data are nodata in all of them.

        Parameters
        ----------
        tags : say all that the values depend on beside model and raster
        values_of : values [B, n] of each layer from the bands [D, n] of n cells with data; called by several threads, or pickled
        tally : is given the values [B, n] of each block, in the order of the blocks
        save_model : writes the model's JSON under a path

        Returns
        -------
        In words, what was done with what an earlier run had left.

        Raises
        ------
        InputError
            The raster holds no data, or a file cannot be written; no file appears under its name. What was computed stays.
        """
        windows = Window(0, 0, self.lattice.rows, self.lattice.cols).squares(blocks.side)
        work = FinishedBlocks(layers[0].path, self._key(layers, tags, save_model, blocks))
        try:
            with blocks.pool() as workers:
                compute = on_workers(workers, "map", _layers, (self._anywhere(), tuple(layers), values_of))
                filled, notes = work.fill(windows, compute, title="map", unit="blocks", progress=blocks.progress, workers=workers)
            if filled:
                self._assemble(work, windows, layers, tags, tally)
            work.remove()
        finally:
            work.close()
        if not filled and self.merge > 1:
            cell = f"data cover half of none of its cells of {self.metres:.10g} m: there is nothing to map"
            raise InputError(self.path, cell, "give a finer --resolution, or embed a place that a sensor saw")
        if not filled:
            raise InputError(self.path, "holds no data: there is nothing to map", "embed a place that a sensor saw")
        return notes

    def _key(
        self, layers: Sequence[Layer], tags: Mapping[str, str], save_model: Callable[[M, Path], Any], blocks: Blocks
    ) -> dict[str, Any]:
        """What the values of the blocks depend on."""
        file = self.file
        source = _remote_file(file.path) if is_remote(file.path) else describe_file(file.path)
        source |= {"crs": file.crs.to_wkt(), "nodata": file.nodata, "scale": file.scale, "offset": file.offset}
        with TemporaryDirectory() as folder:
            # the JSON holds the checksum of the arrays
            path = Path(folder) / "model.json"
            save_model(self.model, path)
            model = hashlib.sha256(path.read_bytes()).hexdigest()
        bands = [list(layer.band_names) for layer in layers]
        options = {"lattice": asdict(self.lattice), "bands": bands, "tags": dict(tags), "block": blocks.side}
        return {"model": model, "raster": source, "option": options, "version": __version__}

    def _anywhere(self) -> CellMap[M]:
        """The same map for a process in another folder."""
        path = self.file.path
        return self if is_remote(path) else replace(self, file=replace(self.file, path=str(Path(path).absolute())))

    def read(self, window: Window) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Bands [D, rows, cols] of cells of the map, and [rows, cols] where there is data."""
        own = Lattice.of(self.file)
        if self.merge == 1:
            return read_window(self.file, own, window)
        bands = np.zeros((self.file.count, window.rows, window.cols))
        seen = np.zeros((window.rows, window.cols), np.bool_)
        for part in window.squares(max(1, _AT_ONCE // self.merge)):
            under = Window(*(size * self.merge for size in (part.row, part.col, part.rows, part.cols)))
            cells = read_window(self.file, own, under.intersection(Window(0, 0, own.rows, own.cols)))
            rows = slice(part.row - window.row, part.row_stop - window.row)
            cols = slice(part.col - window.col, part.col_stop - window.col)
            bands[:, rows, cols], seen[rows, cols] = means_of_squares(*cells, self.merge)
        return bands, seen

    def _assemble(
        self, work: FinishedBlocks, windows: Sequence[Window], layers: Sequence[Layer], tags: Mapping[str, str],
        tally: Callable[[Sequence[Array]], None],
    ) -> None:  # fmt: skip
        """Make the files of all blocks, in the folder of the blocks, and give them their names."""
        lattice = self.lattice
        place: dict[str, Any] = {"x0": lattice.x0, "y0": lattice.y0, "pixel": lattice.cell, "crs": self.file.crs}
        place |= {"width": lattice.cols, "height": lattice.rows, "tags": tags}
        with ExitStack() as files:
            writers = []
            for layer in layers:
                about: dict[str, Any] = {"band_names": layer.band_names, "units": layer.units, "dtype": layer.dtype}
                about |= {"nodata": layer.nodata, "resampling": layer.resampling, "palette": layer.palette}
                path = work.folder / layer.path.name
                writers.append(files.enter_context(CogWriter(path, **place, **about, count=len(layer.band_names))))
            for window in windows:
                squares = work.load(window)
                if not squares:
                    continue
                seen = ~np.isnan(squares[0][0]) if math.isnan(layers[0].nodata) else squares[0][0] != layers[0].nodata
                tally([square[:, seen] for square in squares])
                for square, writer in zip(squares, writers, strict=True):
                    writer.write(square, window.row, window.col)
        work.publish({layer.path.name: layer.path for layer in layers})


def _layers(
    cells: CellMap[Any], layers: Sequence[Layer], values_of: Callable[[Array], Sequence[Array]], window: Window
) -> list[Array]:
    """What a block of the map holds, by layer; nothing where no cell has data."""
    bands, seen = cells.read(window)
    found = values_of(bands[:, seen]) if seen.any() else []
    return [_square(layer, values, seen) for layer, values in zip(layers, found)]


def _square(layer: Layer, values: Array, seen: npt.NDArray[np.bool_]) -> Array:
    """[B, rows, cols] from values [B, n] of the cells with data."""
    square = np.full((len(values), *seen.shape), layer.nodata, layer.dtype)
    square[:, seen] = values
    return square


def _remote_file(path: str) -> dict[str, Any]:
    """Its address and, where that can be had, a hash of its size and time."""
    with suppress(Exception):  # of the libraries of many protocols; GDAL, not they, reads the file
        system, inside = fsspec.core.url_to_fs(path)
        return {"path": path, "state": system.ukey(inside)}
    return {"path": path}


def check_name(out: str | Path, path: str | Path) -> None:
    """Refuse a name of a map of the raster at `path` that is not a GeoTIFF's, or that raster's own URL.

    Raises
    ------
    ConfigError
        It is one of these.
    """
    check_tif_name(out)
    if is_url(out) and str(out) == str(path):
        raise ConfigError(f"--out {out} is the map of embeddings itself; give another name")


def _merge(path: str | Path, cell: float, resolution: float | None) -> int:
    """Cells of a raster on the side of one of the map."""
    if resolution is None:
        return 1
    merge = round(resolution / cell) if math.isfinite(resolution) else 0
    if merge < 1 or abs(resolution / (merge * cell) - 1) > _MULTIPLE:
        raise ConfigError(f"--resolution {resolution:g} is not a multiple of the cells of {path}, which are of {cell:g} m")
    return merge
