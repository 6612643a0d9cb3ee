"""Formulas against values worked out by hand from the papers."""

import numpy as np
import pytest

from fusion3d.errors import ConfigError
from fusion3d.simulate.allometry import (
    JENKINS,
    above_ground_biomass,
    biomass_by_group,
    crown_radius,
    expected_dbh,
    stems_per_hectare,
    top_height,
)


def test_biomass_is_that_of_chave_2014():
    # rho 0.6, D 30 cm, H 20 m: 0.6 * 900 * 20 = 10800; ln 10800 = 9.287301; * 0.976 = 9.064406; e^ = 8642.1; * 0.0673 = 581.6 kg
    assert above_ground_biomass(0.6, 30, 20) == pytest.approx(581.6, abs=0.1)
    # With rho D^2 H = 1 the constant is left.
    assert above_ground_biomass(0.01, 10, 1) == pytest.approx(0.0673)


def test_crown_radius_solves_jucker_2017_for_the_crown():
    # H 20 m, CD 6 m: 120^0.809 = e^(0.809 * 4.787492) = e^3.873081 = 48.09; * 0.557 = 26.786 cm
    assert crown_radius(26.786, 20) == pytest.approx(3.0, abs=0.001)


def test_stems_follow_reineke_1933():
    assert stems_per_hectare(25, 800) == pytest.approx(800)
    # Twice the diameter: 2^-1.605 = 0.3287 of the stems.
    assert stems_per_hectare(50, 800) == pytest.approx(0.3287 * 800, rel=1e-3)


def test_height_rises_from_0_to_its_limit():
    height = top_height(np.array([0, 20, 60, 120, 2000]), 34.0, 0.021)
    assert height[0] == 0
    assert (np.diff(height) > 0).all()
    assert height[-1] == pytest.approx(34.0)


def test_expected_dbh_is_that_of_european_stands():
    assert expected_dbh(25.0) == pytest.approx(30, abs=1.5)
    assert expected_dbh(17.0) == pytest.approx(18, abs=1.0)
    assert expected_dbh(0.5) > 0


def test_biomass_by_group_is_that_of_jenkins_2003():
    # spruce of 30 cm: ln 30 = 3.401197; * 2.3323 = 7.932613; - 2.0773 = 5.855313; e^ = 349.1 kg
    assert biomass_by_group(30, "spruce") == pytest.approx(349.1, abs=0.1)
    # Douglas-fir of 30 cm: 2.4435 * 3.401197 - 2.2304 = 6.080426; e^ = 437.2 kg
    assert biomass_by_group([30, 30], "Douglas-fir") == pytest.approx([437.2, 437.2], abs=0.1)


def test_biomass_grows_with_the_diameter_in_every_group():
    dbh = np.array([5.0, 20.0, 40.0])
    for group in JENKINS:
        found = biomass_by_group(dbh, group)
        assert (np.diff(found) > 0).all()
        # trees of 40 cm weigh some hundred kilograms to 1.5 Mg
        assert 500 < found[-1] < 1500


def test_a_group_without_an_equation_is_refused():
    with pytest.raises(ConfigError, match="no equation for 'oak'; there are cedar or larch, Douglas-fir"):
        biomass_by_group(30, "oak")
