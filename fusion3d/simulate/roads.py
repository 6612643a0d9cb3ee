"""Roads: two families of winding lines, along the valley and across it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fusion3d.simulate.keyed import hashed, stream, uniform
from fusion3d.simulate.model import Box
from fusion3d.simulate.winding import Winding

Float64 = npt.NDArray[np.float64]

HALF_WIDTH = 3.0
_SPACING = 620.0


class Roads:
    """Roads 6 m wide, about 600 m apart.

    Parameters
    ----------
    seed : of the scene
    river : its course; the first family of roads runs along it, starting beside it
    """

    def __init__(self, seed: int, river: Winding) -> None:
        self._key = stream(seed, "roads")
        self._families = []
        for family, (turn, start) in enumerate(((0.0, 125.0), (math.pi / 2, -290.0))):
            side = 1.0 if uniform(self._key, family, 0) < 0.5 else -1.0
            self._families.append((family, river.angle + turn, start * (side if family == 0 else 1.0)))
        self._x, self._y = river.x, river.y

    def _road(self, family: int, angle: float, start: float, number: int) -> Winding:
        shift = start + _SPACING * (number + 0.3 * float(uniform(self._key, family, 1, number) - 0.5) * (number != 0))
        x, y = self._x - shift * math.sin(angle), self._y + shift * math.cos(angle)
        return Winding(np.uint64(hashed(self._key, family, 2, number)), x, y, angle, amplitude=22.0, wavelength=300.0)

    def passing(self, box: Box) -> list[Winding]:
        """Roads that may cross a box."""
        x = np.array([box.xmin, box.xmin, box.xmax, box.xmax]) - self._x
        y = np.array([box.ymin, box.ymax, box.ymin, box.ymax]) - self._y
        roads = []
        for family, angle, start in self._families:
            across = (y * math.cos(angle) - x * math.sin(angle) - start) / _SPACING
            numbers = range(math.floor(across.min() - 0.5), math.ceil(across.max() + 0.5) + 1)
            roads += [self._road(family, angle, start, number) for number in numbers]
        return roads

    def distance(self, x: Float64, y: Float64) -> Float64:
        """Distance from the axis of the nearest road, metres; beyond 100 m it may be more than that."""
        nearest = np.full(x.shape, np.inf)
        if x.size == 0:
            return nearest
        box = Box(float(x.min()), float(y.min()), float(x.max()), float(y.max()))
        for road in self.passing(box):
            nearest = np.minimum(nearest, road.distance(x, y)[0])
        return nearest
