"""Intervals of predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely

from fusion3d.errors import ConfigError
from fusion3d.evaluation.blocks import random_folds
from fusion3d.tasks.conformal import Conformal, nested_bounds, plots_needed, rank


@pytest.mark.parametrize(
    ("level", "needed"), [(0.9, 9), (0.8, 4), (0.95, 19), (0.99, 99), (0.5, 1), (2 / 3, 2), (0.68, 3)]
)  # fmt: skip
def test_fewest_plots_for_a_level(level, needed):
    """The rank ceil((n + 1) level) is at most n from there on."""
    assert plots_needed(level) == needed
    assert rank(needed, level) <= needed
    assert rank(needed - 1, level) > needed - 1


def test_interval_by_hand():
    """Nine equal predictions with errors 1 to 9: the interval of 90 % reaches 9 on either side, that of 50 % reaches 5."""
    found = Conformal.of(100 + np.arange(1.0, 10.0), np.full(9, 100.0))
    for level, reach in ((0.9, 9), (0.5, 5)):
        lower, upper = found.bounds(np.array([100.0, 3.0]), level, nonnegative=True)
        assert upper == pytest.approx([100 + reach, 3 + reach])
        assert lower == pytest.approx([100 - reach, 0])
    assert found.bounds(np.array([3.0]), 0.9, nonnegative=False)[0][0] == pytest.approx(-6)


def test_eight_plots_are_too_few_for_ninety_percent():
    found = Conformal.of(np.arange(8.0), np.zeros(8))
    assert math.isinf(found.quantile(0.9))
    assert np.isnan(found.bounds(np.ones(3), 0.9, nonnegative=True)).all()
    assert math.isfinite(found.quantile(0.8))


def test_standard_error_follows_the_errors_along_the_predictions():
    """Errors of 2 for the lower half of 80 predictions, of 30 for the upper."""
    predicted = np.arange(80.0)
    error = np.where(predicted < 40, 2.0, 30.0) * np.where(np.arange(80) % 2, 1, -1)
    found = Conformal.of(predicted + error, predicted)
    assert found.standard_error(np.array([-50.0, 10.0, 70.0, 500.0])) == pytest.approx([2.12, 2.12, 30, 30], abs=0.15)
    assert 2 < found.standard_error(np.array([40.0]))[0] < 30


def test_order_of_the_plots_does_not_matter_and_equal_predictions_have_one_error():
    rng = np.random.default_rng(0)
    predicted = np.round(rng.uniform(0, 5, 60))
    measured = predicted + rng.normal(size=60) * (1 + predicted)
    one = Conformal.of(measured, predicted)
    assert (np.diff(one.at) > 0).all()
    assert len(one.at) == 6


def test_perfect_predictions_have_intervals_of_next_to_no_width():
    found = Conformal.of(np.arange(20.0), np.arange(20.0))
    lower, upper = found.bounds(np.array([4.0]), 0.9, nonnegative=True)
    assert lower[0] == upper[0] == 4.0


def simulated(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Errors grow to the middle of the predictions and shrink again, as where a scene has meadows, young and old stands."""
    predicted = rng.uniform(0, 300, count)
    return predicted + rng.normal(size=count) * (3 + 60 * np.sin(np.pi * predicted / 300)), predicted


@pytest.mark.parametrize("count", [30, 200])
def test_new_plots_are_covered_at_the_level(count):
    rng = np.random.default_rng(1)
    shares, quarters = [], np.zeros((0, 4))
    for _ in range(150):
        found = Conformal.of(*simulated(count, rng))
        measured, predicted = simulated(200, rng)
        lower, upper = found.bounds(predicted, 0.9, nonnegative=False)
        inside = (measured >= lower) & (measured <= upper)
        shares.append(inside.mean())
        quarter = np.minimum(predicted // 75, 3)
        quarters = np.vstack([quarters, [inside[quarter == number].mean() for number in range(4)]])
    # the spread is fitted to the residuals that it scales, which costs a little with 30 plots
    assert 0.87 < np.mean(shares) < 0.93
    if count == 200:
        assert quarters.mean(axis=0).min() > 0.85


def test_coverage_of_held_out_plots_is_measured_with_other_folds():
    """With as many folds as plots but one huge error, only the intervals of the others hear of it."""
    rng = np.random.default_rng(2)
    count = 40
    split = random_folds(shapely.points(rng.uniform(0, 1e3, (count, 2))), 1.0, folds=4, seed=0)
    predicted = np.full(count, 50.0)
    measured = predicted + rng.normal(size=count)
    at = 5
    usual = nested_bounds(measured, predicted, split, 0.95, False)
    measured[split.fold == split.fold[at]] += 1e3
    wide = nested_bounds(measured, predicted, split, 0.95, False)
    own = split.fold == split.fold[at]
    np.testing.assert_array_equal(wide[0][own], usual[0][own])
    assert (wide[1][~own] - usual[1][~own] > 500).all()


@pytest.mark.parametrize(
    "parts",
    [
        ([1.0], [1.0, 2.0], [1.0]), ([2.0, 1.0], [1.0, 1.0], [1.0]), ([1.0], [0.0], [1.0]), ([1.0], [1.0], []),
        ([1.0], [1.0], [2.0, 1.0]), ([1.0], [1.0], [-1.0, 1.0]), ([np.nan], [1.0], [1.0]), ([1.0], [1.0], [np.nan]),
        ([], [], [1.0]),
    ],
)  # fmt: skip
def test_numbers_that_make_no_interval_are_refused(parts):
    with pytest.raises(ConfigError):
        Conformal(*(np.array(part) for part in parts))
