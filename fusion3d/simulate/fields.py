"""The private variables of the scene: one smooth or parcel-wise random field each, from streams of their own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from fusion3d.simulate.keyed import noise, normal, stream, uniform, uniform_noise
from fusion3d.simulate.model import FIELDS, Cover
from fusion3d.simulate.terrain import Terrain

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_EVERYWHERE = tuple(Cover)
_COVERS: dict[str, tuple[Cover, ...]] = {
    "understorey": (Cover.FOREST,),
    "litter_1064": (Cover.FOREST,),
    "mowing_day": (Cover.GRASS,),
    "row_direction": (Cover.WINTER_CROP, Cover.SUMMER_CROP),
}
_MEAN_HEIGHT, _HEIGHT_SPREAD = 280.0, 45.0


class Fields:
    """Values of `FIELDS` by position, whatever grows there; `covers` says where they mean something.

    Parameters
    ----------
    seed : of the scene
    terrain : soils are wetter in hollows, and leaves come later on hills
    """

    def __init__(self, seed: int, terrain: Terrain) -> None:
        self._terrain = terrain
        self._keys = {name: stream(seed, f"field/{name}") for name in FIELDS}

    def covers(self, name: str) -> tuple[Cover, ...]:
        """The covers on which a field means something."""
        return _COVERS.get(name, _EVERYWHERE)

    def value(self, name: str, x: Float64, y: Float64, parcel: Int64) -> Float64:
        """A field at points; `parcel` is the identity of their parcels (only used by fields that go by parcel)."""
        key = self._keys[name]
        if name == "understorey":
            return 3.0 * ndtr(0.75 * noise(key, x, y, 50.0, 2) + 0.66 * normal(key, parcel))
        if name == "litter_1064":
            return 0.15 + 0.30 * ndtr(0.8 * noise(key, x, y, 70.0, 2) + 0.6 * normal(key, parcel))
        if name == "lignin":
            return uniform_noise(key, x, y, 110.0, 2)
        if name == "mowing_day":
            return 130.0 + 100.0 * uniform(key, parcel)
        if name == "row_direction":
            return 180.0 * uniform(key, parcel)
        if name == "soil_moisture":
            return 0.08 + 0.34 * ndtr(0.87 * noise(key, x, y, 130.0, 3) + 0.5 * self._terrain.hollow(x, y))
        higher = (self._terrain.ground(x, y) - _MEAN_HEIGHT) / _HEIGHT_SPREAD
        return 12.0 * np.tanh(0.6 * (0.95 * noise(key, x, y, 160.0, 2) + 0.3 * higher))
