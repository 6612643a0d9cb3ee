"""What a scene's files say of the world, against laws and published ranges: no formula of the simulator's own is used here."""

from __future__ import annotations

from pathlib import Path

import geopandas
import laspy
import numpy as np
import pytest
import rasterio
from rasterio.enums import Interleaving

from fusion3d.io.gedi import FootprintFilter, read_footprints
from fusion3d.simulate.model import Site
from fusion3d.simulate.scene import SceneOptions, simulate

SITE = Site(400, seed=1)


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("physics") / "scene"
    simulate(SITE, out, SceneOptions(density=8.0, passes=8, ortho_pixel=0.4), quiet=True)
    return out


def read(path: Path, band: int = 1) -> np.ndarray:
    with rasterio.open(path) as file:
        values = file.read(band).astype(np.float64)
        return np.where(values == file.nodata, np.nan, values) if file.nodata is not None else values


@pytest.fixture(scope="module")
def points(scene) -> dict[str, np.ndarray]:
    """x, y, z and class of all tiles, noise left out, with the height above the true terrain."""
    clouds = [laspy.read(path) for path in sorted((scene / "als").glob("*.laz"))]
    x, y, z, kind = (np.concatenate([np.asarray(getattr(cloud, name)) for cloud in clouds])
                     for name in ("x", "y", "z", "classification"))  # fmt: skip
    good = ~np.isin(kind, (7, 18))
    x, y, z, kind = x[good], y[good], z[good], kind[good]
    terrain = read(scene / "truth" / "terrain.tif")
    row, col = cells(x, y)
    return {"x": x, "y": y, "z": z, "class": kind, "height": z - terrain[row, col]}


