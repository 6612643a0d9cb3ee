"""A year of Sentinel-2 read back: peaks of NDVI, conifers, mowing, clouds, and what our readers make of the files."""

from __future__ import annotations

import numpy as np
import pytest

from fusion3d.errors import ConfigError
from fusion3d.io.pixels import Target
from fusion3d.io.series import open_series
from fusion3d.prepare.rasters import open_source
from fusion3d.prepare.scene import RasterInput
from fusion3d.simulate.clouds import Clouds, cloud_cover
from fusion3d.simulate.model import Cover, Site, Tile
from fusion3d.simulate.phenology import CROPS
from fusion3d.simulate.sentinel2 import Sentinel2Writer
from fusion3d.simulate.sun import sun_at
from tests.simulate.patchwork import Patchwork, check_cog, contents, halves, north_west, simulate, stand

SITE = Site(100)
BOX = SITE.box
NAMES = ["B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"]


def series_of(folder, land, side=500, every=15, **options):
    """Days of the year, [D, bands, R, C] reflectance with NaN where not valid."""
    simulate(Sentinel2Writer(land.site, folder, every=every), land, side)
    source = open_series(folder / "s2", **options)
    box = land.site.box
    target = Target(land.site.crs, box.xmin, box.ymax, 10.0, *box.shape(10.0), "reflectance")
    patches = [source.read(step, target) for step in range(len(source.dates))]
    days = np.array([date.timetuple().tm_yday for date in source.dates])
    return source, days, np.stack([np.where(patch.valid, patch.values, np.nan) for patch in patches])


def ndvi(values):
    return (values[:, 6] - values[:, 2]) / (values[:, 6] + values[:, 2])


def curve(days, index):
    """Days with enough clear pixels and the median over them."""
    clear = np.isfinite(index).mean(axis=(1, 2)) > 0.3
    return days[clear], np.nanmedian(index[clear], axis=(1, 2))


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    land = Patchwork(SITE, halves(SITE, Cover.WINTER_CROP, Cover.SUMMER_CROP))
    return series_of(tmp_path_factory.mktemp("crops"), land, every=6)


@pytest.fixture(scope="module")
def forests(tmp_path_factory):
    conifers = stand(BOX, 4.0, species=0)
    beeches = stand(BOX, 4.0, species=2)
    species = np.where(conifers.x < BOX.xmin + 50, conifers.species, beeches.species)
    trees = stand(BOX, 4.0)
    object.__setattr__(trees, "species", species)
    return series_of(tmp_path_factory.mktemp("forests"), Patchwork(SITE, Cover.FOREST, planted=trees), every=12)


def test_our_readers_find_dates_bands_and_reflectance(tmp_path):
    source, days, values = series_of(tmp_path, Patchwork(SITE))
    assert days.tolist() == list(range(8, 366, 15))
    assert len(days) == 24
    assert [band.name for band in source.bands] == NAMES
    assert source.bands[8].wavelength == pytest.approx(1613.7)
    finite = values[np.isfinite(values)]
    assert finite.min() > -0.02
    assert finite.max() < 1
    # Meadow in summer.
    summer = np.nanmedian(values[(days > 150) & (days < 260)], axis=(0, 2, 3))
    assert 0.25 < summer[6] < 0.55
    assert summer[2] < 0.12


def test_files_are_cogs_and_prepare_takes_the_folder_as_it_is(tmp_path):
    simulate(Sentinel2Writer(SITE, tmp_path, every=60), Patchwork(SITE))
    files = sorted((tmp_path / "s2").glob("*.tif"))
    assert len(files) == 6
    for path in [*files, *(tmp_path / "s2/scl").glob("*.tif")]:
        check_cog(path, SITE, 10.0)
    assert len(open_source("s2", RasterInput((str(tmp_path / "s2"),)), None).dates) == 6


@pytest.mark.parametrize(("cover", "half"), [(Cover.WINTER_CROP, np.s_[:, :, :4]), (Cover.SUMMER_CROP, np.s_[:, :, 6:])])
def test_ndvi_of_crops_peaks_on_the_documented_day(crops, cover, half):
    _, days, values = crops
    days, index = curve(days, ndvi(values)[half])
    near = np.abs(days - days[np.argmax(index)]) <= 35
    square, slope, _ = np.polyfit(days[near], index[near], 2)
    assert -slope / (2 * square) == pytest.approx(CROPS[cover].peak, abs=4)


