"""What a simulated scene is made of: the words that its parts and its sensors share.

The parts (terrain, parcels, trees) are functions of position and seed, so any window can be made without the others. A `Tile` is
a window of them; every sensor is simulated from tiles alone. Rasters are [R, C] with the northernmost row first.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date
from enum import IntEnum
from functools import cached_property
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
from pyproj import CRS

from fusion3d.errors import ConfigError

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

CRS_NAME = "EPSG:2154"
"""Lambert-93, the national CRS of mainland France."""
GEOID = 50.0
"""Metres of the sea level above the WGS 84 ellipsoid, everywhere in a simulated scene: GEDI's heights are ellipsoidal."""
TILE = 500
"""Side of a LAZ tile, metres."""
_SOUTH_WEST = (900_000.0, 6_570_000.0)
_FIRST_YEAR = 2023
_YEARS_BETWEEN = 5


class Cover(IntEnum):
    """Land cover; 0 is left for nodata."""

    WATER = 1
    BUILDING = 2
    ROAD = 3
    GRASS = 4
    WINTER_CROP = 5
    SUMMER_CROP = 6
    FOREST = 7
    CLEARCUT = 8


@dataclass(frozen=True)
class Box:
    """A rectangle of the map, metres in the scene's CRS."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float

    @property
    def width(self) -> float:
        return self.xmax - self.xmin

    @property
    def height(self) -> float:
        return self.ymax - self.ymin

    def grow(self, margin: float) -> Box:
        return Box(self.xmin - margin, self.ymin - margin, self.xmax + margin, self.ymax + margin)

    def shape(self, cell: float) -> tuple[int, int]:
        """Rows and columns of cells; the box must be a whole number of them."""
        rows, cols = self.height / cell, self.width / cell
        if abs(rows - round(rows)) > 1e-6 or abs(cols - round(cols)) > 1e-6:
            raise ConfigError(f"a window of {self.width:g} x {self.height:g} m is no whole number of cells of {cell:g} m")
        return round(rows), round(cols)

    def centres(self, cell: float) -> tuple[Float64, Float64]:
        """x [C] and y [R] of the centres of the cells, y falling."""
        rows, cols = self.shape(cell)
        across, down = np.arange(cols, dtype=np.float64), np.arange(rows, dtype=np.float64)
        return self.xmin + (across + 0.5) * cell, self.ymax - (down + 0.5) * cell

    def contains(self, x: npt.ArrayLike, y: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Half-open: the western and the northern edge belong to the box, as in `fusion3d.grid`."""
        x, y = np.asarray(x), np.asarray(y)
        return (x >= self.xmin) & (x < self.xmax) & (y > self.ymin) & (y <= self.ymax)


@dataclass(frozen=True)
class Site:
    """Which scene: a square of ground, by seed, in one of two years.

    Parameters
    ----------
    size : side, metres; a multiple of 50, at least 100
    seed : scenes of other seeds have nothing in common
    year : 1, or 2 for the same place five years later
    """

    size: int
    seed: int = 0
    year: int = 1

    def __post_init__(self) -> None:
        if self.size < 100 or self.size % 50:
            raise ConfigError(f"--size {self.size} must be a multiple of 50 metres, at least 100")
        if self.size > 50_000:
            raise ConfigError(f"--size {self.size} is more than the 50 km that fit beside the origin of the scene")
        if self.year not in (1, 2):
            raise ConfigError(f"--year {self.year} must be 1 or 2")
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed} must not be negative")

    @property
    def box(self) -> Box:
        x, y = _SOUTH_WEST
        return Box(x, y, x + self.size, y + self.size)

    @cached_property
    def crs(self) -> CRS:
        return CRS.from_user_input(CRS_NAME)

    @property
    def calendar_year(self) -> int:
        return _FIRST_YEAR + (self.year - 1) * _YEARS_BETWEEN

    def day(self, day_of_year: int) -> date:
        """The date of a day of the scene's year, 1 is 1 January."""
        return date.fromordinal(date(self.calendar_year, 1, 1).toordinal() + day_of_year - 1)

    def tiles(self, side: int = TILE) -> list[Box]:
        """Windows that cover the scene without overlap, from the north-west corner, row by row."""
        box = self.box
        return [
            Box(box.xmin + left, max(box.ymin, box.ymax - top - side), min(box.xmax, box.xmin + left + side), box.ymax - top)
            for top in range(0, self.size, side)
            for left in range(0, self.size, side)
        ]


