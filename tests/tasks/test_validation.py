"""Scores by range of what was measured, and of means over blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusion3d.tasks.held_out import HeldOut
from fusion3d.tasks.validation import validate


def held_out(measured, predicted, block=None, reach=None) -> HeldOut:
    measured, predicted = np.asarray(measured, float), np.asarray(predicted, float)
    count = len(measured)
    block = np.arange(count) if block is None else np.asarray(block)
    zeros = np.zeros(count)
    ends = {} if reach is None else {"lower": predicted - reach, "upper": predicted + reach}
    names = tuple(map(str, range(count)))
    return HeldOut(names, zeros, zeros, block % 5, block, measured, predicted, zeros + measured.mean(), **ends)


def test_ranges_are_those_of_biomass_and_hold_their_lower_end():
    found = validate(held_out([0, 49.9, 50, 120, 400, 1000], [5, 54.9, 40, 120, 390, 900]), "Mg/ha", resamples=0)
    assert [(item.low, item.high, item.scores.n) for item in found.ranges] == [
        (0, 50, 2), (50, 100, 1), (100, 150, 1), (400, math.inf, 2)
    ]  # fmt: skip
    first, last = found.ranges[0], found.ranges[-1]
    assert (first.measured, first.predicted) == pytest.approx((24.95, 29.95))
    assert first.scores.bias.value == pytest.approx(5)
    assert last.scores.bias.value == pytest.approx(-55)
    assert last.scores.rmse.value == pytest.approx(math.sqrt((10**2 + 100**2) / 2))


def test_ranges_of_another_unit_are_fifths_of_the_plots():
    found = validate(held_out(np.arange(100.0), np.zeros(100)), "m", resamples=0)
    assert [item.scores.n for item in found.ranges] == [20] * 5
    # where half of the plots have one value there are fewer ranges, and none is empty
    found = validate(held_out([0.0] * 60 + list(range(1, 41)), np.zeros(100)), "m", resamples=0)
    assert len(found.ranges) < 5
    assert sum(item.scores.n for item in found.ranges) == 100
    assert found.ranges[0].scores.n >= 60


def test_one_value_is_one_range():
    found = validate(held_out([3.0] * 4, [1.0, 2.0, 3.0, 6.0]), "m", resamples=0)
    assert [(item.low, item.high, item.scores.n) for item in found.ranges] == [(3.0, math.inf, 4)]


def test_coverage_is_counted_by_range():
    measured = np.r_[np.full(10, 10.0), np.full(10, 60.0)]
    predicted = measured + np.r_[np.zeros(10), np.repeat([1.0, 9.0], 5)]
    found = validate(held_out(measured, predicted, reach=5.0), "t/ha", resamples=0)
    assert [item.coverage.share.value for item in found.ranges] == [1.0, 0.5]
    assert validate(held_out(measured, predicted), "t/ha", resamples=0).ranges[0].coverage.n == 0


def test_the_line_shows_regression_to_the_mean():
    predicted = np.linspace(10, 90, 40)
    found = validate(held_out(2 * predicted - 30, predicted), "m", resamples=0)
    assert (found.slope, found.intercept) == pytest.approx((2.0, -30.0))
    assert math.isnan(validate(held_out([1.0, 2.0], [3.0, 3.0]), "m", resamples=0).slope)


def test_errors_that_are_independent_average_out_over_blocks_and_shared_ones_do_not():
    block = np.repeat(np.arange(12), 4)
    measured = 100.0 + 10.0 * block
    sign = np.tile([1.0, -1.0, 1.0, -1.0], 12)
    found = validate(held_out(measured, measured + 20 * sign, block), "m", resamples=0)
    assert found.blocks is not None
    assert (found.blocks.n, found.per_block, found.blocks.rmse.value) == (12, 4.0, pytest.approx(0))
    shared = validate(held_out(measured, measured + 20 * np.where(block % 2, 1.0, -1.0), block), "m", resamples=0)
    assert shared.blocks is not None
    assert shared.blocks.rmse.value == pytest.approx(20)
    # blocks of two plots do not count
    assert validate(held_out(measured, measured, np.repeat(np.arange(24), 2)), "m", resamples=0).blocks is None
