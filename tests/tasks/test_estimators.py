"""Estimators of an area's mean against repeated sampling of a known population."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fusion3d.errors import ConfigError
from fusion3d.tasks.estimators import ErrorLine, MeanEstimate, Spread, greg, model_dependent, stratified_greg

DRAWS = 1500
BINOMIAL = 3.3 * math.sqrt(0.9 * 0.1 / DRAWS)
"""Of the share of 90 % intervals that cover: once in a thousand it is further off."""


@pytest.fixture(scope="module")
def population() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, a map with a strong bias, and a stratum, of 40 000 cells; smooth in space, skewed."""
    rng = np.random.default_rng(0)
    smooth = [gaussian_filter(rng.normal(size=(200, 200)), 6, mode="wrap") for _ in range(3)]
    base, other, third = (field / field.std() for field in smooth)
    truth = np.exp(4.5 + 0.5 * base + 0.25 * other)
    surface = 40 + 0.6 * np.exp(4.5 + 0.5 * base) + 8 * third
    return truth.ravel(), surface.ravel(), (base.ravel() > 0.6).astype(np.int64)


def covered(found: list[MeanEstimate], truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in (item.interval(0.9) for item in found)]))


def bias_in_errors(found: list[MeanEstimate], truth: float) -> float:
    """Mean error over its own standard error."""
    means = np.array([item.mean for item in found])
    return float((means.mean() - truth) / (means.std() / math.sqrt(len(means))))


def test_greg_is_unbiased_and_covers_though_the_map_is_wrong(population):
    truth, surface, _ = population
    assert abs(surface.mean() - truth.mean()) > 3
    rng = np.random.default_rng(1)
    found = []
    for _ in range(DRAWS):
        plots = rng.choice(len(truth), 50, replace=False)
        error = truth[plots] - surface[plots]
        found.append(greg(surface.mean(), error, error))
    assert abs(bias_in_errors(found, truth.mean())) < 3.5
    assert abs(covered(found, truth.mean()) - 0.9) < BINOMIAL + 0.01
    spread = np.std([item.mean for item in found])
    assert np.mean([item.standard_error for item in found]) == pytest.approx(spread, rel=0.06)
    # and less uncertain than the mean of the plots alone
    assert spread < 0.75 * truth.std() / math.sqrt(50)


def test_held_out_residuals_cover_where_a_flexible_model_has_learnt_its_plots_by_heart(population):
    """A regression on 15 bands of noise and one of signal, from 40 plots: its own residuals are far too small."""
    truth, surface, _ = population
    rng = np.random.default_rng(2)
    bands = np.column_stack([np.ones(len(truth)), surface, rng.normal(size=(len(truth), 15))])
    mean_bands, fold = bands.mean(axis=0), np.arange(40) % 8
    honest, hopeful = [], []
    for _ in range(400):
        plots = rng.choice(len(truth), 40, replace=False)
        x, y = bands[plots], truth[plots]
        fitted = np.linalg.lstsq(x, y, rcond=None)[0]
        predicted = np.empty(40)
        for number in range(8):
            rest = fold != number
            predicted[~rest] = x[~rest] @ np.linalg.lstsq(x[rest], y[rest], rcond=None)[0]
        map_mean, own = float(mean_bands @ fitted), y - x @ fitted
        honest.append(greg(map_mean, own, y - predicted))
        hopeful.append(greg(map_mean, own, own))
    assert abs(np.mean([item.mean for item in honest]) / truth.mean() - 1) < 0.01
    assert covered(honest, truth.mean()) > 0.9 - 0.05
    assert covered(hopeful, truth.mean()) < 0.8


def test_strata_sampled_unequally_are_weighted_by_their_area(population):
    """30 plots in the quarter of high values, 20 elsewhere: taken as one random sample they would mislead."""
    truth, surface, stratum = population
    shares = np.bincount(stratum) / len(stratum)
    rng, found, blind = np.random.default_rng(3), [], []
    places = [np.flatnonzero(stratum == number) for number in (0, 1)]
    for _ in range(DRAWS):
        plots = np.concatenate([rng.choice(places[0], 20, replace=False), rng.choice(places[1], 30, replace=False)])
        error = truth[plots] - surface[plots]
        found.append(stratified_greg(surface.mean(), error, error, stratum[plots], shares))
        blind.append(greg(surface.mean(), error, error))
    assert abs(bias_in_errors(found, truth.mean())) < 3.5
    assert abs(covered(found, truth.mean()) - 0.9) < BINOMIAL + 0.01
    assert abs(bias_in_errors(blind, truth.mean())) > 20
    assert covered(blind, truth.mean()) < 0.8


