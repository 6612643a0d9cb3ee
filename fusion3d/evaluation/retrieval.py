"""Cross-sensor retrieval: given what one sensor says of a column, find that column among others by what another sensor says.

The columns are held out: no training chip touched them. They are embedded from square windows inside the held-out regions, so
that no encoder sees a training column even at the edge of its receptive field. The gallery of a pair (a, b) holds the columns
that both saw; for GEDI it holds footprints, against the Gaussian-weighted columns of the other sensor under each of them.

The rank of the right column is one plus the number of others that are at least as similar: ties count against the network, and
a network that says the same of every column is last, not average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusion3d.data.chips import read_chips
from fusion3d.data.observation import ChipBatch
from fusion3d.errors import ConfigError
from fusion3d.evaluation.checkpoint import choose_sensors, load_pretraining
from fusion3d.evaluation.places import Patch, held_out_windows, patches
from fusion3d.evaluation.table import RECALLS, PairRetrieval, RetrievalReport
from fusion3d.grid import Window
from fusion3d.ops import footprint_pool
from fusion3d.store import Store

if TYPE_CHECKING:
    from fusion3d.pretraining.module import CrossModalPretraining

_POOL = 4
"""Candidates gathered for each one that is drawn, where there are so many: a gallery of few windows would be of neighbours."""
_LEAST_MASS = 0.2
"""Of a footprint's Gaussian that must lie on columns the other sensor saw."""
_TIE = 1e-9

Vectors = npt.NDArray[np.float64]


# -- ranks


def ranks(query: Vectors, gallery: Vectors, position: Vectors | None = None, hit_radius: float = 0.0) -> npt.NDArray[np.int64]:
    """[N] rank of the right column of each query: row i of `query` belongs to row i of `gallery`.

    Parameters
    ----------
    query, gallery : [N, D] unit vectors
    position : [N, 2] metres; needed with a `hit_radius`
    hit_radius : columns within it of the right one count as right; 0 counts the right one alone

    A vector that is not finite loses against everything.
    """
    count = len(query)
    found = np.zeros(count, np.int64)
    for start in range(0, count, 1024):
        rows = np.arange(start, min(start + 1024, count))
        similar = query[rows] @ gallery.T
        right = _near(rows, count, position, hit_radius)
        best = np.where(right & np.isfinite(similar), similar, -np.inf).max(axis=1, keepdims=True)
        found[rows] = 1 + (~right & ~(similar < best - _TIE)).sum(axis=1)
    return found


def _near(rows: npt.NDArray[np.int64], count: int, position: Vectors | None, radius: float) -> npt.NDArray[np.bool_]:
    right = rows[:, None] == np.arange(count)[None, :]
    if radius > 0:
        if position is None:
            raise ConfigError("a hit radius needs the positions of the columns")
        difference = position[rows, None, :] - position[None, :, :]
        right |= (difference**2).sum(axis=2) <= radius**2
    return right


def chance_recall(right: npt.NDArray[np.int64], count: int, k: int) -> float:
    """Mean chance that one of `right` [N] columns is among k drawn from `count` without replacement (hypergeometric)."""
    if k >= count:
        return 1.0
    if (right == 1).all():
        return k / count
    drawn = np.arange(k)
    missed = np.prod(np.clip((count - right[:, None] - drawn) / (count - drawn), 0.0, None), axis=1)
    return float(1.0 - missed.mean())


