"""Sentinel-1 read back: speckle, saturation, moisture, slopes, and what our readers make of the files."""

from __future__ import annotations

import numpy as np
import pytest

from fusion3d.errors import ConfigError
from fusion3d.io.pixels import Target
from fusion3d.io.series import open_series
from fusion3d.simulate.model import Box, Cover, Site, Tile
from fusion3d.simulate.radar import Sentinel1Writer, biomass_density
from tests.simulate.patchwork import Patchwork, check_cog, contents, halves, north_west, simulate, stand

SITE = Site(100)
BOX = SITE.box
LARGE = Site(500)


def power_of(folder, land, look="s1_asc", side=500, every=24):
    """[D, 2, R, C] linear backscatter."""
    simulate(Sentinel1Writer(land.site, folder, every=every), land, side)
    return np.stack([10 ** (item / 10) for name, item in contents(folder).items() if name.startswith(look)])


def forest(site, agb):
    """A closed stand whose biomass is given in Mg/ha."""
    spacing = 4.0
    trees = stand(site.box.grow(40), spacing, species=2, agb=agb * 1e3 * spacing**2 / 1e4)
    return Patchwork(site, Cover.FOREST, {"soil_moisture": 0.2}, planted=trees)


def test_our_readers_find_dates_polarisations_and_decibels(tmp_path):
    simulate(Sentinel1Writer(SITE, tmp_path), Patchwork(SITE))
    for look, first in (("s1_asc", "2023-01-04"), ("s1_desc", "2023-01-11")):
        source = open_series(tmp_path / look)
        assert [band.polarisation for band in source.bands] == ["VV", "VH"]
        assert str(source.dates[0]) == first
        assert len(source.dates) >= 15
        assert source.steps[0][0].decibel
        patch = source.read(0, Target(SITE.crs, BOX.xmin, BOX.ymax, 10.0, 10, 10, "backscatter"))
        assert patch.valid.all()
        assert -30 < patch.values.mean() < -5
    check_cog(next((tmp_path / "s1_asc").glob("S1A_ASC_*.tif")), SITE, 10.0)


def test_speckle_has_four_looks_and_is_independent_between_pixels_dates_and_bands(tmp_path):
    power = power_of(tmp_path, Patchwork(LARGE, Cover.ROAD), every=120)
    for image in power.reshape(-1, 50, 50):
        assert (image.mean() / image.std()) ** 2 == pytest.approx(4, rel=0.15)
    looks = power / power.mean(axis=(2, 3), keepdims=True)
    assert looks.var() == pytest.approx(0.25, rel=0.05)
    # A gamma distribution of shape 4 has skewness 2 / sqrt(4).
    assert ((looks - 1) ** 3).mean() / looks.std() ** 3 == pytest.approx(1.0, abs=0.15)
    series = looks.reshape(len(looks) * 2, -1)
    assert np.abs(np.corrcoef(series) - np.eye(len(series))).max() < 0.08
    assert abs(np.corrcoef(looks[..., :-1].ravel(), looks[..., 1:].ravel())[0, 1]) < 0.03


def test_speckle_is_another_in_another_scene(tmp_path):
    first, second = (power_of(tmp_path / str(seed), Patchwork(Site(100, seed), Cover.ROAD), every=200) for seed in (0, 1))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.95
    assert not np.array_equal(first, second)


def test_backscatter_rises_with_biomass_and_saturates_near_120(tmp_path):
    mean = {agb: power_of(tmp_path / str(agb), forest(SITE, agb), every=60).mean(axis=(0, 2, 3)) for agb in (10, 60, 120, 350)}
    decibel = {agb: 10 * np.log10(value) for agb, value in mean.items()}
    for index in (0, 1):
        rise = [decibel[high][index] - decibel[low][index] for low, high in ((10, 60), (60, 120), (120, 350))]
        assert rise[0] > 1.0
        assert rise[0] > rise[1] > rise[2] - 0.2
        assert abs(rise[2]) < 0.8
    assert decibel[350][1] - decibel[10][1] > decibel[350][0] - decibel[10][0]


