"""One embedding for every column of ground, from whatever sensors saw it, LiDAR first.

The five calls that a notebook needs are here; each loads what it needs when it is first used:

>>> import fusion3d as f3
>>> scene = f3.read_scene("scene.yaml")  # doctest: +SKIP
>>> f3.prepare_store(scene, "scene.zarr")  # doctest: +SKIP
>>> store = f3.open_store("scene.zarr")  # doctest: +SKIP
>>> f3.embed_store("runs/pretrain", "scene.zarr", "embedding.tif")  # doctest: +SKIP
>>> encoder = f3.load_encoder("runs/pretrain/encoders/als.safetensors")  # doctest: +SKIP
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_CALLS = {
    "read_scene": ("fusion3d.prepare.scene", "read_scene"),
    "prepare_store": ("fusion3d.prepare.run", "prepare"),
    "open_store": ("fusion3d.store.reader", "Store"),
    "embed_store": ("fusion3d.mapping.embed", "embed"),
    "load_encoder": ("fusion3d.encoders.checkpoint", "load_encoder"),
}

__all__ = ["__version__", *sorted(_CALLS)]


# oneDNN keeps what it compiled for each of the last 1,024 shapes. Layers on points hardly see a shape twice: a process
# that trains would grow for nothing, by some 40 MiB. Read when the first layer runs; what the user has set stays.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")


def __getattr__(name: str) -> Any:
    if name not in _CALLS:
        raise AttributeError(f"module 'fusion3d' has no attribute {name!r}")
    module, attribute = _CALLS[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_CALLS])
