"""Draws of a share of the labels: what a user with few labels has."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

FEWEST = 5
"""Labels in a draw, at least."""


def draw_labels(labels: Float64, share: float, classes: bool, draws: int, seed: int) -> list[Int64]:
    """Places of the drawn labels, rising, by draw; one draw of all when the share is 1.

    Draw d of a smaller share is a part of draw d of a larger one. Of classes, the share is taken of each, and at least one label
    (a user with few labels has them of all classes).

    Parameters
    ----------
    labels : [N] values or codes of classes
    share : above 0, at most 1
    """
    count = len(labels)
    if share >= 1.0:
        return [np.arange(count)]
    found = []
    for number in range(draws):
        order = np.random.default_rng([seed, number]).permutation(count)
        chosen = order[: min(count, max(FEWEST, math.ceil(share * count)))]
        if classes:
            parts = [order[labels[order] == code] for code in np.unique(labels)]
            chosen = np.concatenate([part[: max(1, math.ceil(share * len(part) - 1e-9))] for part in parts])
        found.append(np.sort(chosen))
    return found
