"""GEDI files onto the grid: read, join the products of the same shots, keep those inside."""

from __future__ import annotations

import numpy as np
from pyproj import CRS

from fusion3d.errors import Fusion3DError
from fusion3d.grid import Grid
from fusion3d.io.gedi import FootprintTable, join_products, open_gedi, read_footprints

_MARGIN_DEGREES = 1.0


def footprint_bounds(paths: list[str], crs: CRS) -> list[tuple[float, float, float, float]]:
    """Bounds of each file's footprints in `crs`, as far as they lie in that CRS's area of use.

    A projection far outside of its area of use gives numbers without meaning, and a grid of the whole globe.
    """
    area = crs.area_of_use
    rectangles = []
    for path in paths:
        try:
            table = read_footprints(path, crs)
        except Fusion3DError:
            continue  # told where the footprints are collected
        near = np.isfinite(table.x) & np.isfinite(table.y)
        if area is not None:
            near &= (table.longitude >= area.west - _MARGIN_DEGREES) & (table.longitude <= area.east + _MARGIN_DEGREES)
            near &= (table.latitude >= area.south - _MARGIN_DEGREES) & (table.latitude <= area.north + _MARGIN_DEGREES)
        if near.any():
            x, y = table.x[near], table.y[near]
            rectangles.append((float(x.min()), float(y.min()), float(x.max()), float(y.max())))
    return rectangles


def collect_footprints(paths: list[str], grid: Grid) -> tuple[FootprintTable | None, int, list[tuple[str, str]]]:
    """Footprints inside the grid, all products of a shot in one row, in order of shot number.

    Returns
    -------
    the table, None when no file could be read; shots (of all files) that lie outside of the grid or have no location; and path
    and reason of each file set aside
    """
    tables, set_aside, outside = [], [], 0
    for path in paths:
        try:
            table = read_footprints(path, grid.pyproj_crs, grid.bounds(grid.window))
            shots = open_gedi(path).shot_count
        except Fusion3DError as error:
            set_aside.append((path, str(error)))
            continue
        row, col = grid.cell_of(table.x, table.y)
        inside = (row >= 0) & (row < grid.rows) & (col >= 0) & (col < grid.cols)
        tables.append(table.select(inside))
        outside += shots - int(inside.sum())
    if not tables:
        return None, 0, set_aside
    table = join_products(tables)
    return table.select(np.argsort(table.shot_number, kind="stable")), outside, set_aside
