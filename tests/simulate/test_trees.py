"""Trees of a window: where they stand, how large they are, what becomes of them."""

import numpy as np
import pytest

from fusion3d.simulate.allometry import above_ground_biomass
from fusion3d.simulate.landscape import Landscape
from fusion3d.simulate.model import SPECIES, Box, Cover, Site
from fusion3d.simulate.parcels import Use, indices
from fusion3d.simulate.trees import LARGEST_CROWN


@pytest.fixture(scope="module")
def land():
    return Landscape(Site(500, 0))


@pytest.fixture(scope="module")
def trees(land):
    return land.trees(land.site.box)


def test_windows_give_the_same_trees_in_the_same_order(land, trees):
    box = land.site.box
    window = Box(box.xmin + 130, box.ymin + 210, box.xmin + 260, box.ymin + 330)
    part = land.trees(window)
    there = np.isin(trees.identity, part.identity)
    again = trees.take(there)
    assert len(part) > 500
    for name, values in vars(again).items():
        assert np.array_equal(values, getattr(part, name)), name


def test_a_window_has_all_crowns_that_reach_into_it_and_no_other(land, trees):
    box = land.site.box
    window = Box(box.xmin + 200, box.ymin + 200, box.xmin + 300, box.ymin + 300)
    beyond_x = np.maximum(np.maximum(window.xmin - trees.x, trees.x - window.xmax), 0)
    beyond_y = np.maximum(np.maximum(window.ymin - trees.y, trees.y - window.ymax), 0)
    expected = trees.identity[beyond_x**2 + beyond_y**2 < trees.crown_radius**2]
    assert np.array_equal(land.trees(window).identity, expected)


def test_quarters_of_a_scene_share_out_its_stems(land, trees):
    quarters = land.site.tiles(250)
    found = [land.trees(quarter) for quarter in quarters]
    stems = [part.identity[quarter.contains(part.x, part.y)] for part, quarter in zip(found, quarters)]
    own = trees.identity[land.site.box.contains(trees.x, trees.y)]
    assert sorted(np.concatenate(stems)) == sorted(own)


def test_identities_are_unique_and_figures_are_those_of_trees(trees):
    assert len(np.unique(trees.identity)) == len(trees)
    for name in ("height", "crown_base", "crown_radius", "dbh", "wood_density", "agb", "leaf_area"):
        values = getattr(trees, name)
        assert np.isfinite(values).all()
        assert values.min() > 0, name
    assert (trees.crown_base < trees.height).all()
    assert trees.crown_radius.max() <= LARGEST_CROWN
    assert trees.height.max() < 45
    assert trees.dbh.max() < 100


def test_stems_stand_on_the_ground_off_water_roads_and_houses(land, trees):
    assert np.array_equal(trees.ground, land.ground(trees.x, trees.y))
    cover = land.cover(trees.x, trees.y)
    assert not np.isin(cover, (Cover.WATER, Cover.ROAD, Cover.BUILDING, Cover.CLEARCUT)).any()
    # In forest parcels they stand in forest; a few stand in gardens, on meadows and in hedges.
    assert 0.9 < (cover == Cover.FOREST).mean() < 0.995
    assert (land.terrain.from_bank(trees.x, trees.y) > 1).all()
    houses = land.buildings(land.site.box)
    apart = np.hypot(trees.x[:, None] - houses.x, trees.y[:, None] - houses.y).min(axis=1)
    assert apart.min() > houses.width.min() / 2 + 2.5


def test_biomass_is_chaves_of_each_trees_own_figures(trees):
    assert trees.agb == pytest.approx(above_ground_biomass(trees.wood_density, trees.dbh, trees.height))


def test_wood_density_scatters_by_8_percent_about_the_species_mean(trees):
    for code in np.unique(trees.species):
        ratio = trees.wood_density[trees.species == code] / SPECIES[code].wood_density
        assert ratio.mean() == pytest.approx(1.0, abs=0.01)
        assert ratio.std() == pytest.approx(0.08, abs=0.008)


