"""Labels with standard errors of their own."""

from __future__ import annotations

import numpy as np
import pytest

from fusion3d.tasks.label_noise import RESIDUAL_SD, fit_rows, noise_note, residual_variance, transformed_noise
from fusion3d.tasks.regressors import FAMILIES

WEIGHTED = ("ridge", "banded", "forest", "boosting")


def test_residual_variance_of_equal_errors_is_what_they_leave():
    residuals = np.array([3.0, -5.0, 4.0, -2.0])
    # mean square 13.5, less the square of 2
    assert residual_variance(residuals, np.full(4, 2.0)) == pytest.approx(9.5, rel=1e-9)
    assert residual_variance(residuals, np.full(4, 5.0)) == 0.0


def test_residual_variance_is_found_under_errors_of_many_sizes():
    rng = np.random.default_rng(0)
    noise = rng.uniform(1, 100, 20_000)
    residuals = rng.normal(scale=30, size=20_000) + rng.normal(scale=noise)
    assert np.sqrt(residual_variance(residuals, noise)) == pytest.approx(30, rel=0.05)


def test_transformed_noise_is_the_slope_times_the_error():
    values, noise, step = np.array([50.0, 400.0]), np.array([3.0, 10.0]), 1e-4
    for name, function in (("sqrt", np.sqrt), ("log1p", np.log1p), ("none", np.asarray)):
        slope = (function(values + step) - function(values - step)) / (2 * step)
        np.testing.assert_allclose(transformed_noise(name, values, noise), slope * noise, rtol=1e-6)
    assert np.isfinite(transformed_noise("sqrt", np.zeros(1), np.ones(1))).all()


def half_spoilt() -> tuple[np.ndarray, ...]:
    """Features, what is true, and labels of which every second one is off by 300 and says so."""
    rng = np.random.default_rng(4)
    features = rng.normal(size=(120, 3))
    truth = 100 + 40 * features[:, 0] - 25 * features[:, 1]
    noise = np.where(np.arange(120) % 2, 300.0, 1.0)
    return features, truth, truth + rng.normal(scale=noise), noise, np.arange(120) // 4


@pytest.mark.parametrize("name", WEIGHTED)
def test_labels_that_say_they_are_bad_hardly_move_the_model(name, monkeypatch):
    monkeypatch.setattr("fusion3d.tasks.regressors.forest.TREES", 60)
    monkeypatch.setattr("fusion3d.tasks.regressors.boosting._MOST", 40)
    features, truth, labels, noise, groups = half_spoilt()

    def error(with_noise: np.ndarray | None) -> float:
        found = fit_rows(FAMILIES[name], features, labels, with_noise, groups=groups, seed=0).regressor
        return float(np.sqrt(np.square(found.predict_bands(features.T) - truth).mean()))

    told, untold = error(noise), error(None)
    assert told < 0.8 * untold
    if name == "ridge":
        assert told < 3


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in WEIGHTED])
def test_a_family_without_weights_says_so(name):
    assert not FAMILIES[name].weighted
    (note,) = noise_note(FAMILIES[name], np.array([3.0, 4.5]), "none", {}, "Mg/ha")
    assert note == (
        f"standard errors of the labels (3 to 4.5 Mg/ha) are not used: --model {name} takes no weights, all plots count alike"
    )


def test_the_note_states_the_weights():
    (note,) = noise_note(FAMILIES["ridge"], np.array([3.0, 4.5]), "none", {RESIDUAL_SD: 73.1}, "Mg/ha")
    assert note.startswith("plots weigh 1/(se^2 + 73.1^2): standard errors of the labels (3 to 4.5 Mg/ha)")
    assert noise_note(FAMILIES["ridge"], None, "none", {}, "") == []
