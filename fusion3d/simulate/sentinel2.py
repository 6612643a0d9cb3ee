"""A year of Sentinel-2: ten bands at 10 m with phenology, clouds and their shadows, haze, and the scene classification."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError
from fusion3d.io.bands import Band, known_bands
from fusion3d.simulate.clouds import SCL_BARE, SCL_PLANTS, SCL_WATER, Clouds, cloud_cover
from fusion3d.simulate.keyed import normal, stream
from fusion3d.simulate.model import Box, Float32, Float64, Site, Tile
from fusion3d.simulate.scenery import (
    CELL,
    MARGIN,
    REACH,
    Kind,
    composition,
    direct_light,
    field_on,
    kinds,
    pixel_mean,
    shares,
    wetness,
)
from fusion3d.simulate.sensor_cog import MapPlan, MapProduct
from fusion3d.simulate.spectra import sky_share, spectra
from fusion3d.simulate.sun import Sun, lit, sun_at, towards

PIXEL = 10.0
FIRST_DAY = 8
SCALE, OFFSET = 1e-4, -0.1
"""As in products since 2022: reflectance = DN / 10000 - 0.1, and 0 is nodata."""
_BANDS = known_bands("s2", 10)
_SHARP = frozenset({"B2", "B3", "B4", "B8"})
_HOUR = 10.67
_SEEN_THROUGH_MASK = (SCL_PLANTS, SCL_BARE, SCL_WATER)


@dataclass(frozen=True)
class _Acquisition:
    day: int
    image: str
    classes: str
    sun: Sun
    clouds: Clouds
    wetness: float
    gain: Float32
    haze: Float32


class Sentinel2Writer(MapProduct):
    """``s2/S2_<date>.tif``: ten bands, uint16; what the classification holds for cloud or shadow is nodata.

    The classification lies in ``s2/scl/S2_<date>_SCL.tif`` (a reader's option ``mask: scl/{stem}_SCL.tif``).

    Parameters
    ----------
    site, folder : which scene, and where to
    every : days between the acquisitions; the first is on 8 January
    """

    margin = MARGIN

    def __init__(self, site: Site, folder: str | Path, every: int = 15) -> None:
        super().__init__(site, folder)
        if not 1 <= every <= 365:
            raise ConfigError(f"an acquisition every {every} days: choose 1 to 365")
        self.days = tuple(range(FIRST_DAY, 366, every))
        self._wavelength: Float64 = np.array([band.wavelength for band in _BANDS])
        self._spectra = spectra(self._wavelength, [band.fwhm or 0.0 for band in _BANDS])
        self._sky = sky_share(self._wavelength)
        # A cloud is white, a little less so where ice and water absorb.
        self._cloud = np.where(self._wavelength > 1500, 0.38, 0.62).astype(np.float32)
        self._acquisitions = tuple(self._acquire(number, day) for number, day in enumerate(self.days))

    def _acquire(self, number: int, day: int) -> _Acquisition:
        site, sun = self.site, sun_at(day, _HOUR)
        year, band = site.calendar_year, np.arange(len(_BANDS))
        haze = float(np.abs(normal(stream(site.seed, "s2/haze"), year, day)))
        name = f"S2_{site.day(day):%Y%m%d}"
        return _Acquisition(
            day,
            f"s2/{name}.tif",
            f"s2/scl/{name}_SCL.tif",
            sun,
            Clouds(site, day, cloud_cover(site, number), sun),
            wetness(site, day),
            (1 + 0.015 * normal(stream(site.seed, "s2/gain"), year, day, band)).astype(np.float32),
            (0.004 * haze * (self._wavelength / 490) ** -2).astype(np.float32),
        )

    def plans(self) -> list[MapPlan]:
        classes = (Band("SCL"),)
        images = [MapPlan(item.image, PIXEL, _BANDS, "uint16", 0, SCALE, OFFSET) for item in self._acquisitions]
        return images + [MapPlan(item.classes, PIXEL, classes, "uint8", 0) for item in self._acquisitions]

    def add(self, tile: Tile) -> None:
        surface = tile.surface(CELL, MARGIN)
        kind = kinds(surface, tile.trees, tile.site)
        top = surface.ground + np.maximum(surface.canopy, surface.building)
        window = tile.core.grow(PIXEL)
        edge = int((MARGIN - PIXEL) / CELL)
        inner = np.s_[edge:-edge, edge:-edge]
        factor = round(PIXEL / CELL)
        x, y = np.meshgrid(*window.centres(PIXEL))
        shift = np.nan_to_num(pixel_mean(field_on(tile.land, "greenup_shift", surface)[inner], factor))
        mowing = pixel_mean(field_on(tile.land, "mowing_day", surface)[inner], factor)
        for item in self._acquisitions:
            flat = item.sun.direction[2]
            light = direct_light(towards(surface.ground, CELL, item.sun.direction), flat, lit(top, CELL, item.sun, REACH), kind)
            seen = shares(kind[inner], light[inner], factor)
            mix = composition(item.day, item.wetness, shift, mowing)
            sunny = np.einsum("pk,kpm->pm", seen.sunny, mix, optimize=False) @ self._spectra
            area = np.einsum("pk,kpm->pm", seen.area, mix, optimize=False) @ self._spectra
            self._image(item, tile.core, x, y, sunny, area, seen.area)

    def _image(self, item: _Acquisition, core: Box, x: Float64, y: Float64, sunny: Float32, area: Float32,
               shares_of_kinds: Float32) -> None:  # fmt: skip
        opacity, shade = item.clouds.opacity(x, y), item.clouds.shade(x, y)
        sun_left = (1 - 0.85 * shade).reshape(-1, 1)
        ground = sunny * (1 - self._sky) * sun_left + area * self._sky * (1 - 0.3 * shade.reshape(-1, 1))
        hidden = opacity.reshape(-1, 1)
        seen = ((1 - hidden) * ground + hidden * self._cloud) * item.gain + item.haze
        image = _smoothed(seen.T.reshape(-1, *x.shape))
        noisy = image + (0.0015 + 0.008 * np.abs(image)) * self._deviates(item, core)
        clear = _clear_class(shares_of_kinds, area, self._wavelength).reshape(x.shape)
        classes = item.clouds.classified(x, y, opacity, shade, clear)[1:-1, 1:-1]
        stored = np.clip(np.rint((noisy - OFFSET) / SCALE), 1, 65535).astype(np.uint16)
        stored[:, ~np.isin(classes, _SEEN_THROUGH_MASK)] = 0
        self.put(item.image, core, stored)
        self.put(item.classes, core, classes[None])

    def _deviates(self, item: _Acquisition, core: Box) -> Float32:
        box, (rows, cols) = self.site.box, core.shape(PIXEL)
        row = round((box.ymax - core.ymax) / PIXEL) + np.arange(rows)[:, None]
        col = round((core.xmin - box.xmin) / PIXEL) + np.arange(cols)
        key = stream(self.site.seed, f"s2/noise/{self.site.calendar_year}/{item.day}")
        return normal(key, np.arange(len(_BANDS))[:, None, None], row, col).astype(np.float32)


def _smoothed(image: Float32) -> Float32:
    """The inner pixels; of the bands of 20 m the mean over 20 m (weights 1, 2, 1 both ways)."""
    inner = image[:, 1:-1, 1:-1].copy()
    for index, band in enumerate(_BANDS):
        if band.name not in _SHARP:
            across = (image[index, :, :-2] + 2 * image[index, :, 1:-1] + image[index, :, 2:]) / 4
            inner[index] = (across[:-2] + 2 * across[1:-1] + across[2:]) / 4
    return inner


def _clear_class(area: Float32, reflectance: Float32, wavelength: Float64) -> npt.NDArray[np.uint8]:
    """[P] class of pixels without clouds, by water share and NDVI."""
    red, infrared = (reflectance[:, int(np.argmin(np.abs(wavelength - centre)))] for centre in (665, 833))
    ndvi = (infrared - red) / (infrared + red)
    land = np.where(ndvi > 0.4, SCL_PLANTS, SCL_BARE)
    return np.where(area[:, Kind.WATER] > 0.5, SCL_WATER, land).astype(np.uint8)
