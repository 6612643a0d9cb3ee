"""Terrain, parcels, roads, river, buildings and fields, by what a map-reader would check."""

import numpy as np
import pytest
import shapely
from scipy import ndimage

from fusion3d.errors import ConfigError
from fusion3d.simulate.landscape import Landscape
from fusion3d.simulate.model import FIELDS, Box, Cover, Site
from fusion3d.simulate.parcels import Use, identity, indices

SEEDS = range(5)
OPEN_GROUND = (Cover.GRASS, Cover.WINTER_CROP, Cover.SUMMER_CROP, Cover.FOREST)


def cells(site, cell=1.0, box=None):
    return np.meshgrid(*(box or site.box).centres(cell))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_scene_of_500_m_has_everything(seed):
    land = Landscape(Site(500, seed))
    cover = land.cover(*cells(land.site, 2.0))
    share = np.bincount(cover.ravel(), minlength=9) / cover.size
    assert share[Cover.WATER] > 0.01
    assert share[Cover.BUILDING] > 0.001
    assert share[Cover.ROAD] > 0.004
    assert share[Cover.GRASS] > 0.1
    assert min(share[Cover.WINTER_CROP], share[Cover.SUMMER_CROP]) > 0.05
    assert 0.35 < share[Cover.FOREST] < 0.6
    assert share[Cover.CLEARCUT] == 0
    assert len(np.unique(land.trees(land.site.box).species)) >= 4


@pytest.mark.parametrize("seed", SEEDS)
def test_terrain_has_flat_valley_steep_slopes_and_hills(seed):
    land = Landscape(Site(1000, seed))
    ground = land.ground(*cells(land.site, 4.0))
    slope = np.degrees(np.arctan(np.hypot(*np.gradient(ground, 4.0))))
    assert 80 < np.ptp(ground) < 150
    assert (slope < 2).mean() > 0.05
    assert (slope > 20).mean() > 0.03
    # Banks may be steeper.
    assert np.percentile(slope, 99) < 36


@pytest.mark.parametrize(("seed", "size"), [(0, 200), (1, 300), (2, 300), (3, 500), (4, 1000)])
def test_river_is_one_continuous_flat_band_across_the_scene(seed, size):
    land = Landscape(Site(size, seed))
    x, y = cells(land.site)
    water = land.cover(x, y) == Cover.WATER
    bodies, _ = ndimage.label(water)
    sizes = np.bincount(bodies.ravel())[1:]
    assert sizes.max() > 0.98 * sizes.sum()
    main = bodies == sizes.argmax() + 1
    assert sum(side.any() for side in (main[0], main[-1], main[:, 0], main[:, -1])) >= 2
    north, east = np.gradient(land.ground(x, y))
    inner = ndimage.binary_erosion(water, iterations=2)
    assert np.degrees(np.arctan(np.hypot(north, east)))[inner].max() < 0.5
    # The banks are above the water.
    bank = ndimage.binary_dilation(water, iterations=6) & ~ndimage.binary_dilation(water, iterations=4)
    assert (land.ground(x, y)[bank] - land.ground(x, y)[inner].max() > -2.5).all()


def test_roads_are_6_m_wide_about_their_lines():
    land = Landscape(Site(500, 0))
    x, y = cells(land.site)
    cover = land.cover(x, y)
    lines = [shapely.LineString(road.line(land.site.box, 4.0)) for road in land.roads.passing(land.site.box)]
    core, wide = (shapely.union_all([line.buffer(half) for line in lines]) for half in (2.8, 3.2))
    shapely.prepare([core, wide])
    on, near = shapely.contains_xy(core, x, y), shapely.contains_xy(wide, x, y)
    dry = cover != Cover.WATER
    assert (cover[dry & on] == Cover.ROAD).all()
    assert (cover[dry & ~near] != Cover.ROAD).all()
    assert on.mean() > 0.01


def test_any_window_and_order_of_points_gives_the_same():
    land = Landscape(Site(300, 2))
    x, y = cells(land.site)
    part = (slice(40, 110), slice(150, 290))
    shuffled = np.random.default_rng(0).permutation(x.size)[:5000]
    for function in (land.ground, land.cover, land.parcel, land.roof, *(lambda x, y, n=n: land.field(n, x, y) for n in FIELDS)):
        whole = function(x, y)
        assert np.array_equal(Landscape(land.site).ground(x[part], y[part]), land.ground(x, y)[part])
        assert np.array_equal(function(x[part], y[part]), whole[part], equal_nan=True)
        assert np.array_equal(function(x.ravel()[shuffled], y.ravel()[shuffled]), whole.ravel()[shuffled], equal_nan=True)


