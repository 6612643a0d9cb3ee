"""What the optical sensors look at: the surface as kinds of cover, and what each kind is made of on a day."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from fusion3d.simulate.keyed import normal, stream, uniform
from fusion3d.simulate.model import NO_SPECIES, SPECIES, Cover, Float32, Float64, Land, Site, Surface, Trees
from fusion3d.simulate.phenology import crop, leaves, meadow
from fusion3d.simulate.spectra import Material

CELL = 1.0
"""Metres, side of the cells that the sensors of 5 and 10 m share."""
MARGIN = 40.0
"""Metres of those cells around a tile: a pixel of 10 m for smoothing, and what casts shadows into it."""
REACH = 30.0
"""Metres along the ground over which shadows fall; longer ones are cut."""
_CROWN_TRANSMITS, _GROUND_GETS = 0.35, 0.08
"""Share of the direct light that crowns in shadow still get through leaves and gaps, and other ground from its surroundings."""


class Kind(IntEnum):
    """What a cell shows from above: a cover, a sort of roof, or the crown of a species (the last ones, in their order)."""

    WATER = 0
    TILES = 1
    SLATE = 2
    METAL = 3
    ROAD = 4
    GRASS = 5
    WINTER_CROP = 6
    SUMMER_CROP = 7
    FOREST_FLOOR = 8
    CLEARCUT = 9
    FIRST_CROWN = 10


KINDS = Kind.FIRST_CROWN + len(SPECIES)
_KIND_OF_COVER = {Cover.WATER: Kind.WATER, Cover.BUILDING: Kind.TILES, Cover.ROAD: Kind.ROAD, Cover.GRASS: Kind.GRASS,
                  Cover.WINTER_CROP: Kind.WINTER_CROP, Cover.SUMMER_CROP: Kind.SUMMER_CROP, Cover.FOREST: Kind.FOREST_FLOOR,
                  Cover.CLEARCUT: Kind.CLEARCUT}  # fmt: skip
_STATIC = {Kind.WATER: Material.WATER, Kind.TILES: Material.ROOF_TILES, Kind.SLATE: Material.ROOF_SLATE,
           Kind.METAL: Material.ROOF_METAL, Kind.ROAD: Material.ASPHALT}  # fmt: skip


def kinds(surface: Surface, trees: Trees, site: Site) -> npt.NDArray[np.uint8]:
    """[R, C] `Kind` of every cell."""
    table = np.full(256, Kind.GRASS, np.uint8)
    for cover, kind in _KIND_OF_COVER.items():
        table[cover] = kind
    found: npt.NDArray[np.uint8] = table[surface.cover]
    roofs = surface.cover == Cover.BUILDING
    if roofs.any():
        draw = uniform(stream(site.seed, "optics/roof"), surface.parcel[roofs])
        found[roofs] = np.select([draw < 0.6, draw < 0.88], [Kind.TILES, Kind.SLATE], Kind.METAL)
    crowned = (surface.crown >= 0) & (surface.canopy > surface.building)
    species = np.full(len(trees) + 1, NO_SPECIES, np.uint8)
    species[:-1] = trees.species
    found[crowned] = Kind.FIRST_CROWN + species[surface.crown[crowned]]
    return found


def composition(day: float, wetness: float, shift: npt.ArrayLike = 0.0, mowing: npt.ArrayLike | None = None) -> Float32:
    """Materials of every kind on a day.

    Parameters
    ----------
    wetness : of the soil's surface after the weather of the day, 0 to 1, everywhere the same
    shift : [P] days by which plants are late; a number for everywhere
    mowing : [P] day on which a meadow is mown (NaN: never); None where the sensor shall not see it

    Returns
    -------
    [kinds, P, materials], summing to 1 over the materials
    """
    shift = np.atleast_1d(np.asarray(shift, np.float64))
    mix = np.zeros((KINDS, len(shift), len(Material)))
    for kind, material in _STATIC.items():
        mix[kind, :, material] = 1.0
    green = meadow(day, shift, mowing)
    mix[Kind.GRASS, :, Material.GRASS] = green
    mix[Kind.GRASS, :, Material.DRY_PLANTS] = 0.45 * (1 - green)
    _soil(mix[Kind.GRASS], 0.55 * (1 - green), wetness)
    for kind, cover in ((Kind.WINTER_CROP, Cover.WINTER_CROP), (Kind.SUMMER_CROP, Cover.SUMMER_CROP)):
        green, straw = crop(cover, day, shift)
        mix[kind, :, Material.CROP] = green
        mix[kind, :, Material.DRY_PLANTS] = straw
        _soil(mix[kind], 1 - green - straw, wetness)
    mix[Kind.FOREST_FLOOR, :, Material.LITTER] = 0.75
    mix[Kind.FOREST_FLOOR, :, Material.SHRUB] = 0.20
    _soil(mix[Kind.FOREST_FLOOR], np.full(len(shift), 0.05), wetness)
    shrub = 0.20 + 0.25 * leaves(3, day, shift)[0]
    mix[Kind.CLEARCUT, :, Material.SHRUB] = shrub
    mix[Kind.CLEARCUT, :, Material.LITTER] = 0.6 * (1 - shrub)
    mix[Kind.CLEARCUT, :, Material.DRY_PLANTS] = 0.15 * (1 - shrub)
    _soil(mix[Kind.CLEARCUT], 0.25 * (1 - shrub), wetness)
    for index, species in enumerate(SPECIES):
        share, green = leaves(index, day, shift)
        # Closed form of Beer and Lambert for leaves seen from above, spherical angles: what shows through is wood and floor.
        seen = 1 - np.exp(-0.5 * species.leaf_area_index * share)
        crown = mix[Kind.FIRST_CROWN + index]
        crown[:, index] = seen * green
        crown[:, Material.AUTUMN_LEAVES] = seen * (1 - green)
        # Needles hide each other: what shows through evergreens is darkness, which their levels in `spectra` hold already.
        through = 1 - seen
        if species.evergreen:
            crown[:, index] += through
        else:
            crown[:, Material.WOOD] = 0.5 * through
            crown[:, Material.LITTER] = 0.5 * through
    return mix.astype(np.float32)


def _soil(mix: Float64, share: Float64, wetness: float) -> None:
    mix[:, Material.DRY_SOIL] += share * (1 - wetness)
    mix[:, Material.WET_SOIL] += share * wetness


def wetness(site: Site, day: int) -> float:
    """How wet the soil's surface is on a day, from the weather alone: wet winters, showers."""
    shower = float(uniform(stream(site.seed, "optics/shower"), site.calendar_year, day))
    return float(np.clip(0.35 + 0.3 * np.cos(2 * np.pi * (day - 15) / 365) + 0.6 * (shower - 0.5), 0.0, 1.0))


