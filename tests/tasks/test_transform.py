"""Transforms and the way back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusion3d.errors import ConfigError
from fusion3d.tasks.transform import back, forward


@pytest.mark.parametrize("name", ["none", "sqrt", "log1p"])
def test_back_undoes_forward_where_nothing_is_left_over(name):
    values = np.array([0.0, 0.3, 12.0, 900.0])
    np.testing.assert_allclose(back(name, forward(name, values), np.zeros(4)), values, atol=1e-12)


def test_forward_by_hand():
    assert forward("sqrt", np.array([9.0])).tolist() == [3.0]
    assert forward("log1p", np.array([math.e - 1])).tolist() == [1.0]


@pytest.mark.parametrize(("name", "inverse"), [("sqrt", lambda z: np.maximum(z, 0) ** 2), ("log1p", np.expm1)])
def test_back_is_the_mean_of_the_inverse_over_the_residuals(name, inverse):
    rng = np.random.default_rng(0)
    residuals = np.sort(rng.normal(scale=1.5, size=57))
    linear = rng.normal(scale=4.0, size=(6, 7))
    expected = inverse(linear[..., None] + residuals).mean(axis=-1)
    np.testing.assert_allclose(back(name, linear, residuals), expected, atol=1e-12)


def test_normal_residuals_give_the_closed_forms():
    """E[(z + e)^2] = z^2 + s^2 and E[exp(z + e)] = exp(z + s^2 / 2)."""
    residuals = np.sort(np.random.default_rng(1).normal(scale=0.5, size=400_000))
    np.testing.assert_allclose(back("sqrt", np.array([5.0, 10.0]), residuals), [25.25, 100.25], rtol=2e-3)
    np.testing.assert_allclose(back("log1p", np.array([1.0]), residuals), math.exp(1.125) - 1, rtol=5e-3)


def test_uncorrected_root_is_biased_and_the_corrected_one_is_not():
    rng = np.random.default_rng(2)
    linear = rng.uniform(3, 10, 50_000)
    error = rng.normal(scale=2, size=50_000)
    measured = (linear + error) ** 2
    residuals = np.sort(error - error.mean())
    assert (linear**2).mean() - measured.mean() < -3.5
    assert abs(back("sqrt", linear, residuals).mean() - measured.mean()) < 0.3


def test_far_below_zero_the_root_stays_at_zero_and_rises_from_there():
    found = back("sqrt", np.linspace(-10, 10, 201), np.array([-1.0, 0.0, 1.0]))
    assert found[0] == 0
    assert (np.diff(found) >= 0).all()


def test_logarithm_far_above_stays_finite():
    assert np.isfinite(np.float32(back("log1p", np.array([1e6]), np.zeros(1)))).all()


def test_nan_stays_nan():
    for name in ("none", "sqrt", "log1p"):
        assert np.isnan(back(name, np.array([np.nan]), np.array([-1.0, 1.0]))).all()


def test_refusals():
    with pytest.raises(ConfigError, match="one of none, sqrt, log1p"):
        forward("cube", np.ones(2))
    with pytest.raises(ConfigError, match="0 or more"):
        forward("sqrt", np.array([-1.0]))
