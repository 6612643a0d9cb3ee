"""Which chips there are: squares of allowed columns where a pair of sensors meets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import numpy.typing as npt

from fusion3d.data.pairs import DrawnPair
from fusion3d.data.split import Mask, chip_counts
from fusion3d.grid import Grid, Window
from fusion3d.store import Store


@dataclass(frozen=True)
class ChipAddress:
    """One chip of one store.

    Attributes
    ----------
    store : number of the store
    row, col : of the north-west column
    seed : feeds the randomness of reading it (dates, thinning); None reads without any
    drawn : pairs of sensors that its batch was drawn for, the only ones read; None reads all sensors
    """

    store: int
    row: int
    col: int
    seed: tuple[int, ...] | None = None
    drawn: tuple[DrawnPair, ...] | None = None

    @property
    def sensors(self) -> tuple[str, ...] | None:
        """Sensors to read; None reads all."""
        return None if self.drawn is None else tuple(sorted({name for item in self.drawn for name in item.pair}))


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


def _no_strata() -> npt.NDArray[np.int64]:
    return np.zeros((0, 0), np.int64)


@dataclass(frozen=True)
class Candidates:
    """Chips where a pair of sensors (or the only one that there is) saw enough of the same columns.

    Attributes
    ----------
    pair : names of the two sensors, or of the only one
    store : [K] which store
    origin : [K, 2] row and column
    place : [K] number of the chip's place (a square of 4 x 4 chips of a store); places are drawn before chips
    strata : [K, kinds] class of the chip in each stratification; [0, 0] for none
    """

    pair: tuple[str, ...]
    store: npt.NDArray[np.int64]
    origin: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    strata: npt.NDArray[np.int64] = field(default_factory=_no_strata)

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
