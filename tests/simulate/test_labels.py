"""Plots against the trees around them, the weak map's errors, the open map against the scene."""

import json

import geopandas
import numpy as np
import pytest
import rasterio
import shapely

from fusion3d.errors import ConfigError
from fusion3d.simulate.labels import LabelWriter
from fusion3d.simulate.landscape import Landscape
from fusion3d.simulate.model import SPECIES, Cover, Site, Tile
from fusion3d.simulate.truth import TruthWriter

SIZE = 300


def write(folder, side=SIZE, site=None, plots=200, truth=False):
    site = site or Site(SIZE, 0)
    land = Landscape(site)
    makers = [LabelWriter(site, folder, plots_per_km2=plots), *([TruthWriter(site, folder)] if truth else [])]
    for maker in makers:
        with maker as writer:
            for core in site.tiles(side):
                writer.add(Tile(site, land, core, 20.0))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("scene"), truth=True)


@pytest.fixture(scope="module")
def plots(folder):
    return tuple(geopandas.read_file(folder / room / "plots.gpkg") for room in ("labels", "truth"))


def test_truth_of_plots_is_the_sum_over_the_trees_listed(folder, plots):
    trees = geopandas.read_file(folder / "truth" / "trees.gpkg")
    trees = trees[trees.dbh_cm >= 5]
    hectares = np.pi * 15**2 / 1e4
    assert len(plots[1]) == round(200 * 0.09)
    for plot in plots[1].itertuples():
        near = trees[trees.distance(plot.geometry) <= 15]
        basal = np.pi / 4 * (near.dbh_cm / 100) ** 2
        assert plot.agb == pytest.approx(near.agb_kg.sum() / 1000 / hectares)
        assert plot.stems == pytest.approx(len(near) / hectares)
        assert plot.basal_area == pytest.approx(basal.sum() / hectares)
        if len(near):
            assert plot.lorey_height == pytest.approx((basal * near.height_m).sum() / basal.sum())
            assert plot.species == basal.groupby(near.species).sum().idxmax()
        else:
            assert np.isnan(plot.lorey_height)
            assert plot.agb == 0


def test_plots_lie_wholly_inside_and_apart(plots):
    box = Site(SIZE, 0).box
    inner = shapely.box(box.xmin + 15, box.ymin + 15, box.xmax - 15, box.ymax - 15)
    for table in plots:
        assert table.within(inner).all()
        assert (table.radius == 15).all()
        assert table.crs.to_epsg() == 2154
    centres = np.column_stack([plots[1].geometry.x, plots[1].geometry.y])
    apart = np.hypot(*(centres[:, None] - centres).transpose(2, 0, 1)) + 1e9 * np.eye(len(centres))
    assert apart.min() >= 30


def test_most_plots_are_in_forest_and_dates_in_the_season(plots):
    forest = plots[1].land_cover == "forest"
    assert 0.6 < forest.mean() < 0.95
    assert set(plots[0].columns) == set(plots[1].columns)
    dates = plots[0].date.astype(str)
    assert dates.between("2023-05-20", "2023-10-01").all()


def test_errors_of_the_crew_are_as_stated(tmp_path):
    folder = write(tmp_path, site=Site(500, 2), side=250, plots=600)
    noted, true = (geopandas.read_file(folder / room / "plots.gpkg").set_index("plot_id") for room in ("labels", "truth"))
    assert noted.index.equals(true.index)
    wooded = true.agb > 60
    assert wooded.sum() > 40
    # 2 % of the stems missed.
    assert (noted.stems / true.stems)[wooded].mean() == pytest.approx(0.98, abs=0.012)
    assert (noted.basal_area / true.basal_area)[wooded].mean() == pytest.approx(0.98, abs=0.02)
    error = (noted.agb / true.agb)[wooded]
    assert 0.005 < error.std() < 0.12
    assert error.mean() == pytest.approx(0.98, abs=0.03)
    east, north = noted.geometry.x - true.geometry.x, noted.geometry.y - true.geometry.y
    for shift in (east, north):
        assert shift.std() == pytest.approx(1.5, rel=0.25)
        assert abs(shift.mean()) < 0.5


def test_labels_do_not_depend_on_tiles(folder, tmp_path):
    again = write(tmp_path, side=100)
    for room in ("labels", "truth"):
        one, other = (geopandas.read_file(each / room / "plots.gpkg") for each in (folder, again))
        assert one.drop(columns="geometry").equals(other.drop(columns="geometry"))
        assert one.geometry.equals(other.geometry)
    assert (folder / "labels" / "osm.geojson").read_text() == (again / "labels" / "osm.geojson").read_text()
    with (
        rasterio.open(folder / "labels" / "land_cover_weak.tif") as one,
        rasterio.open(again / "labels" / "land_cover_weak.tif") as other,
    ):
        assert np.array_equal(one.read(), other.read())


