"""A year of Sentinel-1: VV and VH from two looks, with speckle, soil moisture and a saturation with biomass.

Backscatter of plants is the water-cloud model (Attema & Ulaby 1978, Radio Science 13): a cloud of scatterers over soil,
sigma = sigma_cloud (1 - T) + sigma_soil T with the two-way transmission T = exp(-2 B V / cos(incidence)). V is the biomass of
forest and the green share of fields. B is set so that C band has 90 % of its range at about 110 Mg/ha.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusion3d.errors import ConfigError
from fusion3d.io.bands import SENTINEL1
from fusion3d.simulate.keyed import stream, uniform
from fusion3d.simulate.model import Cover, Float32, Float64, Site, Tile, Trees
from fusion3d.simulate.phenology import crop, meadow
from fusion3d.simulate.scenery import CELL, MARGIN, Kind, field_on, kinds, pixel_mean, shares
from fusion3d.simulate.sensor_cog import MapPlan, MapProduct
from fusion3d.simulate.sun import towards

PIXEL = 10.0
INCIDENCE = 38.0
"""Degrees from the vertical on flat ground."""
LOOKS = {"s1_asc": 78.0, "s1_desc": 282.0}
"""Azimuth into which the radar looks, degrees: to the right of its path."""
ENL = 4
"""Equivalent number of looks: the speckle has 1 / ENL of the squared mean as its variance."""
FIRST_DAY = {"s1_asc": 4, "s1_desc": 11}
_STEEPEST, _FLATTEST = 10.0, 80.0


@dataclass(frozen=True)
class _Scatter:
    """Backscatter of one polarisation, dB at 38 degrees.

    Parameters
    ----------
    soil, per_moisture : of dry soil, and dB per m3/m3 of water
    forest, crop, grass : of endless clouds of plants
    water, road, building : of what has no plants
    """

    soil: float
    per_moisture: float
    forest: float
    crop: float
    grass: float
    water: float
    road: float
    building: float


_SCATTER = (
    _Scatter(-17.5, 27.0, -7.4, -10.5, -12.0, -21.0, -19.0, -1.5),
    _Scatter(-24.5, 6.0, -12.8, -17.0, -19.0, -27.0, -26.5, -9.0),
)
_FOREST_B = 0.0083
_FIELD_B = 0.75


class Sentinel1Writer(MapProduct):
    """``s1_asc/S1A_ASC_<date>.tif`` and ``s1_desc/S1A_DESC_<date>.tif``: VV and VH in dB (their unit in the file), float32.

    Parameters
    ----------
    site, folder : which scene, and where to
    every : days between the acquisitions of each look
    """

    margin = MARGIN

    def __init__(self, site: Site, folder: str | Path, every: int = 24) -> None:
        super().__init__(site, folder)
        if not 1 <= every <= 365:
            raise ConfigError(f"an acquisition every {every} days: choose 1 to 365")
        self.days = {look: tuple(range(first, 366, every)) for look, first in FIRST_DAY.items()}

    def plans(self) -> list[MapPlan]:
        return [
            MapPlan(self.name(look, day), PIXEL, SENTINEL1, "float32", math.nan, unit="dB")
            for look, days in self.days.items()
            for day in days
        ]

    def name(self, look: str, day: int) -> str:
        """Path of an acquisition below the scene's folder."""
        return f"{look}/S1A_{look.removeprefix('s1_').upper()}_{self.site.day(day):%Y%m%d}.tif"

    def add(self, tile: Tile) -> None:
        surface = tile.surface(CELL, MARGIN)
        edge = int(MARGIN / CELL)
        core = np.s_[edge:-edge, edge:-edge]
        factor = round(PIXEL / CELL)
        kind = kinds(surface, tile.trees, tile.site)[core]
        area = shares(kind, np.ones(kind.shape, np.float32), factor).area
        ground = pixel_mean(surface.ground.astype(np.float64), factor).reshape(-1, (surface.ground.shape[1]) // factor)
        moisture = pixel_mean(field_on(tile.land, "soil_moisture", surface)[core], factor)
        moisture = np.where(np.isfinite(moisture), moisture, 0.2)
        shift = np.nan_to_num(pixel_mean(field_on(tile.land, "greenup_shift", surface)[core], factor))
        biomass = biomass_density(tile.trees, tile).ravel()
        rows, cols = tile.core.shape(PIXEL)
        ring = round(MARGIN / PIXEL)
        for look, days in self.days.items():
            cosine = local_incidence(ground.astype(np.float32), PIXEL, LOOKS[look])[ring:-ring, ring:-ring].ravel()
            for day in days:
                mean = backscatter(area, biomass, moisture * self._rain(day), shift, cosine, day)
                linear = mean.reshape(2, rows, cols) * self._speckle(tile, look, day, rows, cols)
                self.put(self.name(look, day), tile.core, (10 * np.log10(linear)).astype(np.float32))

    def _rain(self, day: int) -> float:
        """Factor on the soil's moisture by weather: wetter in winter, and showers."""
        shower = float(uniform(stream(self.site.seed, "s1/rain"), self.site.calendar_year, day))
        return 1.0 + 0.2 * math.cos(2 * math.pi * (day - 15) / 365) + 0.5 * (shower - 0.5)

    def _speckle(self, tile: Tile, look: str, day: int, rows: int, cols: int) -> Float64:
        """[2, R, C] gamma of shape `ENL` and mean 1: the mean of as many exponential looks."""
        box = self.site.box
        row = round((box.ymax - tile.core.ymax) / PIXEL) + np.arange(rows)[:, None]
        col = round((tile.core.xmin - box.xmin) / PIXEL) + np.arange(cols)
        key = stream(self.site.seed, f"{look}/speckle/{self.site.calendar_year}/{day}")
        draws = uniform(key, np.arange(ENL)[:, None, None, None], np.arange(2)[:, None, None], row, col)
        speckle: Float64 = -np.log1p(-draws).mean(axis=0)
        return np.maximum(speckle, 1e-4)


def biomass_density(trees: Trees, tile: Tile) -> Float64:
    """[R, C] above-ground biomass of the core's pixels, Mg/ha: each tree's over its crown's disc, as what a radar sees."""
    box = tile.core.grow(MARGIN)
    rows, cols = box.shape(PIXEL)
    mass = np.zeros((rows, cols))
    # A disc is taken as 12 points of equal share: finer does not matter to pixels of 10 m.
    angle = 2.399963 * np.arange(12)
    out = np.sqrt((np.arange(12) + 0.5) / 12)
    x = trees.x[:, None] + trees.crown_radius[:, None] * out * np.cos(angle)
    y = trees.y[:, None] + trees.crown_radius[:, None] * out * np.sin(angle)
    row, col = np.floor((box.ymax - y) / PIXEL).astype(np.int64), np.floor((x - box.xmin) / PIXEL).astype(np.int64)
    inside = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
    np.add.at(mass, (row[inside], col[inside]), np.broadcast_to(trees.agb[:, None] / 12, row.shape)[inside])
    ring = round(MARGIN / PIXEL)
    return mass[ring:-ring, ring:-ring] / 1e3 / (PIXEL**2 / 1e4)


def local_incidence(ground: Float32, pixel: float, look: float) -> Float32:
    """[R, C] cosine of the angle between a slope's normal and the way to the radar, within 10 to 80 degrees.

    Parameters
    ----------
    ground : [R, C] metres, the northernmost row first
    look : azimuth into which the radar looks, degrees; it stands on the other side
    """
    incidence, azimuth = math.radians(INCIDENCE), math.radians(look + 180)
    across = math.sin(incidence)
    to_radar = across * math.sin(azimuth), across * math.cos(azimuth), math.cos(incidence)
    low, high = math.cos(math.radians(_FLATTEST)), math.cos(math.radians(_STEEPEST))
    return np.clip(towards(ground, pixel, to_radar), low, high)


def backscatter(area: Float32, biomass: Float64, moisture: Float64, shift: Float64, cosine: Float32, day: float) -> Float64:
    """Mean backscatter, linear, without speckle.

    Parameters
    ----------
    area : [P, kinds] shares of the kinds of cover
    biomass : [P] Mg/ha of the trees in the pixel
    moisture : [P] of the topsoil, m3/m3
    shift : [P] days by which fields are late
    cosine : [P] of the local incidence angle
    day : of the year

    Returns
    -------
    [2, P] VV and VH
    """
    crowns = area[:, Kind.FIRST_CROWN :].sum(axis=1)
    forest = np.clip(crowns + area[:, Kind.FOREST_FLOOR] + area[:, Kind.CLEARCUT], 0, 1)
    dense = biomass / np.maximum(forest, 0.2)
    slope = (cosine / math.cos(math.radians(INCIDENCE))) ** 2
    result = np.empty((2, len(biomass)))
    for index, scatter in enumerate(_SCATTER):
        soil = 10 ** ((scatter.soil + scatter.per_moisture * np.clip(moisture, 0, 0.5)) / 10)
        trees = _cloud(soil, scatter.forest, _FOREST_B * dense, cosine)
        total = forest * trees
        for kind, cover in ((Kind.WINTER_CROP, Cover.WINTER_CROP), (Kind.SUMMER_CROP, Cover.SUMMER_CROP)):
            total += area[:, kind] * _cloud(soil, scatter.crop, _FIELD_B * crop(cover, day, shift)[0], cosine)
        total += area[:, Kind.GRASS] * _cloud(soil, scatter.grass, 0.4 * _FIELD_B * meadow(day, shift), cosine)
        total += area[:, Kind.WATER] * 10 ** (scatter.water / 10) + area[:, Kind.ROAD] * 10 ** (scatter.road / 10)
        # Wall and ground together send the pulse straight back, from houses of any orientation alike.
        total += area[:, [Kind.TILES, Kind.SLATE, Kind.METAL]].sum(axis=1) * 10 ** (scatter.building / 10)
        result[index] = total * slope
    return result


def _cloud(soil: Float64, plants: float, depth: Float64, cosine: Float32) -> Float64:
    through = np.exp(-2 * depth / cosine)
    return 10 ** (plants / 10) * (1 - through) + soil * through
