"""The imaging spectrometer: wavelengths, noise, and lignin that it alone sees."""

from __future__ import annotations

import numpy as np
import pytest

from fusion3d.errors import ConfigError
from fusion3d.io.pixels import Target
from fusion3d.io.raster import open_raster
from fusion3d.simulate.hyperspectral import HsiWriter
from fusion3d.simulate.model import Cover, Site, Tile
from fusion3d.simulate.sentinel2 import Sentinel2Writer
from tests.simulate.patchwork import Patchwork, check_cog, contents, halves, north_west, simulate, stand

SITE = Site(100)
BOX = SITE.box
NAME = "hsi/hsi_20230614.tif"
WAVELENGTH = np.linspace(400, 2450, 200)


def cube_of(folder, land, side=500, **options):
    simulate(HsiWriter(land.site, folder, **options), land, side)
    path = folder / NAME
    opened = open_raster(path)
    target = Target(land.site.crs, BOX.xmin, BOX.ymax, opened.pixel, opened.height, opened.width, "reflectance")
    return opened, opened.read(0, target)


def band(wavelength):
    return int(np.argmin(np.abs(WAVELENGTH - wavelength)))


def test_our_reader_finds_wavelengths_date_and_reflectance(tmp_path):
    opened, patch = cube_of(tmp_path, Patchwork(SITE))
    check_cog(tmp_path / NAME, SITE, 5.0)
    np.testing.assert_allclose([item.wavelength for item in opened.bands], WAVELENGTH, atol=0.01)
    assert opened.bands[0].fwhm == pytest.approx(11.3, abs=0.1)
    assert str(opened.date) == "2023-06-14"
    assert patch.valid.all()
    assert patch.values.dtype == np.float32
    # A meadow in June: green, bright in the infrared.
    assert 0.3 < patch.values[band(860)].mean() < 0.55
    assert patch.values[band(670)].mean() < 0.08


def test_image_does_not_depend_on_the_tiles(tmp_path):
    land = Patchwork(SITE, north_west(SITE, Cover.WATER, Cover.FOREST), {"lignin": halves(SITE, 0.1, 0.9)},
                     lambda x, y: 300 + 0.2 * (y - BOX.ymin), planted=stand(BOX, 6.0))  # fmt: skip
    whole = cube_of(tmp_path / "one", land)[1].values
    cut = cube_of(tmp_path / "four", land, 50)[1].values
    np.testing.assert_array_equal(whole, cut)


def test_water_in_the_north_west_appears_there(tmp_path):
    values = cube_of(tmp_path, Patchwork(SITE, north_west(SITE, Cover.WATER, Cover.GRASS)))[1].values[band(860)]
    assert values[:10, :10].max() < 0.05 < values[10:].min()
    assert values[:, 10:].min() > 0.05


def test_lignin_can_be_read_from_the_depth_of_its_band(tmp_path):
    land = Patchwork(SITE, Cover.FOREST, {"lignin": lambda x, y: (x - BOX.xmin) / 100}, planted=stand(BOX, 4.0, species=2))
    values = cube_of(tmp_path, land)[1].values
    shoulders = (values[band(1690)] + values[band(1770)]) / 2
    depth = 1 - values[band(1720) : band(1740) + 1].mean(axis=0) / shoulders
    truth = np.broadcast_to((np.arange(20) + 0.5) / 20, (20, 20))
    assert np.corrcoef(depth.ravel(), truth.ravel())[0, 1] > 0.85


def test_lignin_changes_no_band_outside_1690_to_1770_and_nothing_on_meadows(tmp_path):
    some, none = ({"lignin": value} for value in (1.0, 0.0))
    trees = stand(BOX, 4.0)
    with_lignin, without = (
        cube_of(tmp_path / str(index), Patchwork(SITE, Cover.FOREST, fields, planted=trees))[1].values
        for index, fields in enumerate((some, none))
    )
    changed = np.abs(with_lignin - without).max(axis=(1, 2)) > 0
    assert changed.any()
    assert WAVELENGTH[changed].min() > 1690
    assert WAVELENGTH[changed].max() < 1770
    meadows = [cube_of(tmp_path / f"m{i}", Patchwork(SITE, fields=fields))[1].values for i, fields in enumerate((some, none))]
    np.testing.assert_array_equal(*meadows)


def test_sentinel_2_does_not_see_lignin(tmp_path):
    for name, lignin in (("a", 0.0), ("b", 1.0)):
        land = Patchwork(SITE, Cover.FOREST, {"lignin": lignin}, planted=stand(BOX, 4.0))
        simulate(Sentinel2Writer(SITE, tmp_path / name, every=60), land)
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_private_variables_of_other_sensors_change_nothing(tmp_path):
    others = {"row_direction": 20.0, "mowing_day": 140.0, "soil_moisture": 0.4, "greenup_shift": 9.0, "understorey": 2.0}
    covers = halves(SITE, Cover.GRASS, Cover.SUMMER_CROP)
    plain = cube_of(tmp_path / "a", Patchwork(SITE, covers))[1].values
    changed = cube_of(tmp_path / "b", Patchwork(SITE, covers, others))[1].values
    np.testing.assert_array_equal(plain, changed)


def test_signal_is_clean_in_the_infrared_and_lost_in_water_vapour(tmp_path):
    values = cube_of(tmp_path, Patchwork(SITE))[1].values
    snr = values.mean(axis=(1, 2)) / values.std(axis=(1, 2))
    assert snr[band(860)] > 150
    assert 20 < snr[band(2200)] < 150
    assert snr[band(1400)] < 8
    assert snr[band(1900)] < 8


def test_species_differ_in_their_spectra(tmp_path):
    spectra = [
        cube_of(tmp_path / str(index), Patchwork(SITE, Cover.FOREST, planted=stand(BOX, 3.0, species=index)))[1].values.mean(
            axis=(1, 2)
        )
        for index in range(5)
    ]
    ratio = [spectrum[band(1650)] / spectrum[band(860)] for spectrum in spectra]
    assert len({round(float(value), 2) for value in ratio}) == 5


def test_nothing_is_left_after_an_error(tmp_path):
    folder = tmp_path / "scene"

    def interrupted():
        with HsiWriter(SITE, folder) as writer:
            writer.add(Tile(SITE, Patchwork(SITE), BOX, 60.0))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert not folder.exists()


def test_impossible_options_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="3 m"):
        HsiWriter(SITE, tmp_path, pixel=3.0)
    with pytest.raises(ConfigError, match="1 hyper"):
        HsiWriter(SITE, tmp_path, bands=1)