def test_a_larger_scene_of_the_same_seed_begins_with_the_smaller_one():
    small, large = Landscape(Site(200, 1)), Landscape(Site(1000, 1))
    x, y = cells(small.site, 2.0)
    assert np.array_equal(small.cover(x, y), large.cover(x, y))
    assert np.array_equal(small.ground(x, y), large.ground(x, y))


def test_other_seeds_are_other_places():
    one, other = Landscape(Site(300, 0)), Landscape(Site(300, 1))
    x, y = cells(one.site, 2.0)
    assert (one.cover(x, y) == other.cover(x, y)).mean() < 0.6


def test_no_points_give_no_values():
    land, nothing = Landscape(Site(100)), np.zeros((0, 3))
    for function in (land.ground, land.cover, land.parcel, land.roof, *(lambda x, y, n=n: land.field(n, x, y) for n in FIELDS)):
        assert function(nothing, nothing).shape == (0, 3)


def test_smallest_scene_works():
    land = Landscape(Site(100, 3, 2))
    assert land.cover(*cells(land.site)).min() >= Cover.WATER
    assert np.isfinite(land.ground(*cells(land.site))).all()


def test_parcels_are_fields_of_about_a_hectare_whose_outlines_are_their_areas():
    land = Landscape(Site(500, 0))
    x, y = cells(land.site, 2.0)
    parcel = land.parcel(x, y)
    i, j = land.parcels.within(land.site.box)
    areas = land.parcels.outlines(i, j)
    hectares = np.array([area.area for area in areas]) / 1e4
    assert 0.8 < hectares.mean() < 1.2
    assert hectares.min() > 0.3
    for number, area in zip(identity(i, j), areas):
        inside = shapely.contains_xy(area.buffer(-1.0), x, y)
        assert (parcel[inside] == number).all()


def test_identity_of_parcels_is_reversible():
    i, j = np.meshgrid(np.array([-30, -1, 0, 7, 500]), np.array([-4, 0, 499]))
    back_i, back_j = indices(identity(i, j))
    assert np.array_equal(back_i, i)
    assert np.array_equal(back_j, j)
    assert len(np.unique(identity(i, j))) == i.size


def test_shares_of_uses_are_the_same_in_every_block():
    land = Landscape(Site(1000, 7))
    i, j = np.meshgrid(np.arange(-5, 5), np.arange(0, 10), indexing="ij")
    use = land.parcels.use(i, j)
    for block in (use[:5, :5], use[:5, 5:], use[5:, :5], use[5:, 5:]):
        counts = np.bincount(block.ravel(), minlength=5)
        assert counts[[Use.SETTLEMENT, Use.SUMMER_CROP, Use.WINTER_CROP]].tolist() == [2, 3, 3]
        assert counts[Use.GRASS] in (4, 5)
        assert counts[Use.FOREST] in (12, 13)


def test_buildings_have_the_area_of_their_rectangle_and_stand_on_dry_land():
    land = Landscape(Site(500, 0))
    box = land.site.box
    buildings = land.buildings(box)
    assert len(buildings) > 5
    corners = buildings.corners()
    assert np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1) == pytest.approx(buildings.length)
    assert np.linalg.norm(corners[:, 2] - corners[:, 1], axis=1) == pytest.approx(buildings.width)
    whole = np.flatnonzero(box.contains(corners[..., 0], corners[..., 1]).all(axis=1))
    for one in whole[:4]:
        cx, cy = np.floor(buildings.x[one]), np.floor(buildings.y[one])
        x, y = cells(land.site, 0.25, Box(cx - 12, cy - 12, cx + 12, cy + 12))
        area = (land.cover(x, y) == Cover.BUILDING).sum() / 16
        assert area == pytest.approx(buildings.length[one] * buildings.width[one], rel=0.02)
        # 2 m around there is no road and no water.
        ring = shapely.contains_xy(shapely.Polygon(corners[one]).buffer(2.0), x, y)
        assert np.isin(land.cover(x, y)[ring], (Cover.BUILDING, Cover.GRASS)).all()


