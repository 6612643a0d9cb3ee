"""Models as files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fusion3d import __version__
from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.ridge import Ridge, RidgeFit
from fusion3d.tasks.model import TargetModel, same_origin


def model(**changes: object) -> TargetModel:
    """z = 5 + 2 (a - 1) / 4 - 3 (b - 10) / 6."""
    ridge = Ridge(np.array([1.0, 10.0]), np.array([4.0, 6.0]), np.array([2.0, -3.0]), 5.0, 0.7)
    about = {"target": "agb", "unit": "Mg/ha", "features": ("a", "b"), "transform": "none", "nonnegative": True}
    about |= {"trained_on": {"checkpoint": "x.ckpt", "sensors": "als"}, **changes}
    return TargetModel.of(RidgeFit(ridge, np.array([1.0, -2.0, 1.0])), **about)


def test_values_by_hand_and_clipped_at_zero():
    features = np.array([[1.0, 10.0], [5.0, 16.0], [1.0, 30.0]])
    assert model().predict(features).tolist() == [5.0, 4.0, 0.0]
    assert model(nonnegative=False).predict(features).tolist() == [5.0, 4.0, -5.0]


def test_root_is_corrected_by_the_mean_square_of_the_residuals():
    """Residuals 1, -2, 1: mean square 2, all roots positive."""
    assert model(transform="sqrt").predict(np.array([[1.0, 10.0]]))[0] == pytest.approx(27.0)


def test_residuals_are_centred_and_sorted():
    ridge = model().ridge
    found = TargetModel.of(
        RidgeFit(ridge, np.array([5.0, 1.0, 3.0])), target="t", unit="", features=("a", "b"), transform="none", nonnegative=False
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


def test_file_brings_back_every_number(tmp_path):
    original = model(transform="log1p")
    path = original.write(tmp_path / "model.json")
    for given in (path, tmp_path):
        again = TargetModel.read(given)
        np.testing.assert_array_equal(again.ridge.coefficients, original.ridge.coefficients)
        np.testing.assert_array_equal(again.residuals, original.residuals)
        assert (again.target, again.unit, again.features, again.transform) == ("agb", "Mg/ha", ("a", "b"), "log1p")
        assert (again.nonnegative, again.trained_on, again.version) == (True, original.trained_on, __version__)
        features = np.random.default_rng(0).normal(size=(20, 2))
        np.testing.assert_array_equal(again.predict(features), original.predict(features))
    assert [item.name for item in tmp_path.iterdir()] == ["model.json"]


def damaged(tmp_path, change):
    path = model().write(tmp_path / "model.json")
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain: plain.update(format="other"), "is not a model"),
        (lambda plain: plain.update(format_version=99), "another version"),
        (lambda plain: plain.pop("transform"), "damaged"),
        (lambda plain: plain.update(transform="cube"), "damaged"),
        (lambda plain: plain.update(surprise=1), "damaged"),
        (lambda plain: plain.update(features=["a"]), "damaged"),
        (lambda plain: plain.update(residuals=[]), "damaged"),
        (lambda plain: plain["ridge"].update(scale=[0.0, 1.0]), "damaged"),
        (lambda plain: plain["ridge"].update(coefficients=[float("nan"), 1.0]), "damaged"),
        (lambda plain: plain["ridge"].update(mean=[[1.0, 2.0]]), "damaged"),
    ],
)
def test_damaged_file_is_refused_in_one_line(tmp_path, change, message):
    path = damaged(tmp_path, change)
    with pytest.raises(InputError, match=message) as caught:
        TargetModel.read(path)
    assert "\n" not in str(caught.value)


def test_missing_and_unreadable_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no model there"):
        TargetModel.read(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        TargetModel.read(tmp_path)
    (tmp_path / "model.json").write_text("[1]")
    with pytest.raises(InputError, match="not a model"):
        TargetModel.read(tmp_path)


def test_write_into_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        model().write(tmp_path / "none" / "model.json")


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
    with pytest.raises(ConfigError, match="1 features with 2 coefficients"):
        model(features=("a",))
