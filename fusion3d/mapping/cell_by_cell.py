"""Maps that a model makes of a raster cell by cell: what those of a variable and those of classes have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.lattice import Lattice
from fusion3d.grid import Window
from fusion3d.io.geotiff import CogWriter
from fusion3d.io.raster import RasterFile, open_raster
from fusion3d.mapping.tiles import read_ahead
from fusion3d.tasks.model import Trained
from fusion3d.tasks.support import band_names, read_window, require_map

Array = npt.NDArray[Any]


class CellModel(Trained, Protocol):
    """What a map needs to know of its model."""

    @property
    def target(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def version(self) -> str: ...
    def check_bands(self, names: tuple[str, ...], path: str | Path) -> None: ...


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
class CellSource:
    """A raster that a model is applied to.

    Attributes
    ----------
    path : as it was given
    file : the raster
    lattice : its cells
    """

    path: str | Path
    file: RasterFile
    lattice: Lattice

    @classmethod
    def open(cls, path: str | Path, model: CellModel, outputs: Sequence[Path], block: int) -> CellSource:
        """The raster, once it and the options of the map have been found right.

        Parameters
        ----------
        outputs : files that are going to be written, the one of `--out` first
        block : side of the squares that are computed at once

        Raises
        ------
        InputError
            It cannot be read, or its bands are not those of the fit.
        ConfigError
            An option is out of range.
        """
        out = outputs[0]
        if out.suffix.lower() not in (".tif", ".tiff"):
            raise ConfigError(f"--out {out}: give a name that ends in .tif")
        if block < 1:
            raise ConfigError(f"--block {block} must be at least 1 cell")
        file = require_map(open_raster(path))
        model.check_bands(band_names(file), path)
        for each in outputs:
            if each.exists() and each.samefile(path):
                which = "" if each == out else f": {each}"
                raise ConfigError(f"--out {out}{which} is the map of embeddings itself; give another name")
        return cls(path, file, Lattice.of(file))

    def tags(self, model: CellModel, **about: str) -> dict[str, str]:
        """Of a map of the raster: what it is of, and how it came about."""
        made = {"target": model.target, "model": model.kind, "embedding": str(self.path)}
        fitted = {f"fitted_on_{name}": value for name, value in model.trained_on.items()}
        simulated = {"simulated": self.file.tags["simulated"]} if "simulated" in self.file.tags else {}
        return {**made, **about, **simulated, **fitted, "fusion3d": model.version}

    def write(
        self,
        layers: Sequence[Layer],
        tags: Mapping[str, str],
        values_of: Callable[[Array], Sequence[Array]],
        tally: Callable[[Sequence[Array]], None],
        *,
        block: int,
        progress: bool,
    ) -> None:
        """Fill the layers, COGs on the cells of the raster; cells without data are nodata in all of them.

        Parameters
        ----------
        values_of : values [B, n] of each layer from the bands [D, n] of n cells with data
        tally : is given what each block has
        block : side of the squares that are computed at once, cells

        Raises
        ------
        InputError
            The raster holds no data, or a file cannot be written; nothing is left under the names.
        """
        lattice, filled = self.lattice, False
        place: dict[str, Any] = {"x0": lattice.x0, "y0": lattice.y0, "pixel": lattice.cell, "crs": self.file.crs}
        place |= {"width": lattice.cols, "height": lattice.rows, "tags": tags}
        windows = Window(0, 0, lattice.rows, lattice.cols).squares(block)
        with ExitStack() as files:
            # left in reverse: the further layers are there before the first is
            writers = [
                files.enter_context(
                    CogWriter(
                        layer.path,
                        **place,
                        count=len(layer.band_names),
                        dtype=layer.dtype,
                        nodata=layer.nodata,
                        band_names=layer.band_names,
                        units=layer.units,
                        resampling=layer.resampling,
                        palette=layer.palette,
                    )
                )
                for layer in layers
            ]
            tiles = read_ahead(windows, lambda window: read_window(self.file, lattice, window))
            for window, (bands, seen) in track(tiles, "map", len(windows), console=Console(stderr=True), disable=not progress):
                if not seen.any():
                    continue
                filled = True
                found = values_of(bands[:, seen])
                tally(found)
                for layer, writer, values in zip(layers, writers, found, strict=True):
                    square = np.full((len(values), *seen.shape), layer.nodata, layer.dtype)
                    square[:, seen] = values
                    writer.write(square, window.row, window.col)
            if not filled:
                raise InputError(self.path, "holds no data: there is nothing to map", "embed a place that a sensor saw")