def test_roofs_are_gables():
    land = Landscape(Site(500, 0))
    houses = land.buildings(land.site.box)
    floor = land.ground(houses.x, houses.y)
    across = np.stack([-np.sin(houses.angle), np.cos(houses.angle)])

    def top(share):
        """Elevation of the roof at a share of the way from the ridge to the eaves, above the floor."""
        x, y = houses.x + share * houses.width / 2 * across[0], houses.y + share * houses.width / 2 * across[1]
        return land.roof(x, y) + land.ground(x, y) - floor

    assert top(0.0) == pytest.approx(houses.ridge)
    halfway = (houses.ridge + houses.eaves) / 2
    assert np.median(np.abs(top(0.5) - halfway)) < 1e-9
    assert np.median(np.abs(top(-0.5) - halfway)) < 1e-9
    assert np.median(np.abs(top(0.999) - houses.eaves)) < 0.01
    assert (
        top(1.001) == land.ground(*(c + 1.001 * houses.width / 2 * d for c, d in zip((houses.x, houses.y), across))) - floor
    ).all()
    assert ((houses.ridge >= 5) & (houses.ridge <= 12) & (houses.eaves >= 3)).all()


def test_fields_keep_their_ranges_and_mean_nothing_elsewhere():
    land = Landscape(Site(1000, 0))
    x, y = cells(land.site, 5.0)
    cover = land.cover(x, y)
    limits = {"understorey": (0, 3), "litter_1064": (0.15, 0.45), "lignin": (0, 1), "mowing_day": (130, 230),
              "soil_moisture": (0.08, 0.42), "row_direction": (0, 180), "greenup_shift": (-12, 12)}  # fmt: skip
    where = {"understorey": [Cover.FOREST], "litter_1064": [Cover.FOREST], "mowing_day": [Cover.GRASS],
             "row_direction": [Cover.WINTER_CROP, Cover.SUMMER_CROP]}  # fmt: skip
    for name, (low, high) in limits.items():
        values = land.field(name, x, y)
        known = np.isfinite(values)
        assert np.array_equal(known, np.isin(cover, where.get(name, list(Cover)))), name
        assert low <= values[known].min()
        assert values[known].max() <= high
        assert np.ptp(values[known]) > 0.6 * (high - low), name


def test_a_parcel_is_mown_at_once_and_has_rows_of_one_direction():
    land = Landscape(Site(500, 0))
    x, y = cells(land.site, 5.0)
    parcel = land.parcel(x, y)
    for name in ("mowing_day", "row_direction"):
        values = land.field(name, x, y)
        known = np.isfinite(values)
        parcels = np.unique(parcel[known])
        assert len(np.unique(values[known])) == len(parcels) > 1
        assert len(np.unique(np.stack([parcel[known], values[known]]), axis=1)[0]) == len(parcels)


def test_fields_tell_nothing_of_each_other_or_of_the_land_cover():
    land = Landscape(Site(3000, 0))
    x, y = cells(land.site, 20.0)
    cover = land.cover(x, y)
    values = {name: land.field(name, x, y) for name in FIELDS}
    names = list(FIELDS)
    for number, one in enumerate(names):
        for other in names[:number]:
            known = np.isfinite(values[one]) & np.isfinite(values[other])
            if known.sum() > 100:
                assert abs(np.corrcoef(values[one][known], values[other][known])[0, 1]) < 0.2, (one, other)
    for name in ("lignin", "soil_moisture", "greenup_shift"):
        of_cover = sum(
            (cover == code).mean() * (values[name][cover == code].mean() - values[name].mean()) ** 2 for code in OPEN_GROUND
        )
        assert of_cover / values[name].var() < 0.08, name


def test_unknown_field_is_refused():
    with pytest.raises(ConfigError, match="no field 'rain'"):
        Landscape(Site(100)).field("rain", np.zeros(1), np.zeros(1))


@pytest.mark.parametrize("seed", SEEDS)
def test_year_2_has_one_clear_cut_and_one_new_building(seed):
    before, after = Landscape(Site(500, seed)), Landscape(Site(500, seed, 2))
    x, y = cells(before.site)
    one, other = before.cover(x, y), after.cover(x, y)
    changed = one != other
    assert set(np.unique(other[changed])) == {Cover.CLEARCUT, Cover.BUILDING}
    cut = other == Cover.CLEARCUT
    assert set(np.unique(one[cut])) == {Cover.FOREST}
    assert len(np.unique(after.parcel(x, y)[cut])) == 1
    assert cut.sum() > 1000
    middle = (before.site.box.xmin + before.site.box.xmax) / 2
    assert abs(x[cut].mean() - middle) < 170
    new = changed & (other == Cover.BUILDING)
    assert set(np.unique(one[new])) == {Cover.GRASS}
    assert 60 < new.sum() < 160
    assert ndimage.label(new)[1] == 1
    assert np.array_equal(before.ground(x, y), after.ground(x, y))
    assert len(after.buildings(after.site.box)) == len(before.buildings(before.site.box)) + 1
