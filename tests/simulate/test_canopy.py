"""Crowns on rasters and in voxels, by heights and areas worked out by hand."""

from dataclasses import dataclass

import numpy as np
import pytest

from fusion3d.simulate.canopy import leaf_voxels, surface
from fusion3d.simulate.landscape import Landscape
from fusion3d.simulate.model import SPECIES, WOOD_AREA, Box, Cover, Site, Tile, Trees

SPRUCE, PINE, BEECH = 0, 1, 2
BOX = Box(0.0, 0.0, 20.0, 20.0)


@dataclass(frozen=True)
class Plane:
    """Ground that rises to the east; `cover_code` everywhere, with fields of one value."""

    rise: float = 0.0
    cover_code: Cover = Cover.GRASS
    understorey: float = np.nan

    def ground(self, x, y):
        return 100.0 + self.rise * (x - 10.5)

    def cover(self, x, y):
        return np.full(x.shape, self.cover_code, np.uint8)

    def parcel(self, x, y):
        return np.ones(x.shape, np.int64)

    def roof(self, x, y):
        return np.full(x.shape, 4.0)

    def field(self, name, x, y):
        return np.full(x.shape, {"understorey": self.understorey, "greenup_shift": 0.0}[name])


def forest(*rows, land=None):
    """Trees of (x, y, species, height, base, radius, leaf area)."""
    table = np.array(rows, float).reshape(-1, 7)
    x, y, species, height, base, radius, leaves = table.T
    ground = (land or Plane()).ground(x, y)
    ones = np.ones(len(x))
    identity = np.arange(len(x), dtype=np.uint64)
    return Trees(identity, x, y, ground, species.astype(np.uint8), height, base, radius, ones, ones, ones, leaves)


@pytest.mark.parametrize(("species", "heights"), [
    # height 20, base 8, radius 4; distances 0, 1, 2, 3 from the stem
    (SPRUCE, [20, 17, 14, 11]),  # 20 - 12 e
    (PINE, [20, 19.25, 17, 13.25]),  # 20 - 12 e^2
    (BEECH, [20, 14 + 6 * np.sqrt(15 / 16), 14 + 6 * np.sqrt(3 / 4), 14 + 6 * np.sqrt(7 / 16)]),
])  # fmt: skip
def test_crown_tops_are_those_of_the_solid(species, heights):
    found = surface(Plane(), forest((10.5, 10.5, species, 20, 8, 4, 1)), BOX, 1.0)
    row = 9  # y = 10.5
    assert found.canopy[row, 10:14] == pytest.approx(heights, abs=1e-5)
    assert found.canopy[row, 7:11][::-1] == pytest.approx(heights, abs=1e-5)
    assert found.canopy[9 - 3 : 10, 10][::-1] == pytest.approx(heights, abs=1e-5)
    assert found.canopy[row, 14] == 0
    assert (found.crown >= 0).sum() == (found.canopy > 0).sum()


def test_row_0_is_the_north():
    found = surface(Plane(), forest((3.5, 18.5, SPRUCE, 10, 2, 1, 1)), BOX, 1.0)
    assert np.unravel_index(found.canopy.argmax(), found.canopy.shape) == (1, 3)


def test_of_two_crowns_the_higher_one_is_seen():
    found = surface(Plane(), forest((8.5, 10.5, SPRUCE, 12, 4, 4, 1), (10.5, 10.5, PINE, 11, 4, 4, 1)), BOX, 1.0)
    # At x = 9.5 the spruce has 12 - 8 / 4 = 10, the pine 11 - 7 / 16 = 10.56; at the spruce's stem the pine has 9.25.
    assert found.canopy[9, 9] == pytest.approx(11 - 7 / 16)
    assert found.crown[9, [8, 9, 2]].tolist() == [0, 1, -1]


def test_on_a_slope_the_downhill_side_of_a_crown_is_higher_above_its_ground():
    land = Plane(rise=0.5)
    found = surface(land, forest((10.5, 10.5, PINE, 20, 8, 4, 1), land=land), BOX, 1.0)
    # 2 m to either side the crown's top is at 17 m above the stem's ground, the ground 1 m lower or higher.
    assert found.canopy[9, [8, 12]] == pytest.approx([18, 16], abs=1e-5)
    assert found.ground[9, [8, 12]] == pytest.approx([99, 101])


def test_a_crown_under_a_steep_slope_is_not_seen():
    land = Plane(rise=3.0)
    found = surface(land, forest((10.5, 10.5, PINE, 4, 1, 3.4, 1), land=land), BOX, 1.0)
    # 2 m uphill: 4 - 3 (2 / 3.4)^2 = 2.96 m above the stem, 3.04 m under the ground.
    assert found.canopy[9, 12] == 0
    assert found.crown[9, 12] == -1


def test_roof_counts_only_on_buildings():
    assert surface(Plane(cover_code=Cover.BUILDING), forest(), BOX, 1.0).building.min() == 4
    empty = surface(Plane(), forest(), BOX, 0.5)
    assert empty.building.max() == 0
    assert empty.canopy.shape == (40, 40)
    assert empty.canopy.max() == 0
    assert empty.crown.max() == -1


