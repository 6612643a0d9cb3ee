"""Trees as arrays against scikit-learn's own."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor

from fusion3d.tasks.regressors import FAMILIES
from fusion3d.tasks.regressors.boosting import Boosting
from fusion3d.tasks.regressors.forest import Forest
from fusion3d.tasks.regressors.trees import Trees


def data(count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Features with many equal values, so that cells lie on thresholds."""
    rng = np.random.default_rng(0)
    features = np.round(rng.normal(size=(count, 9)), 1)
    return features, features[:, 0] * features[:, 1] + 2 * features[:, 2] + rng.normal(size=count)


def test_forest_predicts_what_scikit_learn_predicts_to_the_last_bit():
    features, target = data()
    theirs = RandomForestRegressor(40, max_features=0.5, random_state=1).fit(features, target)
    ours = Forest(Trees.of(theirs.estimators_))
    cells = np.random.default_rng(1).normal(size=(3000, 9)) * 2
    for given in (features, cells, np.round(cells, 1), cells.astype(np.float32)):
        np.testing.assert_array_equal(ours.predict_bands(given.T), theirs.predict(given))


def test_family_of_forests_is_scikit_learns_with_the_settings_that_it_states():
    features, target = data()
    found = FAMILIES["forest"].fit(features, target, groups=np.arange(80), seed=5)
    theirs = RandomForestRegressor(300, max_features=1 / 3, min_samples_split=6, oob_score=True, random_state=5)
    theirs.fit(features, target)
    np.testing.assert_array_equal(found.regressor.predict_bands(features.T), theirs.predict(features))
    np.testing.assert_array_equal(found.residuals, target - theirs.oob_prediction_)


def test_boosted_trees_predict_what_scikit_learn_predicts_to_the_last_bit():
    features, target = data()
    theirs = GradientBoostingRegressor(n_estimators=60, learning_rate=0.07, subsample=0.5, random_state=1).fit(features, target)
    ours = Boosting(float(theirs.init_.constant_[0, 0]), 0.07, Trees.of(theirs.estimators_[:, 0]))
    cells = np.round(np.random.default_rng(1).normal(size=(3000, 9)) * 2, 1)
    np.testing.assert_array_equal(ours.predict_bands(cells.T), theirs.predict(cells))


def test_number_of_boosted_trees_is_chosen_on_held_out_groups(monkeypatch):
    """Noise asks for fewer trees than a strong signal."""
    monkeypatch.setattr("fusion3d.tasks.regressors.boosting._MOST", 100)
    features, _ = data()
    chosen = [
        FAMILIES["boosting"].fit(features, values, groups=np.arange(80) // 4, seed=0).chosen["trees"]
        for values in (np.random.default_rng(3).normal(size=80), 10 * features[:, 0])
    ]
    assert chosen[0] < 50 < chosen[1]


def stump() -> dict[str, np.ndarray]:
    """Two trees: (b <= 2 ? 10 : (a <= 0.5 ? 20 : 30)) and the constant 5."""
    return {
        "roots": np.array([0, 5], np.int32), "feature": np.array([1, -1, 0, -1, -1, -1], np.int32),
        "threshold": np.array([2.0, 0, 0.5, 0, 0, 0]), "left": np.array([1, 0, 3, 0, 0, 0], np.int32),
        "right": np.array([2, 0, 4, 0, 0, 0], np.int32), "value": np.array([0.0, 10, 0, 20, 30, 5]),
    }  # fmt: skip


def test_tree_by_hand():
    trees = Trees.from_arrays(stump(), 2)
    a, b = np.array([0.0, 0.5, 0.6, 9.0]), np.array([2.0, 3.0, 3.0, 2.1])
    assert trees.sum(np.stack([a, b])).tolist() == [15.0, 25.0, 35.0, 35.0]
    assert trees.sum(np.stack([a, b]), scale=0.5, start=1.0).tolist() == [8.5, 13.5, 18.5, 18.5]
    assert trees.sum(np.zeros((2, 0))).shape == (0,)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("left", [0, 0, 3, 0, 0, 0]),
        ("right", [2, 0, 2, 0, 0, 0]),
        ("right", [99, 0, 4, 0, 0, 0]),
        ("feature", [2, -1, 0, -1, -1, -1]),
        ("threshold", [np.nan, 0, 0.5, 0, 0, 0]),
        ("value", [0, 10, 0, np.inf, 30, 5]),
        ("roots", [0, 6]),
        ("roots", []),
        ("left", [1.0, 0, 3, 0, 0, 0]),
        ("feature", [1, -1, 0]),
    ],
)
def test_arrays_that_are_no_trees_are_refused(name, values):
    """A child that is not behind its parent would be a way down without an end."""
    wrong = np.array(values) if values else np.zeros(0, np.int32)
    with pytest.raises(ValueError, match=r"tree|finite|whole"):
        Trees.from_arrays(stump() | {name: wrong}, 2)
