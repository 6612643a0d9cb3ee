"""Columns for training and columns held out: square regions that no training chip touches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError
from fusion3d.grid import Grid, Window

Mask = npt.NDArray[np.bool_]

_NEAR = 0.1
_ENOUGH = 0.5


@dataclass(frozen=True)
class Split:
    """Regions of a grid that are held out, with a margin around them that belongs to nobody.

    Attributes
    ----------
    x0, y0, column : anchor (CRS units) and column size (m) of the grid, so that a split is never used on another
    row_edges, col_edges : first row (column) of each region, then the grid's extent
    held : region row and region column of each held-out region
    buffer : columns around held-out regions that training leaves alone too
    """

    x0: float
    y0: float
    column: float
    row_edges: tuple[int, ...]
    col_edges: tuple[int, ...]
    held: tuple[tuple[int, int], ...]
    buffer: int

    @classmethod
    def none(cls, grid: Grid) -> Split:
        """A split that holds nothing out."""
        return cls(grid.x0, grid.y0, grid.column, (0, grid.rows), (0, grid.cols), (), 0)

    @classmethod
    def draw(
        cls,
        grid: Grid,
        observed: Mask,
        *,
        chip: int,
        fraction: float = 0.25,
        region: int | None = None,
        buffer: int = 1,
        seed: int = 0,
    ) -> Split:
        """Hold out regions, in an order that `seed` alone decides, until they have `fraction` of the observed columns.

        Parameters
        ----------
        observed : [rows, cols] columns that count
        chip : columns a side of the chips that must fit in
        region : side of a region, columns; None takes two chips or a sixteenth of the longer side, and larger ones or a strip
            where margins around such squares would leave little for training
        buffer : columns around the regions that training leaves alone too

        Raises
        ------
        ConfigError
            No region can be held out that leaves a chip on both sides.
        """
        if not 0.0 <= fraction < 1.0:
            raise ConfigError(f"--data.holdout {fraction} must be at least 0 and below 1")
        if fraction == 0.0:
            return cls.none(grid)
        side = max(2 * chip, max(grid.rows, grid.cols) // 16) if region is None else region
        if side < chip:
            raise ConfigError(f"--data.region {side} is smaller than a chip of {chip} columns; make it at least {chip}")
        layouts = _layouts(grid, fraction, chip, buffer, side, fixed=region is not None)
        found: list[Split] = []
        for edges in layouts:
            split = cls._hold(grid, observed, edges, fraction, chip, buffer, seed)
            if split is not None:
                found.append(split)
                if region is not None or split._shortfall(observed, fraction, chip) == (0.0, 0.0):
                    return split
        if not found:
            raise ConfigError(
                f"a scene of {grid.rows} x {grid.cols} columns is too small to hold out a part with chips of {chip} columns and "
                f"{buffer} columns between; make --data.buffer or --data.size smaller, or set --data.holdout 0"
            )
        return min(found, key=lambda split: split._shortfall(observed, fraction, chip))

    def _shortfall(self, observed: Mask, fraction: float, chip: int) -> tuple[float, float]:
        """By how much too much or too little is held out, and by how much too little is left for training; (0, 0) is good."""
        return max(0.0, abs(self.share(observed) - fraction) - _NEAR), max(0.0, _ENOUGH - self.left(observed, chip))

    @classmethod
    def _hold(
        cls,
        grid: Grid,
        observed: Mask,
        edges: tuple[tuple[int, ...], tuple[int, ...]],
        fraction: float,
        chip: int,
        buffer: int,
        seed: int,
    ) -> Split | None:
        row_edges, col_edges = edges
        counts = np.add.reduceat(np.add.reduceat(observed.astype(np.int64), row_edges[:-1], axis=0), col_edges[:-1], axis=1)
        total, held_columns = int(counts.sum()), 0
        held: list[tuple[int, int]] = []
        for at in sorted(((int(row), int(col)) for row, col in np.argwhere(counts)), key=lambda at: _rank(seed, *at)):
            if not held and not _fits(observed, cls._of(grid, edges, [at], buffer).held_out(), chip):
                continue
            more = held_columns + int(counts[at])
            # The first is taken whatever its size; a later one only while that brings the share nearer.
            if not held or abs(more - fraction * total) < abs(held_columns - fraction * total):
                held, held_columns = [*held, at], more
        while held and not _fits(observed, cls._of(grid, edges, held, buffer).training(), chip):
            held.pop()
        return cls._of(grid, edges, held, buffer) if held else None

    @classmethod
    def _of(cls, grid: Grid, edges: tuple[tuple[int, ...], tuple[int, ...]], held: list[tuple[int, int]], buffer: int) -> Split:
        return cls(grid.x0, grid.y0, grid.column, *edges, tuple(sorted(held)), buffer)

    def share(self, observed: Mask) -> float:
        """Share of the observed columns that is held out."""
        return float(self.held_out()[observed].mean())

    def left(self, observed: Mask, chip: int) -> float:
        """Share of the observed columns not held out that lie in a chip that keeps the margin: what training can use."""
        free = chip_counts(self.training(), chip, 1) == chip * chip
        if not free.size:
            return 0.0
        reached = chip_counts(np.pad(free, chip - 1), chip, 1) > 0
        rest = observed & ~self.held_out()
        return float(reached[rest].mean()) if rest.any() else 0.0

    @property
    def shape(self) -> tuple[int, int]:
        return self.row_edges[-1], self.col_edges[-1]

    def windows(self) -> list[Window]:
        """The held-out regions."""
        return [
            Window(
                self.row_edges[row],
                self.col_edges[col],
                self.row_edges[row + 1] - self.row_edges[row],
                self.col_edges[col + 1] - self.col_edges[col],
            )
            for row, col in self.held
        ]

    def held_out(self) -> Mask:
        """[rows, cols] columns never trained on."""
        mask = np.zeros(self.shape, np.bool_)
        for window in self.windows():
            mask[window.row : window.row_stop, window.col : window.col_stop] = True
        return mask

    def training(self) -> Mask:
        """[rows, cols] columns that training may read: neither held out nor in the buffer."""
        mask = np.ones(self.shape, np.bool_)
        for window in self.windows():
            wide = window.buffered(self.buffer)
            mask[max(0, wide.row) : wide.row_stop, max(0, wide.col) : wide.col_stop] = False
        return mask

    def check(self, grid: Grid) -> None:
        """`ConfigError` when the split was drawn on another grid."""
        if (self.x0, self.y0, self.column, *self.shape) != (grid.x0, grid.y0, grid.column, grid.rows, grid.cols):
            raise ConfigError(
                f"the split was drawn on a grid of {self.shape[0]} x {self.shape[1]} columns of {self.column} m at "
                f"({self.x0}, {self.y0}), the store has {grid.rows} x {grid.cols} of {grid.column} m at ({grid.x0}, {grid.y0}); "
                f"use the store of the pretraining"
            )

    def to_plain(self) -> dict[str, Any]:
        """Plain types for hyperparameters; `from_plain` is its inverse."""
        return {key: _listed(value) for key, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Split:
        return cls(
            float(plain["x0"]),
            float(plain["y0"]),
            float(plain["column"]),
            tuple(plain["row_edges"]),
            tuple(plain["col_edges"]),
            tuple((int(row), int(col)) for row, col in plain["held"]),
            int(plain["buffer"]),
        )


def chip_counts(mask: Mask, size: int, stride: int) -> npt.NDArray[np.int64]:
    """[chip rows, chip columns] columns set in each chip with an origin at a multiple of `stride`; empty when none fits."""
    rows, cols = mask.shape
    if rows < size or cols < size:
        return np.zeros((0, 0), np.int64)
    total = np.zeros((rows + 1, cols + 1), np.int64)
    np.cumsum(np.cumsum(mask, axis=0, dtype=np.int64), axis=1, out=total[1:, 1:])
    row, col = np.arange(0, rows - size + 1, stride)[:, None], np.arange(0, cols - size + 1, stride)[None, :]
    return total[row + size, col + size] - total[row, col + size] - total[row + size, col] + total[row, col]


def _fits(observed: Mask, allowed: Mask, chip: int) -> bool:
    """Whether a chip of allowed columns holds an observed one."""
    return bool(((chip_counts(allowed, chip, 1) == chip * chip) & (chip_counts(observed & allowed, chip, 1) > 0)).any())


def _edges(extent: int, side: int) -> tuple[int, ...]:
    parts = max(1, extent // side)
    return tuple(extent * part // parts for part in range(parts + 1))


def _layouts(
    grid: Grid, fraction: float, chip: int, buffer: int, side: int, fixed: bool
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Ways to cut a grid into regions: squares of a side, larger ones, and strips. Fewer regions lose less to their margins."""
    yield _edges(grid.rows, side), _edges(grid.cols, side)
    while not fixed and 2 * side <= max(grid.rows, grid.cols) // 2:
        side *= 2
        yield _edges(grid.rows, side), _edges(grid.cols, side)
    yield from _strips(grid, fraction, chip, buffer)


def _strips(grid: Grid, fraction: float, chip: int, buffer: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Ways to cut a small grid in two, the longer side first: a strip of at least a chip and the rest."""
    ways: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for extent, rows_first in sorted([(grid.rows, True), (grid.cols, False)], key=lambda item: -item[0]):
        strip = max(chip, round(fraction * extent))
        for cut in (extent - strip, strip):
            if min(cut, extent - cut) >= chip and extent - strip - buffer >= chip:
                edges = (0, cut, extent)
                ways.append((edges, (0, grid.cols)) if rows_first else ((0, grid.rows), edges))
    return ways


def _rank(seed: int, row: int, col: int) -> str:
    return hashlib.sha256(f"{seed}/{row}/{col}".encode()).hexdigest()


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value
