"""Which chips a training step sees: chip i is a function of the seed and i alone, so a run resumes anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from fusion3d.data.split import Mask, chip_counts
from fusion3d.errors import ConfigError
from fusion3d.grid import Grid, Window
from fusion3d.store import Store

_CHIP_STREAM = 1


@dataclass(frozen=True)
class ChipAddress:
    """One chip of one store; `seed` feeds the randomness of reading it (dates, thinning)."""

    store: int
    row: int
    col: int
    seed: tuple[int, ...] | None = None


def coverage(store: Store, sensors: Sequence[str]) -> dict[str, Mask]:
    """[rows, cols] columns that each sensor saw."""
    grid: Grid = store.grid
    seen = {name: np.zeros((grid.rows, grid.cols), np.bool_) for name in sensors}
    for block_row, block_col in grid.blocks_in(grid.window):
        window: Window = grid.block_window(block_row, block_col)
        part = slice(window.row, window.row_stop), slice(window.col, window.col_stop)
        for name in sensors:
            seen[name][part] = store.seen(name, block_row, block_col)
    return seen


def seen_by_enough(seen: Mapping[str, Mask], sensors: int) -> Mask:
    """[rows, cols] columns that at least so many sensors saw."""
    return np.sum([mask.astype(np.int8) for mask in seen.values()], axis=0) >= sensors


@dataclass(frozen=True)
class Candidates:
    """Chips where a pair of sensors (or the only one that there is) saw enough of the same columns.

    Attributes
    ----------
    pair : names of the two sensors, or of the only one
    store : [K] which store
    origin : [K, 2] row and column
    place : [K] number of the chip's place (a square of 4 x 4 chips of a store); places are drawn before chips
    """

    pair: tuple[str, ...]
    store: npt.NDArray[np.int64]
    origin: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.store)


def find_candidates(
    seen: Sequence[Mapping[str, Mask]],
    allowed: Sequence[Mask],
    size: int,
    *,
    min_columns: int = 16,
    stride: int | None = None,
) -> list[Candidates]:
    """Chips of allowed columns only, for every pair of sensors that meet in at least one; of a single sensor, where it looked.

    Parameters
    ----------
    seen, allowed : per store: coverage by sensor, and the columns that chips may touch
    min_columns : columns that both sensors saw in a chip; 1 is enough when GEDI is one of them
    stride : origins are multiples of it; None takes a quarter of the chip
    """
    step = max(1, size // 4) if stride is None else stride
    names = sorted({name for masks in seen for name in masks}, key=_sensor_order)
    found = []
    for pair in combinations(names, min(2, len(names))):
        parts = []
        for store, (masks, free) in enumerate(zip(seen, allowed, strict=True)):
            if not all(name in masks for name in pair):
                continue
            enough = 1 if "gedi" in pair else min(min_columns, size * size)
            both = chip_counts(np.logical_and.reduce([masks[name] for name in pair]), size, step) >= enough
            origin = np.argwhere(both & (chip_counts(free, size, step) == size * size)) * step
            parts.append(np.concatenate([np.full((len(origin), 1), store), origin], axis=1))
        rows = np.concatenate(parts) if parts else np.zeros((0, 3), np.int64)
        if len(rows):
            squares = np.concatenate([rows[:, :1], rows[:, 1:] // (4 * size)], axis=1)
            place = np.unique(squares, axis=0, return_inverse=True)[1].reshape(-1)
            found.append(Candidates(pair, rows[:, 0], rows[:, 1:], place))
    return found


def _sensor_order(name: str) -> tuple[int, str]:
    return (("als", "gedi").index(name) if name in ("als", "gedi") else 2, name)


class ChipSampler(Sampler[list[ChipAddress]]):
    """Endless batches of chips, balanced over pairs of sensors, then over places.

    Parameters
    ----------
    candidates : per pair
    batch_size : chips a batch
    seed : of the whole sequence
    start : number of the first batch, asked each time that iteration begins (a resumed run begins at its step)
    rank, ranks : this process among those that train together; each takes its own chips of a step
    """

    def __init__(
        self,
        candidates: Sequence[Candidates],
        batch_size: int,
        seed: int = 0,
        start: Callable[[], int] = lambda: 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if not candidates:
            raise ConfigError("no chip to draw: no two sensors saw the same columns")
        self.candidates, self.batch_size, self.seed, self.start = list(candidates), batch_size, seed, start
        self.rank, self.ranks = rank, ranks
        # Sorted by place, the chips of a place are one run: two uniform draws find a place, then a chip in it.
        self._orders = [np.argsort(item.place, kind="stable") for item in self.candidates]
        self._splits = [np.concatenate([[0], np.cumsum(np.bincount(item.place))]) for item in self.candidates]

    def chip(self, index: int) -> ChipAddress:
        """Chip `index` of the sequence."""
        generator = np.random.default_rng((self.seed, _CHIP_STREAM, index))
        pair = int(generator.integers(len(self.candidates)))
        splits = self._splits[pair]
        place = int(generator.integers(len(splits) - 1))
        chosen = self._orders[pair][int(generator.integers(splits[place], splits[place + 1]))]
        found = self.candidates[pair]
        row, col = (int(part) for part in found.origin[chosen])
        return ChipAddress(int(found.store[chosen]), row, col, (self.seed, _CHIP_STREAM, index, 0))

    def batch(self, number: int) -> list[ChipAddress]:
        """Batch `number` of the sequence, this process's part."""
        first = (number * self.ranks + self.rank) * self.batch_size
        return [self.chip(index) for index in range(first, first + self.batch_size)]

    def __iter__(self) -> Iterator[list[ChipAddress]]:
        number = self.start()
        while True:
            yield self.batch(number)
            number += 1


def fixed_chips(candidates: Sequence[Candidates], size: int, most: int) -> list[ChipAddress]:
    """Chips that do not overlap and hold every pair where they can, in a fixed order, at most `most`; pairs take turns."""
    queues = [
        [ChipAddress(int(store), int(row), int(col)) for store, (row, col) in zip(item.store, item.origin, strict=True)]
        for item in candidates
    ]
    taken: list[ChipAddress] = []
    while len(taken) < most and any(queues):
        for queue in queues:
            while queue:
                chip = queue.pop(0)
                if all(_apart(chip, other, size) for other in taken):
                    taken.append(chip)
                    break
    return taken[:most]


def _apart(first: ChipAddress, second: ChipAddress, size: int) -> bool:
    return first.store != second.store or abs(first.row - second.row) >= size or abs(first.col - second.col) >= size
