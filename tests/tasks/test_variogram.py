"""Variograms against worked examples and fields of known covariance."""

from __future__ import annotations

import numpy as np
import pytest

from fusion3d.errors import ConfigError
from fusion3d.tasks.variogram import EmpiricalVariogram, Variogram, empirical_variogram, fit_variogram
from tests.tasks.fields import realisations


def test_robust_estimate_of_three_points_by_hand():
    """Differences 1, 4 and 3: ((1 + 2 + 1.7321) / 3)^4 / (0.457 + 0.494 / 3) = 6.1909 / 0.62167, half of it."""
    found = empirical_variogram(np.array([[0.0, 0], [10, 0], [0, 10]]), np.array([0.0, 1, 4]), cutoff=100)
    assert found.pairs.tolist() == [3]
    assert found.gamma[0] == pytest.approx(4.979, abs=0.002)
    assert found.distance[0] == pytest.approx((10 + 10 + 14.1421) / 3, abs=1e-4)


def test_pairs_are_counted_once_up_to_half_of_the_extent():
    places = np.random.default_rng(0).uniform(0, 1000, (200, 2))
    found = empirical_variogram(places, np.zeros(200))
    distance = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))[np.triu_indices(200, 1)]
    assert found.pairs.sum() == (distance <= distance.max() / 2).sum()
    assert (found.pairs >= 30).all()
    assert (np.diff(found.distance) > 0).all()
    assert not found.gamma.any()


def test_range_and_sill_of_a_known_field_are_recovered():
    """Single fields vary; over 20 of them, on average, the model is the one that they were drawn from."""
    places = np.random.default_rng(1).uniform(0, 3000, (500, 2))
    fields = realisations(places, 20, sill=3.0, nugget=1.0, reach=300.0)
    found = [fit_variogram(empirical_variogram(places, values, cutoff=1000), "exponential") for values in fields]
    assert np.median([model.range for model in found]) == pytest.approx(300, rel=0.2)
    assert np.mean([model.sill for model in found]) == pytest.approx(4.0, rel=0.1)
    assert np.median([model.nugget for model in found]) == pytest.approx(1.0, abs=0.5)


@pytest.mark.parametrize("kind", ["exponential", "spherical"])
def test_kind_and_parameters_of_exact_semivariances_are_found(kind):
    lags = np.linspace(20, 600, 15)
    share = np.minimum(lags / 250, 1)
    rise = 1 - np.exp(-3 * lags / 250) if kind == "exponential" else 1.5 * share - 0.5 * share**3
    found = fit_variogram(EmpiricalVariogram(lags, 2 + 5 * rise, np.full(15, 500)))
    assert found.kind == kind
    assert (found.nugget, found.partial_sill, found.range) == pytest.approx((2, 5, 250), rel=0.05)


def test_one_wild_value_hardly_moves_the_estimate():
    """The classical estimate, about the variance of the values, becomes ten times as large."""
    rng = np.random.default_rng(2)
    places, values = rng.uniform(0, 100, (100, 2)), rng.normal(size=100)
    before = empirical_variogram(places, values).gamma.mean()
    values[0] = 35.0
    assert empirical_variogram(places, values).gamma.mean() < 2 * before
    assert values.var() > 10 * before


def test_values_without_any_likeness_are_all_nugget():
    rng = np.random.default_rng(3)
    places = rng.uniform(0, 1000, (800, 2))
    found = fit_variogram(empirical_variogram(places, 3 * rng.normal(size=800)))
    # correlated up to a fifth of the extent: none of it
    assert found.gamma(np.array([200.0]))[0] == pytest.approx(9, rel=0.1)
    assert found.gamma(np.array([25.0]))[0] == pytest.approx(9, rel=0.25)


def test_nugget_counts_as_correlated_within_its_range_only():
    model = Variogram("spherical", 2.0, 3.0, 100.0, 20.0)
    assert model.covariance(np.array([0.0, 20.0, 100.0])).tolist() == pytest.approx([5.0, 3 * (1 - 0.3 + 0.004), 0.0])
    white = Variogram("spherical", 2.0, 3.0, 100.0)
    assert white.covariance(np.array([0.0, 1e-6])).tolist() == pytest.approx([5.0, 3.0], abs=1e-6)
    assert white.scaled(10.0).nugget == pytest.approx(4.0)


def test_many_points_are_thinned_by_lot(monkeypatch):
    monkeypatch.setattr("fusion3d.tasks.variogram._MOST_POINTS", 500)
    rng = np.random.default_rng(4)
    places = rng.uniform(0, 1000, (20_000, 2))
    found = empirical_variogram(places, rng.normal(size=20_000))
    assert found.pairs.sum() < 500 * 499 / 2
    np.testing.assert_allclose(found.gamma, 1.0, rtol=0.25)


def test_what_cannot_be_is_one_line():
    with pytest.raises(ConfigError, match="2 points"):
        empirical_variogram(np.zeros((2, 2)), np.zeros(2))
    with pytest.raises(ConfigError, match="one spot"):
        empirical_variogram(np.zeros((5, 2)), np.arange(5.0))
    with pytest.raises(ConfigError, match="exponential, spherical"):
        Variogram("gaussian", 0, 1, 1)
    with pytest.raises(ConfigError, match="negative"):
        Variogram("spherical", -1, 1, 1)
