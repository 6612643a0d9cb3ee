"""Blocks of ground that points are held out by, and which points are too near to them to be learned from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError
from fusion3d.evaluation.blocks import deal, default_side
from fusion3d.tasks.segmentation.cloud import Cloud

Int64 = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
_SAMPLE = 20_000


@dataclass(frozen=True)
class PointFolds:
    """Square blocks with edges at multiples of their side, each in a fold.

    Attributes
    ----------
    side : metres
    buffer : metres around a held-out block in which nothing is learned
    count : folds
    first : row and column of the first block of `fold`
    fold : [rows, cols] of the blocks, -1 without points
    """

    side: float
    buffer: float
    count: int
    first: tuple[int, int]
    fold: Int64

    @property
    def blocks(self) -> int:
        return int((self.fold >= 0).sum())

    def block_of(self, cloud: Cloud) -> Int64:
        """[N] number of the block of each point."""
        row, col = self._place(cloud)
        return row * self.fold.shape[1] + col

    def fold_of(self, cloud: Cloud) -> Int64:
        """[N]"""
        return self.fold[self._place(cloud)]

    def learned(self, cloud: Cloud, number: int) -> BoolArray:
        """[N] points that are neither held out with a fold nor within `buffer` of what is."""
        row, col = self._place(cloud)
        found = self.fold[row, col] != number
        east, south = cloud.east / self.side - self.first[1] - col, cloud.south / self.side - self.first[0] - row
        reach = self.buffer / self.side
        padded = np.pad(self.fold, 1, constant_values=-1)
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                beside = padded[row + 1 + down, col + 1 + right] == number
                # distance to the neighbouring block along each axis, in sides
                apart = np.hypot(
                    (south if down < 0 else 1 - south) if down else 0.0, (east if right < 0 else 1 - east) if right else 0.0
                )
                found &= ~(beside & (apart < reach))
        return found

    def _place(self, cloud: Cloud) -> tuple[Int64, Int64]:
        row, col = (np.floor(part / self.side).astype(np.int64) for part in (cloud.south, cloud.east))
        return row - self.first[0], col - self.first[1]


def point_folds(clouds: list[Cloud], side: float | None, folds: int, buffer: float, seed: int) -> PointFolds:
    """Folds of labelled points.

    Parameters
    ----------
    side : of a block, metres; None for the largest round one that gives four blocks a fold
    buffer : metres, at most `side`

    Raises
    ------
    ConfigError
        All points lie in one block, or an option is out of range.
    """
    if folds < 2:
        raise ConfigError(f"--folds {folds} must be at least 2")
    if side is not None and not (math.isfinite(side) and side > 0):
        raise ConfigError(f"--block {side} must be a positive number of metres")
    if side is None:
        every = max(1, sum(map(len, clouds)) // _SAMPLE)
        sample = np.concatenate([np.stack([part.east[::every], part.south[::every]], axis=1) for part in clouds])
        side = default_side(sample, folds)
    if not (math.isfinite(buffer) and 0 <= buffer <= side):
        raise ConfigError(f"the buffer of {buffer} m must be from 0 to the blocks' side of {side:g} m")
    rows = [np.floor(part.south / side).astype(np.int64) for part in clouds]
    cols = [np.floor(part.east / side).astype(np.int64) for part in clouds]
    first = min(int(part.min()) for part in rows), min(int(part.min()) for part in cols)
    shape = max(int(part.max()) for part in rows) + 1 - first[0], max(int(part.max()) for part in cols) + 1 - first[1]
    counts = np.zeros(shape, np.int64)
    for row, col in zip(rows, cols, strict=True):
        np.add.at(counts, (row - first[0], col - first[1]), 1)
    held = np.flatnonzero(counts)
    if len(held) < 2:
        raise ConfigError(f"all points lie in one block of {side:g} m, so none can be held out; pass a smaller --block")
    dealt = np.full(counts.size, -1, np.int64)
    each = np.repeat(held, np.maximum(1, counts.ravel()[held] * 1000 // counts.sum()))
    folds = min(folds, len(held))
    by_block = deal(each, folds, seed)
    dealt[each] = by_block
    return PointFolds(float(side), float(buffer), folds, first, dealt.reshape(shape))
