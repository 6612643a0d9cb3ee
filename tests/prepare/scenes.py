"""Small scenes written in the real formats, for tests of `prepare` and `store`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fusion3d.io.las_writer import write_points

X0, Y0 = 652000.0, 6860000.0


def slope(x, y):
    """Ground elevation, metres."""
    return 200.0 + 0.2 * (x - X0) + 0.1 * (y - Y0)


def write_tile(
    path: Path, x0: float, y0: float, side: float = 40.0, seed: int = 0, density: float = 4.0, crs: str | None = "EPSG:2154"
) -> Path:
    """A square tile: ground on a slope, and vegetation at known heights 1 to 15 m above it (its user_data holds decimetres)."""
    random = np.random.default_rng(seed)
    count = int(density * side**2)
    x, y = (np.round(start + random.uniform(0, side, count), 2) for start in (x0, y0))
    height = np.where(random.random(count) < 0.5, 0.0, np.round(random.uniform(1, 15, count), 1))
    attributes = {
        "classification": np.where(height > 0, 5, 2).astype(np.uint8),
        "intensity": random.integers(0, 60000, count).astype(np.uint16),
        "return_number": np.ones(count, np.uint8),
        "number_of_returns": np.ones(count, np.uint8),
        "user_data": np.round(height * 10).astype(np.uint8),
    }
    return write_points(path, x, y, slope(x, y) + height, attributes, crs=crs, scale=0.01)


def write_tiles(folder: Path) -> list[str]:
    """Four tiles that share edges, 80 x 80 m."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        str(write_tile(folder / f"tile_{row}_{col}.laz", X0 + 40 * col, Y0 + 40 * row, seed=2 * row + col))
        for row in range(2)
        for col in range(2)
    ]
