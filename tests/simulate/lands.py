"""Scenes made by hand for tests of the sensors: flat or sloped ground, one cover, slabs of leaves, a box for a house."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fusion3d.simulate.model import NO_SPECIES, Box, Cover, LeafVoxels, Site, Surface, Trees

LAYERS = 40


def no_trees() -> Trees:
    """No tree at all."""
    kinds = {"identity": np.uint64, "species": np.uint8}
    return Trees(**{name: np.empty(0, kinds.get(name, np.float64)) for name in Trees.__dataclass_fields__})


def one_tree(box: Box, species: int = 2) -> Trees:
    """A tree whose crown is meant to cover a window; its figures are of no matter."""
    values = dict.fromkeys(Trees.__dataclass_fields__, np.ones(1))
    values |= {"identity": np.ones(1, np.uint64), "species": np.array([species], np.uint8)}
    values |= {"x": np.array([(box.xmin + box.xmax) / 2]), "y": np.array([(box.ymin + box.ymax) / 2])}
    return Trees(**values)


@dataclass(frozen=True)
class Slab:
    """Leaves of one density (m2 per m3) between two heights above the ground, whole metres."""

    low: int
    high: int
    density: float


@dataclass(frozen=True)
class PlaneLand:
    """A tilted plane with one cover.

    Parameters
    ----------
    height : of the scene's centre, metres above sea level
    slope : metres up a metre to the east, and to the north
    cover : everywhere
    house : a box of the map with a flat roof, and the height of the roof
    """

    site: Site
    height: float = 300.0
    slope: tuple[float, float] = (0.0, 0.0)
    cover_code: Cover = Cover.GRASS
    house: tuple[Box, float] | None = None

    def ground(self, x, y):
        box = self.site.box
        centre = (box.xmin + box.xmax) / 2, (box.ymin + box.ymax) / 2
        return self.height + self.slope[0] * (np.asarray(x) - centre[0]) + self.slope[1] * (np.asarray(y) - centre[1])

    def roof(self, x, y):
        if self.house is None:
            return np.zeros(np.shape(x))
        return np.where(self.house[0].contains(x, y), self.house[1], 0.0)

    def cover(self, x, y):
        return np.where(self.roof(x, y) > 0, Cover.BUILDING, self.cover_code).astype(np.uint8)

    def parcel(self, x, y):
        return np.zeros(np.shape(x), np.int64)

    def field(self, name, x, y):
        return np.full(np.shape(x), np.nan)

    def trees(self, box):
        return no_trees()


@dataclass(frozen=True)
class HandmadeTile:
    """A `Tile` whose surface and leaves come from a plane and a slab; `species` of the leaves, NO_SPECIES for none."""

    site: Site
    land: PlaneLand
    core: Box
    margin: float = 40.0
    slab: Slab | None = None
    species: int = NO_SPECIES
    calls: list[tuple[str, float | None]] = field(default_factory=list)

    @cached_property
    def trees(self) -> Trees:
        return no_trees() if self.species == NO_SPECIES else one_tree(self.core, self.species)

    def surface(self, cell, margin=None):
        box = self.core.grow(self.margin if margin is None else margin)
        self.calls.append(("surface", margin))
        x, y = np.meshgrid(*box.centres(cell))
        canopy = np.full(x.shape, 0.0 if self.slab is None else self.slab.high, np.float32)
        crown = np.full(x.shape, -1 if self.species == NO_SPECIES else 0, np.int32)
        return Surface(
            box=box,
            cell=cell,
            ground=self.land.ground(x, y).astype(np.float32),
            cover=self.land.cover(x, y),
            parcel=self.land.parcel(x, y),
            building=self.land.roof(x, y).astype(np.float32),
            canopy=canopy,
            crown=crown,
        )

    def leaf_voxels(self, day_of_year, margin=None):
        box = self.core.grow(self.margin if margin is None else margin)
        self.calls.append(("leaves", margin))
        density = np.zeros((LAYERS, *box.shape(1.0)), np.float32)
        if self.slab is not None:
            density[self.slab.low : self.slab.high] = self.slab.density
        return LeafVoxels(box, 1.0, 1.0, density)
