"""North-up square cells, and how much of each lies under a polygon: exact areas of intersection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely

from fusion3d.grid import Window
from fusion3d.io.raster import RasterFile

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lattice:
    """North-up square cells: north-west corner, side of a cell (CRS units) and extent."""

    x0: float
    y0: float
    cell: float
    rows: int
    cols: int

    @classmethod
    def of(cls, file: RasterFile) -> Lattice:
        """The cells of a raster; where they are oblong or turned, square ones of the same area over its extent."""
        xmin, ymin, xmax, ymax = file.bounds
        if is_north_up(file):
            return cls(file.transform.c, file.transform.f, file.transform.a, file.height, file.width)
        rows, cols = (max(1, int(np.ceil(length / file.pixel - 1e-6))) for length in (ymax - ymin, xmax - xmin))
        return cls(xmin, ymax, file.pixel, rows, cols)

    def covering(self, bounds: Float64) -> Window:
        """The cells that touch xmin, ymin, xmax, ymax, limited to the lattice; of size 0 when there are none."""
        xmin, ymin, xmax, ymax = bounds
        if not np.isfinite(bounds).all():
            return Window(0, 0, 0, 0)
        edges = np.array([(xmin - self.x0), (xmax - self.x0), (self.y0 - ymax), (self.y0 - ymin)]) / self.cell
        # beyond the raster by any distance, so that far plots do not overflow
        left, right, top, bottom = np.clip(edges, -1.0, max(self.rows, self.cols) + 1.0)
        col, row = int(np.floor(left)), int(np.floor(top))
        touched = Window(row, col, max(0, int(np.ceil(bottom)) - row), max(0, int(np.ceil(right)) - col))
        return touched.intersection(Window(0, 0, self.rows, self.cols))

    def areas(self, polygon: shapely.Geometry, window: Window) -> Float64:
        """Area [rows, cols] of a prepared polygon on each cell of a window, squared CRS units."""
        x = self.x0 + (window.col + np.arange(window.cols + 1)) * self.cell
        y = self.y0 - (window.row + np.arange(window.rows + 1)) * self.cell
        boxes = shapely.box(x[None, :-1], y[1:, None], x[None, 1:], y[:-1, None])
        found = np.zeros((window.rows, window.cols))
        touched = shapely.intersects(polygon, boxes)
        within = shapely.contains_properly(polygon, boxes)
        found[within] = self.cell**2
        crossed = touched & ~within
        found[crossed] = shapely.area(shapely.intersection(boxes[crossed], polygon))
        return found


def is_north_up(file: RasterFile) -> bool:
    """Whether a raster's pixels are square with north up, to a millionth."""
    place = file.transform
    return place.b == place.d == 0.0 and place.e < 0 < place.a and abs(place.a + place.e) <= 1e-6 * place.a
