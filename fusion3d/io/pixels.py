"""Plain data between rasters and those who read them: where to read, what comes back, and what a reader has to provide."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from affine import Affine
from pyproj import CRS

from fusion3d.errors import ConfigError
from fusion3d.io.bands import Band

Kind = Literal["reflectance", "backscatter", "continuous", "classes"]
KINDS: tuple[Kind, ...] = ("reflectance", "backscatter", "continuous", "classes")
Array = npt.NDArray[np.generic]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Target:
    """North-up square pixels to read a raster on.

    Parameters
    ----------
    crs : of the target
    x0, y0 : north-west corner, CRS units
    pixel : side of a pixel, CRS units
    height, width : pixels
    kind : what the values are, which decides how they are resampled
    """

    crs: CRS
    x0: float
    y0: float
    pixel: float
    height: int
    width: int
    kind: Kind = "continuous"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"a raster is one of {', '.join(KINDS)}, not {self.kind!r}")
        if not (math.isfinite(self.pixel) and self.pixel > 0 and self.height >= 0 and self.width >= 0):
            raise ConfigError(f"a target of {self.height} x {self.width} pixels of {self.pixel} cannot be read")

    @property
    def transform(self) -> Affine:
        return Affine(self.pixel, 0.0, self.x0, 0.0, -self.pixel, self.y0)


@dataclass(frozen=True)
class RasterPatch:
    """Values on a target's pixels.

    Attributes
    ----------
    values : [C, H, W] float32 (NaN where not valid), or the source's integer dtype (0 where not valid) when nothing was computed
    valid : [C, H, W]
    """

    values: Array
    valid: BoolArray


@runtime_checkable
class RasterSource(Protocol):
    """What a reader provides to `prepare`: one image, or a series with one step per date.

    Attributes
    ----------
    bands : per channel
    pixel : side of a pixel in units of `crs`
    bounds : xmin, ymin, xmax, ymax in units of `crs`
    dates : per step; ``(None,)`` for one image without a date
    provenance : the files that are read
    """

    @property
    def name(self) -> str: ...
    @property
    def bands(self) -> tuple[Band, ...]: ...
    @property
    def crs(self) -> CRS | None: ...
    @property
    def pixel(self) -> float: ...
    @property
    def bounds(self) -> tuple[float, float, float, float]: ...
    @property
    def dates(self) -> tuple[datetime.date | None, ...]: ...
    @property
    def provenance(self) -> tuple[Path, ...]: ...

    def read(self, step: int, target: Target) -> RasterPatch:
        """The step's values on the target's pixels."""
        ...


class Image(Protocol):
    """Pixels with a place, which `align` reads by window."""

    @property
    def crs(self) -> CRS: ...
    @property
    def transform(self) -> Affine: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def dtype(self) -> np.dtype: ...

    def pixels(self, bands: slice, rows: slice, cols: slice) -> tuple[Array, BoolArray]:
        """Values and validity [C, h, w] of a window inside the image; values of invalid pixels may be anything."""
        ...


@dataclass(frozen=True)
class ArrayImage:
    """An image held in memory.

    Parameters
    ----------
    values : [C, H, W], row 0 in the north for an unrotated transform
    valid : [C, H, W]
    transform : from pixel corners (column, row) to CRS coordinates
    """

    values: Array
    valid: BoolArray
    crs: CRS
    transform: Affine

    @property
    def count(self) -> int:
        return self.values.shape[0]

    @property
    def height(self) -> int:
        return self.values.shape[1]

    @property
    def width(self) -> int:
        return self.values.shape[2]

    @property
    def dtype(self) -> np.dtype:
        return self.values.dtype

    def pixels(self, bands: slice, rows: slice, cols: slice) -> tuple[Array, BoolArray]:
        return self.values[bands, rows, cols], self.valid[bands, rows, cols]