def direct_light(incidence: Float32, flat: float, seen: Float32, kind: npt.NDArray[np.uint8]) -> Float32:
    """Direct light on cells over that on flat, sunny ground.

    Parameters
    ----------
    incidence : [R, C] cosine between the normals and the sun; flat : that of flat ground
    seen : [R, C] 1 in the sun, 0 in shadow
    kind : [R, C] crowns in shadow still get what passes other crowns
    """
    through = np.where(kind >= Kind.FIRST_CROWN, np.float32(_CROWN_TRANSMITS), np.float32(_GROUND_GETS))
    return np.clip(incidence / flat, 0.0, 1.8) * np.maximum(seen, through)


@dataclass(frozen=True)
class Shares:
    """Shares of kinds in pixels.

    Attributes
    ----------
    area : [P, kinds] summing to 1
    sunny : [P, kinds] the same, each cell weighted with the direct light on it
    """

    area: Float32
    sunny: Float32


def pixel_index(shape: tuple[int, int], factor: int) -> npt.NDArray[np.int64]:
    """[R, C] which pixel of factor x factor cells a cell lies in, row by row."""
    rows, cols = np.arange(shape[0]) // factor, np.arange(shape[1]) // factor
    return rows[:, None] * (shape[1] // factor) + cols


def shares(kind: npt.NDArray[np.uint8], light: Float32, factor: int) -> Shares:
    """Shares of kinds in the pixels of factor x factor cells, rows and columns whole numbers of pixels."""
    pixels = (kind.shape[0] // factor) * (kind.shape[1] // factor)
    index = (pixel_index(kind.shape, factor) * KINDS + kind).ravel()
    area = np.bincount(index, minlength=pixels * KINDS).reshape(pixels, KINDS)
    sunny = np.bincount(index, light.ravel(), minlength=pixels * KINDS).reshape(pixels, KINDS)
    return Shares((area / factor**2).astype(np.float32), (sunny / factor**2).astype(np.float32))


def pixel_mean(values: Float64, factor: int) -> Float64:
    """Mean of the finite cells of each pixel of factor x factor cells, [R, C] to [P]; NaN where there is none."""
    rows, cols = values.shape[0] // factor, values.shape[1] // factor
    blocks = values.reshape(rows, factor, cols, factor)
    known = np.isfinite(blocks)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Float64 = np.where(known, blocks, 0.0).sum(axis=(1, 3)) / known.sum(axis=(1, 3))
    return mean.ravel()


def field_on(land: Land, name: str, surface: Surface) -> Float64:
    """[R, C] a variable of `FIELDS` at the centres of a surface's cells."""
    x, y = surface.box.centres(surface.cell)
    return land.field(name, *np.meshgrid(x, y))


def crown_brightness(surface: Surface, trees: Trees, site: Site) -> Float32:
    """[R, C] factor by which single crowns differ from their species; 1 without crown."""
    factor = np.ones(len(trees) + 1, np.float32)
    if len(trees):
        factor[:-1] = np.exp(0.09 * normal(stream(site.seed, "optics/crown"), trees.identity.astype(np.int64)))
    return factor[surface.crown]
