"""Scores against scikit-learn's, and their spreads."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, r2_score, root_mean_squared_error

from fusion3d.evaluation.figures import Blocks, Estimate, accuracy, macro_f1, r2, rmse


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    measured = 1000 + rng.normal(size=200)
    return measured, measured + rng.normal(scale=[[0.3], [0.6], [0.9]], size=(3, 200)), Blocks(np.arange(200) // 10)


@pytest.fixture
def classes():
    rng = np.random.default_rng(1)
    measured = rng.integers(1, 5, 200).astype(float)
    wrong = rng.random((3, 200)) < 0.4
    return measured, np.where(wrong, rng.integers(1, 6, (3, 200)), measured).astype(float), Blocks(np.arange(200) // 10)


@pytest.mark.parametrize(("ours", "theirs"), [(r2, r2_score), (rmse, root_mean_squared_error)])
def test_scores_of_values_are_those_of_scikit_learn(values, ours, theirs):
    measured, predicted, blocks = values
    expected = [theirs(measured, each) for each in predicted]
    found = ours(measured, predicted, blocks)
    np.testing.assert_allclose(found.draws, expected, rtol=1e-8)
    assert found.figure.value == pytest.approx(np.mean(expected))
    assert found.figure.spread == pytest.approx(np.std(expected, ddof=1))
    assert found.figure.low < found.figure.value < found.figure.high


def test_scores_of_classes_are_those_of_scikit_learn(classes):
    measured, predicted, blocks = classes
    right = [accuracy_score(measured, each) for each in predicted]
    np.testing.assert_allclose(accuracy(measured, predicted, blocks).draws, right)
    expected = [f1_score(measured, each, average="macro", labels=np.unique(measured)) for each in predicted]
    np.testing.assert_allclose(macro_f1(measured, predicted, blocks).draws, expected)


def test_the_interval_is_that_of_resampled_blocks():
    """All of a block is right or wrong, half of the blocks each: the accuracy is binomial over the blocks, not the places."""
    block = np.repeat(np.arange(40), 25)
    right = (block % 2).astype(float)
    found = accuracy(np.ones(1000), right[None], Blocks(block)).figure
    deviation = math.sqrt(0.25 / 40)
    assert found.high - found.low == pytest.approx(2 * 1.645 * deviation, rel=0.15)


def test_a_difference_is_paired():
    """Two predictions that err alike differ by next to nothing, however uncertain each is."""
    rng = np.random.default_rng(2)
    measured, error, blocks = rng.normal(size=300), rng.normal(size=(2, 300)), Blocks(np.arange(300) // 30)
    first, second = r2(measured, measured + error, blocks), r2(measured, measured + 1.001 * error, blocks)
    gain = first.minus(second)
    assert 0 < gain.low < gain.value < gain.high < 0.01
    assert first.figure.high - first.figure.low > 0.1


def test_values_that_do_not_differ_have_no_r2():
    found = r2(np.full(10, 5.0), np.zeros((1, 10)), Blocks(np.arange(10))).figure
    assert math.isnan(found.value)
    assert found.text() == "-"


def test_one_draw_has_no_spread_and_one_block_no_interval():
    found = r2(np.arange(10.0), np.arange(10.0)[None], Blocks(np.zeros(10, int))).figure
    assert (found.value, found.spread) == (1.0, None)
    assert math.isnan(found.low)
    assert found.text() == "1.00"


def test_text_holds_both_spreads():
    assert Estimate(0.711, 0.021, 0.62, 0.784).text() == "0.71 ± 0.02 (0.62 to 0.78)"
