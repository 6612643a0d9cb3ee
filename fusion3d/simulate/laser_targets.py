"""What laser pulses meet: ground, roofs and leaves of a window, and what they reflect.

x and y are metres from the scene's south-western corner, whole numbers of which are edges of cells in every window: so indices
and weights of cells are the same to the last bit whichever window a place is looked up in.

The laser works at 1550 nm. What it does not see: soil moisture and the litter's reflectance at 1064 nm, which other sensors alone
tell; both crops reflect alike, as they differ in their seasons only. Colours are those of a class of target, as if taken from an
orthophoto of another day.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.ndimage import maximum_filter

from fusion3d.errors import ConfigError
from fusion3d.simulate.model import NO_SPECIES, SPECIES, Box, Cover, LeafVoxels, Surface

SPECIES_KIND = 16
UNDERSTOREY_KIND = SPECIES_KIND + len(SPECIES)
NOISE_KIND = UNDERSTOREY_KIND + 1
KINDS = NOISE_KIND + 1
"""What a return came from: a `Cover`, from `SPECIES_KIND` on leaves by species, understorey, nothing on the ground."""

CEILING_CELL = 4.0
"""Side of a cell of the map that says above which height there is nothing to meet, metres."""
_BESIDE_ROOF = 2.0
_UNDERSTOREY_TOP = 3.0
_GRASS, _WINTER_CROP, _SUMMER_CROP = int(Cover.GRASS), int(Cover.WINTER_CROP), int(Cover.SUMMER_CROP)
_NO_SPECIES = NO_SPECIES

_REFLECTANCE = {
    Cover.WATER: 0.05,
    Cover.BUILDING: 0.28,
    Cover.ROAD: 0.14,
    Cover.GRASS: 0.27,
    Cover.WINTER_CROP: 0.30,
    Cover.SUMMER_CROP: 0.30,
    Cover.FOREST: 0.32,
    Cover.CLEARCUT: 0.35,
}
"""At 1550 nm; magnitudes of leaves, litter and surfaces in the ECOSTRESS spectral library (Meerdink et al. 2019)."""
_LEAF_REFLECTANCE = {
    "Picea abies": 0.17,
    "Pinus sylvestris": 0.20,
    "Fagus sylvatica": 0.30,
    "Quercus petraea": 0.28,
    "Betula pendula": 0.31,
}
_COLOUR = {
    Cover.WATER: (35, 50, 55, 15),
    Cover.BUILDING: (150, 95, 80, 110),
    Cover.ROAD: (115, 115, 118, 110),
    Cover.GRASS: (95, 125, 65, 185),
    Cover.WINTER_CROP: (130, 125, 75, 165),
    Cover.SUMMER_CROP: (130, 125, 75, 165),
    Cover.FOREST: (70, 65, 45, 95),
    Cover.CLEARCUT: (125, 105, 80, 120),
}
"""Red, green, blue, near infrared, 0 to 255."""
_LEAF_COLOUR = {
    "Picea abies": (38, 58, 38, 120),
    "Pinus sylvestris": (55, 75, 50, 135),
    "Fagus sylvatica": (60, 100, 45, 200),
    "Quercus petraea": (68, 98, 48, 185),
    "Betula pendula": (80, 110, 58, 180),
}
_UNDERSTOREY = 0.26, (60, 85, 45, 150)


class Cells(NamedTuple):
    """Where the cells of a window lie: number per metre, and cells from the scene's corner to the western and northern edge."""

    per_metre: float
    left: float
    top: float


class Targets(NamedTuple):
    """What pulses meet in a window.

    Attributes
    ----------
    cells, leaf_cells, ceiling_cells : of the arrays
    ground, roof, canopy : [R, C] float32, terrain above sea level, roofs and crowns above it, metres
    cover, species : [R, C] uint8, `Cover` and index of the highest crown's species (NO_SPECIES without)
    near_roof : [R, C] bool, roofs and what stands beside them
    leaves : [R', C', K] float32, m2 per m3; layers last, as a pulse meets them; layers_per_metre of them
    ceiling : [R'', C''] float32, cells of `CEILING_CELL`: no target is higher, there or a cell to the north or south
    highest, highest_roof : of the ceiling, and of the roofs above the ground
    reflectance : [KINDS] float64, at the laser's wavelength
    colour : [KINDS, 4] float64, red, green, blue, near infrared, 0 to 65535
    """

    cells: Cells
    leaf_cells: Cells
    ceiling_cells: Cells
    ground: npt.NDArray[np.float32]
    roof: npt.NDArray[np.float32]
    canopy: npt.NDArray[np.float32]
    cover: npt.NDArray[np.uint8]
    species: npt.NDArray[np.uint8]
    near_roof: npt.NDArray[np.bool_]
    layers_per_metre: float
    leaves: npt.NDArray[np.float32]
    ceiling: npt.NDArray[np.float32]
    highest: float
    highest_roof: float
    reflectance: npt.NDArray[np.float64]
    colour: npt.NDArray[np.float64]


