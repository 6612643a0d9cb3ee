"""Field plots: where crews measure, and what they find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from fusion3d.simulate.allometry import above_ground_biomass
from fusion3d.simulate.keyed import normal, stream, uniform
from fusion3d.simulate.landscape import Landscape
from fusion3d.simulate.model import SPECIES, Cover, Site, Tile

Float64 = npt.NDArray[np.float64]

RADIUS = 15.0
"""Metres."""
MARGIN = 20.0
"""Metres that a tile needs around its core: a plot belongs to the tile with its centre and reaches 15 m beyond."""
AREA = np.pi * RADIUS**2 / 1e4
"""Hectares."""
SMALLEST_DBH = 5.0
"""cm; thinner trees are not counted."""
_POSITION_ERROR = 1.5
_DBH_ERROR, _HEIGHT_ERROR, _MISSED = 0.02, 0.05, 0.02
_EDGE = RADIUS + 6.0
_APART = 2.2 * RADIUS
_FOREST_SHARE = 0.8
_DENSITY = np.array([species.wood_density for species in SPECIES])
_NAMES = [species.name for species in SPECIES]


@dataclass(frozen=True)
class PlotSites:
    """Where plots are, as arrays [P].

    Attributes
    ----------
    number : of the plot, from 1
    x, y : true centre, metres; x_stated, y_stated : as the crew's receiver had it
    day : of the year
    """

    number: npt.NDArray[np.int64]
    x: Float64
    y: Float64
    x_stated: Float64
    y_stated: Float64
    day: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class PlotRecord:
    """What is known of one plot.

    Attributes
    ----------
    agb : Mg/ha; basal_area : m2/ha; stems : per ha; of trees of DBH >= 5 cm
    lorey_height : mean height weighted by basal area, metres; NaN without trees
    species : dominant by basal area, Latin; None without trees
    canopy_cover : share under crowns higher than 2 m
    land_cover : most frequent, of the ground
    """

    agb: float
    basal_area: float
    stems: float
    lorey_height: float
    species: str | None
    canopy_cover: float
    land_cover: str


def plot_sites(land: Landscape, plots_per_km2: float) -> PlotSites:
    """Plots of a scene, none closer than 33 m to another, four in five in forest where there is enough of it.

    Plots are permanent: year 2 has those of year 1, wherever a parcel was cut meanwhile.
    """
    site = land.site
    first = land if site.year == 1 else Landscape(Site(site.size, site.seed, 1))
    key, box = stream(site.seed, "plots"), site.box.grow(-_EDGE)
    wanted = max(1, round(plots_per_km2 * site.size**2 / 1e6)) if plots_per_km2 > 0 else 0
    draws = np.arange(40 + 12 * wanted if wanted else 0)
    x, y = box.xmin + box.width * uniform(key, draws, 0), box.ymin + box.height * uniform(key, draws, 1)
    alone = np.ones(len(draws), bool)
    if len(draws):
        pairs = cKDTree(np.column_stack([x, y]) - [box.xmin, box.ymin]).query_pairs(_APART, output_type="ndarray")
        alone = _first_of_each(pairs, len(draws))
    cover = first.cover(x, y)
    forest, open_land = (np.flatnonzero(alone & kind) for kind in (cover == Cover.FOREST, _walkable(cover)))
    in_forest = min(round(_FOREST_SHARE * wanted), len(forest))
    chosen = np.sort(np.concatenate([forest[:in_forest], open_land[: wanted - in_forest]]))
    x, y = x[chosen], y[chosen]
    return PlotSites(
        np.arange(1, len(chosen) + 1), x, y, x + _POSITION_ERROR * normal(key, chosen, 3),
        y + _POSITION_ERROR * normal(key, chosen, 4), 150 + (120 * uniform(key, chosen, 5)).astype(np.int64),
    )  # fmt: skip


def _walkable(cover: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    return np.isin(cover, (Cover.GRASS, Cover.WINTER_CROP, Cover.SUMMER_CROP, Cover.CLEARCUT))


def _first_of_each(pairs: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.bool_]:
    """Points that are left when, walking in order, each that is close to one kept before is dropped."""
    neighbours: list[list[int]] = [[] for _ in range(count)]
    for one, other in pairs:
        neighbours[max(one, other)].append(min(one, other))
    kept = np.zeros(count, bool)
    for point in range(count):
        kept[point] = not any(kept[earlier] for earlier in neighbours[point])
    return kept


def plot_records(tile: Tile, x: float, y: float, number: int) -> tuple[PlotRecord, PlotRecord]:
    """What a crew notes of the plot about a place, and what is so.

    Parameters
    ----------
    x, y : true centre, metres; the circle must lie in the tile and its margin
    number : of the plot: keys the crew's errors
    """
    key = stream(tile.site.seed, f"plots/errors/{tile.site.year}")
    trees = tile.trees
    trees = trees.take(np.hypot(trees.x - x, trees.y - y) <= RADIUS)
    own = trees.identity
    dbh = trees.dbh * (1.0 + _DBH_ERROR * normal(key, number, own, 0))
    height = trees.height * (1.0 + _HEIGHT_ERROR * normal(key, number, own, 1))
    # Crews look up the wood density of the species.
    agb = above_ground_biomass(_DENSITY[trees.species], dbh, height)
    noted = (uniform(key, number, own, 2) >= _MISSED) & (dbh >= SMALLEST_DBH)
    cover, crowns = _ground(tile, x, y)
    guess = float(np.clip(crowns + 0.05 * normal(key, number, 3), 0.0, 1.0)) if crowns > 0 else 0.0
    measured = _record(dbh[noted], height[noted], agb[noted], trees.species[noted], guess, cover)
    large = trees.dbh >= SMALLEST_DBH
    return measured, _record(trees.dbh[large], trees.height[large], trees.agb[large], trees.species[large], crowns, cover)


def _record(dbh: Float64, height: Float64, agb: Float64, species: npt.NDArray, canopy_cover: float, cover: str) -> PlotRecord:
    basal = np.pi * (dbh / 200.0) ** 2
    by_species = np.bincount(species, weights=basal, minlength=len(SPECIES))
    trees = len(dbh) > 0
    return PlotRecord(
        agb=float(agb.sum()) / 1000.0 / AREA,
        basal_area=float(basal.sum()) / AREA,
        stems=len(dbh) / AREA,
        lorey_height=float((basal * height).sum() / basal.sum()) if trees else float("nan"),
        species=_NAMES[int(by_species.argmax())] if trees else None,
        canopy_cover=canopy_cover,
        land_cover=cover,
    )


def _ground(tile: Tile, x: float, y: float) -> tuple[str, float]:
    """Most frequent cover within the plot, and the share of it under crowns."""
    surface = tile.surface(1.0, MARGIN)
    col, row = int(np.floor(x - surface.box.xmin)), int(np.floor(surface.box.ymax - y))
    reach = int(RADIUS) + 1
    rows, cols = slice(max(row - reach, 0), row + reach + 1), slice(max(col - reach, 0), col + reach + 1)
    centre_x, centre_y = surface.box.centres(1.0)
    inside = np.hypot(centre_x[cols][None, :] - x, centre_y[rows][:, None] - y) <= RADIUS
    cover = np.bincount(surface.cover[rows, cols][inside], minlength=len(Cover) + 1).argmax()
    return Cover(int(cover)).name.lower(), float((surface.canopy[rows, cols][inside] > 2.0).mean())