def cells(x: np.ndarray, y: np.ndarray, cell: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    box, count = SITE.box, round(SITE.size / cell)
    row, col = np.floor((box.ymax - y) / cell).astype(int), np.floor((x - box.xmin) / cell).astype(int)
    return row.clip(0, count - 1), col.clip(0, count - 1)


def test_canopy_height_of_the_points_is_that_of_the_truth(scene, points):
    tree = np.isin(points["class"], (2, 3, 4, 5, 9))
    row, col = cells(points["x"][tree], points["y"][tree])
    highest = np.full((SITE.size, SITE.size), np.nan)
    np.fmax.at(highest, (row, col), points["height"][tree])
    truth = read(scene / "truth" / "canopy_height.tif")
    buildings = read(scene / "truth" / "land_cover.tif") == 2
    both = np.isfinite(highest) & ~buildings
    assert np.corrcoef(highest[both], truth[both])[0, 1] > 0.95
    assert np.median(highest[both & (truth > 10)] - truth[both & (truth > 10)]) == pytest.approx(-0.5, abs=1.0)


def test_canopy_height_turned_over_does_not_fit(scene, points):
    """The oracle of the test above is sharp enough to see a map that is upside down."""
    row, col = cells(points["x"], points["y"])
    highest = np.zeros((SITE.size, SITE.size))
    np.maximum.at(highest, (row, col), points["height"])
    truth = read(scene / "truth" / "canopy_height.tif")
    for wrong in (truth[::-1], truth[:, ::-1], truth.T):
        assert np.corrcoef(highest.ravel(), np.nan_to_num(wrong).ravel())[0, 1] < 0.7


def test_ground_points_lie_on_the_terrain(points):
    ground = points["height"][points["class"] == 2]
    assert np.median(ground) == pytest.approx(0.0, abs=0.05)
    assert np.percentile(np.abs(ground), 90) < 0.6


def test_pulses_reach_the_ground_less_often_under_a_denser_canopy(scene, points):
    cover = read(scene / "truth" / "canopy_cover.tif")
    row, col = cells(points["x"], points["y"], 10.0)
    all_points, ground = np.zeros_like(cover), np.zeros_like(cover)
    np.add.at(all_points, (row, col), 1)
    np.add.at(ground, (row, col), np.abs(points["height"]) < 0.5)
    share = ground / np.maximum(all_points, 1)
    steps = [share[(cover >= low) & (cover < low + 0.25)].mean() for low in (0.0, 0.25, 0.5, 0.75)]
    assert all(np.diff(steps) < 0)


def test_trees_lie_within_the_range_of_the_allometry(scene):
    """Chave et al. 2014 weighed trees of 5 to 212 cm; what the equation gives cannot exceed a cone of solid wood."""
    trees = geopandas.read_file(scene / "truth" / "trees.gpkg")
    assert trees.crs.to_epsg() == 2154
    weighed = trees["dbh_cm"].between(5, 212)
    assert trees["agb_kg"][weighed].sum() > 0.98 * trees["agb_kg"].sum()
    cylinder = np.pi * (trees["dbh_cm"] / 200) ** 2 * trees["height_m"] * trees["wood_density_g_cm3"] * 1000
    ratio = trees["agb_kg"] / cylinder
    # Form factors of whole trees, branches included (Cannell 1984): 0.3 to 0.9 of the cylinder.
    assert ratio[trees["dbh_cm"] >= 10].between(0.3, 0.95).all()


def test_biomass_of_stands_is_that_of_european_forests(scene):
    """Managed European forests hold 0 to about 450 Mg/ha, 100 to 250 in the mean of those that are closed."""
    agb, cover = read(scene / "truth" / "agb.tif"), read(scene / "truth" / "canopy_cover.tif")
    hectares = np.lib.stride_tricks.sliding_window_view(agb, (10, 10)).mean(axis=(2, 3))
    covers = np.lib.stride_tricks.sliding_window_view(cover, (10, 10)).mean(axis=(2, 3))
    assert hectares.min() >= 0
    assert hectares.max() < 600
    assert 80 < hectares[covers > 0.7].mean() < 300


def test_plots_agree_with_the_biomass_raster(scene):
    plots = geopandas.read_file(scene / "truth" / "plots.gpkg")
    agb = read(scene / "truth" / "agb.tif")
    y, x = np.mgrid[0 : SITE.size : 10, 0 : SITE.size : 10] + 5.0
    means = [agb[np.hypot(SITE.box.xmin + x - point.x, SITE.box.ymax - y - point.y) < 15].mean() for point in plots.geometry]
    assert np.corrcoef(means, plots["agb"])[0, 1] > 0.85


def test_gedi_sees_the_height_of_the_canopy_under_its_footprints(scene):
    truth = geopandas.read_file(scene / "truth" / "gedi_positions.gpkg").set_index("shot_number")
    height = read(scene / "truth" / "canopy_height.tif")
    rows, cols = np.mgrid[0 : SITE.size, 0 : SITE.size]
    reach, top = [], []
    for path in sorted((scene / "gedi").glob("GEDI02_A*.h5")):
        table = read_footprints(path, SITE.crs)
        table = table.select(FootprintFilter().keep(table))
        for number, start, stop in zip(table.shot_number, table.row_splits[:-1], table.row_splits[1:], strict=True):
            place = truth.loc[str(number)].geometry
            if not SITE.box.grow(-12).contains(place.x, place.y):
                continue
            under = np.hypot(SITE.box.xmin + cols + 0.5 - place.x, SITE.box.ymax - rows - 0.5 - place.y) < 11
            top.append(np.nanpercentile(height[under], 98))
            heights, energy = table.heights[start:stop], table.energy[start:stop]
            order = np.argsort(heights)
            reach.append(np.interp(0.98, np.cumsum(energy[order]), heights[order]))
    assert len(top) >= 10
    assert np.corrcoef(reach, top)[0, 1] > 0.8


def test_every_raster_is_a_cloud_optimized_geotiff_in_the_national_system(scene):
    files = sorted(scene.rglob("*.tif"))
    assert len(files) > 50
    for path in files:
        with rasterio.open(path) as file:
            assert file.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG", path
            assert file.crs.to_epsg() == 2154, path
            assert file.interleaving in (Interleaving.band, Interleaving.pixel)
            assert tuple(file.bounds) == pytest.approx((SITE.box.xmin, SITE.box.ymin, SITE.box.xmax, SITE.box.ymax)), path


def test_optical_year_follows_the_trees_of_each_kind(scene):
    """Red and near infrared of conifers hardly change over the year; those of broadleaved trees do."""
    species = read(scene / "truth" / "species.tif").reshape(40, 10, 40, 10).transpose(0, 2, 1, 3).reshape(40, 40, 100)
    cover = read(scene / "truth" / "canopy_cover.tif")
    spruce, beech = ((species == number).mean(axis=2) > 0.6 for number in (1, 3))
    swings = []
    for group in (spruce & (cover > 0.8), beech & (cover > 0.8)):
        winter, summer = [], []
        for path in sorted((scene / "s2").glob("S2_*.tif")):
            month = int(path.stem[7:9])
            red, infrared = read(path, 3) / 10_000 - 0.1, read(path, 7) / 10_000 - 0.1
            index = np.nanmean(((infrared - red) / (infrared + red))[group]) if np.isfinite(red[group]).any() else np.nan
            (summer if month in (6, 7, 8) else winter if month in (1, 2, 12) else []).append(index)
        swings.append(np.nanmean(summer) - np.nanmean(winter))
    if not spruce.any() or not beech.any():
        pytest.skip("no pure stand of both kinds in this scene")
    assert swings[1] > swings[0] + 0.1
