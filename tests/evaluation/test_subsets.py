"""Subsets of sensors, and expectations under independent failure."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest

from fusion3d.errors import ConfigError
from fusion3d.evaluation.figures import Scored
from fusion3d.evaluation.subsets import choose_subsets, expected, mean_scored


def one(value: float) -> Scored:
    return Scored(np.array([value]), np.array([value, value + 1]))


def test_all_subsets_are_listed_when_there_are_few():
    found = choose_subsets(["als", "s2", "s1"], 127, 0)
    assert found == [("als",), ("s2",), ("s1",), ("als", "s2"), ("als", "s1"), ("s2", "s1"), ("als", "s2", "s1")]
    assert len(choose_subsets("abcdefg", 127, 0)) == 127


def test_of_many_sensors_the_ends_are_whole_and_the_middle_is_drawn():
    names = [f"s{number:02d}" for number in range(12)]
    found = choose_subsets(names, 100, 0)
    assert len(found) == len(set(found)) == 100
    sizes = Counter(map(len, found))
    assert sizes[1] == sizes[11] == 12
    assert sizes[12] == 1
    assert all(8 <= sizes[size] <= 9 for size in range(2, 11))
    assert all(list(subset) == sorted(subset) for subset in found)
    assert found == choose_subsets(names, 100, 0) != choose_subsets(names, 100, 1)


def test_too_few_subsets_are_refused():
    with pytest.raises(ConfigError, match="--subsets 5: 15 are needed for 7 sensors"):
        choose_subsets("abcdefg", 5, 0)


@pytest.mark.parametrize("failure", [0.1, 0.3, 0.5, 0.9])
def test_the_expectation_is_the_sum_over_all_outcomes_of_failing_sensors(failure):
    """Every outcome is counted by hand: 2^4 of them, without the one in which all fail."""
    worth = {size: value for size, value in zip((1, 2, 3, 4), (0.2, 0.35, 0.6, 0.7))}
    total = weight = 0.0
    for outcome in product((True, False), repeat=4):
        chance = math.prod(1 - failure if works else failure for works in outcome)
        if any(outcome):
            total, weight = total + chance * worth[sum(outcome)], weight + chance
    found = expected({size: one(value) for size, value in worth.items()}, 4, failure)
    assert found.draws[0] == pytest.approx(total / weight)
    assert found.resampled.tolist() == pytest.approx([total / weight, total / weight + 1])


def test_half_of_the_sensors_failing_is_the_mean_over_all_subsets():
    scores = {subset: len(subset) ** 2 for subset in choose_subsets("abcde", 31, 0)}
    by_size = {size: mean_scored([one(value) for subset, value in scores.items() if len(subset) == size]) for size in range(1, 6)}
    assert expected(by_size, 5, 0.5).draws[0] == pytest.approx(np.mean(list(scores.values())))


def test_drawn_subsets_estimate_the_expectation_without_bias():
    """Worth of a subset that is no function of its size: the mean over draws of subsets comes near the exact figure."""
    names = [f"s{number}" for number in range(8)]
    worth = {name: value for name, value in zip(names, (0.9, 0.1, 0.4, 0.0, 0.3, 0.7, 0.2, 0.5))}

    def figure(subsets):
        by_size = {}
        for subset in subsets:
            by_size.setdefault(len(subset), []).append(one(max(worth[name] for name in subset)))
        return float(expected({size: mean_scored(parts) for size, parts in by_size.items()}, 8, 0.5).draws[0])

    exact = figure(choose_subsets(names, 255, 0))
    drawn = [figure(choose_subsets(names, 60, seed)) for seed in range(200)]
    assert np.mean(drawn) == pytest.approx(exact, abs=4 * np.std(drawn) / math.sqrt(200))
