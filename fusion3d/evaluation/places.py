"""Which columns of a store a checkpoint may be judged on, and in which squares they are embedded.

Columns are judged where no training chip touched them. They are embedded from square windows inside of those regions, so that no
encoder sees a training column even at the edge of its receptive field. Columns to learn from labels with lie in the training part
and are embedded in the same way, so that both stand in windows of the same kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np

from fusion3d.data.candidates import coverage
from fusion3d.data.split import Mask, Split
from fusion3d.errors import ConfigError
from fusion3d.grid import Grid, Window, moved_bounds
from fusion3d.store import Store

if TYPE_CHECKING:
    from fusion3d.pretraining.module import CrossModalPretraining

_SIDE = 64
"""Columns on the side of a window that is embedded at once, at most."""
_SHARE = 0.25
"""Of a store of another place that is held out for tests."""
_LEAST_SIDE = 4
"""Columns on the side of a window; in a narrower one an encoder would see next to nothing around a column."""


# -- held out by training


def held_out_windows(module: CrossModalPretraining, store: Store) -> list[Window]:
    """Rectangles of columns that training never touched: the split's, or all of a store elsewhere.

    Raises
    ------
    ConfigError
        Nothing was held out, or the store overlaps the training scene on another grid.
    """
    split = split_of(module, store)
    return [store.grid.window] if split is None else split.windows()


def split_of(module: CrossModalPretraining, store: Store) -> Split | None:
    """Training and held-out part of a store that a checkpoint was trained on; None for one of another place.

    Raises
    ------
    ConfigError
        Nothing was held out, or the store overlaps the training scene on another grid.
    """
    scene = module.hparams["scene"]
    overlapping = []
    for facts, plain in zip(scene["grids"], scene["splits"], strict=True):
        place = {key: facts[key] for key in ("crs", "x0", "y0", "rows", "cols")}
        trained = Grid(column=scene["column"], voxel=scene["voxel"], **place)
        split = Split.from_plain(plain)
        try:
            split.check(store.grid)
            same = trained.pyproj_crs == store.grid.pyproj_crs
        except ConfigError:
            same = False
        if same:
            if not split.windows():
                raise ConfigError(
                    "the checkpoint was trained on every column of this store; pretrain with --data.holdout 0.25, "
                    "or evaluate on a store of another place"
                )
            return split
        overlapping.append(_overlap(trained, store.grid))
    if any(overlapping):
        raise ConfigError(
            f"{store.path} overlaps the training scene on another grid, so what was held out cannot be told; "
            f"use the store of the pretraining, or one of another place"
        )
    return None


def _overlap(first: Grid, second: Grid) -> bool:
    """Whether the extents of two grids overlap, compared in the CRS of the first."""
    west, south, east, north = first.bounds(first.window)
    there = moved_bounds(second.bounds(second.window), second.pyproj_crs, first.pyproj_crs)
    return bool(there[0] < east and there[2] > west and there[1] < north and there[3] > south)


# -- to learn from labels with, and to test on


@dataclass(frozen=True)
class ProbePlaces:
    """Disjoint windows: those whose labels may be learnt from, and those on which what was learnt is tested."""

    training: tuple[Window, ...]
    test: tuple[Window, ...]


def probe_places(modules: Sequence[CrossModalPretraining], store: Store, sensors: Sequence[str], seed: int = 0) -> ProbePlaces:
    """The training and held-out part of a checkpoint; on a store of another place, a split of it that `seed` draws.

    Parameters
    ----------
    modules : the checkpoint that is judged, then those it is compared with: what is tested on was held out by all of them
    sensors : whose columns count in a split of another place

    Raises
    ------
    ConfigError
        As for `split_of`, or the checkpoints share no held-out columns.
    """
    splits = [split_of(module, store) for module in modules]
    known = [split for split in splits if split is not None]
    first = splits[0]
    if first is None:
        # what another checkpoint was trained on here is for training
        first = known[0] if known else _drawn(modules[0], store, sensors, seed)
    training, held_out = first.training(), first.held_out()
    for split in known:
        held_out &= split.held_out()
    regions = [
        Window(top, left, bottom - top, right - left)
        for (top, bottom), (left, right) in product(pairwise(first.row_edges), pairwise(first.col_edges))
    ]
    places = ProbePlaces(*(tuple(_inside(mask, regions)) for mask in (training, held_out)))
    if not places.test:
        raise ConfigError(
            "the checkpoints held out different columns; pretrain them with the same --data.holdout and --data.seed"
        )
    if not places.training:
        raise ConfigError("the training part has no window to learn from labels in; pretrain with a smaller --data.holdout")
    return places


def _drawn(module: CrossModalPretraining, store: Store, sensors: Sequence[str], seed: int) -> Split:
    seen = np.logical_or.reduce(list(coverage(store, sensors).values()))
    return Split.draw(store.grid, seen, chip=int(module.hparams["scene"]["size"]), fraction=_SHARE, seed=seed)


def _inside(mask: Mask, regions: Sequence[Window]) -> list[Window]:
    """The largest window of each region that lies in a mask, where it is not too narrow."""
    found = []
    for region in regions:
        part = mask[region.row : region.row_stop, region.col : region.col_stop]
        row, col, rows, cols = largest_rectangle(part)
        if min(rows, cols) >= min(_LEAST_SIDE, region.rows, region.cols):
            found.append(Window(region.row + row, region.col + col, rows, cols))
    return found


def largest_rectangle(mask: Mask) -> tuple[int, int, int, int]:
    """First row and column, and rows and columns, of the largest rectangle of a mask; of size 0 when nothing is set."""
    best, height = (0, 0, 0, 0), np.zeros(mask.shape[1], np.int64)
    for row, line in enumerate(mask):
        height = np.where(line, height + 1, 0)
        # columns at which a rectangle that is still open begins, with its height, rising (a stack)
        open_: list[tuple[int, int]] = []
        for col, tall in enumerate((*height.tolist(), 0)):
            start = col
            while open_ and open_[-1][1] >= tall:
                start, was = open_.pop()
                if was * (col - start) > best[2] * best[3]:
                    best = (row - was + 1, start, was, col - start)
            open_.append((start, tall))
    return best


# -- windows to embed


@dataclass(frozen=True)
class Patch:
    """A square window to embed, and the part of it whose columns are taken from it."""

    window: Window
    own: Window


def patches(window: Window, side: int = _SIDE) -> list[Patch]:
    """Overlapping squares inside `window`; each column is taken from the square in which it is farthest from the edge."""
    side = min(side, window.rows, window.cols)
    return [
        Patch(
            Window(window.row + row, window.col + col, side, side),
            Window(window.row + row_from, window.col + col_from, row_to - row_from, col_to - col_from),
        )
        for row, row_from, row_to in _spans(window.rows, side)
        for col, col_from, col_to in _spans(window.cols, side)
    ]


def _spans(length: int, side: int) -> list[tuple[int, int, int]]:
    """Start of each span of `side` and the part that is its own; the parts cover [0, length) once."""
    starts = [*range(0, length - side, max(1, side // 2)), length - side]
    cuts = [0, *((first + side + second) // 2 for first, second in pairwise(starts)), length]
    return list(zip(starts, cuts, cuts[1:]))