@dataclass(frozen=True)
class Species:
    """A tree species, by figures that matter to a sensor.

    Attributes
    ----------
    crown : "cone", "ellipsoid" or "paraboloid"
    evergreen : keeps its leaves in winter
    wood_density : g/cm3, mean; of the single trees it scatters by 8 % (Zanne et al. 2009, Global Wood Density Database)
    leaf_area_index : m2 of leaves a m2 of crown projection, in summer
    top_height : metres that an old stand reaches
    crown_depth : length of the crown over height of the tree
    """

    name: str
    common: str
    crown: str
    evergreen: bool
    wood_density: float
    leaf_area_index: float
    top_height: float
    crown_depth: float


SPECIES = (
    Species("Picea abies", "Norway spruce", "cone", True, 0.37, 4.5, 36.0, 0.65),
    Species("Pinus sylvestris", "Scots pine", "paraboloid", True, 0.42, 2.3, 28.0, 0.40),
    Species("Fagus sylvatica", "European beech", "ellipsoid", False, 0.585, 4.2, 34.0, 0.60),
    Species("Quercus petraea", "sessile oak", "ellipsoid", False, 0.56, 3.2, 30.0, 0.55),
    Species("Betula pendula", "silver birch", "paraboloid", False, 0.525, 2.4, 24.0, 0.50),
)
NO_SPECIES = 255
WOOD_AREA = 0.15
"""Share of a tree's summer leaf area that its wood intercepts light with, leaves or none."""


def leaf_share(day_of_year: npt.ArrayLike, evergreen: npt.ArrayLike) -> Float64:
    """Share of the summer's leaves that trees carry on a day: flush around day 115, fall around day 300; a number for numbers."""
    day = np.asarray(day_of_year, np.float64)
    flush = 1.0 / (1.0 + np.exp(-(day - 115.0) / 7.0))
    return np.where(evergreen, 1.0, flush / (1.0 + np.exp((day - 300.0) / 8.0)))[()]


