"""Scenes made by hand for tests of the imaging sensors: covers, fields, roofs and trees as the test says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio

from fusion3d.simulate.model import Box, Cover, Site, Tile, Trees

Place = Callable[[np.ndarray, np.ndarray], np.ndarray]


def trees_at(
    x, y, species: int = 0, height: float = 20.0, radius: float = 3.0, agb: float = 300.0, ground: float = 300.0
) -> Trees:
    """Trees of one kind, as `Trees`."""
    x, y = np.broadcast_arrays(np.asarray(x, np.float64).ravel(), np.asarray(y, np.float64).ravel())
    full = {name: np.full(len(x), 1.0) for name in Trees.__dataclass_fields__}
    full |= {
        "identity": np.arange(len(x), dtype=np.uint64),
        "x": x.copy(),
        "y": y.copy(),
        "species": np.full(len(x), species, np.uint8),
        "ground": np.full(len(x), ground),
        "height": np.full(len(x), height),
        "crown_base": np.full(len(x), 0.3 * height),
        "crown_radius": np.full(len(x), radius),
        "agb": np.broadcast_to(np.asarray(agb, np.float64), len(x)).copy(),
    }
    return Trees(**full)


def stand(box: Box, spacing: float = 4.0, **kind) -> Trees:
    """Trees in a square lattice over a box, so dense that crowns close."""
    x, y = np.meshgrid(np.arange(box.xmin, box.xmax, spacing), np.arange(box.ymin, box.ymax, spacing))
    return trees_at(x, y, **kind)


@dataclass(frozen=True)
class Patchwork:
    """A `Land` of a test's own making.

    Parameters
    ----------
    covers : `Cover` by position; one for everywhere when it is a code
    fields : a field by position or a number; NaN for those not named
    heights : terrain by position, metres
    house : a box of the map with a flat roof, and its height
    planted : all trees
    """

    site: Site
    covers: Place | Cover = Cover.GRASS
    fields: Mapping[str, Place | float] = field(default_factory=dict)
    heights: Place | float = 300.0
    house: tuple[Box, float] | None = None
    planted: Trees | None = None

    def ground(self, x, y):
        return _value(self.heights, x, y)

    def cover(self, x, y):
        codes = _value(self.covers, x, y)
        if self.house is not None:
            codes = np.where(self.house[0].contains(x, y), Cover.BUILDING, codes)
        return codes.astype(np.uint8)

    def parcel(self, x, y):
        return np.zeros(np.shape(x), np.int64)

    def roof(self, x, y):
        if self.house is None:
            return np.zeros(np.shape(x))
        return np.where(self.house[0].contains(x, y), self.house[1], 0.0)

    def field(self, name, x, y):
        return _value(self.fields.get(name, np.nan), x, y)

    def trees(self, box):
        trees = trees_at([], []) if self.planted is None else self.planted
        radius = trees.crown_radius
        return trees.take(
            (trees.x > box.xmin - radius)
            & (trees.x < box.xmax + radius)
            & (trees.y > box.ymin - radius)
            & (trees.y < box.ymax + radius)
        )


def _value(value, x, y):
    return np.asarray(value(x, y)) if callable(value) else np.full(np.shape(x), float(value))


def halves(site: Site, west, east) -> Place:
    """One value in the western half of a site, another in the eastern."""
    middle = (site.box.xmin + site.box.xmax) / 2
    return lambda x, y: np.where(x < middle, west, east)


def north_west(site: Site, inside, outside) -> Place:
    """One value in the north-western quarter of a site, another elsewhere."""
    box = site.box
    x0, y0 = (box.xmin + box.xmax) / 2, (box.ymin + box.ymax) / 2
    return lambda x, y: np.where((x < x0) & (y > y0), inside, outside)


def simulate(product, land: Patchwork, side: int = 500) -> Path:
    """Run a product over all tiles of a land's site; returns the folder."""
    with product:
        for core in land.site.tiles(side):
            product.add(Tile(land.site, land, core, 60.0))
    return product.folder


def contents(folder: Path) -> dict[str, np.ndarray]:
    """Pixels of every image below a folder, by its path."""
    found = {}
    for path in sorted(folder.rglob("*.tif")):
        with rasterio.open(path) as image:
            found[str(path.relative_to(folder))] = image.read()
    return found


def check_cog(path: Path, site: Site, pixel: float) -> None:
    """Layout, place and overviews of a COG."""
    with rasterio.open(path) as image:
        assert image.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert image.crs.to_epsg() == 2154
        assert tuple(image.bounds) == (site.box.xmin, site.box.ymin, site.box.xmax, site.box.ymax)
        assert image.res == (pixel, pixel)
        if max(image.shape) > 512:
            assert image.overviews(1)
