"""What is so in a scene: maps, the list of trees, and what changed before year 2."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from fusion3d.simulate.biomass_raster import spread_biomass
from fusion3d.simulate.landscape import Landscape
from fusion3d.simulate.model import FIELDS, SPECIES, Box, Cover, Land, Site, Tile
from fusion3d.simulate.raster_set import MapLayer, RasterSet, make_folder
from fusion3d.simulate.trees import LARGEST_CROWN
from fusion3d.simulate.vector_files import PointsFile

Float64 = npt.NDArray[np.float64]

COARSE = 10.0
"""Metres: the side of a column."""
_FIELD_SAMPLE = 2.0
_COVER_FROM = 2.0
_CANOPY_CELL = 0.5
_GROWN_BY = 1.0
_UNITS = {
    "understorey": "m2/m2", "litter_1064": "", "lignin": "", "mowing_day": "day of year", "soil_moisture": "m3/m3",
    "row_direction": "degree", "greenup_shift": "day",
}  # fmt: skip
_LEAVES = (Cover.GRASS, Cover.WINTER_CROP, Cover.SUMMER_CROP, Cover.FOREST)
_MEANINGFUL = {
    "lignin": _LEAVES,
    "greenup_shift": _LEAVES,
    "soil_moisture": (*_LEAVES, Cover.CLEARCUT),
}
"""Covers on which a field that is defined everywhere can be seen by any sensor at all."""

LAYERS = (
    MapLayer("agb", COARSE, "float32", "Mg/ha",
             "above-ground dry biomass of trees; that of each tree lies evenly over its crown's projection, so totals are kept"),
    MapLayer("canopy_height", 1.0, "float32", "m", "greatest height of crowns above the ground under them; roofs left out"),
    MapLayer("terrain", 1.0, "float32", "m", "height of the ground above sea level; of the water on rivers"),
    MapLayer("canopy_cover", COARSE, "float32", "", "share of the area under crowns higher than 2 m"),
    MapLayer("land_cover", 1.0, "uint8", "", "; ".join(f"{cover.value} {cover.name.lower()}" for cover in Cover)),
    MapLayer("species", 1.0, "uint8", "",
             "species of the highest crown; " + "; ".join(f"{n} {each.name}" for n, each in enumerate(SPECIES, 1))),
    *(MapLayer(name, COARSE, "float32", _UNITS[name], f"{meaning}; mean over the part of the cell where it means something")
      for name, meaning in FIELDS.items()),
)  # fmt: skip
CHANGE = MapLayer(
    "change", 1.0, "uint8", "", "0 none; 1 clear-cut; 2 new building; 3 canopy grown by more than 1 m", nodata=False
)


class TruthWriter:
    """Writes ``truth/*.tif`` and ``truth/trees.gpkg``.

    Parameters
    ----------
    site : the scene
    folder : of the scene
    """

    margin = LARGEST_CROWN
    """Metres that a tile needs around its core: crowns hang in from there."""

    def __init__(self, site: Site, folder: str | Path) -> None:
        self.site = site
        self.folder = Path(folder) / "truth"
        self._maps = RasterSet(site, self.folder)
        self._trees = PointsFile(self.folder / "trees.gpkg", site.crs, site.day(1))
        self._before = Landscape(Site(site.size, site.seed, 1)) if site.year == 2 else None

    def __enter__(self) -> Self:
        try:
            make_folder(self.folder)
            for layer in (*LAYERS, *([CHANGE] if self._before else [])):
                self._maps.open(layer)
        except BaseException:
            self._discard()
            raise
        return self

    def add(self, tile: Tile) -> None:
        """Write the tile's core."""
        core, trees, fine = tile.core, tile.trees, tile.surface(1.0, 0.0)
        kilograms = spread_biomass(trees, core, COARSE)
        self._maps.put("agb", core, (kilograms / 1000.0 / (COARSE**2 / 1e4)).astype(np.float32))
        crowns = Crowns.of(tile)
        height, crown = crowns.highest()
        self._maps.put("canopy_height", core, height)
        self._maps.put("terrain", core, fine.ground)
        self._maps.put(
            "canopy_cover", core, _block_mean((crowns.canopy > _COVER_FROM).astype(np.float32), round(COARSE / _CANOPY_CELL))
        )
        self._maps.put("land_cover", core, fine.cover)
        species = np.append(trees.species + 1, 0).astype(np.uint8)
        self._maps.put("species", core, species[crown])
        for name in FIELDS:
            self._maps.put(name, core, coarse_field(tile.land, core, name))
        if self._before is not None:
            earlier = Tile(self._before.site, self._before, core, self.margin)
            grown = height - Crowns.of(earlier).highest()[0] > _GROWN_BY
            self._maps.put("change", core, changes(earlier.surface(1.0, 0.0).cover, fine.cover, grown))
        own = trees.take(core.contains(trees.x, trees.y))
        names = np.array([species.name for species in SPECIES], object)
        shapes = np.array([species.crown for species in SPECIES], object)
        self._trees.append(own.x, own.y, {
            # A GeoPackage has no unsigned integers: the lowest bit is dropped.
            "tree_id": (own.identity >> np.uint64(1)).astype(np.int64),
            "species": names[own.species], "height_m": own.height, "dbh_cm": own.dbh, "crown_radius_m": own.crown_radius,
            "crown_base_m": own.crown_base, "crown_shape": shapes[own.species], "wood_density_g_cm3": own.wood_density,
            "agb_kg": own.agb,
        })  # fmt: skip

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._discard()
            return
        done: list[Path] = []
        try:
            done += self._maps.close()
            self._trees.close()
        except BaseException:
            for path in done:
                path.unlink(missing_ok=True)
            self._discard()
            raise

    def _discard(self) -> None:
        self._maps.discard()
        self._trees.discard()


@dataclass(frozen=True)
class Crowns:
    """Crowns on cells of half a metre over a tile's core: the highest of a cell of 1 m often lies off its centre.

    Attributes
    ----------
    canopy : [2 R, 2 C] metres above ground; crown : [2 R, 2 C] index of the tree, -1 without
    """

    canopy: npt.NDArray[np.float32]
    crown: npt.NDArray[np.int32]

    @classmethod
    def of(cls, tile: Tile) -> Crowns:
        surface, edge = tile.surface(_CANOPY_CELL), round(tile.margin / _CANOPY_CELL)
        rows, cols = (slice(edge, size - edge) for size in surface.canopy.shape)
        return cls(surface.canopy[rows, cols], surface.crown[rows, cols])

    def highest(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """[R, C] height of the highest crown of a cell of 1 m, and its tree."""
        canopy, crown = _by_cell(self.canopy), _by_cell(self.crown)
        which = canopy.argmax(axis=2)[..., None]
        return np.take_along_axis(canopy, which, 2)[..., 0], np.take_along_axis(crown, which, 2)[..., 0]


def _by_cell(values: npt.NDArray) -> npt.NDArray:
    """[R, C, n] cells of half a metre by cell of 1 m."""
    side = round(1.0 / _CANOPY_CELL)
    rows, cols = (size // side for size in values.shape)
    return values.reshape(rows, side, cols, side).transpose(0, 2, 1, 3).reshape(rows, cols, side * side)


def coarse_field(land: Land, core: Box, name: str) -> npt.NDArray[np.float32]:
    """Mean of a field of the scene over cells of 10 m, of samples 2 m apart; NaN where it means nothing in all of a cell.

    Directions of rows are averaged as axes: 179 and 1 degrees make 0.
    """
    x, y = np.meshgrid(*core.centres(_FIELD_SAMPLE))
    values = land.field(name, x, y)
    if name in _MEANINGFUL:
        values = np.where(np.isin(land.cover(x, y), _MEANINGFUL[name]), values, np.nan)
    factor = round(COARSE / _FIELD_SAMPLE)
    if name != "row_direction":
        return _block_mean(values, factor).astype(np.float32)
    angle = np.radians(2.0 * values)
    axis = np.arctan2(_block_mean(np.sin(angle), factor), _block_mean(np.cos(angle), factor))
    return (np.degrees(axis) / 2.0 % 180.0).astype(np.float32)


def changes(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8], grown: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """[R, C] what happened between two years, coded as in `CHANGE`, from both land covers and where the canopy has grown."""
    built = (after == Cover.BUILDING) & (before != Cover.BUILDING)
    cut = (after == Cover.CLEARCUT) & (before != Cover.CLEARCUT)
    return np.select([built, cut, grown], [2, 1, 3], 0).astype(np.uint8)


def _block_mean(values: npt.NDArray[np.floating], factor: int) -> npt.NDArray[np.floating]:
    """Mean of the known values in blocks of cells; NaN without any."""
    rows, cols = (size // factor for size in values.shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return np.nanmean(values.reshape(rows, factor, cols, factor), axis=(1, 3))
