"""The ground of a scene as functions of position: terrain, river, roads, parcels, buildings, fields."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError
from fusion3d.simulate.buildings import Buildings, Lots, locate
from fusion3d.simulate.fields import Fields
from fusion3d.simulate.model import FIELDS, Box, Cover, Site, Trees
from fusion3d.simulate.parcels import Parcels, Places, Use, identity
from fusion3d.simulate.roads import HALF_WIDTH, Roads
from fusion3d.simulate.terrain import Terrain

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_COVER_OF_USE = np.zeros(len(Use), np.uint8)
for _use, _cover in ((Use.SETTLEMENT, Cover.GRASS), (Use.SUMMER_CROP, Cover.SUMMER_CROP), (Use.WINTER_CROP, Cover.WINTER_CROP),
                     (Use.GRASS, Cover.GRASS), (Use.FOREST, Cover.FOREST)):  # fmt: skip
    _COVER_OF_USE[_use] = _cover


class Landscape:
    """A scene, as `fusion3d.simulate.model.Land`, and the lines and areas it is made of.

    Year 2 is year 1 five years later: trees grow and a few die, the forest parcel nearest to the scene's middle is cut, and a
    house is built on the nearest meadow.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.origin = (site.box.xmin, site.box.ymin)
        self.terrain = Terrain(site.seed, self.origin)
        self.roads = Roads(site.seed, self.terrain.river)
        self.parcels = Parcels(site.seed, self.origin, self.terrain.ground)
        self.lots = Lots(site.seed, self.origin)
        self._fields = Fields(site.seed, self.terrain)

    def ground(self, x: Float64, y: Float64) -> Float64:
        """Terrain, metres above sea level; on the river that of the water."""
        return self.terrain.ground(np.asarray(x, np.float64), np.asarray(y, np.float64))

    def parcel(self, x: Float64, y: Float64) -> Int64:
        """Identity of the parcel."""
        places = self.parcels.at(x, y)
        return identity(places.i, places.j)

    def cover(self, x: Float64, y: Float64) -> npt.NDArray[np.uint8]:
        """`Cover` of the ground; where a road meets the river there is a ford."""
        return self.describe(x, y)[0]

    def describe(self, x: Float64, y: Float64) -> tuple[npt.NDArray[np.uint8], Places, Float64, Float64]:
        """Cover, parcels, distance from the river's bank and from the nearest road's axis, metres."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        places = self.parcels.at(x, y)
        cover = _COVER_OF_USE[self.parcels.use(places.i, places.j)]
        if self.cleared is not None:
            cover[identity(places.i, places.j) == self.cleared] = Cover.CLEARCUT
        bank, road = self.terrain.from_bank(x, y), self.roads.distance(x, y)
        if x.size:
            cover[locate(self._buildings_of(x, y), self.origin, x, y)[0] >= 0] = Cover.BUILDING
        cover[road <= HALF_WIDTH] = Cover.ROAD
        cover[bank <= 0] = Cover.WATER
        return cover, places, bank, road

    def roof(self, x: Float64, y: Float64) -> Float64:
        """Height of the roof above the ground, metres; 0 where there is none. Floors are level, whatever the slope."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        height = np.zeros(x.shape)
        if x.size == 0:
            return height
        buildings = self._buildings_of(x, y)
        index, ridge = locate(buildings, self.origin, x, y)
        under = index >= 0
        which = index[under]
        floor = self.ground(buildings.x, buildings.y)[which]
        above = buildings.eaves[which] + (buildings.ridge - buildings.eaves)[which] * (1 - ridge[under])
        height[under] = np.maximum(floor + above - self.ground(x[under], y[under]), 2.0)
        return height

    def buildings(self, box: Box) -> Buildings:
        """Buildings that reach into a box."""
        found = self._buildings(*self.lots.within(box), built=self._new_lot)
        corners = found.corners()
        low, high = corners.min(axis=1), corners.max(axis=1)
        near = (high[:, 0] > box.xmin) & (low[:, 0] < box.xmax) & (high[:, 1] > box.ymin) & (low[:, 1] < box.ymax)
        return found.take(near)

    def near_building(self, x: Float64, y: Float64, distance: float) -> npt.NDArray[np.bool_]:
        """Whether points lie on a building or within a distance of its walls, metres, along and across the ridge."""
        if x.size == 0:
            return np.zeros(x.shape, bool)
        return locate(self._buildings_of(x, y), self.origin, x, y, distance)[0] >= 0

    def field(self, name: str, x: Float64, y: Float64) -> Float64:
        """A variable of `FIELDS`; NaN where it means nothing (a row direction in a forest).

        Raises
        ------
        ConfigError
            There is no such variable.
        """
        if name not in FIELDS:
            raise ConfigError(f"a scene has no field {name!r}; it has {', '.join(FIELDS)}")
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if name in ("lignin", "soil_moisture", "greenup_shift"):
            return self._fields.value(name, x, y, np.zeros(x.shape, np.int64))
        cover, places, _, _ = self.describe(x, y)
        values = self._fields.value(name, x, y, identity(places.i, places.j))
        return np.where(np.isin(cover, self._fields.covers(name)), values, np.nan)

    def trees(self, box: Box) -> Trees:
        """Trees whose crowns reach into a window."""
        from fusion3d.simulate.trees import trees

        return trees(self, box)

    @cached_property
    def cleared(self) -> int | None:
        """Identity of the parcel that is cut before year 2: the forest nearest to the middle; None in year 1."""
        if self.site.year == 1:
            return None
        i, j = self._by_distance(Use.FOREST)
        return int(identity(i[0], j[0])) if len(i) else None

    def _by_distance(self, use: Use) -> tuple[Int64, Int64]:
        """Parcels of the scene of a use, the nearest to the middle first."""
        box = self.site.box
        i, j = self.parcels.within(box)
        x, y = self.parcels.seat(i, j)
        wanted = (self.parcels.use(i, j) == use) & box.contains(x, y)
        order = np.argsort(np.hypot(x - (box.xmin + box.xmax) / 2, y - (box.ymin + box.ymax) / 2)[wanted])
        return i[wanted][order], j[wanted][order]

    @cached_property
    def _new_lot(self) -> tuple[int, int] | None:
        """The lot that is built on before year 2; None in year 1, or when no meadow has room."""
        if self.site.year == 1:
            return None
        box = self.site.box
        for pi, pj in zip(*self._by_distance(Use.GRASS)):
            x, y = self.parcels.seat(pi, pj)
            i, j = self.lots.within(Box(float(x) - 50, float(y) - 50, float(x) + 50, float(y) + 50))
            order = np.argsort(np.hypot(*(a - b for a, b in zip(self.lots.centre(i, j), (x, y)))))
            i, j = i[order], j[order]
            candidates = self.lots.buildings(i, j, np.zeros(len(i), np.int64))
            fits = self._fits(candidates, Use.GRASS) & box.contains(*np.moveaxis(candidates.corners(3.0), 2, 0)).all(axis=1)
            if fits.any():
                return int(i[fits][0]), int(j[fits][0])
        return None

    def _fits(self, buildings: Buildings, use: Use) -> npt.NDArray[np.bool_]:
        """Whether buildings stand in one parcel of a use, off roads and the river."""
        corners = buildings.corners(2.0)
        x, y = corners[..., 0], corners[..., 1]
        places = self.parcels.at(x, y)
        same = (self.parcels.use(places.i, places.j) == use) & (places.i == places.i[:, :1]) & (places.j == places.j[:, :1])
        return (same & (self.roads.distance(x, y) > HALF_WIDTH + 4.0) & (self.terrain.from_bank(x, y) > 6.0)).all(axis=1)

    def _buildings(self, i: Int64, j: Int64, built: tuple[int, int] | None) -> Buildings:
        x, y = self.lots.centre(i, j)
        places = self.parcels.at(x, y)
        settled = (self.parcels.use(places.i, places.j) == Use.SETTLEMENT) & self.lots.used(i, j)
        found = self.lots.buildings(i[settled], j[settled], identity(places.i, places.j)[settled])
        found = found.take(self._fits(found, Use.SETTLEMENT))
        if built is None:
            return found
        new = (i == built[0]) & (j == built[1])
        extra = self.lots.buildings(i[new], j[new], np.zeros(int(new.sum()), np.int64))
        return Buildings(**{name: np.concatenate([values, getattr(extra, name)]) for name, values in vars(found).items()})

    def _buildings_of(self, x: Float64, y: Float64) -> Buildings:
        return self._buildings(*self.lots.within(Box(x.min(), y.min(), x.max(), y.max())), built=self._new_lot)
