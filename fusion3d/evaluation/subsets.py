"""Which subsets of the sensors are looked at, and what is expected when sensors fail independently of each other.

With n sensors that each fail with chance p, a subset of k of them is left with chance (1 - p)^k p^(n - k). The expected score
over the subsets that hold at least one is, with s_k the mean score of the subsets of size k,

    E = sum over k from 1 to n of  C(n, k) (1 - p)^k p^(n - k) s_k  /  (1 - p^n)

(Liao et al. 2025, CVPR Workshops, entire-missing modality, EMM). For p = 0.5 it is the mean over all subsets. With subsets that
were drawn within each size, it is an unbiased estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from fusion3d.errors import ConfigError
from fusion3d.evaluation.figures import Scored

Subset = tuple[str, ...]

_LISTED = 1 << 16
"""Subsets of one size up to which they are listed before some are drawn."""


def choose_subsets(sensors: Sequence[str], most: int, seed: int) -> list[Subset]:
    """All subsets that hold a sensor, by size, or at most `most` of them when there are more.

    Drawn are all that hold one sensor, all but one, or all, and of each size between alike many.

    Raises
    ------
    ConfigError
        `most` is less than what is always taken.
    """
    names, count = list(sensors), len(sensors)
    if 2**count - 1 <= most:
        return [found for size in range(1, count + 1) for found in combinations(names, size)]
    always = sorted({1, count - 1, count})
    left = most - sum(math.comb(count, size) for size in always)
    if left < 0:
        raise ConfigError(f"--subsets {most}: {most - left} are needed for {count} sensors (each alone, all but one, all)")
    found = {size: list(combinations(names, size)) for size in always}
    between = sorted((size for size in range(2, count - 1)), key=lambda size: math.comb(count, size))
    generator = np.random.default_rng([seed, count])
    for at, size in enumerate(between):
        # small sizes leave what they do not need to the others
        number = min(math.comb(count, size), left // (len(between) - at))
        found[size] = _drawn(names, size, number, generator)
        left -= number
    return [subset for size in sorted(found) for subset in found[size]]


def _drawn(names: Sequence[str], size: int, number: int, generator: np.random.Generator) -> list[Subset]:
    total = math.comb(len(names), size)
    if total <= _LISTED:
        every = list(combinations(names, size))
        return [every[at] for at in np.sort(generator.choice(total, number, replace=False))]
    chosen: set[Subset] = set()
    while len(chosen) < number:
        chosen.add(tuple(names[at] for at in np.sort(generator.choice(len(names), size, replace=False))))
    return sorted(chosen)


def mean_scored(parts: Sequence[Scored]) -> Scored:
    """The mean of scores that were resampled with the same blocks."""
    return Scored(np.mean([part.draws for part in parts], axis=0), np.mean([part.resampled for part in parts], axis=0))


def expected(by_size: Mapping[int, Scored], count: int, failure: float) -> Scored:
    """Expected score over the subsets that are left when each of `count` sensors fails with chance `failure`.

    Sizes of which no subset was drawn are left out of the expectation.
    """
    chances = {size: math.comb(count, size) * (1 - failure) ** size * failure ** (count - size) for size in by_size}
    total = sum(chances.values())
    draws = sum(chance / total * by_size[size].draws for size, chance in chances.items())
    return Scored(np.asarray(draws), np.asarray(sum(chances[size] / total * by_size[size].resampled for size in chances)))