def targets_of(corner: Box, surface: Surface, leaves: LeafVoxels, species: npt.NDArray[np.uint8]) -> Targets:
    """The targets of a window.

    Parameters
    ----------
    corner : the scene, whose south-western corner is the origin
    surface, leaves : of windows with the same north-western corner
    species : [T] of the trees that ``surface.crown`` points into

    Raises
    ------
    ConfigError
        The windows' edges are no whole number of cells from the corner, or the ground has holes.
    """
    if not np.isfinite(surface.ground).all():
        raise ConfigError("the terrain of a window has values that are not finite: no pulse could end there")
    window, leaf_window = from_corner(surface.box, corner), from_corner(leaves.box, corner)
    crowns = np.full(surface.crown.shape, NO_SPECIES, np.uint8)
    crowned = surface.crown >= 0
    crowns[crowned] = species[surface.crown[crowned]]
    side = 2 * round(_BESIDE_ROOF / surface.cell) + 1
    reflectance, colour = _optics()
    ceiling = _ceiling(surface, leaves)
    return Targets(
        cells=_cells(window, surface.cell),
        leaf_cells=_cells(leaf_window, leaves.cell),
        ceiling_cells=Cells(1.0 / CEILING_CELL, window.xmin / CEILING_CELL, window.ymax / CEILING_CELL),
        ground=np.ascontiguousarray(surface.ground, np.float32),
        roof=np.ascontiguousarray(surface.building, np.float32),
        canopy=np.ascontiguousarray(surface.canopy, np.float32),
        cover=np.ascontiguousarray(surface.cover, np.uint8),
        species=crowns,
        near_roof=maximum_filter(surface.building > 0, size=side),
        layers_per_metre=1.0 / leaves.step,
        leaves=np.ascontiguousarray(np.moveaxis(leaves.density, 0, -1), np.float32),
        ceiling=ceiling,
        highest=float(ceiling.max()),
        highest_roof=float(surface.building.max()),
        reflectance=reflectance,
        colour=colour,
    )


def _cells(window: Box, cell: float) -> Cells:
    left = whole(window.xmin / cell, "a window's western edge, in cells,")
    return Cells(1.0 / cell, left, whole(window.ymax / cell, "a window's northern edge, in cells,"))


def _ceiling(surface: Surface, leaves: LeafVoxels) -> npt.NDArray[np.float32]:
    """Above this no target lies, there or a cell to the north or south; both windows have the same north-western corner."""
    filled = leaves.density > 0
    top = np.where(filled.any(axis=0), len(filled) - np.argmax(filled[::-1], axis=0), 0) * leaves.step
    ground = _blocks(surface.ground, surface.cell)
    above = np.maximum(_blocks(surface.building, surface.cell), _blocks(top, leaves.cell))
    # rays lie in planes north-south; the ground between the centres of cells is within a metre of them
    return np.asarray(maximum_filter(ground, size=(3, 1)) + maximum_filter(above, size=(3, 1)) + 1.0, np.float32)


