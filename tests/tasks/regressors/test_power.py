"""Power laws."""

from __future__ import annotations

import numpy as np
import pytest

from fusion3d.errors import ConfigError
from fusion3d.tasks.regressors import FAMILIES
from fusion3d.tasks.regressors.power import PowerLaw

POWER = FAMILIES["power"]


def fit(features: np.ndarray, target: np.ndarray):
    return POWER.fit(features, target, groups=np.arange(len(target)), seed=0)


def test_known_powers_are_found_among_other_metrics():
    rng = np.random.default_rng(0)
    features = rng.uniform(2, 30, (150, 12))
    target = 0.8 * features[:, 4] ** 1.7 * features[:, 9] ** -0.6
    law = fit(features, target).regressor
    found = dict(zip(law.predictors.tolist(), law.exponents))
    assert found[4] == pytest.approx(1.7)
    assert found[9] == pytest.approx(-0.6)
    assert law.factor == pytest.approx(0.8)
    assert "c4^1.7" in POWER.remarks(law, tuple(f"c{at}" for at in range(12)))[0]


def test_mean_of_predictions_is_that_of_the_measured_values():
    """Noise of 0.6 on logarithms lifts the mean by a factor of exp(0.18) = 1.2 over the median."""
    rng = np.random.default_rng(1)
    features = rng.uniform(2, 30, (400, 3))
    target = 3 * features[:, 0] ** 1.2 * np.exp(rng.normal(scale=0.6, size=400))
    found = fit(features, target)
    assert found.regressor.predict_bands(features.T).mean() == pytest.approx(target.mean())
    assert found.regressor.factor == pytest.approx(3 * np.exp(0.18), rel=0.3)


def test_copies_of_a_metric_do_not_enter_and_noise_seldom_does():
    rng = np.random.default_rng(2)
    height = rng.uniform(2, 30, 100)
    features = np.column_stack([height, height * 1.001, height**1.01 * rng.uniform(0.99, 1.01, 100), rng.uniform(1, 9, 100)])
    law = fit(features, height**1.5 * np.exp(rng.normal(scale=0.1, size=100))).regressor
    assert len(set(law.predictors.tolist()) & {0, 1, 2}) == 1


def test_plots_without_trees_count_as_a_hundredth_of_the_mean():
    rng = np.random.default_rng(3)
    height = rng.uniform(5, 30, 80)
    height[:6] = 0.0
    target = height**1.5
    law = fit(np.column_stack([height, rng.uniform(1, 2, 80)]), target).regressor
    bare, tall = law.predict_bands(np.array([[0.0, 20.0], [1.5, 1.5]]))
    assert 0 < bare < 0.1 * tall
    # below the floor there is nothing left to tell apart
    assert law.predict_bands(np.array([[-3.0], [1.5]]))[0] == bare


def test_negative_metrics_are_no_candidates_and_embeddings_are_refused():
    rng = np.random.default_rng(4)
    features = rng.uniform(1, 9, (50, 4))
    target = features[:, 0] ** 2
    skewed = np.column_stack([features, np.log(target) - 1])
    assert 4 not in fit(skewed, target).regressor.predictors
    with pytest.raises(ConfigError, match="3 of 4 bands have values below 0"):
        fit(np.column_stack([features[:, 0], rng.normal(size=(50, 3))]), target)
    with pytest.raises(ConfigError, match="measured values of 0 or more"):
        fit(features, np.zeros(50))


def test_prediction_far_outside_stays_a_number():
    law = PowerLaw(np.array([0]), np.array([0.01]), np.array([4.0]), 1.0, 1)
    assert np.isfinite(law.predict_bands(np.array([[1e30, 0.0]]))).all()


def test_a_metric_that_is_nearly_the_same_everywhere_is_no_candidate():
    rng = np.random.default_rng(5)
    height, cover = rng.uniform(5, 30, 80), 99.9 + 0.1 * rng.random(80)
    # cover explains most, with a power of 3,000: 100 ** -3000 is no number
    target = height**0.3 * np.exp(3000 * np.log(cover / 100))
    found = fit(np.column_stack([cover, height]), target).regressor
    assert found.predictors.tolist() in ([], [1])
    assert np.isfinite(found.predict_bands(np.array([[99.0, 100.0], [10.0, 20.0]]))).all()


def test_powers_whose_factor_is_no_number_are_refused_in_one_line():
    rng = np.random.default_rng(6)
    cover = 96.5 + 3.5 * rng.random(80)
    with pytest.raises(ConfigError, match="finds no usable law for these plots"):
        fit(cover[:, None], np.exp(200 * np.log(cover / 100)))