def test_leaf_area_is_the_species_index_over_the_crown(trees):
    for code in np.unique(trees.species):
        of = trees.species == code
        index = trees.leaf_area[of].sum() / (np.pi * trees.crown_radius[of] ** 2).sum()
        assert index == pytest.approx(SPECIES[code].leaf_area_index, rel=0.25)


def test_taller_trees_are_thicker_and_wider(trees):
    assert np.corrcoef(np.log(trees.height), np.log(trees.dbh))[0, 1] > 0.9
    assert np.corrcoef(trees.dbh, trees.crown_radius)[0, 1] > 0.8


def test_stands_have_the_biomass_of_european_forest():
    land = Landscape(Site(1000, 0))
    x, y = np.meshgrid(*land.site.box.centres(5.0))
    cover, parcel = land.cover(x, y), land.parcel(x, y)
    trees = land.trees(land.site.box)
    own = land.parcel(trees.x, trees.y)
    biomass, dominant = [], []
    for number in np.unique(parcel[cover == Cover.FOREST]):
        hectares = ((parcel == number) & (cover == Cover.FOREST)).sum() * 25 / 1e4
        if hectares < 0.5 or land.parcels.use(*indices(number)) != Use.FOREST:
            continue
        biomass.append(trees.agb[own == number].sum() / 1000 / hectares)
        dominant.append(np.bincount(trees.species[own == number], minlength=5).max() / (own == number).sum())
    biomass = np.array(biomass)
    assert len(biomass) > 25
    assert biomass.min() < 40
    assert biomass.max() < 450
    assert 150 < biomass[biomass > 50].mean() < 250
    # One species has at least 70 % of a stand, less the luck of the draw.
    assert min(dominant) > 0.6
    assert np.mean(dominant) < 0.97


def test_five_years_later_the_same_trees_have_grown_and_some_have_died(land, trees):
    later_land = Landscape(Site(500, 0, 2))
    later = later_land.trees(land.site.box.grow(-LARGEST_CROWN))
    before = trees.take(land.site.box.grow(-2 * LARGEST_CROWN).contains(trees.x, trees.y))
    uncut = before.take(land.parcel(before.x, before.y) != later_land.cleared)
    alive = np.isin(uncut.identity, later.identity)
    assert 1 - alive.mean() == pytest.approx(1 - 0.99**5, abs=0.008)
    order = np.searchsorted(later.identity, uncut.identity[alive], sorter=np.argsort(later.identity))
    now, then = later.take(np.argsort(later.identity)[order]), uncut.take(alive)
    assert np.array_equal(now.identity, then.identity)
    assert np.array_equal(now.species, then.species)
    assert np.array_equal(now.x, then.x)
    assert (now.height >= then.height).all()
    assert (now.dbh >= then.dbh).all()
    assert 0.5 < (now.height - then.height).mean() < 3.0
    assert not np.setdiff1d(later.identity, trees.identity).size


def test_a_cleared_parcel_and_the_new_house_have_no_trees(land):
    later = Landscape(Site(500, 0, 2))
    trees = later.trees(land.site.box)
    assert (land.parcel(trees.x, trees.y) == later.cleared).sum() == 0
    before = land.trees(land.site.box)
    assert (land.parcel(before.x, before.y) == later.cleared).sum() > 20
    assert (later.cover(trees.x, trees.y) != Cover.BUILDING).all()


def test_a_window_on_the_water_has_no_trees(land):
    x, y = (
        float(value[0]) for value in land.terrain.river.place(np.array([150.0]), land.terrain.river.offset(np.array([150.0])))
    )
    found = land.trees(Box(x - 0.5, y - 0.5, x + 0.5, y + 0.5))
    assert len(found) == 0
    assert found.species.dtype == np.uint8
