"""The area of applicability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from fusion3d.errors import ConfigError
from fusion3d.evaluation.blocks import Folds
from fusion3d.tasks.domain import Domain, importance


@dataclass(frozen=True)
class Linear:
    """A sum of bands with weights."""

    slopes: tuple[float, ...]

    def predict_bands(self, bands: np.ndarray) -> np.ndarray:
        return np.tensordot(np.array(self.slopes), bands.astype(np.float64), 1)


def folds(fold: list[int]) -> Folds:
    return Folds("blocks", np.array(fold), np.array(fold), 10.0, np.zeros((2, 0), np.int64), 0.0, 0)


def test_index_and_threshold_by_hand():
    """Plots at 0, 1, 2, 3 and 10 in the one feature that counts; mean distance between pairs 4.4; nearest of the other fold at 1,
    1, 1, 1 and 7, of which the last is beyond the whisker."""
    features = np.array([[0.0, 1], [1, 1], [2, 1], [3, 1], [10, 1]])
    found = Domain.of(features, Linear((3.0, 5.0)), folds([0, 1, 0, 1, 0]))
    assert found.weights.tolist() == [1.0, 0.0]
    assert found.dissimilarity(np.array([[4.0, 6.5, 10.0, -4.4], [1, 1, 99, 1]])) == pytest.approx([1 / 4.4, 3.5 / 4.4, 0, 1])
    assert found.threshold == pytest.approx(1 / 4.4)
    assert found.outside(np.array([[3.9, 4.1, 10.5, -0.9, -1.1], [1, 1, 1, 1, 1]])).tolist() == [False, True, False, False, True]


def test_feature_without_influence_does_not_make_a_cell_strange():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 3))
    found = Domain.of(features, Linear((2.0, 1.0, 0.0)), folds(list(rng.integers(0, 5, 300))))
    assert found.weights[0] == 1.0
    assert found.weights[1] == pytest.approx(0.5, rel=0.3)
    assert found.weights[2] == 0.0
    cells = rng.normal(size=(3, 200)) * 0.5
    far = cells.copy()
    far[2] += 1e3
    np.testing.assert_array_equal(found.outside(cells), found.outside(far))
    assert found.outside(cells).mean() < 0.2
    assert found.outside(cells + np.array([[10.0], [0], [0]])).all()


def test_importance_of_a_linear_model_is_its_slope_times_the_spread():
    """Shuffled values differ by the root of 2 standard deviations."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(4000, 3)) * [1.0, 2.0, 5.0]
    found = importance(features, Linear((3.0, -4.0, 0.0)), seed=0)
    assert found == pytest.approx(np.sqrt(2) * np.array([3.0, 8.0, 0.0]), rel=0.05)


def test_model_of_one_value_counts_all_features_alike():
    features = np.random.default_rng(2).normal(size=(20, 2))
    assert Domain.of(features, Linear((0.0, 0.0)), folds([0, 1] * 10)).weights.tolist() == [1.0, 1.0]


def test_cell_does_not_depend_on_its_neighbours():
    rng = np.random.default_rng(3)
    found = Domain.of(rng.normal(size=(40, 6)), Linear(tuple(rng.normal(size=6))), folds([0, 1, 2, 3] * 10))
    cells = rng.normal(size=(6, 20_001)).astype(np.float32)
    whole = found.dissimilarity(cells)
    for part in (slice(0, 1), slice(3, 8200), slice(8191, 20_001)):
        np.testing.assert_array_equal(found.dissimilarity(cells[:, part]), whole[part])


def test_numbers_that_make_no_domain_are_refused():
    whole = {"mean": np.zeros(2), "scale": np.ones(2), "weights": np.array([1.0, 0.0]), "plots": np.ones((4, 1))}
    Domain(**whole, distance=1.0, threshold=0.5)
    for wrong in ({"plots": np.ones((4, 2))}, {"scale": np.zeros(2)}, {"weights": -np.ones(2)}, {"plots": np.ones((0, 1))}):
        with pytest.raises(ConfigError):
            Domain(**(whole | wrong), distance=1.0, threshold=0.5)
    for distance, threshold in ((0.0, 1.0), (1.0, -1.0), (np.inf, 1.0)):
        with pytest.raises(ConfigError):
            Domain(**whole, distance=distance, threshold=threshold)
