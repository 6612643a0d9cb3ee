"""Banded ridge regression: equal to ridges that are known, and not drowned by groups that say nothing."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge as Reference

from fusion3d.errors import ConfigError
from fusion3d.tasks.regressors import family
from fusion3d.tasks.regressors.banded import PENALTIES, _Part, groups_of


def planted(count: int, seed: int = 0, weak: int = 6, width: int = 30):
    """A group `good` that knows the target, and weak groups of noise; names, features, target, groups of rows."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(count, 4))
    good = latent @ np.random.default_rng(1).normal(size=(4, width)) + 0.1 * rng.normal(size=(count, width))
    noise = rng.normal(size=(count, weak * width))
    names = [f"good_{at:03d}" for at in range(width)] + [f"s{at // width}_{at % width:03d}" for at in range(weak * width)]
    target = 100 + 10 * latent.sum(axis=1) + rng.normal(size=count)
    return names, np.concatenate([good, noise], axis=1), target, np.arange(count) // 4


def test_groups_are_told_by_names():
    found = groups_of(["emb_000", "emb_001", "s1_asc_000", "zmax", "s1_asc_001", "p_x"])
    assert {name: places.tolist() for name, places in found.items()} == {"emb": [0, 1], "s1_asc": [2, 4], "others": [3, 5]}


@pytest.mark.parametrize("count", [20, 200], ids=["fewer rows than features", "more rows than features"])
def test_one_group_is_the_ridge_of_scikit_learn(count):
    rng = np.random.default_rng(2)
    features, target = rng.normal(3, 2, (count, 40)), rng.normal(size=count)
    weights = rng.uniform(0.5, 2, count)
    found = family("banded", [f"a_{at}" for at in range(40)]).fit(
        features, target, groups=np.arange(count) // 2, seed=0, weights=weights
    )
    share = weights / weights.sum()
    mean = share @ features
    scaled = (features - mean) / np.sqrt(share @ (features - mean) ** 2)
    penalty = found.chosen["penalty"] * count * 40
    reference = Reference(alpha=penalty).fit(scaled, target, sample_weight=weights / weights.mean())
    np.testing.assert_allclose(found.regressor.predict(features), reference.predict(scaled), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("weak", "dual"), [(4, True), (1, False)], ids=["products of rows", "products of features"])
def test_held_out_residuals_of_every_penalty_are_those_of_the_model(weak, dual):
    names, features, target, groups = planted(150, weak=weak)
    part = _Part(features, target, np.ones(150), groups % 3 > 0, list(groups_of(names).values()))
    assert part.dual == dual
    shares = np.array([0.7, 0.3, 0.0, 0.0, 0.0][: weak + 1])
    found = part.residuals(shares)
    for at in (0, 8, 16, 24):
        ridge = part.ridge(shares, PENALTIES[at])
        np.testing.assert_allclose(target[~part.into] - ridge.predict(features[~part.into]), found[at], rtol=1e-6, atol=1e-8)
    assert not ridge.coefficients[60:].any()


def test_groups_of_noise_cost_little_where_they_drown_a_plain_ridge():
    names, features, target, groups = planted(40)
    _, other, truth, _ = planted(500, seed=9)
    rmse = {}
    for name in ("ridge", "banded"):
        found = family(name, names).fit(features, target, groups=groups, seed=0)
        rmse[name] = float(np.sqrt(np.mean((found.regressor.predict(other) - truth) ** 2)))
    good = family("ridge").fit(features[:, :30], target, groups=groups, seed=0)
    alone = float(np.sqrt(np.mean((good.regressor.predict(other[:, :30]) - truth) ** 2)))
    assert rmse["banded"] < 1.3 * alone
    assert rmse["banded"] < 0.5 * rmse["ridge"]


def test_what_was_chosen_is_said():
    names, features, target, groups = planted(60)
    kind = family("banded", names)
    found = kind.fit(features, target, groups=groups, seed=0)
    assert found.chosen["weight of good"] > 0.9
    assert sum(value for name, value in found.chosen.items() if name != "penalty") == pytest.approx(1)
    (remark,) = kind.remarks(found.regressor, tuple(names))
    assert remark.startswith("the model uses good")
    assert "s3" in remark


def test_features_of_other_number_are_refused():
    names, features, target, groups = planted(20)
    with pytest.raises(ConfigError, match="do not make up"):
        family("banded", names).fit(features[:, :50], target, groups=groups, seed=0)
    with pytest.raises(ConfigError, match="at least 3 plots"):
        family("banded").fit(features[:2], target[:2], groups=groups[:2], seed=0)
