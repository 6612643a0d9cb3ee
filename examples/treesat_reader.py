"""A reader of one's own: the TreeSatAI time series (HDF5 without georeferencing) as rasters that fusion3d can prepare.

Each patch is an aerial image ``NAME.tif`` of 60.8 m and ``NAME.h5`` with the Sentinel series of the 60 m in its middle, 6 x 6
pixels of 10 m a date. A reader only has to have the attributes of `fusion3d.io.raster.RasterSource` and a `read` method; `align`
puts an array with a place on any target.

    python examples/treesat_reader.py NAME.h5
"""

from __future__ import annotations

import datetime
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
from affine import Affine
from pyproj import CRS

from fusion3d.errors import InputError
from fusion3d.io.alignment import align
from fusion3d.io.bands import Band, known_bands
from fusion3d.io.dates import date_from_name
from fusion3d.io.raster import ArrayImage, RasterPatch, Target, open_raster

KEYS = {"s2": "sen-2", "s1_asc": "sen-1-asc", "s1_des": "sen-1-des"}
PIXELS, PIXEL = 6, 10.0
CLOUD_CHANNEL = 1  # of sen-2-masks: 0 is the snow, 1 the cloud probability in percent


@dataclass(frozen=True)
class TreeSatSeries:
    """One sensor ("s2", "s1_asc" or "s1_des") of a patch; Sentinel-2 pixels of at least `cloud_percent` are not valid."""

    path: Path
    name: str
    cloud_percent: float = 50.0

    def _rows(self, part: str, index: slice | int = slice(None)) -> np.ndarray:
        try:
            with h5py.File(self.path) as file:
                return np.asarray(file[f"{KEYS[self.name]}-{part}"][index])
        except (OSError, KeyError) as error:
            raise InputError(self.path, f"is not a TreeSatAI time series ({error})", "give NAME.h5 of its sentinel-ts") from None

    @cached_property
    def dates(self) -> tuple[datetime.date | None, ...]:
        return tuple(date_from_name(product.decode()) for product in self._rows("products"))

    @property
    def bands(self) -> tuple[Band, ...]:
        return known_bands("s2", 10) if self.name == "s2" else known_bands("s1", 2)

    @cached_property
    def _aerial(self) -> tuple[CRS, float, float]:
        image = open_raster(self.path.with_suffix(".tif"))
        xmin, ymin, xmax, ymax = image.bounds
        half = PIXELS * PIXEL / 2
        return image.crs, round((xmin + xmax) / 2 - half, 3), round((ymin + ymax) / 2 + half, 3)

    @property
    def crs(self) -> CRS:
        return self._aerial[0]

    @property
    def pixel(self) -> float:
        return PIXEL

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        _, x0, y0 = self._aerial
        return x0, y0 - PIXELS * PIXEL, x0 + PIXELS * PIXEL, y0

    @property
    def provenance(self) -> tuple[Path, ...]:
        return (self.path, self.path.with_suffix(".tif"))

    def read(self, step: int, target: Target) -> RasterPatch:
        values = self._rows("data", step)
        valid = np.isfinite(values)
        if self.name == "s2":
            values = values / np.float32(10_000)  # reflectance 0-1
            valid &= self._rows("masks", step)[CLOUD_CHANNEL] < self.cloud_percent
        crs, x0, y0 = self._aerial
        return align(ArrayImage(values, valid, crs, Affine(PIXEL, 0, x0, 0, -PIXEL, y0)), target)


if __name__ == "__main__":
    for sensor in KEYS:
        series = TreeSatSeries(Path(sys.argv[1]), sensor)
        xmin, _, _, ymax = series.bounds
        here = Target(series.crs, xmin, ymax, PIXEL, PIXELS, PIXELS, "reflectance" if sensor == "s2" else "backscatter")
        clear = np.mean([series.read(step, here).valid.mean() for step in range(len(series.dates))])
        print(f"{sensor}: {len(series.dates)} dates, {series.dates[0]} to {series.dates[-1]}, {clear:.0%} of pixels valid")
