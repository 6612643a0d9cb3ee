"""Shares of plots within their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from fusion3d.tasks.coverage import Coverage, coverage, quartiles


def test_share_by_hand_and_its_interval_as_in_scipy():
    measured, lower = np.arange(10.0), np.full(10, 0.0)
    upper = np.array([5.0] * 9 + [np.nan])
    found = coverage(measured, lower, upper)
    assert (found.n, found.width) == (9, 5.0)
    assert found.share.value == pytest.approx(6 / 9)
    theirs = binomtest(6, 9).proportion_ci(0.9, method="wilson")
    assert (found.share.low, found.share.high) == pytest.approx((theirs.low, theirs.high))


def test_ends_count_as_within_and_all_within_still_leaves_doubt():
    found = coverage(np.array([1.0, 2.0]), np.array([1.0, 0.0]), np.array([3.0, 2.0]))
    assert (found.share.value, found.share.high) == (1.0, 1.0)
    assert found.share.low < 0.5


def test_no_interval_no_coverage():
    found = coverage(np.ones(3), np.full(3, np.nan), np.full(3, np.nan))
    assert found.n == 0
    assert math.isnan(found.share.value)
    assert math.isnan(Coverage.from_json(found.to_json()).width)


def test_quarters_hold_equally_many_and_equal_predictions_stay_together():
    predicted = np.random.default_rng(0).permutation(100).astype(float)
    found = quartiles(predicted)
    assert [which.sum() for which in found] == [25, 25, 25, 25]
    assert predicted[found[0]].max() < predicted[found[1]].min()
    many = np.array([0.0] * 60 + list(range(1, 41)))
    assert [which.sum() for which in quartiles(many)] == [60, 15, 25]
    assert [which.sum() for which in quartiles(np.zeros(9))] == [9]
