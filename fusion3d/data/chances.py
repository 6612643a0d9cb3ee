"""Chances in proportion to sizes with a most for each, and draws in which every item has exactly its chance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Chances = npt.NDArray[np.float64]


def capped_chances(size: npt.ArrayLike, most: npt.ArrayLike, total: float) -> Chances:
    """Chances in proportion to `size` (positive), none above its `most`, that sum to `total` (or to all of `most`, if less)."""
    size = np.asarray(size, np.float64)
    most = np.broadcast_to(np.asarray(most, np.float64), size.shape)
    if total >= most.sum():
        return most.copy()
    full = np.zeros(len(size), bool)
    while True:
        chance = np.where(full, most, size * (total - most[full].sum()) / size[~full].sum())
        over = ~full & (chance >= most)
        if not over.any():
            return chance
        full |= over


def systematic(chance: npt.ArrayLike, start: float) -> npt.NDArray[np.int64]:
    """Items in whose part of the cumulated chances ``start + k`` falls, `start` in [0, 1): as many as the chances sum to.

    With a uniform `start` each item has its chance, and items that follow one another are rarely drawn together (Madow 1949,
    Annals of Mathematical Statistics 20).
    """
    upper = np.cumsum(np.asarray(chance, np.float64))
    if not len(upper):
        return np.zeros(0, np.int64)
    upper[-1] = round(upper[-1])
    ticks = np.floor(upper - start)
    return np.flatnonzero(ticks > np.concatenate([[np.floor(-start)], ticks[:-1]]))