def test_biomass_of_pixels_adds_up_to_that_of_the_trees():
    trees = stand(Box(BOX.xmin + 20, BOX.ymin + 20, BOX.xmin + 80, BOX.ymin + 80), agb=250.0)
    density = biomass_density(trees, Tile(SITE, Patchwork(SITE, planted=trees), BOX, 60.0))
    assert density.sum() * 0.01 * 1e3 == pytest.approx(trees.agb.sum(), rel=1e-9)


def test_wet_soil_is_brighter_mostly_in_vv(tmp_path):
    land = Patchwork(LARGE, Cover.GRASS, {"soil_moisture": halves(LARGE, 0.10, 0.35)})
    mean = power_of(tmp_path, land).mean(axis=(0, 2))
    wet, dry = mean[:, 26:].mean(axis=1), mean[:, :24].mean(axis=1)
    contrast = 10 * np.log10(wet / dry)
    assert contrast[0] > 2
    assert 0 < contrast[1] < 0.5 * contrast[0]


def test_water_is_dark_and_houses_are_bright(tmp_path):
    house = (Box(BOX.xmin + 60, BOX.ymin + 20, BOX.xmin + 80, BOX.ymin + 40), 8.0)
    mean = power_of(tmp_path, Patchwork(SITE, north_west(SITE, Cover.WATER, Cover.GRASS), house=house)).mean(axis=0)
    decibel = 10 * np.log10(mean)
    assert decibel[0, :4, :4].max() < decibel[0, 6:].min() - 2
    assert decibel[0, 6:8, 6:8].mean() > decibel[0, :, 5:6].mean() + 5


def test_slopes_that_face_the_radar_are_brighter(tmp_path):
    # Rises to the east: it faces west, where the ascending satellite stands, for it looks east.
    land = Patchwork(SITE, Cover.FOREST, {}, lambda x, y: 300 + 0.3 * (x - BOX.xmin))
    ascending, descending = (power_of(tmp_path, land, look, every=60).mean() for look in ("s1_asc", "s1_desc"))
    flat = power_of(tmp_path / "flat", Patchwork(SITE, Cover.FOREST), every=60).mean()
    assert ascending > 1.15 * flat
    assert descending < 0.85 * flat


def test_slopes_along_the_path_hardly_matter(tmp_path):
    land = Patchwork(SITE, Cover.FOREST, {}, lambda x, y: 300 + 0.3 * (y - BOX.ymin))
    ascending, descending = (power_of(tmp_path, land, look, every=60).mean() for look in ("s1_asc", "s1_desc"))
    assert ascending / descending == pytest.approx(1, abs=0.1)


def test_images_do_not_depend_on_the_tiles(tmp_path):
    fields = {"soil_moisture": lambda x, y: 0.1 + (x - BOX.xmin) / 500, "greenup_shift": 3.0}
    land = Patchwork(SITE, halves(SITE, Cover.WINTER_CROP, Cover.FOREST), fields,
                     lambda x, y: 300 + 2 * np.sin(x / 17) * np.cos(y / 23), planted=stand(BOX, 7.0))  # fmt: skip
    for name, side in (("one", 500), ("four", 50)):
        simulate(Sentinel1Writer(SITE, tmp_path / name, every=90), land, side)
    whole, cut = contents(tmp_path / "one"), contents(tmp_path / "four")
    assert whole.keys() == cut.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], cut[name])


def test_private_variables_of_other_sensors_change_nothing(tmp_path):
    others = {"row_direction": 20.0, "lignin": 1.0, "mowing_day": 140.0, "understorey": 2.0, "litter_1064": 0.4}
    covers = halves(SITE, Cover.GRASS, Cover.SUMMER_CROP)
    plain = power_of(tmp_path / "a", Patchwork(SITE, covers), every=90)
    changed = power_of(tmp_path / "b", Patchwork(SITE, covers, others), every=90)
    np.testing.assert_array_equal(plain, changed)


def test_nothing_is_left_after_an_error(tmp_path):
    folder = tmp_path / "scene"

    def interrupted():
        with Sentinel1Writer(SITE, folder) as writer:
            writer.add(Tile(SITE, Patchwork(SITE), BOX, 60.0))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert not folder.exists()


def test_impossible_interval_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="every 400 days"):
        Sentinel1Writer(SITE, tmp_path, every=400)
