"""Probes on problems with a known answer, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score

from fusion3d.evaluation.probes import PROBES, forest, guess, knn, linear
from fusion3d.evaluation.ridge import Decomposition
from fusion3d.evaluation.shares import FEWEST, draw_labels

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 8)) * np.array([1, 100, 0.01, 1, 1, 1, 1, 1]) + 50
SLOPE = np.array([1, 0.02, 100, 0, 0, 0, 0, 2.0])
Y = (X - 50) @ SLOPE
BLOCKS = np.arange(300) // 15
TRAIN, TEST = slice(0, 200), slice(200, 300)


def test_a_linear_function_is_recovered_whatever_the_scales_of_the_features():
    found = linear(X[TRAIN], Y[TRAIN], BLOCKS[TRAIN], X[TEST], False, 0)
    np.testing.assert_allclose(found, Y[TEST], atol=1e-2 * Y.std())


def test_a_noisy_target_is_shrunk_by_more_than_least_squares():
    """40 rows, 30 useless features: least squares fits the noise."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 31))
    y = x[:, 0] + rng.normal(size=400)
    found = linear(x[:40], y[:40], np.arange(40) // 4, x[40:], False, 0)
    least_squares = LinearRegression().fit(x[:40], y[:40]).predict(x[40:])
    assert r2_score(y[40:], found) > 0.05 > r2_score(y[40:], least_squares)


def test_several_targets_have_the_coefficients_of_scikit_learn():
    targets = np.stack([Y, Y**2, RNG.normal(size=300)], axis=1)
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    found = Decomposition(X, targets)
    theirs = Ridge(alpha=7.0).fit(scaled, targets)
    np.testing.assert_allclose(found.coefficients(7.0), theirs.coef_.T, rtol=1e-8)
    np.testing.assert_allclose(found.predict(X[:5], 7.0), theirs.predict(scaled[:5]), rtol=1e-8)
    alone = Decomposition(X, targets[:, 1]).ridge(7.0)
    np.testing.assert_allclose(found.predict(X[:5], 7.0)[:, 1], alone.predict(X[:5]), rtol=1e-8)


@pytest.mark.parametrize("probe", [linear, knn, forest])
def test_separate_classes_are_told_apart_by_their_codes(probe):
    rng = np.random.default_rng(3)
    codes = np.array([7.0, 2.0, 40.0])[np.arange(120) % 3]
    x = np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9]])[np.arange(120) % 3] + rng.normal(size=(120, 3))
    assert (probe(x[:60], codes[:60], np.arange(60) // 6, x[60:], True, 0) == codes[60:]).all()


def test_nearest_neighbours_go_by_direction_not_by_length():
    x = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = knn(x, np.array([3.0, 5.0]), np.zeros(2, int), np.array([[100.0, 1.0], [0.0, 0.01]]), False, 0)
    np.testing.assert_allclose(found, [3.0, 5.0], atol=1e-4)


@pytest.mark.parametrize("probe", [*PROBES.values(), forest, guess])
@pytest.mark.parametrize("classes", [False, True])
def test_five_labels_and_constant_features_are_enough_for_an_answer(probe, classes):
    found = probe(np.ones((5, 3)), np.array([1.0, 1, 1, 2, 2]), np.arange(5), np.ones((4, 3)), classes, 0)
    assert found.shape == (4,)
    assert np.isfinite(found).all()
    assert ((found >= 1) & (found <= 2)).all()


def test_one_class_alone_is_always_answered():
    assert (linear(X[:5], np.full(5, 4.0), np.arange(5), X[5:9], True, 0) == 4.0).all()


def test_guesses_are_the_mean_and_the_commonest_class():
    labels = np.array([1.0, 1.0, 4.0])
    assert guess(X[:3], labels, np.arange(3), X[:1], False, 0).tolist() == [2.0]
    assert guess(X[:3], labels, np.arange(3), X[:1], True, 0).tolist() == [1.0]


# -- draws


def test_all_labels_are_one_draw():
    (only,) = draw_labels(np.arange(30.0), 1.0, False, 5, 0)
    assert only.tolist() == list(range(30))


@pytest.mark.parametrize("classes", [False, True])
def test_draws_differ_and_a_smaller_share_is_a_part_of_a_larger_one(classes):
    labels = (np.arange(1000) % 4).astype(float)
    few, many = (draw_labels(labels, share, classes, 3, 7) for share in (0.02, 0.2))
    assert len({tuple(rows) for rows in few}) == 3
    assert all(set(small) < set(large) for small, large in zip(few, many, strict=True))
    assert {len(rows) for rows in few} == {20}


def test_a_rare_class_keeps_a_label():
    labels = np.array([1.0] * 990 + [2.0] * 10)
    for rows in draw_labels(labels, 0.01, True, 5, 0):
        assert sorted(labels[rows]) == [1.0] * 10 + [2.0]


def test_a_draw_of_values_has_a_few_labels_at_least():
    assert [len(rows) for rows in draw_labels(np.arange(50.0), 0.01, False, 2, 0)] == [FEWEST, FEWEST]
