"""Shapes that any textbook shows: red edge, green peak, water, lignin and clay bands."""

from __future__ import annotations

import numpy as np
import pytest

from fusion3d.errors import ConfigError
from fusion3d.io.bands import SENTINEL2
from fusion3d.simulate.spectra import Material, lignin_transmission, sky_share, spectra

FINE = np.arange(400.0, 2501.0)
CURVES = spectra(FINE)
PLANTS = [Material.SPRUCE, Material.PINE, Material.BEECH, Material.OAK, Material.BIRCH, Material.GRASS, Material.CROP]


def at(material, wavelength):
    return CURVES[material, int(wavelength - 400)]


def depth(material, low, centre, high):
    """How far a band lies below the straight line between its shoulders."""
    line = np.interp(centre, [low, high], [at(material, low), at(material, high)])
    return 1 - at(material, centre) / line


def test_every_reflectance_lies_between_0_and_1():
    assert CURVES.shape == (len(Material), 2101)
    assert CURVES.min() > 0
    assert CURVES.max() < 0.7


@pytest.mark.parametrize("plant", PLANTS)
def test_plants_rise_most_steeply_at_the_red_edge(plant):
    steepest = FINE[np.argmax(np.diff(CURVES[plant]))]
    assert 700 <= steepest <= 735


@pytest.mark.parametrize("plant", PLANTS)
def test_plants_are_green_and_bright_in_the_infrared(plant):
    assert at(plant, 550) > 1.5 * at(plant, 670)
    assert at(plant, 550) > 1.5 * at(plant, 450)
    ndvi = (at(plant, 833) - at(plant, 665)) / (at(plant, 833) + at(plant, 665))
    assert 0.75 < ndvi < 0.96


@pytest.mark.parametrize("plant", PLANTS)
def test_leaf_water_absorbs_in_its_four_bands(plant):
    assert depth(plant, 900, 970, 1060) > 0.02
    assert depth(plant, 1090, 1200, 1270) > 0.04
    assert depth(plant, 1290, 1450, 1660) > 0.3
    assert depth(plant, 1780, 1940, 2150) > 0.3


def test_conifers_are_darker_in_the_infrared_than_broadleaves():
    assert max(at(Material.SPRUCE, 860), at(Material.PINE, 860)) < min(at(Material.BEECH, 860), at(Material.OAK, 860))


def test_dry_plants_have_no_red_edge_but_a_cellulose_band():
    assert at(Material.DRY_PLANTS, 760) < 1.5 * at(Material.DRY_PLANTS, 680)
    assert depth(Material.DRY_PLANTS, 2030, 2100, 2210) > 3 * depth(Material.BEECH, 2030, 2100, 2210)


def test_soils_are_darker_when_wet_and_have_a_clay_band():
    assert (CURVES[Material.WET_SOIL] < CURVES[Material.DRY_SOIL]).all()
    assert depth(Material.DRY_SOIL, 2120, 2205, 2290) > 0.05
    assert abs(depth(Material.BEECH, 2150, 2205, 2260)) < 0.05


def test_water_is_black_in_the_infrared():
    assert CURVES[Material.WATER, FINE > 950].max() < 0.01
    assert at(Material.WATER, 560) > 0.04


def test_lignin_absorbs_at_1730_and_nowhere_in_a_band_of_sentinel_2():
    factor = lignin_transmission(FINE, np.array([0.0, 1.0]))
    assert (factor[0] == 1).all()
    assert FINE[np.argmin(factor[1])] == 1730
    assert factor[1].min() < 0.8
    for band in SENTINEL2:
        inside = np.abs(FINE - band.wavelength) <= band.fwhm / 2
        assert (factor[1, inside] == 1).all(), band


def test_value_of_a_band_is_the_mean_over_its_width():
    wide = spectra([833.0, 705.0], [105.0, 15.0])
    for index, (centre, width) in enumerate([(833.0, 105.0), (705.0, 15.0)]):
        inside = np.abs(FINE - centre) <= width / 2
        np.testing.assert_allclose(wide[:, index], CURVES[:, inside].mean(axis=1), rtol=0.03, atol=0.001)


def test_sky_lights_blue_more_than_infrared():
    share = sky_share([450.0, 550.0, 850.0, 2200.0])
    assert (np.diff(share) < 0).all()
    assert 0.15 < share[0] < 0.4
    assert share[-1] < 0.05


@pytest.mark.parametrize("wavelength", [399.0, 2501.0, np.nan])
def test_wavelengths_out_of_range_are_refused(wavelength):
    with pytest.raises(ConfigError, match="400 to 2500"):
        spectra([wavelength])
