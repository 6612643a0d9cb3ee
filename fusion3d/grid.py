"""The column grid: CRS, float64 anchor, columns, blocks, voxels.

Rows run south from the anchor and columns run east, as in a north-up raster, so an array on the grid is a map with north up.
Cells are half-open towards larger indices: a point on the edge shared by two cells belongs to the cell of larger row and
column. Everything here is float64 or int64; the float32 world begins inside a column (`fusion3d.store`).

::

    anchor (x0, y0) +---------+---------+--> x (east), column index
                    |  (0,0)  |  (0,1)  |
                    +---------+---------+
                    |  (1,0)  |         |
                    v
                    south, row index
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError as PyprojCRSError

from fusion3d.errors import ConfigError, CRSError

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

Bounds = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax in units of a CRS."""

INTEGER_TOLERANCE = 1e-6
_METRES_PER_DEGREE = 111_320.0
_EDGE_POINTS = 21


def metric_unit(crs: CRS) -> float:
    """Metres in one unit of a projected CRS's map axes.

    Raises
    ------
    CRSError
        The CRS is geographic, geocentric, local or not two-dimensional in one linear unit; the text says what to pass.
    """
    if crs.is_geographic:
        raise CRSError(
            None,
            f"CRS {crs.name!r} is geographic (degrees), columns need metres",
            "pass --crs with a projected CRS to reproject to, for instance the UTM zone (--crs EPSG:326NN)",
        )
    if crs.is_geocentric:
        raise CRSError(None, f"CRS {crs.name!r} is geocentric", "pass --crs with a projected CRS to reproject to")
    horizontal = map_crs(crs)
    if not horizontal.is_projected:
        raise CRSError(None, f"CRS {crs.name!r} is not projected", "pass --crs with a projected CRS to reproject to")
    units = {round(axis.unit_conversion_factor, 12) for axis in horizontal.axis_info[:2]}
    if len(units) != 1 or 0.0 in units:
        raise CRSError(None, f"the axes of CRS {crs.name!r} have no common linear unit", "pass --crs with a metric CRS")
    return float(horizontal.axis_info[0].unit_conversion_factor)


def rough_unit(crs: CRS) -> float:
    """Metres in one unit of the map axes, of degrees those at the equator: good enough for margins and comparisons."""
    horizontal = map_crs(crs)
    return _METRES_PER_DEGREE if horizontal.is_geographic else float(horizontal.axis_info[0].unit_conversion_factor)


def vertical_unit(crs: CRS) -> float:
    """Metres in one unit of height: of the vertical axis when the CRS has one, else of the map axes (the usual
    convention), and metres on a geographic one."""
    for part in crs.sub_crs_list or [crs]:
        if part.is_vertical:
            return float(part.axis_info[0].unit_conversion_factor)
    if len(crs.axis_info) == 3 and crs.axis_info[2].unit_conversion_factor:
        return float(crs.axis_info[2].unit_conversion_factor)
    # Heights on a geographic or geocentric CRS are ellipsoidal, in metres.
    return metric_unit(crs) if map_crs(crs).is_projected else 1.0


def same_map_crs(one: CRS, other: CRS) -> bool:
    """Whether two CRSs have the same map axes, whatever their heights and the order of their axes."""
    one, other = map_crs(one), map_crs(other)
    if one.equals(other, ignore_axis_order=True):
        return True
    code = one.to_epsg()
    return code is not None and code == other.to_epsg()


def moved_bounds(bounds: Bounds, source: CRS, target: CRS) -> Bounds:
    """The rectangle around a rectangle in another CRS, where its edges are curves; infinite where it has no place there."""
    if same_map_crs(source, target):
        return bounds
    transformer = Transformer.from_crs(map_crs(source), map_crs(target), always_xy=True)
    return transformer.transform_bounds(*bounds, densify_pts=_EDGE_POINTS)


def map_crs(crs: CRS) -> CRS:
    """The horizontal part of a CRS: of a compound CRS its first, of a bound CRS its source."""
    for part in crs.sub_crs_list:
        if not part.is_vertical:
            return map_crs(part)
    if crs.is_bound and crs.source_crs is not None:
        return map_crs(crs.source_crs)
    return crs


