"""The truth on disk against the trees, and against itself however the scene was cut."""

from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.shutil import exists

from fusion3d.simulate.biomass_raster import spread_biomass
from fusion3d.simulate.landscape import Landscape
from fusion3d.simulate.model import FIELDS, SPECIES, Box, Cover, Site, Tile
from fusion3d.simulate.truth import TruthWriter

SIZE = 200


def write(folder, year=1, side=SIZE, seed=0, size=SIZE):
    site = Site(size, seed, year)
    land = Landscape(site)
    with TruthWriter(site, folder) as writer:
        for core in site.tiles(side):
            writer.add(Tile(site, land, core, 20.0))
    return folder / "truth"


@dataclass(frozen=True)
class Scene:
    site: Site
    folder: Path

    def map(self, name):
        with rasterio.open(self.folder / f"{name}.tif") as file:
            return file.read(1)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return Scene(Site(SIZE, 0), write(tmp_path_factory.mktemp("one")))


@pytest.fixture(scope="module")
def later(tmp_path_factory):
    return Scene(Site(SIZE, 0, 2), write(tmp_path_factory.mktemp("two"), year=2))


@pytest.fixture(scope="module")
def listed(scene):
    return geopandas.read_file(scene.folder / "trees.gpkg")


def test_files_are_maps_with_crs_units_and_meaning(scene):
    names = {"agb", "canopy_height", "terrain", "canopy_cover", "land_cover", "species", *FIELDS}
    assert {path.name for path in scene.folder.iterdir()} == {f"{name}.tif" for name in names} | {"trees.gpkg"}
    box = scene.site.box
    for name in names:
        with rasterio.open(scene.folder / f"{name}.tif") as file:
            assert file.crs.to_epsg() == 2154
            assert tuple(file.bounds) == (box.xmin, box.ymin, box.xmax, box.ymax)
            assert file.descriptions == (name,)
            assert file.tags()["SIMULATED"] == "YES"
            assert file.tags()["MEANING"]
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert file.nodata == 0 if file.dtypes[0] == "uint8" else np.isnan(file.nodata)
            assert file.transform.a == (1.0 if name in ("canopy_height", "terrain", "land_cover", "species") else 10.0)
    with rasterio.open(scene.folder / "agb.tif") as file:
        assert file.units == ("Mg/ha",)


def test_each_tree_is_listed_once_with_its_figures(scene, listed):
    land = Landscape(scene.site)
    trees = land.trees(scene.site.box)
    trees = trees.take(scene.site.box.contains(trees.x, trees.y))
    assert len(listed) == len(trees)
    assert listed.tree_id.is_unique
    assert sorted(listed.agb_kg) == pytest.approx(sorted(trees.agb))
    latin = {species.name: species for species in SPECIES}
    assert set(listed.species) <= set(latin)
    assert (listed.crown_shape == [latin[name].crown for name in listed.species]).all()
    volume = listed.wood_density_g_cm3 * listed.dbh_cm**2 * listed.height_m
    assert listed.agb_kg.to_numpy() == pytest.approx((0.0673 * volume**0.976).to_numpy())
    assert (listed.crown_base_m < listed.height_m).all()


def test_total_of_the_biomass_map_is_that_of_the_trees(scene, listed):
    megagrams = scene.map("agb").sum(dtype=float) * 100 / 1e4
    # What hangs out of the scene is as much as hangs in from beyond, less the luck of some edge trees.
    assert megagrams == pytest.approx(listed.agb_kg.sum() / 1000, rel=0.02)
    land = Landscape(scene.site)
    trees = land.trees(scene.site.box)
    inner = trees.take(scene.site.box.grow(-7).contains(trees.x, trees.y))
    assert spread_biomass(inner, scene.site.box, 10.0).sum() == pytest.approx(inner.agb.sum())


def test_biomass_of_one_crown_lies_under_it():
    land = Landscape(Site(SIZE, 0))
    trees = land.trees(land.site.box)
    big = trees.take(np.array([np.argmax(trees.crown_radius)]))
    x, y, radius = float(big.x[0]), float(big.y[0]), float(big.crown_radius[0])
    # The cell's western edge runs through the stem: half of the biomass on either side of it.
    box = Box(x - 10, y - 10, x + 10, y + 10)
    assert spread_biomass(big, box, 10.0) == pytest.approx(np.full((2, 2), big.agb[0] / 4), rel=0.05)
    metre = spread_biomass(big, box, 1.0)
    assert metre.max() == pytest.approx(big.agb[0] / (np.pi * radius**2), rel=0.05)
    assert (metre > 0).sum() == pytest.approx(np.pi * radius**2, rel=0.3)


