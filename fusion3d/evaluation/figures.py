"""Scores of held-out predictions with two spreads: over draws of the labels, and over the ground that was tested.

A prediction is made once per draw of the labels. The score is the mean over the draws, `spread` their standard deviation. The
interval is of the tested ground: blocks of it are drawn anew with replacement (bootstrap), all draws together, since columns of
one block are no independent tests. Every score of one set of places uses the same drawn blocks, so differences are paired.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

LEVEL = 0.9
"""Of the intervals."""
RESAMPLES = 500


@dataclass(frozen=True)
class Estimate:
    """A score: its mean over draws of the labels, their standard deviation (None for one draw), and the ends of its 90 % interval
    over the tested ground; NaN where it is not defined."""

    value: float
    spread: float | None = None
    low: float = math.nan
    high: float = math.nan

    def text(self, digits: int = 2) -> str:
        """As "0.71 ± 0.02 (0.62 to 0.78)"."""
        if math.isnan(self.value):
            return "-"
        spread = "" if self.spread is None else f" ± {self.spread:.{digits}f}"
        ends = "" if math.isnan(self.low) else f" ({self.low:.{digits}f} to {self.high:.{digits}f})"
        return f"{self.value:.{digits}f}{spread}{ends}"

    def to_json(self) -> dict[str, float | None]:
        """Plain numbers, null where not defined."""
        return {key: value if value is not None and math.isfinite(value) else None for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; KeyError, TypeError or ValueError when something is missing or of another type."""
        numbers = {key: math.nan if plain[key] is None else float(plain[key]) for key in ("value", "low", "high")}
        return cls(spread=None if plain["spread"] is None else float(plain["spread"]), **numbers)


@dataclass(frozen=True)
class Scored:
    """A score of each draw [D], and of each resampling of the ground [B], a mean over the draws."""

    draws: Float64
    resampled: Float64

    @property
    def figure(self) -> Estimate:
        tail = 50 * (1 - LEVEL)
        known = self.resampled[np.isfinite(self.resampled)]
        ends = np.percentile(known, [tail, 100 - tail]) if len(known) else (math.nan, math.nan)
        spread = float(self.draws.std(ddof=1)) if len(self.draws) > 1 else None
        return Estimate(float(self.draws.mean()), spread, float(ends[0]), float(ends[1]))

    def minus(self, other: Scored) -> Estimate:
        """Difference from a score of the same places and draws."""
        return Scored(self.draws - other.draws, self.resampled - other.resampled).figure


class Blocks:
    """Blocks of ground with their random resampling.

    Parameters
    ----------
    block : [N] block of each tested place
    seed : of the resampling
    """

    def __init__(self, block: Int64, seed: int = 0) -> None:
        self.member = np.unique(block, return_inverse=True)[1].reshape(-1)
        self.count = int(self.member.max()) + 1 if len(block) else 0
        even = np.full(self.count, 1 / max(self.count, 1))
        self._drawn = np.random.default_rng(seed).multinomial(self.count, even, size=RESAMPLES if self.count > 1 else 0)

    def sums(self, terms: Float64) -> tuple[Float64, Float64]:
        """Sums [...] of terms [N, ...] over all places, and over each resampling [B, ...]."""
        by_block = np.zeros((self.count, *terms.shape[1:]))
        np.add.at(by_block, self.member, terms)
        return by_block.sum(axis=0), np.tensordot(self._drawn.astype(np.float64), by_block, axes=1)


def r2(measured: Float64, predicted: Float64, blocks: Blocks) -> Scored:
    """1 - SSE / SST with SST about the mean of the tested values; may be negative.

    Parameters
    ----------
    measured : [N]
    predicted : [D, N] by draw
    """
    offset = measured - measured.mean()
    terms = np.column_stack([np.ones_like(offset), offset, offset**2, ((predicted - measured) ** 2).T])

    def score(sums: Float64) -> Float64:
        count, first, second, squared = sums[..., :1], sums[..., 1:2], sums[..., 2:3], sums[..., 3:]
        total = second - first**2 / count
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(total > 1e-12 * second, 1 - squared / total, np.nan)

    return _scored(score, *blocks.sums(terms))


def rmse(measured: Float64, predicted: Float64, blocks: Blocks) -> Scored:
    """Root mean squared error, in units of the values; arguments as for `r2`."""
    terms = np.column_stack([np.ones_like(measured), ((predicted - measured) ** 2).T])
    return _scored(lambda sums: np.sqrt(sums[..., 1:] / sums[..., :1]), *blocks.sums(terms))


def accuracy(measured: Float64, predicted: Float64, blocks: Blocks) -> Scored:
    """Share of places whose class is right; arguments as for `r2`."""
    terms = np.column_stack([np.ones_like(measured), (predicted == measured).T])
    return _scored(lambda sums: sums[..., 1:] / sums[..., :1], *blocks.sums(terms))


def macro_f1(measured: Float64, predicted: Float64, blocks: Blocks) -> Scored:
    """Mean over the tested classes of 2 TP / (2 TP + FP + FN); arguments as for `r2`."""
    codes = np.unique(measured)
    actual = measured[:, None] == codes
    said = predicted.T[:, :, None] == codes
    terms = np.stack([np.broadcast_to(actual[:, None], said.shape), said, said & actual[:, None]], axis=1).astype(np.float64)

    def score(sums: Float64) -> Float64:
        real, guessed, right = (sums[..., at, :, :] for at in range(3))
        with np.errstate(divide="ignore", invalid="ignore"):
            each = np.where(real > 0, 2 * right / (real + guessed), np.nan)
        known = np.isfinite(each)
        return np.where(known, each, 0.0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)

    return _scored(score, *blocks.sums(terms))


def share(terms: Float64, blocks: Blocks) -> Scored:
    """Share of what is counted that is right.

    Parameters
    ----------
    terms : [N, 1 + D] 1 where a place is counted, then by draw 1 where it is counted and right
    """

    def score(sums: Float64) -> Float64:
        with np.errstate(divide="ignore", invalid="ignore"):
            return sums[..., 1:] / sums[..., :1]

    return _scored(score, *blocks.sums(terms))


def _scored(score, whole: Float64, resampled: Float64) -> Scored:  # type: ignore[no-untyped-def]
    return Scored(score(whole), score(resampled).mean(axis=-1))