def test_one_weak_label_of_five_is_wrong_and_wrong_ones_cluster(tmp_path):
    site = Site(700, 3)
    folder = write(tmp_path, site=site, side=700, plots=0)
    with rasterio.open(folder / "labels" / "land_cover_weak.tif") as file:
        weak = file.read(1)
        assert file.res == (10, 10)
    fine = Landscape(site).cover(*np.meshgrid(*site.box.centres(1.0))).reshape(70, 10, 70, 10)
    counts = np.stack([(fine == code).sum(axis=(1, 3)) for code in range(9)])
    wrong = weak != counts.argmax(axis=0)
    # Cells that two covers share alike may go either way.
    clear = np.sort(counts, axis=0)[-1] > np.sort(counts, axis=0)[-2]
    assert wrong[clear].mean() == pytest.approx(0.20, abs=0.03)
    beside = wrong[:, 1:] & wrong[:, :-1]
    assert beside.mean() > 2 * wrong.mean() ** 2
    assert set(np.unique(weak)) <= set(range(1, 8))
    read = geopandas.read_file(folder / "labels" / "plots.gpkg")
    assert len(read) == 0


def test_open_map_shows_the_scene_with_gaps_and_a_shift(folder, tmp_path):
    site = Site(600, 0)
    path = write(tmp_path, site=site, side=600, plots=0) / "labels" / "osm.geojson"
    text = json.loads(path.read_text())
    assert "crs" not in text
    assert len(text["features"]) > 30
    read = geopandas.read_file(path)
    assert read.crs.to_epsg() == 4326
    assert read.is_valid.all()
    for area in read[read.geom_type == "Polygon"].geometry:
        assert area.exterior.is_ccw
    features = read.to_crs(2154)
    land = Landscape(site)
    x, y = np.meshgrid(*site.box.centres(2.0))
    cover = land.cover(x, y)
    for tag, value, wanted in (
        ("natural", "water", Cover.WATER),
        ("landuse", "forest", Cover.FOREST),
        ("building", "yes", Cover.BUILDING),
    ):
        shapes = features[features[tag] == value].geometry
        assert (shapes.geom_type == "Polygon").all()
        inside = shapely.contains_xy(shapely.union_all(shapes.buffer(-2.5)), x, y)
        assert np.isin(cover[inside], (wanted, Cover.WATER, Cover.ROAD)).mean() > 0.98, tag
    roads = features[features.highway == "tertiary"].geometry
    assert (roads.geom_type == "LineString").all()
    along = np.concatenate([np.array(line.segmentize(5).coords) for line in roads])
    along = along[site.box.grow(-5).contains(along[:, 0], along[:, 1])]
    assert np.isin(land.cover(along[:, 0], along[:, 1]), (Cover.ROAD, Cover.WATER)).mean() > 0.95
    built = land.buildings(site.box)
    missing = 1 - (features.building == "yes").sum() / len(built)
    assert 0.03 < missing < 0.3
    assert set(features.landuse.dropna()) == {"forest", "farmland", "meadow", "residential"}


def test_plots_are_visited_again_in_year_2(folder, plots, tmp_path):
    later = write(tmp_path, site=Site(SIZE, 0, 2))
    again = geopandas.read_file(later / "truth" / "plots.gpkg")
    assert again.plot_id.tolist() == plots[1].plot_id.tolist()
    assert again.geometry.equals(plots[1].geometry)
    assert again.date.astype(str).str.startswith("2028").all()
    uncut = (again.land_cover == "forest") & (plots[1].agb > 20)
    gained = again.agb[uncut] - plots[1].agb[uncut]
    # Increments of closed stands are some Mg/ha in a year; a dead tree may cost more.
    assert 0 < gained.mean() < 50


def test_species_of_plots_are_latin_names(plots):
    assert set(plots[1].species.dropna()) <= {species.name for species in SPECIES}


def test_negative_number_of_plots_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="must not be negative"):
        LabelWriter(Site(100), tmp_path, plots_per_km2=-1)


def test_failing_leaves_no_file(tmp_path):
    site = Site(SIZE, 0)

    def fail():
        with LabelWriter(site, tmp_path) as writer:
            writer.add(Tile(site, Landscape(site), site.tiles(100)[0], 20.0))
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