def test_canopy_cover_and_height_agree_with_the_crowns_listed(scene, listed):
    height, cover, species = scene.map("canopy_height"), scene.map("canopy_cover"), scene.map("species")
    x, y = np.meshgrid(*scene.site.box.centres(1.0))
    inner = np.zeros(x.shape, bool)
    inner[8:-8, 8:-8] = True
    tall = listed[listed.height_m > 8]
    near = np.zeros(x.shape, bool)
    for tree in tall.itertuples():
        near |= np.hypot(x - tree.geometry.x, y - tree.geometry.y) < tree.crown_radius_m
    assert (height[near & inner] > 0).mean() > 0.999
    assert np.array_equal(species > 0, height > 0)
    assert height.max() == pytest.approx(listed.height_m.max(), rel=0.1)
    x, y = np.meshgrid(*scene.site.box.centres(0.25))
    under = shapely.contains_xy(shapely.union_all(listed.geometry.buffer(listed.crown_radius_m)), x, y)
    shares = under.reshape(SIZE // 10, 40, SIZE // 10, 40).mean(axis=(1, 3))
    # Crowns of trees outside of the scene are not listed, and those of saplings end below 2 m.
    assert np.abs(cover - shares)[1:-1, 1:-1].mean() < 0.02
    for tree in tall.nlargest(5, "height_m").itertuples():
        row, col = int(scene.site.box.ymax - tree.geometry.y), int(tree.geometry.x - scene.site.box.xmin)
        assert SPECIES[species[row, col] - 1].name == tree.species
        # The stem may be 0.71 m off the cell's centre, and the ground a little higher or lower there.
        steepest = (tree.height_m - tree.crown_base_m) / tree.crown_radius_m
        assert tree.height_m - 0.71 * steepest - 0.5 < height[row, col] < tree.height_m + 0.5


def test_maps_of_fields_are_known_where_they_mean_something(scene):
    forest = (scene.map("land_cover") == Cover.FOREST).reshape(SIZE // 10, 10, SIZE // 10, 10).mean(axis=(1, 3))
    known = np.isfinite(scene.map("understorey"))
    assert known[forest > 0.3].all()
    assert not known[forest == 0].any()
    for name in FIELDS:
        assert np.isfinite(scene.map(name)).any(), name


def test_maps_do_not_depend_on_tiles(scene, tmp_path):
    folder = write(tmp_path, side=100)
    for path in folder.glob("*.tif"):
        with rasterio.open(path) as file:
            # A crown's share on either side of a border between tiles is summed in another order.
            assert file.read(1) == pytest.approx(scene.map(path.stem), rel=1e-6, nan_ok=True), path.name
    again, once = (geopandas.read_file(each / "trees.gpkg").sort_values("tree_id") for each in (folder, scene.folder))
    assert again.tree_id.tolist() == once.tree_id.tolist()
    assert again.height_m.tolist() == once.height_m.tolist()


def test_change_map_of_year_2_agrees_with_both_years(scene, later):
    change = later.map("change")
    assert set(np.unique(change)) <= {0, 1, 2, 3}
    before, after = scene.map("land_cover"), later.map("land_cover")
    assert np.array_equal(change == 1, after == Cover.CLEARCUT)
    assert (change == 1).sum() > 500
    assert np.array_equal(change == 2, (after == Cover.BUILDING) & (before != Cover.BUILDING))
    grown = later.map("canopy_height") - scene.map("canopy_height") > 1
    assert np.array_equal(change == 3, grown & (change != 1) & (change != 2))
    assert (change == 3).sum() > 100
    cut = change == 1
    assert later.map("canopy_height")[cut].mean() < 0.2 * scene.map("canopy_height")[cut].mean()
    with rasterio.open(later.folder / "change.tif") as file:
        assert file.nodata is None
    assert not (scene.folder / "change.tif").exists()


def test_failing_leaves_no_file(tmp_path):
    site = Site(SIZE, 0)
    land = Landscape(site)

    def fail():
        with TruthWriter(site, tmp_path) as writer:
            writer.add(Tile(site, land, site.tiles(100)[0], 10.0))
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_last_file_failing_takes_the_others_with_it(tmp_path):
    site = Site(100, 0)
    with pytest.raises(Exception, match="trees"), TruthWriter(site, tmp_path):
        # No tile was added: there is no list of trees to put in place.
        pass
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not exists(str(tmp_path / "truth" / "agb.tif"))
