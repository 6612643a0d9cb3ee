"""Scores on numbers worked by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from fusion3d.errors import ConfigError
from fusion3d.tasks.scores import Figure, Scores, score


def test_scores_by_hand():
    """Errors 1, -1, 3, 1: SSE 12. Measured 10, 20, 30, 40: mean 25, SST 500."""
    found = score(np.array([10.0, 20, 30, 40]), np.array([11.0, 19, 33, 41]))
    assert (found.n, found.measured_mean) == (4, 25.0)
    assert found.r2.value == pytest.approx(1 - 12 / 500)
    assert found.rmse.value == pytest.approx(math.sqrt(3))
    assert found.relative_rmse.value == pytest.approx(math.sqrt(3) / 25)
    assert found.mae.value == pytest.approx(1.5)
    assert found.bias.value == pytest.approx(1.0)


def test_bias_is_predicted_less_measured_and_r2_of_the_mean_is_zero():
    measured = np.array([1.0, 2.0, 6.0])
    assert score(measured, measured - 2).bias.value == pytest.approx(-2)
    assert score(measured, np.full(3, 3.0)).r2.value == pytest.approx(0)
    assert score(measured, np.full(3, 9.0)).r2.value < 0


def test_interval_of_the_bias_is_that_of_a_mean():
    """90 % of a mean of 400 errors of standard deviation 2: 1.645 * 2 / 20 on either side."""
    rng = np.random.default_rng(0)
    measured = rng.uniform(0, 100, 400)
    error = rng.normal(size=400)
    error = 2 * (error - error.mean()) / error.std() + 5
    found = score(measured, measured + error).bias
    assert found.low == pytest.approx(5 - 0.1645, abs=0.02)
    assert found.high == pytest.approx(5 + 0.1645, abs=0.02)


def test_plots_that_err_together_give_wider_intervals():
    """Ten copies of 40 errors tell as much as the 40: the root of 10 wider than 400 plots on their own."""
    rng = np.random.default_rng(1)
    measured, error = np.repeat(rng.uniform(0, 100, 40), 10), np.repeat(rng.normal(size=40), 10)
    together = score(measured, measured + error, groups=np.repeat(np.arange(40), 10)).bias
    alone = score(measured, measured + error).bias
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(math.sqrt(10), rel=0.1)


def test_intervals_cover_about_nine_times_in_ten():
    """The true RMSE is 1; 60 plots."""
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        measured = rng.uniform(0, 10, 60)
        found = score(measured, measured + rng.normal(size=60), resamples=400).rmse
        covered += found.low <= 1 <= found.high
    assert 0.83 <= covered / 300 <= 0.95


def test_large_offsets_do_not_lose_the_variance():
    rng = np.random.default_rng(0)
    measured = rng.normal(size=50)
    predicted = measured + rng.normal(scale=0.5, size=50)
    assert score(measured + 1e9, predicted + 1e9).r2.value == pytest.approx(score(measured, predicted).r2.value, abs=1e-5)


def test_what_is_not_defined_is_nan():
    one = score(np.array([3.0]), np.array([4.0]))
    assert math.isnan(one.r2.value)
    assert (one.rmse.value, one.bias.value) == (1.0, 1.0)
    assert math.isnan(one.rmse.low)
    same = score(np.full(5, 0.1), np.arange(5.0))
    assert math.isnan(same.r2.value)
    assert math.isnan(score(np.array([-1.0, 1.0]), np.zeros(2)).relative_rmse.value)
    assert math.isnan(score(np.arange(4.0), np.ones(4), groups=np.zeros(4, int)).r2.low)


def test_json_round_trip_has_null_for_what_is_not_defined():
    found = score(np.array([3.0]), np.array([4.0]))
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["r2"] == {"value": None, "low": None, "high": None}
    again = Scores.from_json(json.loads(text))
    assert again.rmse.value == 1.0
    assert math.isnan(again.r2.value)


def test_text():
    assert Figure(0.714, 0.62, 0.783).text() == "0.71 (0.62 to 0.78)"
    assert Figure(math.nan).text() == "-"
    assert Figure(5.0).text(0) == "5"


@pytest.mark.parametrize(
    ("measured", "predicted"), [([], []), ([1.0], [1.0, 2.0]), ([1.0, np.nan], [1.0, 2.0]), ([1.0], [np.inf])]
)
def test_nothing_to_score_is_refused(measured, predicted):
    with pytest.raises(ConfigError, match="scored"):
        score(np.array(measured), np.array(predicted))
