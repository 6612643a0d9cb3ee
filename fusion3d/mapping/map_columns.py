"""The cells of a map of a variable as a table: GeoParquet with a row per mapped cell and a column per band."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.lattice import Lattice
from fusion3d.grid import Window
from fusion3d.io.alignment import planar
from fusion3d.io.binary_file import is_url
from fusion3d.io.pixels import Target
from fusion3d.io.raster import open_raster
from fusion3d.mapping.geoparquet import CellTable
from fusion3d.tasks.domain import EXTRAPOLATION
from fusion3d.tasks.support import band_names

_SIDE = 512
"""Cells on the side of the squares in whose order rows come: those of the map's file, whatever it was computed in."""


def check_columns(path: str | Path) -> None:
    """Refuse a name of a table that cannot be written.

    Raises
    ------
    ConfigError
        It does not end in .parquet.
    InputError
        Its folder does not exist.
    """
    if not str(path).lower().endswith((".parquet", ".geoparquet")):
        raise ConfigError(f"--columns {path}: give a name that ends in .parquet")
    if not is_url(path) and not Path(path).absolute().parent.is_dir():
        raise InputError(path, "cannot be written: its folder does not exist", "create the folder first")


def write_columns(map_file: str | Path, out: str | Path) -> int:
    """Write the cells of a map that have an estimate, the first band, as GeoParquet, whole or not at all; returns their number.

    Columns are the bands by name, null where a band has no value, and `extrapolation` as true or false.

    Raises
    ------
    InputError
        The map cannot be read or the table cannot be written.
    """
    file = open_raster(map_file)
    lattice, names = Lattice.of(file), band_names(file)
    fields = [(name, pa.bool_() if name == EXTRAPOLATION else pa.float32()) for name in names]
    with CellTable(out, crs=planar(file.crs), fields=fields, about=file.tags) as table:
        for window in Window(0, 0, lattice.rows, lattice.cols).squares(_SIDE):
            x0, y0 = lattice.x0 + window.col * lattice.cell, lattice.y0 - window.row * lattice.cell
            patch = file.read(0, Target(file.crs, x0, y0, lattice.cell, window.rows, window.cols))
            row, col = np.nonzero(patch.valid[0])
            values, missing = patch.values[:, row, col], ~patch.valid[:, row, col]
            columns = [
                pa.array(cells > 0.5 if name == EXTRAPOLATION else cells, kind, mask=lacking)
                for (name, kind), cells, lacking in zip(fields, values, missing, strict=True)
            ]
            row, col = row + window.row, col + window.col
            x, y = (np.asarray(cells + 0.5, np.float64) * lattice.cell for cells in (col, row))
            table.add(lattice.x0 + x, lattice.y0 - y, row, col, columns)
        return table.rows
