"""Perceptrons against scikit-learn's own."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.neural_network import MLPRegressor

from fusion3d.tasks.regressors.mlp import _train


def test_network_predicts_what_scikit_learn_predicts():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 5)) * [1, 10, 0.1, 3, 1] + 4
    target = 200 + 50 * np.tanh(features[:, 0] - 4) + features[:, 1]
    ours = _train(features, target, 1.0, 1, 0)
    theirs = MLPRegressor(hidden_layer_sizes=(16,), solver="lbfgs", alpha=1.0, max_iter=200, random_state=0)
    mean, scale = features.mean(axis=0), features.std(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit((features - mean) / scale, (target - target.mean()) / target.std())
    cells = rng.normal(size=(500, 5)) * [1, 10, 0.1, 3, 1] + 4
    expected = theirs.predict((cells - mean) / scale) * target.std() + target.mean()
    np.testing.assert_allclose(ours.predict_bands(cells.T), expected, rtol=1e-9)


def test_networks_are_averaged():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(30, 3))
    target = features[:, 0] ** 2
    alone = [_train(features, target, 1.0, 1, seed).predict_bands(features.T) for seed in (0,)]
    several = _train(features, target, 1.0, 5, 0)
    assert several.inward.shape == (3, 80)
    # the first of the five is the one alone
    np.testing.assert_array_equal(several.inward[:, :16], _train(features, target, 1.0, 1, 0).inward)
    assert not np.array_equal(several.predict_bands(features.T), alone[0])
