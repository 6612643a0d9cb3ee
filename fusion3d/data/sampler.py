"""Which chips and which pairs of sensors a training step sees.

Batch b is a function of the seed and b alone, so a run resumes anywhere. With the candidates D_p of each pair p of sensors,

1. R of the pairs are drawn, with weights of one over their chance (`fusion3d.data.pairs`);
2. the chips of the batch are drawn for them in turn, in random order: each from D_p of its pair p, first a stratum, then a place
   in it, then a chip. Chips of one batch do not overlap where others are left;
3. only the sensors of the drawn pairs are read.

So the expected loss of a step is the sum over all pairs p of E[L_p], the contrast L_p averaged over the batches that are drawn
when p is: for R = 1, of chips where p meets and of nothing else. R of all pairs or more gives the sum itself in every step, over
batches in which the pairs take turns. Where all pairs meet in the same chips, these are the same batches for every R.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler

from fusion3d.data.candidates import Candidates, ChipAddress
from fusion3d.data.chances import capped_chances
from fusion3d.data.pairs import DrawnPair, Pair, draw_pairs, stream
from fusion3d.errors import ConfigError

_CHIP_STREAM, _READ_STREAM, _PAIR_STREAM = 1, 2, 3
_TRIES = 8
MOST_OFTEN = 8.0
"""Strata are drawn alike, but none more often than so many times its share of the chips: three chips must not make up a third
of what is learnt from."""


class ChipSampler(Sampler[list[ChipAddress]]):
    """Endless batches of chips, balanced over pairs of sensors, then over strata, then over places.

    Parameters
    ----------
    candidates : per pair
    batch_size : chips a batch and process
    seed : of the whole sequence
    pairs : R, pairs of sensors drawn for each batch; None reads all sensors of all chips and leaves the pairs to the model
    pair_weights : by "sensor-sensor", relative chance of being drawn, 1 when not named
    size : columns a side, within which chips of one batch keep from each other
    start : number of the first batch, asked each time that iteration begins (a resumed run begins at its step)
    rank, ranks : this process among those that train together: all draw the same pairs, each takes its own chips
    """

    def __init__(
        self,
        candidates: Sequence[Candidates],
        batch_size: int,
        seed: int = 0,
        *,
        pairs: int | None = None,
        pair_weights: Mapping[str, float] | None = None,
        size: int = 1,
        start: Callable[[], int] = lambda: 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if not candidates:
            raise ConfigError("no chip to draw: no two sensors saw the same columns")
        self.candidates, self.batch_size, self.seed, self.start = list(candidates), batch_size, seed, start
        self.count, self.pair_weights, self.size = pairs, pair_weights, size
        self.rank, self.ranks = rank, ranks
        self._balance = [BalancedDraw(item) for item in self.candidates]
        self._pairs: list[Pair] = [(item.pair[0], item.pair[1]) for item in self.candidates if len(item.pair) == 2]

    def draw(self, number: int) -> tuple[tuple[DrawnPair, ...] | None, list[int]]:
        """Pairs of batch `number` (None for all), and the candidates that its chips are drawn from in turn."""
        generator = stream(self.seed, _PAIR_STREAM, number)
        if self.count is None or not self._pairs:
            return None, torch.randperm(len(self.candidates), generator=generator).tolist()
        drawn = draw_pairs(self._pairs, self.count, generator, self.pair_weights)
        turns = [self._pairs.index(item.pair) for item in drawn]
        return tuple(drawn), [turns[at] for at in torch.randperm(len(turns), generator=generator).tolist()]

    def batch(self, number: int) -> list[ChipAddress]:
        """Batch `number` of the sequence, this process's part."""
        drawn, turns = self.draw(number)
        whole = self.batch_size * self.ranks
        taken = np.zeros((whole, 3), np.int64)
        for at in range(whole):
            taken[at] = self._chip(turns[at % len(turns)], (self.seed, _CHIP_STREAM, number, at), taken[:at])
        own = range(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        addresses = []
        for at in own:
            store, row, col = taken[at].tolist()
            addresses.append(ChipAddress(store, row, col, (self.seed, _READ_STREAM, number, at), drawn))
        return addresses

    def _chip(self, which: int, key: tuple[int, ...], taken: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Store, row and column of a chip that overlaps none of those taken, or after some tries one that does."""
        generator, found = np.random.default_rng(key), self.candidates[which]
        for _ in range(_TRIES):
            at = self._balance[which].draw(generator)
            chip = np.array([found.store[at], *found.origin[at]], np.int64)
            near = (np.abs(taken[:, 1:] - chip[1:]) < self.size).all(axis=1) & (taken[:, 0] == chip[0])
            if not near.any():
                break
        return chip

    def __iter__(self) -> Iterator[list[ChipAddress]]:
        number = self.start()
        while True:
            yield self.batch(number)
            number += 1


class BalancedDraw:
    """Draws of one pair's chips: a stratification, a class of it, a place that has chips of this class, one of those.

    Classes of a stratification are drawn alike, but none more than `MOST_OFTEN` times as often as its share of the chips; the
    places of a class are drawn alike, and so are the chips of a place and class.
    """

    def __init__(self, candidates: Candidates) -> None:
        one = np.zeros(len(candidates), np.int64)
        kinds = [column for column in candidates.strata.T if len(np.unique(column)) > 1]
        self._kinds = [_Classes(column, candidates.place) for column in kinds or [one]]

    def draw(self, generator: np.random.Generator) -> int:
        """Position of a chip among the candidates."""
        return self._kinds[int(generator.integers(len(self._kinds)))].draw(generator)


class _Classes:
    """Chips sorted by class and place, so that the chips of one class and place are one run."""

    def __init__(self, classes: npt.NDArray[np.int64], place: npt.NDArray[np.int64]) -> None:
        self.order = np.lexsort((place, classes))
        sorted_class, sorted_place = classes[self.order], place[self.order]
        class_starts = np.flatnonzero(np.diff(sorted_class, prepend=sorted_class[0] - 1))
        run_starts = np.union1d(class_starts, np.flatnonzero(np.diff(sorted_place, prepend=-1)))
        self.runs = np.append(run_starts, len(self.order))
        self.first_run = np.append(np.searchsorted(run_starts, class_starts), len(run_starts))
        share = np.diff(np.append(class_starts, len(self.order))) / len(self.order)
        self.cumulated = np.cumsum(capped_chances(np.ones(len(share)), MOST_OFTEN * share, 1.0))

    def draw(self, generator: np.random.Generator) -> int:
        drawn = np.searchsorted(self.cumulated, generator.random() * self.cumulated[-1], side="right")
        run = int(generator.integers(self.first_run[drawn], self.first_run[drawn + 1]))
        return int(self.order[int(generator.integers(self.runs[run], self.runs[run + 1]))])
