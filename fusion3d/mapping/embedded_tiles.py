"""Embeddings of tiles as pieces of work that any process can do: it opens checkpoint and store by itself, once.

Sums are rounded in another way when several threads share them. So a piece is computed with one thread, wherever that is, and
neither the number of workers nor where they run changes a bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch

from fusion3d.errors import InputError
from fusion3d.evaluation.checkpoint import load_pretraining
from fusion3d.evaluation.tuned_file import read_answers
from fusion3d.grid import Window
from fusion3d.mapping.finished_blocks import Layers
from fusion3d.mapping.mapper import Mapper
from fusion3d.store import Store

if TYPE_CHECKING:
    from fusion3d.data.observation import ChipBatch


@dataclass(frozen=True)
class Recipe:
    """What a `Mapper` is made from, in plain types.

    Attributes
    ----------
    checkpoint : .ckpt, absolute
    checkpoint_hash, store_hash : of their contents, see `checkpoint_hash` and `store_hash`
    store : folder or URL, absolute
    sensors, resolution, fusion, features : as for `Mapper`
    device : cpu, cuda, or auto: what the process has
    """

    checkpoint: str
    checkpoint_hash: str
    store: str
    store_hash: str
    sensors: tuple[str, ...]
    resolution: float | None
    fusion: str | None
    features: str
    device: str


_lock = Lock()
_held: dict[Recipe, Mapper] = {}
"""The last mapper of this process."""


@contextmanager
def holding(recipe: Recipe, mapper: Mapper) -> Iterator[None]:
    """Let `tile_layers` use a mapper that this process has already; torch's threads are what they were afterwards."""
    threads = torch.get_num_threads()
    _held.clear()
    _held[recipe] = mapper
    try:
        yield
    finally:
        _held.clear()
        torch.set_num_threads(threads)


def tile_layers(recipe: Recipe, window: Window) -> Layers:
    """What a tile of the map holds: see `layers_of`."""
    torch.set_num_threads(1)  # of the calling thread, and of threads that have not computed yet
    with _lock:
        mapper = _held.get(recipe)
        if mapper is None:
            # the former one goes first
            _held.clear()
            mapper = _held[recipe] = _mapper(recipe)
    with exact_convolutions():
        return layers_of(mapper, window, mapper.read(window))


def layers_of(mapper: Mapper, window: Window, batches: dict[str, ChipBatch]) -> Layers:
    """Of a tile: values [D, rows, cols] float32, NaN where not observed; where [1, rows, cols]; by which sensor [S, rows, cols].

    Nothing where no sensor saw the tile.
    """
    cells = mapper.embed(window, batches) if batches else None
    if cells is None or not cells.observed.any():
        return []
    seen = np.stack([cells.seen.get(name, np.zeros_like(cells.observed)) for name in mapper.names])
    return [cells.values, cells.observed[None], seen]


def _mapper(recipe: Recipe) -> Mapper:
    remedy = "workers must see the same files under the same names"
    path = Path(recipe.checkpoint)
    if not path.is_file() or checkpoint_hash(path) != recipe.checkpoint_hash:
        raise InputError(path, "is not there, or is another one, where a worker runs", remedy)
    store = Store.open(recipe.store)
    if store_hash(store) != recipe.store_hash:
        raise InputError(recipe.store, "is another one where a worker runs", remedy)
    module = load_pretraining(path, recipe.device)
    answers = read_answers(path, module)
    return Mapper(module, store, recipe.sensors, recipe.resolution, recipe.fusion, recipe.features, answers)


def checkpoint_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def store_hash(store: Store) -> str:
    """SHA-256 of a store's attributes: configuration, sources and what they held."""
    return hashlib.sha256(json.dumps(store.attributes.to_json(), sort_keys=True).encode()).hexdigest()


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Float32 convolutions in float32 on GPUs too: TF32 rounds to 10 bits, and which kernel runs would depend on the tile."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield
