"""An aerial orthophoto of an early-summer morning: red, green, blue and near infrared with crowns, shadows and rows of crops."""

from __future__ import annotations

from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp
from scipy.special import ndtri

from fusion3d.errors import ConfigError
from fusion3d.io.bands import BLUE, GREEN, NIR, RED
from fusion3d.simulate.canopy import surface as surface_of
from fusion3d.simulate.keyed import hashed, noise, stream
from fusion3d.simulate.model import Box, Cover, Float32, Float64, Land, Site, Tile, Trees
from fusion3d.simulate.phenology import EQUAL_CROPS, crop
from fusion3d.simulate.scenery import CELL, MARGIN, REACH, Kind, composition, crown_brightness, direct_light, kinds, wetness
from fusion3d.simulate.sensor_cog import MapPlan, MapProduct
from fusion3d.simulate.spectra import Material, sky_share, spectra
from fusion3d.simulate.sun import lit, sun_at, towards

BANDS = (RED, GREEN, BLUE, NIR)
ROW_PERIOD = 1.0
"""Metres between the rows of a crop."""
_HOUR = 9.7
_MISPLACED = 0.28
"""Metres, standard deviation of the misregistration along each axis: 0.4 m in all."""
_MISPLACED_SCALE, _MISPLACED_STEP = 250.0, 10.0
_FARTHEST = 1.6
_PAD = 2.0
_COARSE = 0.4
_WHITE = np.array([0.40, 0.40, 0.40, 0.85], np.float32)
"""Reflectance that is shown as 255."""
_GAMMA = 1 / 1.6
_GRAIN = 1.3
_LEVELS = 4096
_WINTER, _SUMMER = int(Kind.WINTER_CROP), int(Kind.SUMMER_CROP)
_NORMALS: Float32 = ndtri((np.arange(65536) + 0.5) / 65536).astype(np.float32)


class OrthoWriter(MapProduct):
    """``ortho/ortho_<date>.tif``: uint8 digital numbers as cameras deliver them, gamma-stretched; not reflectance.

    Rows show in crops (`row_direction`), which no other sensor sees.

    Parameters
    ----------
    site, folder : which scene, and where to
    pixel : metres; must divide 0.4
    """

    margin = MARGIN

    def __init__(self, site: Site, folder: str | Path, pixel: float = 0.2) -> None:
        super().__init__(site, folder)
        if pixel not in (0.1, 0.2, 0.4):
            raise ConfigError(f"ortho pixels of {pixel:g} m: choose 0.1, 0.2 or 0.4")
        self.pixel = pixel
        self.name = f"ortho/ortho_{site.day(EQUAL_CROPS):%Y%m%d}.tif"
        self._sun = sun_at(EQUAL_CROPS, _HOUR)
        wavelength = np.array([band.wavelength for band in BANDS], np.float64)
        self._sky = sky_share(wavelength)
        materials = spectra(wavelength, [band.fwhm or 0.0 for band in BANDS])
        self._colors = composition(EQUAL_CROPS, wetness(site, EQUAL_CROPS))[:, 0] @ materials
        # Between rows there is the soil, on them the crop: the mean over a period stays what other sensors see.
        green = float(crop(Cover.WINTER_CROP, EQUAL_CROPS)[0])
        self._stripe = (0.8 * min(green, 1 - green) * (materials[Material.CROP] - materials[Material.DRY_SOIL])).astype(
            np.float32
        )
        self._tone = _tone()

    def plans(self) -> list[MapPlan]:
        colors = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined)
        return [MapPlan(self.name, self.pixel, BANDS, "uint8", None, colors=colors)]

    def add(self, tile: Tile) -> None:
        window = tile.core.grow(_PAD + REACH)
        surface = surface_of(_Finer(tile), tile.trees, window, self.pixel)
        edge = round(REACH / self.pixel)
        inner = np.s_[edge:-edge, edge:-edge]
        top = surface.ground + np.maximum(surface.canopy, surface.building)
        seen = lit(top, self.pixel, self._sun, REACH, edge)
        kind = kinds(surface, tile.trees, tile.site)[inner]
        brightness = crown_brightness(surface, tile.trees, tile.site)[inner]
        view = tile.core.grow(_PAD)
        x, y = np.meshgrid(*view.centres(self.pixel))
        # Clumps of leaves, for shading alone.
        clumps = noise(stream(self.site.seed, "ortho/clumps"), x, y, 1.1).astype(np.float32)
        relief = top[inner] + np.where(kind >= Kind.FIRST_CROWN, np.float32(0.18) * clumps, np.float32(0.0))
        light = direct_light(towards(relief, self.pixel, self._sun.direction), self._sun.direction[2], seen, kind)
        # The ground is uneven: wear, manure, puddles.
        patches = noise(stream(self.site.seed, "ortho/patches"), x, y, 7.0, 2, 0.7).astype(np.float32)
        brightness = brightness * np.exp(np.float32(0.06) * patches)
        image = _shaded(kind, light, brightness, self._stripes(tile, view), self._colors, self._stripe, self._sky)
        east, north = self._misplaced(tile.core)
        rows, cols = tile.core.shape(self.pixel)
        digital = _resampled(image, east, north, round(_PAD / self.pixel), self._tone, 1 / _WHITE,
                             self._bits(tile, rows, cols), _NORMALS, _GRAIN)  # fmt: skip
        self.put(self.name, tile.core, digital)

    def _stripes(self, tile: Tile, view: Box) -> Float32:
        """[R, C] from -1 between the rows of a crop to 1 on them; 0 outside of crops."""
        box = self.site.box
        x, y = view.centres(self.pixel)
        coarse_x, coarse_y = np.meshgrid(*view.centres(_COARSE))
        direction = np.radians(tile.land.field("row_direction", coarse_x, coarse_y)).astype(np.float32)
        return _rows_of_crops(direction, x - box.xmin, y - box.ymin, round(_COARSE / self.pixel), ROW_PERIOD)

    def _misplaced(self, core: Box) -> tuple[Float32, Float32]:
        """[R, C] metres east and north of a pixel from which it shows the ground."""
        nodes = core.grow(_MISPLACED_STEP)
        x, y = np.meshgrid(*nodes.centres(_MISPLACED_STEP))
        rows, cols = core.shape(self.pixel)
        # Between nodes that belong to the scene, not to the tile.
        col, row = (_MISPLACED_STEP + (np.arange(count) + 0.5) * self.pixel for count in (cols, rows))
        at = np.meshgrid(col / _MISPLACED_STEP - 0.5, row / _MISPLACED_STEP - 0.5)
        east, north = (
            _between(np.clip(_MISPLACED * noise(stream(self.site.seed, f"ortho/place/{axis}/{self.site.year}"), x, y,
                                                _MISPLACED_SCALE), -_FARTHEST, _FARTHEST), *at) / self.pixel
            for axis in ("east", "north")
        )  # fmt: skip
        return east.astype(np.float32), north.astype(np.float32)

    def _bits(self, tile: Tile, rows: int, cols: int) -> npt.NDArray[np.uint64]:
        box = self.site.box
        row = round((box.ymax - tile.core.ymax) / self.pixel) + np.arange(rows)[:, None]
        col = round((tile.core.xmin - box.xmin) / self.pixel) + np.arange(cols)
        return hashed(stream(self.site.seed, f"ortho/grain/{self.site.year}"), row, col)


class _Finer:
    """A tile's land for the small cells of an orthophoto: terrain between cells of 1 m, covers at 0.4 m, roofs as they are.

    Terrain is smooth at that scale, and to ask for everything at every small cell would take most of the time.
    """

    def __init__(self, tile: Tile) -> None:
        self._land: Land = tile.land
        self._surface = tile.surface(CELL, MARGIN)

    def ground(self, x: Float64, y: Float64) -> Float64:
        box = self._surface.box
        return _between(self._surface.ground, (x - box.xmin) / CELL - 0.5, (box.ymax - y) / CELL - 0.5)

    def cover(self, x: Float64, y: Float64) -> npt.NDArray[np.uint8]:
        factor = _factor(x)
        return np.repeat(np.repeat(self._land.cover(*_coarse(x, y, factor)), factor, 0), factor, 1)

    def parcel(self, x: Float64, y: Float64) -> npt.NDArray[np.int64]:
        factor = _factor(x)
        return np.repeat(np.repeat(self._land.parcel(*_coarse(x, y, factor)), factor, 0), factor, 1)

    def roof(self, x: Float64, y: Float64) -> Float64:
        return self._land.roof(x, y)

    def field(self, name: str, x: Float64, y: Float64) -> Float64:
        return self._land.field(name, x, y)

    def trees(self, box: Box) -> Trees:
        return self._land.trees(box)


def _factor(x: Float64) -> int:
    return round(_COARSE / float(x[0, 1] - x[0, 0]))


def _coarse(x: Float64, y: Float64, factor: int) -> tuple[Float64, Float64]:
    rows, cols = x.shape
    blocks = (rows // factor, factor, cols // factor, factor)
    return x.reshape(blocks).mean(axis=(1, 3)), y.reshape(blocks).mean(axis=(1, 3))


def _tone() -> npt.NDArray[np.float32]:
    """Digital number by reflectance over white, `_LEVELS` steps."""
    return (255 * (np.arange(_LEVELS) / (_LEVELS - 1)) ** _GAMMA).astype(np.float32)


@numba.njit(cache=True)
def _between(values, col, row):  # type: ignore[no-untyped-def]
    """Bilinear interpolation of [R, C] at pixel positions of any 2-D shape."""
    result = np.empty(col.shape)
    for i in range(col.shape[0]):
        for j in range(col.shape[1]):
            r = min(max(int(np.floor(row[i, j])), 0), values.shape[0] - 2)
            c = min(max(int(np.floor(col[i, j])), 0), values.shape[1] - 2)
            down, right = row[i, j] - r, col[i, j] - c
            upper = values[r, c] * (1 - right) + values[r, c + 1] * right
            lower = values[r + 1, c] * (1 - right) + values[r + 1, c + 1] * right
            result[i, j] = upper * (1 - down) + lower * down
    return result


@numba.njit(cache=True)
def _rows_of_crops(direction, x, y, factor, period):  # type: ignore[no-untyped-def]
    stripes = np.zeros((len(y), len(x)), np.float32)
    for row in range(len(y)):
        for col in range(len(x)):
            angle = direction[row // factor, col // factor]
            if not np.isnan(angle):
                across = x[col] * np.cos(angle) - y[row] * np.sin(angle)
                stripes[row, col] = np.cos(2 * np.pi * across / period)
    return stripes


@numba.njit(cache=True)
def _shaded(kind, light, brightness, stripes, colors, stripe, sky):  # type: ignore[no-untyped-def]
    """[R, C, 4] reflectance as the camera would see it."""
    rows, cols = kind.shape
    bands = colors.shape[1]
    image = np.empty((rows, cols, bands), np.float32)
    for row in range(rows):
        for col in range(cols):
            own = kind[row, col]
            crops = _WINTER <= own <= _SUMMER
            for band in range(bands):
                color = colors[own, band]
                if crops:
                    color += stripes[row, col] * stripe[band]
                shine = light[row, col] * (1 - sky[band]) + sky[band]
                image[row, col, band] = max(color, 0.002) * brightness[row, col] * shine
    return image


@numba.njit(cache=True)
def _resampled(image, east, north, pad, tone, gain, bits, normals, grain):  # type: ignore[no-untyped-def]
    """[4, R, C] digital numbers of the displaced image, with grain."""
    rows, cols = east.shape
    bands = image.shape[2]
    digital = np.empty((bands, rows, cols), np.uint8)
    levels = len(tone) - 1
    for row in range(rows):
        for col in range(cols):
            at_row, at_col = row + pad - north[row, col], col + pad + east[row, col]
            r, c = int(np.floor(at_row)), int(np.floor(at_col))
            down, right = at_row - r, at_col - c
            for band in range(bands):
                upper = image[r, c, band] * (1 - right) + image[r, c + 1, band] * right
                lower = image[r + 1, c, band] * (1 - right) + image[r + 1, c + 1, band] * right
                level = min((upper * (1 - down) + lower * down) * gain[band], 1.0) * levels
                draw = normals[(bits[row, col] >> np.uint64(16 * band)) & np.uint64(0xFFFF)]
                digital[band, row, col] = min(max(int(np.floor(tone[int(level)] + grain * draw + 0.5)), 0), 255)
    return digital