@dataclass(frozen=True)
class Window:
    """A rectangle of cells: rows [row, row + rows) and columns [col, col + cols) of a grid. Indices may be negative."""

    row: int
    col: int
    rows: int
    cols: int

    def __post_init__(self) -> None:
        if self.rows < 0 or self.cols < 0:
            raise ConfigError(f"a window cannot have {self.rows} x {self.cols} cells")

    @property
    def row_stop(self) -> int:
        return self.row + self.rows

    @property
    def col_stop(self) -> int:
        return self.col + self.cols

    @property
    def size(self) -> int:
        return self.rows * self.cols

    def intersection(self, other: Window) -> Window:
        """The cells in both windows; rows or cols is 0 when there are none."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        return Window(
            row, col, max(0, min(self.row_stop, other.row_stop) - row), max(0, min(self.col_stop, other.col_stop) - col)
        )

    def buffered(self, cells: int) -> Window:
        """The window grown by `cells` on each side."""
        return Window(self.row - cells, self.col - cells, self.rows + 2 * cells, self.cols + 2 * cells)

    def squares(self, side: int) -> list[Window]:
        """Squares of `side` cells that cover the window, in row order; the last ones are cut."""
        return [
            Window(row, col, min(side, self.row_stop - row), min(side, self.col_stop - col))
            for row in range(self.row, self.row_stop, side)
            for col in range(self.col, self.col_stop, side)
        ]


@dataclass(frozen=True)
class Grid:
    """A regular grid of columns on a projected CRS.

    Parameters
    ----------
    crs : WKT2 of a projected CRS (any linear unit)
    x0, y0 : north-west corner in CRS units, float64
    column : side of a column, metres
    voxel : side of a voxel, metres; `column` must be an integer multiple
    block : side of a block, columns
    rows, cols : extent in columns

    Raises
    ------
    CRSError
        The CRS is not projected.
    ConfigError
        A size is not positive and finite, or `column` is not a multiple of `voxel`.
    """

    crs: str
    x0: float
    y0: float
    column: float = 10.0
    voxel: float = 0.5
    block: int = 64
    rows: int = 0
    cols: int = 0

    def __post_init__(self) -> None:
        for name in ("column", "voxel"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"--{name} must be a positive number of metres, not {value}")
        if not (math.isfinite(self.x0) and math.isfinite(self.y0)):
            raise ConfigError(f"the grid's corner ({self.x0}, {self.y0}) is not finite")
        if self.block < 1 or self.rows < 0 or self.cols < 0:
            raise ConfigError("block, rows and cols count columns and cannot be negative (block at least 1)")
        ratio = self.column / self.voxel
        if abs(ratio - round(ratio)) > INTEGER_TOLERANCE or round(ratio) < 1:
            raise ConfigError(
                f"--column {self.column} m is not a multiple of --voxel {self.voxel} m; choose a voxel that divides it"
            )
        metric_unit(self.pyproj_crs)

    @classmethod
    def covering(
        cls,
        crs: CRS | str,
        bounds: tuple[float, float, float, float],
        *,
        column: float = 10.0,
        voxel: float = 0.5,
        block: int = 64,
        closed: bool = True,
    ) -> Grid:
        """The smallest grid whose edges are multiples of `column` and that covers `bounds`.

        Parameters
        ----------
        bounds : xmin, ymin, xmax, ymax in CRS units
        closed : points may lie on the southern and eastern edge too (bounds of points); false for an area
        """
        xmin, ymin, xmax, ymax = bounds
        if not all(map(math.isfinite, bounds)) or xmax < xmin or ymax < ymin:
            raise ConfigError(f"bounds {bounds} are not a finite rectangle")
        empty = cls(map_crs(parse_crs(crs)).to_wkt("WKT2_2019"), 0.0, 0.0, column, voxel, block)
        size = empty.cell
        anchored = cls(empty.crs, math.floor(xmin / size) * size, math.ceil(ymax / size) * size, column, voxel, block)
        if not closed:
            row, col = (
                math.ceil(cells - INTEGER_TOLERANCE) - 1 for cells in ((anchored.y0 - ymin) / size, (xmax - anchored.x0) / size)
            )
            return cls(empty.crs, anchored.x0, anchored.y0, column, voxel, block, row + 1, col + 1)
        rows, cols = anchored.cell_of(np.array([xmax]), np.array([ymin]))
        return cls(empty.crs, anchored.x0, anchored.y0, column, voxel, block, int(rows[0]) + 1, int(cols[0]) + 1)

    @cached_property
    def pyproj_crs(self) -> CRS:
        return parse_crs(self.crs)

    @cached_property
    def unit(self) -> float:
        """Metres in one CRS unit."""
        return metric_unit(self.pyproj_crs)

    @property
    def cell(self) -> float:
        """Side of a column in CRS units."""
        return self.column / self.unit

    @property
    def voxels_per_column(self) -> int:
        return round(self.column / self.voxel)

    @property
    def window(self) -> Window:
        """Every column of the grid."""
        return Window(0, 0, self.rows, self.cols)

    @property
    def block_shape(self) -> tuple[int, int]:
        """Number of block rows and block columns that cover the grid."""
        return -(-self.rows // self.block), -(-self.cols // self.block)

    def cell_of(self, x: Float64, y: Float64) -> tuple[Int64, Int64]:
        """Row and column of points, int64, not clipped to the grid.

        Parameters
        ----------
        x, y : [N] float64, CRS units

        A point within a millionth of a cell of an edge counts as on it: the products of scaled integers and of feet
        conversions land there.
        """
        return _half_open((self.y0 - y) / self.cell), _half_open((x - self.x0) / self.cell)

    def corner(self, row: int, col: int) -> tuple[float, float]:
        """North-west corner of a cell, CRS units."""
        return self.x0 + col * self.cell, self.y0 - row * self.cell

    def bounds(self, window: Window) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax, ymax of a window, CRS units."""
        xmin, ymax = self.corner(window.row, window.col)
        xmax, ymin = self.corner(window.row_stop, window.col_stop)
        return xmin, ymin, xmax, ymax

    def block_window(self, block_row: int, block_col: int) -> Window:
        """The columns of a block, clipped to the grid."""
        full = Window(block_row * self.block, block_col * self.block, self.block, self.block)
        return full.intersection(self.window)

    def blocks_in(self, window: Window) -> list[tuple[int, int]]:
        """Block rows and columns that share a cell with `window`, in row order, limited to the grid."""
        inside = window.intersection(self.window)
        if inside.size == 0:
            return []
        return [
            (block_row, block_col)
            for block_row in range(inside.row // self.block, (inside.row_stop - 1) // self.block + 1)
            for block_col in range(inside.col // self.block, (inside.col_stop - 1) // self.block + 1)
        ]

    def covering_window(self, bounds: tuple[float, float, float, float]) -> Window:
        """The cells of the grid that touch `bounds` (xmin, ymin, xmax, ymax), limited to the grid."""
        xmin, ymin, xmax, ymax = bounds
        rows, cols = self.cell_of(np.array([xmin, xmax]), np.array([ymax, ymin]))
        touched = Window(int(rows[0]), int(cols[0]), max(0, int(rows[1] - rows[0]) + 1), max(0, int(cols[1] - cols[0]) + 1))
        return touched.intersection(self.window)


def _half_open(cells: Float64) -> Int64:
    nearest = np.rint(cells)
    return np.where(np.abs(cells - nearest) <= INTEGER_TOLERANCE, nearest, np.floor(cells)).astype(np.int64)


def parse_crs(crs: CRS | str | int) -> CRS:
    """A pyproj CRS from anything that names one; `CRSError` in one line when nothing does."""
    if isinstance(crs, CRS):
        return crs
    try:
        return CRS.from_user_input(crs)
    except PyprojCRSError:
        raise CRSError(None, f"{str(crs)[:80]!r} is not a CRS", "give an EPSG code such as EPSG:2154, or WKT") from None
