"""Which pairs of sensors a step contrasts.

A step draws R of the pairs that it could contrast and weighs each by one over its chance of being drawn, so that the expected
loss is the sum over all pairs (Horvitz and Thompson 1952, JASA 47).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fusion3d.data.chances import capped_chances, systematic
from fusion3d.errors import ConfigError

Pair = tuple[str, str]


def stream(*key: int) -> torch.Generator:
    """A generator that depends on nothing but its key, for instance (seed, step, purpose)."""
    generator = torch.Generator()
    generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)))
    return generator


@dataclass(frozen=True)
class DrawnPair:
    """A pair to contrast, its weight in the sum over all pairs, and the weight of each sensor's own terms."""

    pair: Pair
    weight: float
    own_weight: tuple[float, float]


def inclusion(pairs: Sequence[Pair], count: int, preference: Mapping[str, float] | None = None) -> list[float]:
    """Chance of each pair to be among `count` drawn ones: in proportion to its preference, at most 1.

    Parameters
    ----------
    preference : by "a-b" (either order), 1 for pairs that are not named; None treats all alike
    """
    named = preference or {}
    size = np.array([named.get(f"{a}-{b}", named.get(f"{b}-{a}", 1.0)) for a, b in pairs], np.float64)
    if len(size) and not (np.isfinite(size).all() and (size > 0).all()):
        raise ConfigError("preferences of pairs must be positive numbers; leave a sensor out with --data.sensors instead")
    return capped_chances(size, 1.0, count).tolist()


def draw_pairs(
    pairs: Sequence[Pair], count: int, generator: torch.Generator, preference: Mapping[str, float] | None = None
) -> list[DrawnPair]:
    """`count` different pairs, each with its chance of `inclusion`, by systematic sampling in random order (Madow 1949).

    All pairs come back, with weight 1, when there are not more than `count`.
    """
    if count < 1:
        raise ConfigError(f"--model.pairs {count} must be at least 1")
    order = torch.randperm(len(pairs), generator=generator).tolist()
    start = float(torch.rand((), generator=generator, dtype=torch.float64))
    return systematic_sample(pairs, inclusion(pairs, count, preference), order, start)


def systematic_sample(pairs: Sequence[Pair], chance: Sequence[float], order: Sequence[int], start: float) -> list[DrawnPair]:
    """The pairs in whose part of the cumulated chances ``start + k`` falls; `start` in [0, 1)."""
    if not pairs:
        return []
    degree = Counter(name for pair in pairs for name in pair)
    drawn = []
    for at in systematic([chance[index] for index in order], start):
        pair, weight = pairs[order[at]], 1.0 / chance[order[at]]
        # A sensor's own term is shared out over its pairs: its expected weight is 1 however many pairs it is in.
        drawn.append(DrawnPair(pair, weight, (weight / degree[pair[0]], weight / degree[pair[1]])))
    return drawn
