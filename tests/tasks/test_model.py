"""Models of a target."""

from __future__ import annotations

import numpy as np
import pytest

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.ridge import Ridge
from fusion3d.tasks.model import TargetModel, same_origin
from fusion3d.tasks.regressors import Fitted


def model(**changes: object) -> TargetModel:
    """z = 5 + 2 (a - 1) / 4 - 3 (b - 10) / 6."""
    ridge = Ridge(np.array([1.0, 10.0]), np.array([4.0, 6.0]), np.array([2.0, -3.0]), 5.0, 0.7)
    about = {"target": "agb", "unit": "Mg/ha", "features": ("a", "b"), "transform": "none", "nonnegative": True}
    about |= {"trained_on": {"checkpoint": "x.ckpt", "sensors": "als"}, **changes}
    return TargetModel.of(Fitted(ridge, np.array([1.0, -2.0, 1.0])), **about)


def test_values_by_hand_and_clipped_at_zero():
    features = np.array([[1.0, 10.0], [5.0, 16.0], [1.0, 30.0]])
    assert model().predict(features).tolist() == [5.0, 4.0, 0.0]
    assert model(nonnegative=False).predict(features).tolist() == [5.0, 4.0, -5.0]


def test_root_is_corrected_by_the_mean_square_of_the_residuals():
    """Residuals 1, -2, 1: mean square 2, all roots positive."""
    assert model(transform="sqrt").predict(np.array([[1.0, 10.0]]))[0] == pytest.approx(27.0)


def test_residuals_are_centred_and_sorted():
    ridge = model().regressor
    found = TargetModel.of(
        Fitted(ridge, np.array([5.0, 1.0, 3.0])), target="t", unit="", features=("a", "b"), transform="none", nonnegative=False
    )
    assert found.residuals.tolist() == [-2.0, 0.0, 2.0]


@pytest.mark.parametrize(
    ("target", "unit", "name"),
    [
        ("agb", "Mg/ha", "agb_Mg_ha"),
        ("height", "m", "height_m"),
        ("cover", "%", "cover_percent"),
        ("agb", "", "agb"),
        ("a b", "m3 ha-1", "a_b_m3_ha_1"),
    ],
)
def test_band_is_named_by_target_and_unit(target, unit, name):
    assert model(target=target, unit=unit).band_name == name


def test_other_bands_are_refused():
    model().check_bands(("a", "b"), "map.tif")
    with pytest.raises(InputError, match="has 3 bands, the model was fitted on 2"):
        model().check_bands(("a", "b", "c"), "map.tif")
    with pytest.raises(InputError, match="band 2 is 'c', the model was fitted on 'b'"):
        model().check_bands(("a", "c"), "map.tif")


def test_another_checkpoint_is_told():
    assert same_origin(model(), {"checkpoint": "x.ckpt", "sensors": "als", "AREA_OR_POINT": "Area"}) is None
    assert same_origin(model(), {}) is None
    assert same_origin(model(), {"checkpoint": "y.ckpt"}) == "the map was embedded with checkpoint y.ckpt instead of x.ckpt"


def test_lengths_that_do_not_match_are_refused():
    with pytest.raises(ConfigError, match="the model has 1 features, not 2"):
        model(features=("a",)).predict(np.ones((3, 2)))
    with pytest.raises(ConfigError, match="--model 'svm'"):
        model(kind="svm")
