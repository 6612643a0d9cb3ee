"""The terrain: hills, and a valley with a river in it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from fusion3d.simulate.keyed import noise, stream, uniform
from fusion3d.simulate.model import Box
from fusion3d.simulate.winding import Winding

Float64 = npt.NDArray[np.float64]

_FALL = 0.002
_LOWEST = 240.0
_BANK = 0.6
_FLOODPLAIN = 35.0
_HILLSIDE = 270.0
_HOLLOW = 140.0


class Terrain:
    """Heights of the ground, metres above sea level; a river runs through them from the north-east to the south-west.

    Parameters
    ----------
    seed : of the scene
    origin : south-western corner of the scene, metres: every scene of a seed, large or small, has the river pass there
    """

    def __init__(self, seed: int, origin: tuple[float, float]) -> None:
        self._keys = [stream(seed, f"terrain/{name}") for name in ("mountain", "hill", "knoll", "bump", "valley")]
        self._width_key = stream(seed, "river/width")
        angle = math.radians(33.0 + 24.0 * float(uniform(stream(seed, "river/angle"))))
        x, y = origin[0] + 55.0, origin[1] + 55.0
        self.river = Winding(stream(seed, "river"), x, y, angle, amplitude=28.0, wavelength=260.0)

    def river_half_width(self, s: Float64) -> Float64:
        """Half of the river's width at a distance along it, metres: 5 to 11."""
        return 5.0 + 6.0 * ndtr(noise(self._width_key, s, np.zeros_like(s), 400.0))

    def from_bank(self, x: Float64, y: Float64) -> Float64:
        """Distance from the river's bank, metres; negative on the water."""
        distance, s = self.river.distance(x, y)
        return distance - self.river_half_width(s)

    def hollow(self, x: Float64, y: Float64) -> Float64:
        """How hollow the ground is at the scale of a field, standard normal; positive in hollows."""
        return -noise(self._keys[2], x, y, _HOLLOW)

    def ground(self, x: Float64, y: Float64) -> Float64:
        """Terrain; on the river that of the water, which falls by 2 m a km."""
        distance, s = self.river.distance(x, y)
        beyond = distance - self.river_half_width(s)
        # Downstream is towards the origin, so that the level stays positive in large scenes.
        level = _LOWEST + _FALL * s
        mountain, hill, knoll, bump, valley = self._keys
        # The valley follows the river's axis and not its bends; where a bend comes close, the bank is steep.
        _, across = self.river.along_across(x, y)
        across = np.abs(across + 35.0 * noise(valley, x, y, 420.0))
        rise = _smooth_step((across - _FLOODPLAIN) / _HILLSIDE) * _smooth_step((beyond - 4.0) / 70.0)
        # The softplus keeps hill tops above the valley floor without a kink.
        relief = _softplus(62.0 + 24.0 * noise(mountain, x, y, 700.0) + 13.0 * noise(hill, x, y, 290.0), 12.0)
        rough = 4.5 * noise(knoll, x, y, _HOLLOW) + 0.25 * noise(bump, x, y, 24.0, 2)
        bank = _BANK * _smooth_step(beyond / 3.0)
        return level + bank + rise * relief + _smooth_step((beyond - 5.0) / 120.0) * (rough + 9.0) * (0.15 + 0.85 * rise)

    def river_outline(self, box: Box) -> Float64:
        """[N, 2] corners of the river's area on the stretch that passes a box."""
        line = self.river.line(box)
        s, t = self.river.along_across(line[:, 0], line[:, 1])
        half = self.river_half_width(s) * np.sqrt(1.0 + self.river.slope(s) ** 2)
        left, right = self.river.place(s, t + half), self.river.place(s, t - half)
        return np.concatenate([np.stack(left, axis=1), np.stack(right, axis=1)[::-1]])


def _smooth_step(u: Float64) -> Float64:
    u = np.clip(u, 0.0, 1.0)
    return u * u * (3.0 - 2.0 * u)


def _softplus(value: Float64, width: float) -> Float64:
    return width * np.logaddexp(0.0, value / width)