def test_crops_differ_only_in_time(crops):
    _, days, values = crops
    for index in (6, 8):
        winter = curve(days, values[:, index, :, :4])
        summer = curve(days, values[:, index, :, 6:])
        early = np.interp(np.arange(60, 150), *winter)
        late = np.interp(np.arange(140, 230), *summer)
        assert np.abs(early - late).mean() < 0.04


def test_conifers_stay_as_they_are_while_beeches_come_and_go(forests):
    _, days, values = forests
    change = []
    for part in (np.s_[:, :, :4], np.s_[:, :, 6:]):
        when, index = curve(days, ndvi(values)[part])
        summer, winter = index[(when > 160) & (when < 260)], index[(when < 80) | (when > 330)]
        change.append(np.median(summer) - np.median(winter))
    assert abs(change[0]) < 0.04
    assert change[1] > 0.35


def test_forest_has_a_red_edge(forests):
    _, days, values = forests
    summer = np.nanmedian(values[(days > 160) & (days < 250)], axis=(0, 2, 3))
    assert summer[2] < summer[3] < summer[4] < summer[5]
    assert summer[5] - summer[3] > 2 * (summer[3] - summer[2])


def test_mowing_shows_in_meadows(tmp_path):
    land = Patchwork(SITE, fields={"mowing_day": halves(SITE, 170.0, np.nan)})
    _, days, values = series_of(tmp_path, land, every=8)
    clear = np.isfinite(values[:, 6, :, :4]).any(axis=(1, 2)) & np.isfinite(values[:, 6, :, 6:]).any(axis=(1, 2))
    days, values = days[clear], values[clear]
    index = ndvi(values)
    left, right = index[:, :, :4], index[:, :, 6:]
    change = np.nanmedian(left, axis=(1, 2)) - np.nanmedian(right, axis=(1, 2))
    assert abs(np.nanmedian(change[(days < 168)])) < 0.02
    assert np.nanmean(change[(days >= 170) & (days < 190)]) < -0.12
    assert abs(np.nanmedian(change[days > 260])) < 0.03


def test_late_leaves_show_as_the_days_they_are_late(tmp_path):
    land = Patchwork(SITE, Cover.SUMMER_CROP, {"greenup_shift": halves(SITE, -8.0, 8.0)})
    _, days, values = series_of(tmp_path, land, every=6)
    half = []
    for part in (np.s_[:, :, :4], np.s_[:, :, 6:]):
        when, index = curve(days, ndvi(values)[part])
        rising = (when > 110) & (when < 200)
        half.append(np.interp(0.5, index[rising], when[rising]))
    assert half[1] - half[0] == pytest.approx(16, abs=3)


def test_water_in_the_north_west_appears_there(tmp_path):
    _, _, values = series_of(tmp_path, Patchwork(SITE, north_west(SITE, Cover.WATER, Cover.GRASS)), every=30)
    infrared = np.nanmedian(values[:, 6], axis=0)
    assert infrared[:4, :4].max() < 0.1
    assert infrared[6:].min() > 0.12
    assert infrared[:, 6:].min() > 0.12


def test_bands_of_20_m_are_smooth_where_those_of_10_m_are_sharp(tmp_path):
    _, days, values = series_of(tmp_path, Patchwork(SITE, halves(SITE, Cover.WATER, Cover.GRASS)))
    profile = np.nanmedian(values[(days > 120) & (days < 300)], axis=(0, 2))
    sharp, smooth = profile[6], profile[7]
    inner = slice(4, 6)
    assert np.allclose((sharp[inner] - sharp[0]) / (sharp[-1] - sharp[0]), [0, 1], atol=0.1)
    assert np.allclose((smooth[inner] - smooth[0]) / (smooth[-1] - smooth[0]), [0.25, 0.75], atol=0.1)


def test_images_do_not_depend_on_the_tiles(tmp_path):
    trees = stand(BOX, 9.0, species=3)
    fields = {"mowing_day": 160.0, "greenup_shift": lambda x, y: (x - BOX.xmin) / 10 - 5}
    land = Patchwork(SITE, halves(SITE, Cover.WATER, Cover.GRASS), fields, lambda x, y: 300 + 0.2 * (y - BOX.ymin), planted=trees)
    for name, side in (("one", 500), ("four", 50)):
        simulate(Sentinel2Writer(SITE, tmp_path / name, every=40), land, side)
    whole, cut = contents(tmp_path / "one"), contents(tmp_path / "four")
    assert len(whole) == 18
    for name in whole:
        np.testing.assert_array_equal(whole[name], cut[name], err_msg=name)


