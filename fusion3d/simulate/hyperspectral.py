"""One airborne imaging spectrometer flight: reflectance in some hundred bands, noisy where water vapour lets no light through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.special import ndtri

from fusion3d.errors import ConfigError
from fusion3d.io.bands import Band
from fusion3d.simulate.keyed import hashed, stream
from fusion3d.simulate.model import Float32, Float64, Site, Tile
from fusion3d.simulate.phenology import EQUAL_CROPS
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
from fusion3d.simulate.spectra import Material, green_crowns, lignin_transmission, sky_share, spectra
from fusion3d.simulate.sun import lit, sun_at, towards

VAPOUR = ((1350.0, 1450.0), (1800.0, 1950.0))
"""Nanometres between which water vapour absorbs nearly all light."""
_FIRST, _LAST = 400.0, 2450.0
_HOUR = 11.0
_SCALE = 1e-4
_NODATA = -9999
_NORMALS: Float32 = ndtri((np.arange(65536) + 0.5) / 65536).astype(np.float32)


class HsiWriter(MapProduct):
    """``hsi/hsi_<date>.tif``: int16 reflectance, scale 1e-4, wavelengths as tags of the bands.

    Parameters
    ----------
    site, folder : which scene, and where to
    pixel : metres, a whole number of cells of 1 m that divides 50
    bands : number, evenly from 400 to 2450 nm
    """

    margin = MARGIN

    def __init__(self, site: Site, folder: str | Path, pixel: float = 5.0, bands: int = 200) -> None:
        super().__init__(site, folder)
        if pixel not in (1.0, 2.0, 5.0, 10.0):
            raise ConfigError(f"hyperspectral pixels of {pixel:g} m: choose 1, 2, 5 or 10")
        if not 2 <= bands <= 2000:
            raise ConfigError(f"{bands} hyperspectral bands: choose 2 to 2000")
        self.pixel = pixel
        self.wavelength: Float64 = np.linspace(_FIRST, _LAST, bands)
        self.fwhm = 1.1 * (_LAST - _FIRST) / (bands - 1)
        self.name = f"hsi/hsi_{site.day(EQUAL_CROPS):%Y%m%d}.tif"
        self._spectra = spectra(self.wavelength, self.fwhm)
        self._sky = sky_share(self.wavelength)
        self._sun = sun_at(EQUAL_CROPS, _HOUR)
        self._noise = stream(site.seed, f"hsi/noise/{site.calendar_year}")

    def plans(self) -> list[MapPlan]:
        bands = tuple(Band(f"{value:.1f} nm", round(float(value), 2), round(self.fwhm, 2)) for value in self.wavelength)
        return [MapPlan(self.name, self.pixel, bands, "int16", _NODATA, _SCALE, describe=True)]

    def add(self, tile: Tile) -> None:
        rows, cols = tile.core.shape(self.pixel)
        reflectance = self._reflectance(tile)
        noisy = reflectance + self._noise_level(reflectance) * self._deviates(tile, rows, cols)
        values = np.clip(np.rint(noisy / _SCALE), -9998, 32767).astype(np.int16)
        self.put(self.name, tile.core, values.T.reshape(-1, rows, cols))

    def _reflectance(self, tile: Tile) -> Float32:
        """[P, W] of the pixels, row by row, without noise."""
        surface = tile.surface(CELL, MARGIN)
        kind = kinds(surface, tile.trees, tile.site)
        top = surface.ground + np.maximum(surface.canopy, surface.building)
        flat = self._sun.direction[2]
        light = direct_light(towards(surface.ground, CELL, self._sun.direction), flat, lit(top, CELL, self._sun, REACH), kind)
        edge = int(MARGIN / CELL)
        core = np.s_[edge:-edge, edge:-edge]
        factor = round(self.pixel / CELL)
        seen = shares(kind[core], light[core], factor)
        mix = composition(EQUAL_CROPS, wetness(tile.site, EQUAL_CROPS))[:, 0]
        crowns = np.zeros(len(Material), np.float32)
        crowns[list(green_crowns())] = 1.0
        total = self._lit(seen.sunny @ mix, seen.area @ mix)
        leaves = self._lit((seen.sunny[:, Kind.FIRST_CROWN :] @ mix[Kind.FIRST_CROWN :]) * crowns,
                           (seen.area[:, Kind.FIRST_CROWN :] @ mix[Kind.FIRST_CROWN :]) * crowns)  # fmt: skip
        strength = np.nan_to_num(pixel_mean(field_on(tile.land, "lignin", surface)[core], factor))
        total -= leaves * (1 - lignin_transmission(self.wavelength, strength))
        return total

    def _lit(self, sunny: Float32, area: Float32) -> Float32:
        return (sunny @ self._spectra) * (1 - self._sky) + (area @ self._spectra) * self._sky

    def _noise_level(self, reflectance: Float32) -> Float32:
        """Standard deviation: a signal of 0.3 stands 250 times above it in the visible, 120 times at 2400 nm, not in vapour."""
        infrared = np.clip((self.wavelength - 1000) / 1400, 0, 1)
        blue = np.clip((450 - self.wavelength) / 50, 0, 1)
        floor = 0.0006 + 0.0009 * infrared + 0.001 * blue
        vapour = np.zeros_like(self.wavelength)
        for low, high in VAPOUR:
            inside = (self.wavelength >= low) & (self.wavelength <= high)
            vapour += np.where(inside, 0.04, 0.0)
        return (floor + vapour + 0.002 * reflectance).astype(np.float32)

    def _deviates(self, tile: Tile, rows: int, cols: int) -> Float32:
        """[P, W] standard normal deviates, four out of each hash."""
        box = self.site.box
        row = round((box.ymax - tile.core.ymax) / self.pixel) + np.arange(rows)[:, None, None]
        col = round((tile.core.xmin - box.xmin) / self.pixel) + np.arange(cols)[:, None]
        bits = hashed(self._noise, row, col, np.arange(-(-len(self.wavelength) // 4)))
        parts = bits.reshape(rows * cols, -1).view(np.uint16)
        return _NORMALS[parts[:, : len(self.wavelength)]]
