"""Rasters of any size on a picture's pixels: read from overviews, reprojected and turned north up where they are not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT

from fusion3d.errors import Fusion3DError, InputError, one_line
from fusion3d.grid import Grid, Window, metric_unit, parse_crs, same_map_crs
from fusion3d.io.alignment import rasterio_crs

Float32 = npt.NDArray[np.float32]
_REMEDY = "give a GeoTIFF with a projected CRS"


@dataclass(frozen=True)
class Place:
    """Pixels of a picture on the ground, north up: CRS, north-west corner and side of a pixel in CRS units."""

    crs: str
    x0: float
    y0: float
    pixel: float
    rows: int
    cols: int

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax, ymax, CRS units."""
        return self.x0, self.y0 - self.rows * self.pixel, self.x0 + self.cols * self.pixel, self.y0

    @cached_property
    def unit(self) -> float:
        """Metres in one CRS unit."""
        return metric_unit(parse_crs(self.crs))

    @property
    def axis_label(self) -> str:
        """Name of the CRS and its unit."""
        unit = "m" if abs(self.unit - 1) < 1e-9 else "ft" if abs(self.unit - 0.3048) < 1e-5 else f"{self.unit:g} m"
        return f"{parse_crs(self.crs).name} ({unit})"

    def at(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Row and column of points, clipped to the picture."""
        row = np.floor((self.y0 - y) / self.pixel).astype(np.int64)
        col = np.floor((x - self.x0) / self.pixel).astype(np.int64)
        return np.clip(row, 0, self.rows - 1), np.clip(col, 0, self.cols - 1)


def place_of(grid: Grid, window: Window, shrink: float = 1.0) -> Place:
    """Pixels of `shrink` columns that cover a window of a grid."""
    x0, y0 = grid.corner(window.row, window.col)
    return Place(grid.crs, x0, y0, grid.cell * shrink, math.ceil(window.rows / shrink), math.ceil(window.cols / shrink))


@dataclass(frozen=True)
class RasterFacts:
    """What a raster's header says: bands, names and unit of the first, its own pixels, tags."""

    count: int
    names: tuple[str, ...]
    unit: str
    place: Place
    tags: dict[str, str]


def facts(path: Path, longest: int) -> RasterFacts:
    """The header of a raster; `place` has at most `longest` pixels a side.

    Raises
    ------
    InputError
        There is no such file, or it is no raster with a projected CRS.
    """
    try:
        with rasterio.open(path) as dataset:
            if dataset.crs is None:
                raise InputError(path, "a raster without a CRS", _REMEDY)
            wkt, bounds = dataset.crs.to_wkt(), dataset.bounds
            xs, ys = sorted((bounds.left, bounds.right)), sorted((bounds.bottom, bounds.top))
            own = math.sqrt(abs(dataset.transform.determinant))
            pixel = own * max(1.0, max(xs[1] - xs[0], ys[1] - ys[0]) / own / longest)
            shape = (max(1, round((length[1] - length[0]) / pixel)) for length in (ys, xs))
            place = Place(wkt, xs[0], ys[1], pixel, *shape)
            place.unit  # noqa: B018 - refuses degrees here rather than in the middle of a figure
            names = tuple(dataset.descriptions[band] or f"band {band + 1}" for band in range(dataset.count))
            return RasterFacts(dataset.count, names, dataset.units[0] or "", place, dataset.tags())
    except Fusion3DError as error:
        raise error if isinstance(error, InputError) and error.path else InputError(path, str(error), _REMEDY) from None
    except (RasterioError, OSError) as error:
        raise _unreadable(path, error) from None


def read_on(path: Path, place: Place, bands: list[int] | None = None, *, average: bool = True) -> Float32:
    """Bands [C, rows, cols] of a raster on the pixels of a place, NaN where there is no data.

    Parameters
    ----------
    bands : 1-based; None for all
    average : over the raster's pixels inside of a larger one; else the nearest

    Raises
    ------
    InputError
        The raster cannot be read.
    """
    target = rasterio_crs(parse_crs(place.crs))
    try:
        with rasterio.open(path) as dataset:
            if dataset.crs is None:
                raise InputError(path, "a raster without a CRS", _REMEDY)
            # One CRS written in two ways must not be warped from one to the other.
            same = same_map_crs(parse_crs(dataset.crs.to_wkt()), parse_crs(place.crs))
            own = math.sqrt(abs(dataset.transform.determinant))
            coarser = place.pixel > own * (1 + 1e-6) if same else True
            bare = dataset.nodata is None and ColorInterp.alpha not in dataset.colorinterp
            with WarpedVRT(
                dataset,
                src_crs=target if same else None,
                crs=target,
                transform=Affine(place.pixel, 0.0, place.x0, 0.0, -place.pixel, place.y0),
                width=place.cols,
                height=place.rows,
                resampling=Resampling.average if average and coarser else Resampling.nearest,
                add_alpha=bare,
                dtype="float32",
                nodata=dataset.nodata,
            ) as warped:
                chosen = bands or list(range(1, dataset.count + 1))
                values = warped.read(chosen, masked=True).astype(np.float32)
                values = values.filled(np.nan)
                if bare:
                    values[:, warped.read(warped.count) == 0] = np.nan
                return values
    except (RasterioError, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> InputError:
    if not path.exists():
        return InputError(path, "no such file", "check the path")
    return InputError(path, f"cannot be read as a raster ({one_line(error)})", "make it again")
