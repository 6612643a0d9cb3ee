"""Small archives of LiDAR tiles for tests of the index."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np

from fusion3d.io.las_writer import write_points

X0, Y0 = 700_000.0, 6_600_000.0
"""South-west corner of tile 0, 0 in Lambert-93."""


def write_tile(
    path: Path,
    xmin: float,
    ymin: float,
    *,
    side: float = 100.0,
    count: int = 50,
    crs: str | None = "EPSG:2154",
    created: datetime.date = datetime.date(2021, 5, 1),
    seed: int = 0,
) -> Path:
    """A tile whose points reach from its south-west corner to 1 cm from its north-east one, as tiles cut by a program do."""
    random = np.random.default_rng(seed)
    x, y = random.uniform(0, side - 0.01, (2, count))
    x[:2], y[:2] = (0, side - 0.01), (0, side - 0.01)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_points(path, xmin + x, ymin + y, random.uniform(0, 30, count), crs=crs, scale=0.01, created=created)


def write_grid(folder: Path, cols: int, rows: int, *, without: tuple[tuple[int, int], ...] = (), side: float = 100.0) -> Path:
    """Tiles ``t_<col>_<row>.laz`` side by side, some left out."""
    for col in range(cols):
        for row in range(rows):
            if (col, row) not in without:
                name = folder / f"t_{col}_{row}.laz"
                write_tile(name, X0 + side * col, Y0 + side * row, side=side, seed=100 * col + row)
    return folder