def score_pair(names: tuple[str, str], query: Vectors, gallery: Vectors, position: Vectors, hit_radius: float) -> PairRetrieval:
    """Figures of one ordered pair from matched rows [N, D]."""
    count = len(query)
    rank = ranks(query, gallery, position, hit_radius)
    right = np.ones(count, np.int64)
    if hit_radius > 0:
        right = np.concatenate(
            [_near(part, count, position, hit_radius).sum(axis=1) for part in np.array_split(np.arange(count), -(-count // 1024))]
        )
    return PairRetrieval(
        *names,
        count,
        {k: float((rank <= k).mean()) for k in RECALLS},
        {k: chance_recall(right, count, k) for k in RECALLS},
        float(np.median(rank)),
    )


# -- from a checkpoint and a store


def retrieval(
    checkpoint: str | Path,
    store: str | Path | Store,
    *,
    sensors: Sequence[str] | None = None,
    max_columns: int = 2000,
    seed: int = 0,
    untrained: bool = False,
    hit_radius: float = 0.0,
    device: str = "auto",
) -> RetrievalReport:
    """Cross-sensor retrieval on the columns that a checkpoint was never trained on.

    Parameters
    ----------
    checkpoint : .ckpt, or run folder of `fusion3d pretrain`
    store : of the pretraining (its held-out part is used), or one of another place (all of it is)
    sensors : names; None takes all that both have
    max_columns : of a gallery, drawn by `seed` from the held-out columns that both sensors saw
    untrained : take the checkpoint's architecture with the random weights that its training began with
    hit_radius : metres; columns that near to the right one count as right, as neighbours are near-duplicates. 0 is strict

    Raises
    ------
    ConfigError
        Nothing is held out, fewer than two sensors are there, or no pair of them saw two held-out columns together.
    InputError
        The checkpoint or the store cannot be used.
    """
    if max_columns < 2:
        raise ConfigError(f"--columns {max_columns} must be at least 2: retrieval needs something to confuse with")
    if seed < 0:
        raise ConfigError(f"--seed {seed} must not be negative")
    if not (np.isfinite(hit_radius) and hit_radius >= 0):
        raise ConfigError(f"a hit radius of {hit_radius} m must be a number of metres, 0 or more")
    module = load_pretraining(checkpoint, device, untrained=untrained)
    store = store if isinstance(store, Store) else Store.open(store)
    names = choose_sensors(module, store, sensors)
    if len(names) < 2:
        shared = f"retrieval needs two sensors, but checkpoint and store share {', '.join(names) or 'none'}"
        raise ConfigError(f"{shared}; for probes alone give --labels and --no-retrieval")
    windows = held_out_windows(module, store)
    pools = _gather(module, store, names, windows, seed, max_columns)
    pairs, left_out = [], []
    for query, gallery in permutations(names, 2):
        pool = pools[frozenset((query, gallery))]
        if pool.count < 2:
            left_out.append(f"{query} -> {gallery} ({pool.count} held-out candidates)")
            continue
        first, second, position = pool.drawn(max_columns, seed)
        order = (first, second) if query == pool.pair[0] else (second, first)
        pairs.append(score_pair((query, gallery), *order, position, hit_radius))
    if not pairs:
        raise ConfigError(f"{store.path}: no two of the sensors {', '.join(names)} saw two held-out columns together")
    held_out = sum(window.size for window in windows)
    return RetrievalReport(
        str(checkpoint),
        store.path,
        module.trained_steps,
        untrained,
        held_out,
        max_columns,
        seed,
        float(hit_radius),
        tuple(pairs),
        tuple(left_out),
    )


# -- embedding of held-out windows


class _Pool:
    """Matched vectors of a pair of sensors."""

    def __init__(self, pair: tuple[str, str]) -> None:
        self.pair = pair
        self.count = 0
        self._parts: list[tuple[Vectors, Vectors, Vectors]] = []

    def add(self, first: Tensor, second: Tensor, position: Tensor) -> None:
        self._parts.append(tuple(part.double().cpu().numpy() for part in (first, second, position)))  # type: ignore[arg-type]
        self.count += len(first)

    def drawn(self, most: int, seed: int) -> tuple[Vectors, Vectors, Vectors]:
        """At most `most` of them; the same for both directions of the pair."""
        first, second, position = (np.concatenate(part) for part in zip(*self._parts))
        if self.count > most:
            chosen = np.sort(np.random.default_rng(seed).choice(self.count, most, replace=False))
            first, second, position = first[chosen], second[chosen], position[chosen]
        return first, second, position


def _gather(module: CrossModalPretraining, store: Store, names: Sequence[str], windows: Sequence[Window], seed: int,
            max_columns: int) -> dict[frozenset[str], _Pool]:  # fmt: skip
    """Embed windows in an order by `seed` until every pair has enough candidates."""
    pools = {frozenset(pair): _Pool(pair) for pair in permutations(names, 2) if names.index(pair[0]) < names.index(pair[1])}
    todo = [patch for window in windows for patch in patches(window)]
    sigma = float(module.hparams["geolocation_sigma"])
    for at in np.random.default_rng(seed).permutation(len(todo)):
        wanted = [pool for pool in pools.values() if pool.count < _POOL * max_columns]
        if not wanted:
            break
        patch = todo[at]
        asked = sorted({name for pool in wanted for name in pool.pair})
        batch = read_chips(store, [(patch.window.row, patch.window.col)], patch.window.rows, asked)
        meeting = [pool for pool in wanted if set(pool.pair) <= set(batch.sensors)]
        if not meeting:
            continue
        batch = batch.to(module.device)
        with torch.inference_mode():
            embedded = {name: _unit(module, batch, name) for name in sorted({name for pool in meeting for name in pool.pair})}
            for pool in meeting:
                _meet(pool, patch, batch, embedded, sigma)
    return pools


def _unit(module: CrossModalPretraining, batch: ChipBatch, sensor: str) -> tuple[Tensor, Tensor]:
    found = module.encoders[sensor](batch, sensor)
    return torch.nn.functional.normalize(found.shared.float(), dim=1), found.present


def _meet(pool: _Pool, patch: Patch, batch: ChipBatch, embedded: Mapping[str, tuple[Tensor, Tensor]], sigma: float) -> None:
    """Add the matched columns, or footprints, of a patch's own part to the pool of a pair."""
    (first, first_seen), (second, second_seen) = (embedded[name] for name in pool.pair)
    corner = torch.tensor([patch.window.col, patch.window.row], device=first.device, dtype=torch.float64)
    if "gedi" in pool.pair:
        assert batch.gedi is not None
        swap = pool.pair[0] == "gedi"
        columns, columns_seen = (second, second_seen) if swap else (first, first_seen)
        footprints, seen = (first, first_seen) if swap else (second, second_seen)
        pooled, mass = footprint_pool(
            columns,
            1,
            batch.size,
            batch.column,
            batch.gedi.position,
            batch.gedi.chip,
            geolocation_sigma=sigma,
            present=columns_seen,
        )
        place = batch.gedi.position.double() / batch.column + corner
        keep = seen & (mass >= _LEAST_MASS) & _within(place.floor(), patch.own)
        pooled = torch.nn.functional.normalize(pooled, dim=1)
        matched = (footprints, pooled) if swap else (pooled, footprints)
    else:
        at = torch.arange(batch.size, device=first.device, dtype=torch.float64)
        cells = torch.stack([at.repeat(batch.size), at.repeat_interleave(batch.size)], dim=1) + corner
        keep = first_seen & second_seen & _within(cells, patch.own)
        place = cells + 0.5
        matched = (first, second)
    pool.add(matched[0][keep], matched[1][keep], place[keep] * batch.column)


def _within(cells: Tensor, window: Window) -> Tensor:
    """Which of [N, 2] (column, row) lie in a window."""
    col, row = cells.unbind(1)
    return (row >= window.row) & (row < window.row_stop) & (col >= window.col) & (col < window.col_stop)