@dataclass(frozen=True)
class Trees:
    """Trees as arrays [T].

    Attributes
    ----------
    identity : the same tree has the same in every window and year
    x, y : of the stem, metres
    ground : of the terrain at the stem, metres above sea level
    species : index into `SPECIES`
    height : metres; crown_base : of the lowest leaves above the stem's ground, metres; crown_radius : metres
    dbh : stem diameter at 1.3 m, cm
    wood_density : g/cm3
    agb : above-ground dry biomass, kg
    leaf_area : of the summer, m2
    """

    identity: npt.NDArray[np.uint64]
    x: Float64
    y: Float64
    ground: Float64
    species: npt.NDArray[np.uint8]
    height: Float64
    crown_base: Float64
    crown_radius: Float64
    dbh: Float64
    wood_density: Float64
    agb: Float64
    leaf_area: Float64

    def __len__(self) -> int:
        return len(self.x)

    def take(self, which: npt.ArrayLike) -> Trees:
        """The trees that a mask or an index picks."""
        index = np.asarray(which)
        return replace(self, **{name: values[index] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Surface:
    """What lies on the cells of a window.

    Attributes
    ----------
    box, cell : window and side of a cell, metres
    ground : [R, C] terrain, metres above sea level
    cover : [R, C] uint8, `Cover`; under trees that of the ground
    parcel : [R, C] int64, identity of the parcel
    building : [R, C] height of the roof above ground, metres; 0 without
    canopy : [R, C] height of the highest crown above the ground of the cell, metres; 0 without
    crown : [R, C] int32, index into the trees of the tree whose crown is highest; -1 without
    """

    box: Box
    cell: float
    ground: Float32
    cover: npt.NDArray[np.uint8]
    parcel: npt.NDArray[np.int64]
    building: Float32
    canopy: Float32
    crown: npt.NDArray[np.int32]


@dataclass(frozen=True)
class LeafVoxels:
    """Area of leaves and wood by volume.

    Attributes
    ----------
    box, cell : window and side of a column, metres
    step : height of a layer, metres
    density : [K, R, C] m2 per m3 (one-sided); layer k lies between k and k + 1 steps above the ground of its own column
    """

    box: Box
    cell: float
    step: float
    density: Float32


FIELDS = {
    "understorey": "leaf area index below 3 m under the trees",
    "litter_1064": "reflectance of the forest floor at 1064 nm",
    "lignin": "strength of the leaves' absorption near 1730 nm, 0 to 1",
    "mowing_day": "day of year on which a meadow is mown",
    "soil_moisture": "water in the topsoil, m3/m3",
    "row_direction": "direction of the rows of a crop, degrees clockwise from north, 0 to 180",
    "greenup_shift": "days by which leaves and crops are later than the scene's mean",
}
"""What no two sensors, or few of them, see; by position. The scene's documentation says which sensor sees which."""


class Land(Protocol):
    """The scene as functions of position; x and y are arrays of one shape, metres in the scene's CRS."""

    def ground(self, x: Float64, y: Float64) -> Float64:
        """Terrain, metres above sea level."""
        ...

    def cover(self, x: Float64, y: Float64) -> npt.NDArray[np.uint8]:
        """`Cover` of the ground."""
        ...

    def parcel(self, x: Float64, y: Float64) -> npt.NDArray[np.int64]:
        """Identity of the parcel."""
        ...

    def roof(self, x: Float64, y: Float64) -> Float64:
        """Height of the roof above the ground, metres; 0 where there is none."""
        ...

    def field(self, name: str, x: Float64, y: Float64) -> Float64:
        """A variable of `FIELDS`; NaN where it means nothing (a row direction in a forest)."""
        ...

    def trees(self, box: Box) -> Trees:
        """Trees whose crowns reach into a window."""
        ...


@dataclass(frozen=True)
class Tile:
    """A window of a scene: `core` is its share of the scene, `margin` metres around it are there for what looks or falls in."""

    site: Site
    land: Land
    core: Box
    margin: float
    _kept: dict[tuple, Surface | LeafVoxels] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def trees(self) -> Trees:
        return self.land.trees(self.core.grow(self.margin))

    def surface(self, cell: float, margin: float | None = None) -> Surface:
        """Cells of the core and a margin (metres; None: all of the tile's); kept, so that sensors share them."""
        from fusion3d.simulate.canopy import surface

        box = self._window(margin)
        key = ("surface", cell, box)
        if key not in self._kept:
            self._kept[key] = surface(self.land, self.trees, box, cell)
        return self._kept[key]  # type: ignore[return-value]

    def leaf_voxels(self, day_of_year: int, margin: float | None = None) -> LeafVoxels:
        """Voxels of 1 m of leaves and wood on a day, understorey included, over the core and a margin; kept."""
        from fusion3d.simulate.canopy import leaf_voxels

        box = self._window(margin)
        key = ("leaves", day_of_year, box)
        if key not in self._kept:
            self._kept[key] = leaf_voxels(self.land, self.trees, box, day_of_year)
        return self._kept[key]  # type: ignore[return-value]

    def _window(self, margin: float | None) -> Box:
        if margin is not None and margin > self.margin:
            raise ConfigError(f"a margin of {margin:g} m where the tile has {self.margin:g} m")
        return self.core.grow(self.margin if margin is None else margin)


class Product(Protocol):
    """What one sensor leaves on disk: made tile by tile, under its final names when the scene is complete.

    Leaving the context by an exception leaves no file of the product behind.

    Attributes
    ----------
    margin : metres around a tile that the sensor looks into
    """

    @property
    def margin(self) -> float: ...

    def add(self, tile: Tile) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
