from __future__ import annotations

import math
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion3d.data.pairs import draw_pairs, inclusion, stream, systematic_sample
from fusion3d.errors import ConfigError

SENSORS = ("als", "ortho", "s1", "s2")
PAIRS = list(combinations(SENSORS, 2))


def expected_weights(pairs, count, preference=None):
    """Exact expectation of each pair's and each sensor's weight: every order, every start (piecewise constant, so midpoints)."""
    chance = inclusion(pairs, count, preference)
    orders = list(permutations(range(len(pairs))))
    pair_weight, own_weight = dict.fromkeys(pairs, 0.0), dict.fromkeys({n for p in pairs for n in p}, 0.0)
    for order in orders:
        cuts = sorted({0.0, 1.0, *(math.fmod(part, 1.0) for part in np.cumsum([chance[i] for i in order]))})
        for low, high in pairwise(cuts):
            share = (high - low) / len(orders)
            for item in systematic_sample(pairs, chance, order, (low + high) / 2):
                pair_weight[item.pair] += share * item.weight
                for name, weight in zip(item.pair, item.own_weight, strict=True):
                    own_weight[name] += share * weight
    return pair_weight, own_weight


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("preference", [None, {"s2-als": 3.0, "als-ortho": 0.5}])
def test_expected_weight_of_every_pair_and_sensor_is_one(count, preference):
    pairs = PAIRS[:5]
    pair_weight, own_weight = expected_weights(pairs, count, preference)
    assert pair_weight == pytest.approx(dict.fromkeys(pairs, 1.0))
    assert own_weight == pytest.approx(dict.fromkeys(own_weight, 1.0))


def test_estimate_equals_the_sum_over_all_pairs_on_average():
    value = {pair: float(number + 1) for number, pair in enumerate(PAIRS)}
    draws = [sum(item.weight * value[item.pair] for item in draw_pairs(PAIRS, 2, stream(3, step))) for step in range(4000)]
    assert np.mean(draws) == pytest.approx(sum(value.values()), rel=0.03)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 8), seed=st.integers(0, 1000))
def test_drawn_pairs_are_different_and_as_many_as_asked(count, seed):
    drawn = [item.pair for item in draw_pairs(PAIRS, count, stream(seed), {"als-s2": 2.0})]
    assert len(drawn) == len(set(drawn)) == min(count, len(PAIRS))


def test_as_many_pairs_as_there_are_is_exact():
    drawn = draw_pairs(PAIRS, len(PAIRS), stream(0))
    assert {item.pair for item in drawn} == set(PAIRS)
    assert [item.weight for item in drawn] == [1.0] * len(PAIRS)


def test_no_pair_no_draw():
    assert draw_pairs([], 2, stream(0)) == []


def test_streams_depend_on_their_key_alone():
    values = [torch.rand(3, generator=stream(*key)).tolist() for key in ((1, 2), (1, 2), (2, 1))]
    assert values[0] == values[1] != values[2]


def test_a_preference_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="positive"):
        inclusion(PAIRS, 1, {"als-s2": 0.0})
