"""Curves of greenness against what their parameters mean (Beck et al. 2006) and what trees do."""

from __future__ import annotations

import numpy as np
import pytest

from fusion3d.simulate.model import SPECIES, Cover
from fusion3d.simulate.phenology import CROPS, EQUAL_CROPS, MEADOW, crop, leaves, meadow

DAYS = np.arange(1.0, 366.0)
BEECH, OAK, BIRCH = 2, 3, 4


@pytest.mark.parametrize("cover", list(CROPS))
def test_crops_peak_on_the_day_they_say(cover):
    green = crop(cover, 0.0, -DAYS)[0]
    assert abs(DAYS[np.argmax(green)] - CROPS[cover].peak) <= 0.5


def test_winter_crop_peaks_in_may_and_summer_crop_in_july():
    assert CROPS[Cover.WINTER_CROP].peak == 125
    assert CROPS[Cover.SUMMER_CROP].peak == 205


def test_crops_are_one_curve_at_two_times():
    winter, summer = crop(Cover.WINTER_CROP, 100.0), crop(Cover.SUMMER_CROP, 180.0)
    np.testing.assert_allclose(winter, summer, rtol=1e-12)


def test_on_one_day_both_crops_look_the_same():
    winter, summer = crop(Cover.WINTER_CROP, EQUAL_CROPS), crop(Cover.SUMMER_CROP, EQUAL_CROPS)
    assert winter[0] == pytest.approx(summer[0], abs=2e-3)
    assert winter[1] == pytest.approx(summer[1], abs=1e-3)


def test_half_of_the_change_is_done_on_the_days_of_rise_and_fall():
    half = (MEADOW.winter + MEADOW.summer) / 2
    assert MEADOW(MEADOW.rise) == pytest.approx(half, abs=0.01)
    assert MEADOW(MEADOW.fall) == pytest.approx(half, abs=0.01)


def test_green_straw_and_soil_never_exceed_the_field():
    for cover in CROPS:
        green, straw = crop(cover, 0.0, -DAYS)
        assert (green >= 0).all()
        assert (straw >= 0).all()
        assert (green + straw <= 1).all()


def test_straw_lies_after_the_harvest_and_rots():
    straw = crop(Cover.WINTER_CROP, 0.0, -DAYS)[1]
    assert straw[:170].max() < 0.05
    assert straw.max() > 0.5
    assert straw[330] < 0.1


def test_shift_delays_everything_by_its_days():
    assert crop(Cover.SUMMER_CROP, 170.0, 9.0)[0] == crop(Cover.SUMMER_CROP, 161.0)[0]
    np.testing.assert_allclose(leaves(BEECH, 120.0, 7.0), leaves(BEECH, 113.0))


def test_conifers_never_change():
    for index, species in enumerate(SPECIES):
        if species.evergreen:
            share, green = leaves(index, 0.0, -DAYS)
            assert (share == 1).all()
            assert (green == 1).all()


def test_broadleaves_are_bare_in_january_and_full_in_july():
    for index in (BEECH, OAK, BIRCH):
        assert leaves(index, 15)[0] < 0.01
        assert leaves(index, 200)[0] > 0.99
        assert leaves(index, 200)[1] > 0.99


def test_birch_comes_before_beech_and_oak_after():
    share = [float(leaves(index, 115)[0]) for index in (BIRCH, BEECH, OAK)]
    assert share[0] > share[1] > share[2]


def test_leaves_colour_before_they_fall():
    share, green = leaves(BEECH, 293)
    assert share > 0.6
    assert green < 0.25


def test_mown_meadow_loses_green_at_once_and_grows_back():
    before, after, later = (float(meadow(day, 0.0, 150.0)) for day in (149, 151, 230))
    assert after < 0.5 * before
    assert later > 0.95 * before


def test_meadow_without_mowing_day_is_not_mown():
    assert meadow(200, 0.0, np.nan) == meadow(200)