def test_post_strata_of_a_random_sample_are_unbiased_and_narrower(population):
    truth, surface, _ = population
    # strata of the map's error itself: what a good post-stratification is near to
    stratum = (truth - surface > 0).astype(np.int64)
    shares = np.bincount(stratum) / len(stratum)
    rng, one, by_stratum = np.random.default_rng(4), [], []
    for _ in range(DRAWS):
        plots = rng.choice(len(truth), 60, replace=False)
        error = truth[plots] - surface[plots]
        one.append(greg(surface.mean(), error, error))
        by_stratum.append(stratified_greg(surface.mean(), error, error, stratum[plots], shares))
    assert abs(bias_in_errors(by_stratum, truth.mean())) < 3.5
    assert covered(by_stratum, truth.mean()) > 0.9 - BINOMIAL - 0.02
    assert np.mean([item.variance for item in by_stratum]) < 0.8 * np.mean([item.variance for item in one])


def test_two_strata_by_hand():
    """Shares 0.75 and 0.25; means of differences 2 and -4; variances of residuals 4 / 2 plots and 18 / 2 plots."""
    found = stratified_greg(
        100.0, np.array([1.0, 3, -4, -4]), np.array([-2 ** 0.5, 2 ** 0.5, 3, -3]), np.array([0, 0, 1, 1]), np.array([0.75, 0.25])
    )  # fmt: skip
    assert found.mean == pytest.approx(100 + 0.75 * 2 - 0.25 * 4)
    parts = 0.75**2 * 4 / 2, 0.25**2 * 18 / 2
    assert found.variance == pytest.approx(sum(parts))
    assert found.degrees == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 + parts[1] ** 2))


def test_interval_is_students():
    """From printed tables: t of 9 degrees is 1.833 at 90 %, 2.262 at 95 %."""
    estimate = MeanEstimate(10.0, 4.0, 9)
    assert estimate.interval(0.9) == pytest.approx((10 - 3.666, 10 + 3.666), abs=1e-3)
    assert estimate.interval(0.95) == pytest.approx((10 - 4.524, 10 + 4.524), abs=1e-3)
    assert model_dependent(10.0, 9.0, 16.0, 20).standard_error == 5.0


def test_line_of_errors_is_found_and_taken_off():
    predicted = np.linspace(10, 300, 60)
    line = ErrorLine.of(predicted, 12 + 0.8 * predicted, np.arange(60) // 4)
    for value in (0.0, 100.0, 400.0):
        assert value + line.correction(value) == pytest.approx(12 + 0.8 * value)
    assert line.variance(100.0) == pytest.approx(0, abs=1e-12)


def test_variance_of_the_line_is_that_over_new_blocks_of_plots():
    """Plots of a block share an error: 25 blocks of 6 are far from 150 plots. At the centre and 1.5 deviations from it."""
    rng = np.random.default_rng(5)
    block = np.arange(150) // 6
    predicted = 150 + 60 * (0.7 * rng.normal(size=25)[block] + 0.7 * rng.normal(size=150))
    found, variance = [], []
    for _ in range(120):
        measured = predicted + 30 * rng.normal(size=25)[block] + 15 * rng.normal(size=150)
        line = ErrorLine.of(predicted, measured, block, seed=1)
        found.append([line.correction(150.0), line.correction(240.0)])
        variance.append([line.variance(150.0), line.variance(240.0)])
    ratio = np.mean(variance, axis=0) / np.var(found, axis=0)
    assert (ratio > 0.6).all()
    assert (ratio < 1.7).all()
    # independent plots would have a tenth of the variance at the centre... of 30^2 + 15^2 over 150
    assert np.var(found, axis=0)[0] > 3 * (30**2 + 15**2) / 150


def test_spread_grows_with_the_prediction_as_planted():
    rng = np.random.default_rng(6)
    predicted = rng.uniform(0, 400, 20_000)
    found = Spread.of(predicted, (6 + 0.15 * predicted) * rng.normal(size=20_000))
    assert (found.base, found.slope) == pytest.approx((6, 0.15), rel=0.1)
    assert found(np.array([-50.0]))[0] == pytest.approx(found.base)
    # where it falls instead, it is taken to be level
    level = Spread.of(predicted, (80 - 0.15 * predicted) * rng.normal(size=20_000))
    assert level.slope == pytest.approx(0, abs=0.01)


def test_residuals_of_nothing_have_no_spread():
    found = Spread.of(np.arange(10.0), np.zeros(10))
    assert (found.base, found.slope) == (0.0, 0.0)


def test_too_few_plots_are_refused():
    with pytest.raises(ConfigError, match="1 plots"):
        greg(1.0, np.ones(1), np.ones(1))
    with pytest.raises(ConfigError, match="stratum 1 has 1"):
        stratified_greg(1.0, np.ones(3), np.ones(3), np.array([0, 0, 1]), np.array([0.5, 0.5]))
    with pytest.raises(ConfigError, match="their sum"):
        stratified_greg(1.0, np.ones(4), np.ones(4), np.array([0, 0, 1, 1]), np.array([0.5, 0.4]))
    with pytest.raises(ConfigError, match="one block"):
        ErrorLine.of(np.arange(5.0), np.arange(5.0), np.zeros(5, np.int64))
