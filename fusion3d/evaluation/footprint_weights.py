"""Which cells of a raster a footprint sees: the weights of `fusion3d.ops.footprint_pool` on any lattice.

The footprint is a Gaussian on the ground; cells count by its value at their middle, as far as three sigmas away. The cell that
holds the footprint's middle always counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely

from fusion3d.errors import ConfigError
from fusion3d.evaluation.lattice import Lattice
from fusion3d.grid import Window

Float64 = npt.NDArray[np.float64]

_TRUNCATION = 3.0


@dataclass(frozen=True)
class Gaussian:
    """How a footprint weighs the ground about the middle of the disc that stands for it.

    Attributes
    ----------
    sigma : metres, geolocation included
    radius : of the disc, metres
    """

    sigma: float
    radius: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0 and math.isfinite(self.radius) and self.radius > 0):
            raise ConfigError(f"sigma {self.sigma} m and radius {self.radius} m of a footprint must be positive numbers")

    @property
    def reach(self) -> float:
        """Metres beyond the disc as far as which cells count."""
        return max(0.0, _TRUNCATION * self.sigma - self.radius)


def footprint_cells(disc: shapely.Geometry, gaussian: Gaussian, lattice: Lattice) -> tuple[Window, Float64]:
    """Cells that a footprint sees, limited to the lattice, and their shares [rows, cols] of its weight.

    The shares of all cells sum to 1, those beyond the lattice included. Lengths are those of the ground where the disc is: its
    own extent says what a metre is on the map.
    """
    west, south, east, north = shapely.bounds(disc)
    width, height = (east - west) / 2, (north - south) / 2
    if not (math.isfinite(width) and width > 0 and height > 0):
        return Window(0, 0, 0, 0), np.zeros((0, 0))
    # the polygon has the area of its disc, its vertices lie a little outside
    rounding = math.sqrt(disc.area / (math.pi * width * height))
    sigmas = np.array([height, width]) * rounding * gaussian.sigma / gaussian.radius / lattice.cell
    middle = np.array([lattice.y0 - (south + north) / 2, (west + east) / 2 - lattice.x0]) / lattice.cell
    home = np.floor(middle).astype(np.int64)
    steps = np.floor(_TRUNCATION * sigmas + 0.5).astype(np.int64)
    cells = [np.arange(at - step, at + step + 1) for at, step in zip(home, steps, strict=True)]
    down, right = (((axis + 0.5 - at) / sigma) ** 2 for axis, at, sigma in zip(cells, middle, sigmas, strict=True))
    squared = down[:, None] + right[None, :]
    nearest = squared[steps[0], steps[1]]
    seen = squared <= _TRUNCATION**2
    seen[steps[0], steps[1]] = True
    # measured from the nearest middle, so that a Gaussian far narrower than a cell does not underflow to 0 / 0
    weights = np.where(seen, np.exp((nearest - squared) / 2), 0.0)
    whole = Window(int(cells[0][0]), int(cells[1][0]), len(cells[0]), len(cells[1]))
    window = whole.intersection(Window(0, 0, lattice.rows, lattice.cols))
    top, left = window.row - whole.row, window.col - whole.col
    inside = weights[top : top + window.rows, left : left + window.cols]
    return window, inside / weights.sum()