def _blocks(values: npt.NDArray[Any], cell: float) -> npt.NDArray[Any]:
    side = round(CEILING_CELL / cell)
    rows, cols = (-length % side for length in values.shape)
    padded = np.pad(values, ((0, rows), (0, cols)), mode="edge")
    return padded.reshape(padded.shape[0] // side, side, padded.shape[1] // side, side).max(axis=(1, 3))


def _optics() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Reflectance [KINDS] and colour [KINDS, 4] of the targets."""
    reflectance, colour = np.zeros(KINDS), np.zeros((KINDS, 4))
    for cover in Cover:
        reflectance[cover], colour[cover] = _REFLECTANCE[cover], _COLOUR[cover]
    for index, kind in enumerate(SPECIES):
        reflectance[SPECIES_KIND + index], colour[SPECIES_KIND + index] = _LEAF_REFLECTANCE[kind.name], _LEAF_COLOUR[kind.name]
    reflectance[UNDERSTOREY_KIND], colour[UNDERSTOREY_KIND] = _UNDERSTOREY
    reflectance[NOISE_KIND], colour[NOISE_KIND] = 0.1, (128, 128, 128, 128)
    return reflectance, colour * 256.0


def from_corner(box: Box, corner: Box) -> Box:
    """A window of the map in metres from the south-western corner of another."""
    return Box(box.xmin - corner.xmin, box.ymin - corner.ymin, box.xmax - corner.xmin, box.ymax - corner.ymin)


def whole(value: float, what: str) -> int:
    """A whole number, or `ConfigError`."""
    if abs(value - round(value)) > 1e-6:
        raise ConfigError(f"{what} ({value:g}) is no whole number from the scene's corner")
    return round(value)


# Compiled functions take arrays, not `Targets`: what is taken out of a tuple is counted as held, which costs more than its use.


@njit(error_model="numpy")
def row_col(cells, shape, x, y):  # type: ignore[no-untyped-def]
    """The cell of a place, half-open like `Box`; the nearest one for places outside of the window."""
    row, col = math.floor(cells.top - y * cells.per_metre), math.floor(x * cells.per_metre - cells.left)
    return min(max(row, 0), shape[0] - 1), min(max(col, 0), shape[1] - 1)


@njit(error_model="numpy")
def columns(cells, shape, x):  # type: ignore[no-untyped-def]
    """The columns of cells whose centres lie west and east of x, and how far it is from one to the other."""
    u = x * cells.per_metre - 0.5
    left = math.floor(u)
    col = int(left) - cells.left
    return min(max(col, 0), shape[1] - 1), min(max(col + 1, 0), shape[1] - 1), u - left


@njit(error_model="numpy")
def ground_between(ground, cells, west, east, u, y):  # type: ignore[no-untyped-def]
    """Terrain, bilinear between the centres of cells of two columns."""
    rows = ground.shape[0]
    v = y * cells.per_metre - 0.5
    below = math.floor(v)
    v -= below
    row = cells.top - 1 - int(below)
    south, north = min(max(row, 0), rows - 1), min(max(row - 1, 0), rows - 1)
    low = ground[south, west] + (ground[south, east] - ground[south, west]) * u
    high = ground[north, west] + (ground[north, east] - ground[north, west]) * u
    return low + (high - low) * v


@njit(error_model="numpy")
def ground_at(ground, cells, x, y):  # type: ignore[no-untyped-def]
    """Terrain above sea level, metres; the window's edge goes on outside of it."""
    west, east, u = columns(cells, ground.shape, x)
    return ground_between(ground, cells, west, east, u, y)


@njit(error_model="numpy")
def roof_at(roof, cells, x, y):  # type: ignore[no-untyped-def]
    """Roof above the ground: 0 outside of the cells of a building, bilinear between its own."""
    row, col = row_col(cells, roof.shape, x, y)
    if roof[row, col] <= 0.0:
        return 0.0
    rows, cols = roof.shape
    u, v = x * cells.per_metre - 0.5, y * cells.per_metre - 0.5
    left, below = math.floor(u), math.floor(v)
    u, v = u - left, v - below
    total = weights = 0.0
    for north in range(2):
        for east in range(2):
            r = cells.top - 1 - int(below) - north
            c = int(left) + east - cells.left
            if 0 <= r < rows and 0 <= c < cols and roof[r, c] > 0.0:
                weight = (v if north else 1.0 - v) * (u if east else 1.0 - u)
                weights += weight
                total += weight * roof[r, c]
    return total / weights if weights > 0.0 else float(roof[row, col])


@njit(error_model="numpy")
def leaf_density(leaves, cells, layers_per_metre, x, y, height):  # type: ignore[no-untyped-def]
    """m2 of leaves per m3 at a height above the ground; 0 above and below; the window's edge goes on outside of it."""
    layer = math.floor(height * layers_per_metre)
    if layer < 0 or layer >= leaves.shape[2]:
        return 0.0
    row, col = row_col(cells, leaves.shape, x, y)
    return leaves[row, col, layer]


@njit(error_model="numpy")
def incidence(ground, roof, cells, x, y, north, down):  # type: ignore[no-untyped-def]
    """Cosine between a ray (0, north, -down) and the normal of the ground or roof; walls and edges count as 0.2."""
    reach = 0.5
    slope_x = ground_at(ground, cells, x + reach, y) - ground_at(ground, cells, x - reach, y)
    slope_y = ground_at(ground, cells, x, y + reach) - ground_at(ground, cells, x, y - reach)
    if roof_at(roof, cells, x, y) > 0.0:
        slope_x += roof_at(roof, cells, x + reach, y) - roof_at(roof, cells, x - reach, y)
        slope_y += roof_at(roof, cells, x, y + reach) - roof_at(roof, cells, x, y - reach)
    slope_x, slope_y = slope_x / (2 * reach), slope_y / (2 * reach)
    cosine = (slope_y * north + down) / math.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)
    return min(max(cosine, 0.2), 1.0)


@njit(error_model="numpy")
def leaf_kind(species, cover, canopy, height):  # type: ignore[no-untyped-def]
    """Leaves of the tree above, of grass or a crop, or of the understorey: those below 3 m and half of the crown's height."""
    if species != _NO_SPECIES and (height >= _UNDERSTOREY_TOP or height >= 0.5 * canopy):
        return SPECIES_KIND + species
    if species == _NO_SPECIES and cover in (_GRASS, _WINTER_CROP, _SUMMER_CROP):
        return cover
    return UNDERSTOREY_KIND
