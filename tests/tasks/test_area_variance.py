"""Variance of sums over correlated cells, against all pairs, closed forms and simulated fields."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from fusion3d.tasks.area_variance import independent_cells, variance_of_sum
from fusion3d.tasks.variogram import Variogram
from tests.tasks.fields import exponential, lattice, realisations


def ragged(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """Weights with holes."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.2, 3, (rows, cols)) * (rng.uniform(size=(rows, cols)) > 0.3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 17), (23, 1), (19, 31), (40, 12)])
def test_all_pairs_give_the_same(shape):
    weights, places = ragged(*shape), lattice(*shape, cell=10.0)
    for model in (Variogram("spherical", 2.0, 5.0, 60.0), Variogram("exponential", 0.5, 4.0, 300.0, 25.0)):
        pairs = weights.ravel() @ model.covariance(cdist(places, places)) @ weights.ravel()
        assert variance_of_sum(weights, 10.0, model.covariance) == pytest.approx(pairs, rel=1e-9, abs=1e-9)


def test_coarse_cells_that_know_their_parts_give_the_same():
    """Far lags at the distance of centres, near ones over the parts: within a per cent of the fine cells."""
    fine = np.ones((240, 320))
    fine[:80, 160:] = 0
    for reach in (25.0, 150.0, 1000.0):
        model = Variogram("spherical", 1.0, 2.0, reach)
        expected = variance_of_sum(fine, 10.0, model.covariance)
        for split in (4, 16):
            coarse = fine.reshape(240 // split, split, 320 // split, split).sum(axis=(1, 3))
            assert variance_of_sum(coarse, 10.0 * split, model.covariance, split=split) == pytest.approx(expected, rel=0.01)


def test_mean_of_a_simulated_field_varies_as_much_over_realisations():
    """6000 realisations: the empirical variance has a relative standard deviation of 1.8 %."""
    places, mask = lattice(24, 26, 10.0), ragged(24, 26, seed=3) > 0
    fields = realisations(places, 6000, sill=4.0, nugget=1.0, reach=120.0)
    empirical = fields[:, mask.ravel()].mean(axis=1).var()
    model = Variogram("exponential", 1.0, 4.0, 120.0)
    found = variance_of_sum(mask.astype(float), 10.0, model.covariance) / mask.sum() ** 2
    assert found == pytest.approx(empirical, rel=0.06)
    # far from the 5 / n of independent cells
    assert found > 8 * 5.0 / mask.sum()


def test_ends_without_and_with_full_correlation():
    weights = np.ones((30, 20))
    white, common = Variogram("spherical", 3.0, 0.0, 1.0), Variogram("exponential", 0.0, 3.0, 1e9)
    assert variance_of_sum(weights, 10.0, white.covariance) == pytest.approx(3.0 * 600)
    assert variance_of_sum(weights, 10.0, common.covariance) == pytest.approx(3.0 * 600**2, rel=1e-5)
    assert independent_cells(weights, 10.0, white.covariance) == pytest.approx(600)
    assert independent_cells(weights, 10.0, common.covariance) == pytest.approx(1, rel=1e-5)


def test_large_area_is_worth_its_size_over_the_integral_range():
    """The integral of a spherical correlation over the plane is pi r^2 / 5; of an exponential one 2 pi (r / 3)^2."""
    side = 400 * 10.0
    for kind, integral in (("spherical", np.pi * 60**2 / 5), ("exponential", 2 * np.pi * 20**2)):
        model = Variogram(kind, 0.0, 1.0, 60.0)
        assert independent_cells(np.ones((400, 400)), 10.0, model.covariance) == pytest.approx(side**2 / integral, rel=0.05)


def test_covariance_of_the_tests_is_the_one_of_the_model():
    distance = np.linspace(0, 500, 7)
    np.testing.assert_allclose(
        Variogram("exponential", 0.0, 2.0, 150.0).covariance(distance), exponential(distance, 2.0, 150.0), rtol=1e-12
    )