def test_clouds_hide_45_percent_and_every_share_occurs():
    covers = np.array([cloud_cover(SITE, number) for number in range(24)])
    assert covers.mean() == pytest.approx(0.45, abs=0.03)
    assert covers.min() < 0.05
    assert covers.max() > 0.9
    many = [cloud_cover(Site(100, seed), number) for seed in range(30) for number in range(24)]
    assert np.mean(many) == pytest.approx(0.45, abs=0.01)


@pytest.mark.parametrize("cover", [0.2, 0.5, 0.8])
def test_mask_covers_the_share_that_clouds_are_meant_to(cover):
    site = Site(1000)
    x, y = np.meshgrid(*site.box.centres(10.0))
    clear = np.full(x.shape, 4, np.uint8)
    shares = []
    for day in range(20, 360, 34):
        clouds = Clouds(site, day, cover, sun_at(day, 10.67))
        classes = clouds.classified(x, y, clouds.opacity(x, y), clouds.shade(x, y), clear)
        shares.append((classes != 4).mean())
    assert np.mean(shares) == pytest.approx(cover, abs=0.04)


def test_mask_misses_3_percent_of_thin_clouds_and_no_thick_one():
    site, sun = Site(5000), sun_at(170, 10.67)
    x, y = np.meshgrid(*site.box.centres(10.0))
    clouds = Clouds(site, 170, 0.5, sun)
    opacity, clear = clouds.opacity(x, y), np.full(x.shape, 4, np.uint8)
    classes = clouds.classified(x, y, opacity, np.zeros_like(opacity), clear)
    thin, thick = (opacity > 0.08) & (opacity < 0.5), opacity > 0.5
    assert (classes[thin] == 4).mean() == pytest.approx(0.03, abs=0.008)
    assert (classes[thick] == 9).all()


def test_shadows_fall_away_from_the_sun():
    site, sun = Site(3000), sun_at(172, 10.67)
    x, y = np.meshgrid(*site.box.centres(10.0))
    clouds = Clouds(site, 172, 0.3, sun)
    opacity, shade = clouds.opacity(x, y), clouds.shade(x, y)
    # In summer, from a height of 1200 m: to the north-west, by 1200 m over the tangent of the sun's elevation.
    away = 1200 / np.tan(np.radians(sun.elevation))
    rows = round(away * np.cos(np.radians(sun.azimuth - 180)) / 10)
    cols = round(away * np.sin(np.radians(sun.azimuth - 180)) / 10)
    assert rows > 30
    moved = np.roll(opacity, (-rows, cols), (0, 1))
    inner = np.s_[100:-100, 100:-100]
    assert np.corrcoef(moved[inner].ravel(), shade[inner].ravel())[0, 1] > 0.97


def test_classification_agrees_with_what_is_nodata_and_works_as_a_mask(tmp_path):
    source, _, values = series_of(tmp_path, Patchwork(SITE), every=30, mask="scl/{stem}_SCL.tif")
    valid = np.isfinite(values[:, 0])
    classes = np.stack([item[0] for name, item in contents(tmp_path).items() if "SCL" in name])
    assert set(np.unique(classes)) <= {3, 4, 5, 6, 8, 9, 10}
    np.testing.assert_array_equal(valid, np.isin(classes, (4, 5, 6)))
    assert 0.05 < valid.mean() < 0.95
    assert all(item.mask is not None for step in source.steps for item in step)


def test_private_variables_of_other_sensors_change_nothing(tmp_path):
    others = {"row_direction": 20.0, "lignin": 1.0, "soil_moisture": 0.4, "understorey": 2.0, "litter_1064": 0.4}
    for name, fields in (("a", {}), ("b", others)):
        land = Patchwork(SITE, halves(SITE, Cover.GRASS, Cover.SUMMER_CROP), fields)
        simulate(Sentinel2Writer(SITE, tmp_path / name, every=60), land)
    plain, changed = contents(tmp_path / "a"), contents(tmp_path / "b")
    for name in plain:
        np.testing.assert_array_equal(plain[name], changed[name])


def test_nothing_is_left_after_an_error(tmp_path):
    folder = tmp_path / "scene"

    def interrupted():
        with Sentinel2Writer(SITE, folder) as writer:
            writer.add(Tile(SITE, Patchwork(SITE), BOX, 60.0))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert not folder.exists()


def test_impossible_interval_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="every 0 days"):
        Sentinel2Writer(SITE, tmp_path, every=0)
