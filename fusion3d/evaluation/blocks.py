"""Folds of plots for cross-validation: square blocks of ground that are held out whole, strata, or plots at random.

Neighbouring plots resemble each other. Held out at random, a plot is predicted from its neighbours, and the score says how well
the model interpolates between them, not how well it maps a place without plots (Roberts et al. 2017, Ecography 40).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely

from fusion3d.errors import ConfigError

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

SCHEMES = ("blocks", "random", "strata")
_BLOCKS_A_FOLD = 4
_PLOTS_A_BLOCK = 3
_ROUNDING = 1e-6
_RANDOM = "warning: folds are random, so a plot is predicted from its neighbours: scores are too good for places without plots"


@dataclass(frozen=True)
class Folds:
    """Which plots are held out together.

    Attributes
    ----------
    scheme : "blocks", "random" or "strata"
    fold : [P] from 0
    group : [P] identity of the block (of the plot itself when folds are random): what must not be split
    side : of a block, metres; None when folds are random
    near : pairs [2, M] of plots that must not be in training and held out at once
    buffer : metres within which they are that
    seed : of the assignment
    notes : in words
    """

    scheme: str
    fold: Int64
    group: Int64
    side: float | None
    near: Int64
    buffer: float
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return int(self.fold.max()) + 1

    @property
    def groups(self) -> int:
        return len(np.unique(self.group))

    def split(self, number: int) -> tuple[BoolArray, BoolArray]:
        """[P] plots to train with, without those near a held-out one, and [P] plots held out."""
        held_out = self.fold == number
        training = ~held_out
        one, other = self.near
        training[one[held_out[other]]] = False
        return training, held_out


def spatial_folds(
    polygons: npt.NDArray[np.object_],
    unit: float,
    *,
    side: float | None = None,
    folds: int = 5,
    buffer: float = 0.0,
    seed: int = 0,
) -> Folds:
    """Square blocks with edges at multiples of their side, dealt to folds of about equally many plots.

    Parameters
    ----------
    polygons : [P] plots, which belong to the block of their centroid
    unit : metres in a unit of their coordinates
    side : of a block, metres; None for the largest round one that gives four blocks a fold, where the plots allow that
    buffer : metres; no plot that close to a held-out one is trained with (0: none that overlaps one)

    Raises
    ------
    ConfigError
        All plots lie in one block, or an option is out of range.
    """
    _check(folds, buffer)
    centre = centres(polygons) * unit
    notes = []
    if side is None:
        side = default_side(centre, folds)
    elif not (math.isfinite(side) and side > 0):
        raise ConfigError(f"--block {side} must be a positive number of metres")
    group = blocks_of(centre, side)
    blocks = int(group.max()) + 1
    if blocks < 2:
        raise ConfigError(f"all plots lie in one block of {side:g} m, so none can be held out; pass a smaller --block")
    if blocks < folds:
        notes.append(f"{blocks} folds instead of {folds}: there are that many blocks of {side:g} m with plots")
    fold = deal(group, min(folds, blocks), seed)
    return Folds("blocks", fold, group, float(side), _near(polygons, buffer / unit), float(buffer), seed, tuple(notes))


def random_folds(
    polygons: npt.NDArray[np.object_], unit: float, *, folds: int = 5, buffer: float | None = None, seed: int = 0
) -> Folds:
    """Plots dealt to folds by lot, with a warning; arguments as for `spatial_folds`, no buffer at all for None."""
    _check(folds, buffer or 0.0)
    count = len(polygons)
    if count < 2:
        raise ConfigError("cross-validation needs at least two plots")
    group = np.arange(count)
    near = np.zeros((2, 0), np.int64) if buffer is None else _near(polygons, buffer / unit)
    return Folds("random", deal(group, min(folds, count), seed), group, None, near, buffer or 0.0, seed, (_RANDOM,))


def stratum_folds(
    polygons: npt.NDArray[np.object_],
    unit: float,
    strata: Sequence[str],
    *,
    side: float | None = None,
    buffer: float = 0.0,
    seed: int = 0,
) -> Folds:
    """Each stratum held out in turn: how well a model does in a kind of place without plots.

    Parameters
    ----------
    strata : [P] a fold each, in alphabetical order
    polygons, unit, side, buffer : as for `spatial_folds`; blocks, cut at strata, are what is not split inside of training

    Raises
    ------
    ConfigError
        There is one stratum only, or an option is out of range.
    """
    _check(2, buffer)
    names, fold = np.unique(np.array(strata, dtype=str), return_inverse=True)
    fold = fold.reshape(-1).astype(np.int64)
    if len(names) < 2:
        raise ConfigError("--scheme strata: all plots are of one stratum, so none can be held out; use --scheme blocks")
    centre = centres(polygons) * unit
    if side is None:
        side = default_side(centre, len(names))
    elif not (math.isfinite(side) and side > 0):
        raise ConfigError(f"--block {side} must be a positive number of metres")
    group = np.unique(np.stack([fold, blocks_of(centre, side)]), axis=1, return_inverse=True)[1].reshape(-1)
    return Folds("strata", fold, group, float(side), _near(polygons, buffer / unit), float(buffer), seed)


def centres(polygons: npt.NDArray[np.object_]) -> Float64:
    """[P, 2] centroids, CRS units."""
    middle = shapely.centroid(polygons)
    return np.stack([shapely.get_x(middle), shapely.get_y(middle)], axis=1)


def blocks_of(centre: Float64, side: float) -> Int64:
    """[P] number of the square of `side` that holds each point [P, 2], from 0; a point on an edge is in the north-east of it."""
    # plots on the lines of a national grid must not fall to either side by a rounding error
    cells = np.floor(centre / side + _ROUNDING).astype(np.int64)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)


def default_side(centre: Float64, folds: int) -> float:
    """The largest of 1, 2, 5, 10, 20, ... metres whose squares hold the points in four blocks a fold, or in as many as leave
    three plots a block when plots are few, but at least one a fold."""
    extent = float(np.ptp(centre, axis=0).max())
    if len(centre) < 2 or extent <= 0:
        raise ConfigError("the plots lie on one spot, so none can be held out; give plots of several places")
    wanted = min(_BLOCKS_A_FOLD * folds, max(folds, len(centre) // _PLOTS_A_BLOCK))
    top = math.ceil(math.log10(extent))
    sides = [step * 10.0**power for power in range(top, min(0, top) - 1, -1) for step in (5, 2, 1)]
    counts = [len(np.unique(blocks_of(centre, side))) for side in sides]
    enough = next((at for at, count in enumerate(counts) if count >= wanted), int(np.argmax(counts)))
    return sides[enough]


def check_split(scheme: str, seed: int) -> None:
    """Refuse a scheme of folds that there is not, and a seed that no generator takes."""
    if scheme not in SCHEMES:
        raise ConfigError(f"folds are {' or '.join(SCHEMES)}, not {scheme!r}")
    if seed < 0:
        raise ConfigError(f"--seed {seed} must not be negative")


def deal(group: Int64 | Sequence[int], folds: int, seed: int) -> Int64:
    """[P] fold of each plot: groups in random order, each to the fold that has the fewest plots so far."""
    names, member, sizes = np.unique(group, return_inverse=True, return_counts=True)
    filled = np.zeros(folds, np.int64)
    of_group = np.zeros(len(names), np.int64)
    for number in np.random.default_rng(seed).permutation(len(names)):
        of_group[number] = int(filled.argmin())
        filled[of_group[number]] += sizes[number]
    return of_group[member.reshape(-1)]


def _near(polygons: npt.NDArray[np.object_], distance: float) -> Int64:
    found = shapely.STRtree(polygons).query(polygons, predicate="dwithin", distance=distance)
    return found[:, found[0] != found[1]].astype(np.int64)


def _check(folds: int, buffer: float) -> None:
    if folds < 2:
        raise ConfigError(f"--folds {folds} must be at least 2")
    if not (math.isfinite(buffer) and buffer >= 0):
        raise ConfigError(f"--buffer {buffer} must be a number of metres, 0 or more")
