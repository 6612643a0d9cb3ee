"""What every family of models promises."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load, save

from fusion3d.errors import ConfigError
from fusion3d.tasks.regressors import FAMILIES, family

PLOTS, DIMENSIONS = 60, 7
NAMES = tuple("abcdefg")


def rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positive features, a target that is a power law of two of them with 5 % of noise, and groups of five rows."""
    rng = np.random.default_rng(seed)
    features = rng.uniform(1, 30, (PLOTS, DIMENSIONS))
    target = 2 * features[:, 0] ** 1.5 * features[:, 3] ** 0.5 * np.exp(rng.normal(scale=0.05, size=PLOTS))
    return features, target, np.arange(PLOTS) // 5


@pytest.fixture(scope="module", autouse=True)
def _smaller():
    """Fewer trees and networks than usual, for speed: no promise depends on their number."""
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("forest.TREES", 60), ("boosting._MOST", 80), ("mlp._NETWORKS", 2)):
            patch.setattr(f"fusion3d.tasks.regressors.{name}", count)
        yield


@pytest.fixture(scope="module", params=list(FAMILIES))
def fitted(request):
    features, target, groups = rows()
    return request.param, FAMILIES[request.param].fit(features, target, groups=groups, seed=3)


def test_other_rows_are_predicted_better_than_by_the_mean(fitted):
    features, target, _ = rows(seed=1)
    error = fitted[1].regressor.predict_bands(features.T) - target
    assert np.square(error).mean() < 0.4 * target.var()


def test_residuals_are_those_of_models_that_had_not_seen_the_rows(fitted):
    """A held-out residual is larger than one in training, and not so large as that of the mean."""
    features, target, _ = rows()
    training = np.square(fitted[1].regressor.predict_bands(features.T) - target).mean()
    assert training < np.square(fitted[1].residuals).mean() < target.var()
    assert fitted[1].residuals.shape == (PLOTS,)


def test_numbers_come_back_from_a_file(fitted):
    name, found = fitted
    parts = FAMILIES[name].pack(found.regressor)
    arrays = load(save({key: np.ascontiguousarray(value) for key, value in parts.arrays.items()}))
    again = FAMILIES[name].unpack(parts.settings, arrays, DIMENSIONS)
    cells = np.random.default_rng(2).uniform(-5, 40, (DIMENSIONS, 33, 21)).astype(np.float32)
    np.testing.assert_array_equal(again.predict_bands(cells), found.regressor.predict_bands(cells))
    for wrong in ({}, {key: value * np.nan for key, value in arrays.items()}):
        with pytest.raises((KeyError, ValueError, ConfigError)):
            FAMILIES[name].unpack(parts.settings, wrong, DIMENSIONS)
    with pytest.raises((ValueError, ConfigError)):
        FAMILIES[name].unpack(parts.settings, arrays, 0)


def test_a_cell_does_not_depend_on_its_neighbours(fitted):
    """To the last bit, so that a map has no seams."""
    cells = np.random.default_rng(2).uniform(-5, 40, (DIMENSIONS, 5_003)).astype(np.float32)
    whole = fitted[1].regressor.predict_bands(cells)
    for part in (slice(0, 1), slice(17, 900), slice(899, 5_003)):
        np.testing.assert_array_equal(fitted[1].regressor.predict_bands(cells[:, part]), whole[part])
    shaped = fitted[1].regressor.predict_bands(cells[:, :12].reshape(DIMENSIONS, 3, 4))
    np.testing.assert_array_equal(shaped.reshape(-1), whole[:12])


def test_same_seed_gives_the_same_model(fitted):
    name, found = fitted
    features, target, groups = rows()
    again = FAMILIES[name].fit(features, target, groups=groups, seed=3)
    np.testing.assert_array_equal(again.regressor.predict_bands(features.T), found.regressor.predict_bands(features.T))
    np.testing.assert_array_equal(again.residuals, found.residuals)
    assert again.chosen == found.chosen


@pytest.mark.parametrize("name", list(FAMILIES))
def test_few_rows_of_many_features_one_of_them_constant_are_enough(name):
    features, target, _ = rows()
    features[:, 2], count = 4.0, 3
    found = FAMILIES[name].fit(features[:count], target[:count], groups=np.zeros(count, int), seed=0)
    assert np.isfinite(found.regressor.predict_bands(features.T)).all()
    assert np.isfinite(found.residuals).all()


def test_family_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"--model 'cubist': give one of ridge, banded, forest, boosting, mlp, power"):
        family("cubist")
