"""Folds inside of the rows that a model may see, by which it chooses its settings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fusion3d.evaluation.blocks import deal

Int64 = npt.NDArray[np.int64]
_FOLDS = 5
_FEWEST_GROUPS = 3


def inner_folds(groups: Int64, seed: int) -> Int64:
    """[N] fold of each row: groups are kept whole; rows alone where there are fewer than three groups."""
    if len(np.unique(groups)) < _FEWEST_GROUPS:
        groups = np.arange(len(groups))
    return deal(groups, min(_FOLDS, len(np.unique(groups))), seed)