@pytest.mark.parametrize("species", [SPRUCE, PINE, BEECH])
@pytest.mark.parametrize("rise", [0.0, 0.7])
def test_leaves_and_wood_of_a_whole_crown_are_all_in_the_voxels(species, rise):
    land = Plane(rise)
    trees = forest((9.3, 10.8, species, 18, 6, 3.3, 60), (3.2, 4.4, species, 1.1, 0.4, 0.35, 0.5), land=land)
    voxels = leaf_voxels(land, trees, BOX, 200)
    assert voxels.density.sum() == pytest.approx(60.5 * (1 + WOOD_AREA), rel=1e-4)


@pytest.mark.parametrize(("species", "share"), [(SPRUCE, 1 / 8), (PINE, 1 / 4), (BEECH, 1 / 2)])
def test_leaves_fill_the_crowns_volume_evenly(species, share):
    # Share of the solid's volume in the upper half of its height: cone 1/8, paraboloid 1/4, ellipsoid 1/2.
    voxels = leaf_voxels(Plane(), forest((10.0, 10.0, species, 26, 6, 6, 100)), BOX, 200)
    profile = voxels.density.sum(axis=(1, 2))
    assert profile[:6].sum() == 0
    assert profile[16:].sum() / profile.sum() == pytest.approx(share, abs=0.01)


def test_density_is_area_over_the_cones_volume():
    voxels = leaf_voxels(Plane(), forest((10.0, 10.0, SPRUCE, 26, 6, 6, 100)), BOX, 200)
    # A cone's volume is pi r^2 (h - b) / 3 = 754 m3; a voxel wholly inside has the mean density.
    assert voxels.density[8, 10, 10] == pytest.approx(100 * 1.15 / (np.pi * 36 * 20 / 3), rel=0.02)


def test_voxels_reach_as_high_as_the_crown_above_the_ground_of_its_columns():
    land = Plane(rise=0.5)
    voxels = leaf_voxels(land, forest((10.5, 10.5, PINE, 20, 8, 4, 1), land=land), BOX, 200)
    downhill, uphill = (voxels.density[:, 9, col].nonzero()[0] for col in (8, 12))
    # Tops 18 m and 16 m above the ground, less a voxel's part; bases 9 m and 7 m.
    assert downhill[[0, -1]] == pytest.approx([9, 17], abs=1)
    assert uphill[[0, -1]] == pytest.approx([7, 15], abs=1)


def test_beech_is_bare_in_winter_but_for_wood_and_spruce_is_not():
    trees = {name: forest((10, 10, code, 20, 8, 4, 50)) for name, code in (("beech", BEECH), ("spruce", SPRUCE))}
    total = {name: leaf_voxels(Plane(), each, BOX, 20).density.sum() for name, each in trees.items()}
    assert total["beech"] == pytest.approx(50 * WOOD_AREA, rel=1e-3)
    assert total["spruce"] == pytest.approx(50 * (1 + WOOD_AREA), rel=1e-3)


def test_understorey_lies_in_the_lowest_3_m_of_forest_only():
    summer = leaf_voxels(Plane(cover_code=Cover.FOREST, understorey=1.5), forest(), BOX, 200)
    assert summer.density.shape == (3, 20, 20)
    assert summer.density == pytest.approx(np.full((3, 20, 20), 0.5), rel=1e-3)
    assert leaf_voxels(Plane(cover_code=Cover.FOREST, understorey=1.5), forest(), BOX, 20).density.max() < 1e-3
    assert leaf_voxels(Plane(), forest(), BOX, 200).density.max() == 0


def test_a_window_of_a_scene_is_the_same_however_cut():
    site = Site(300, seed=1)
    whole = Tile(site, Landscape(site), site.box, 10.0)
    x, y = site.box.xmin, site.box.ymin
    part = Tile(site, Landscape(site), Box(x + 100, y + 50, x + 180, y + 130), 10.0)
    rows, cols = slice(170, 250), slice(100, 180)
    one, other = whole.surface(1.0, 0.0), part.surface(1.0, 0.0)
    for name in ("ground", "cover", "parcel", "building", "canopy"):
        assert np.array_equal(getattr(one, name)[rows, cols], getattr(other, name)), name
    seen = other.crown >= 0
    assert np.array_equal(whole.trees.identity[one.crown[rows, cols][seen]], part.trees.identity[other.crown[seen]])
    leaves, fewer = whole.leaf_voxels(150, 0.0).density, part.leaf_voxels(150, 0.0).density
    assert np.array_equal(leaves[: len(fewer), rows, cols], fewer)
    assert leaves[len(fewer) :, rows, cols].sum() == 0


def test_all_leaves_of_a_scene_are_in_its_voxels():
    site = Site(200, seed=0)
    land = Landscape(site)
    trees = land.trees(site.box)
    inside = site.box.grow(-7).contains(trees.x, trees.y)
    trees = trees.take(inside)
    leaves = leaf_voxels(land, trees, site.box, 200)
    x, y = np.meshgrid(*site.box.centres(1.0))
    under = np.nan_to_num(land.field("understorey", x, y)).sum()
    # On day 200 all leaves are out, whatever the shift of at most 12 days.
    assert leaves.density.sum(dtype=float) == pytest.approx(trees.leaf_area.sum() * (1 + WOOD_AREA) + under, rel=1e-3)
    assert {SPECIES[code].crown for code in trees.species} >= {"cone", "ellipsoid"}
