"""Clouds over a scene on a day: how thick, what they hide, and what a cloud mask makes of them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fusion3d.simulate.keyed import noise, stream, uniform
from fusion3d.simulate.model import Float32, Float64, Site
from fusion3d.simulate.sun import Sun

CLOUD_HEIGHT = 1200.0
"""Metres above the ground; with the sun it says where the shadows fall."""
DETECTED = 0.08
"""Opacity above which a cloud counts and a mask should find it."""
_THIN = 0.5
_DARK = 0.2
"""Share of the direct light that a shadow holds back where a mask finds it."""
_MISSED = 0.03
_GOLDEN_RATIO = 0.6180339887498949
_MEAN_COVER = 0.45
_SCALE = 500.0
_THICKENING = 2.7
_PROBES = 48

SCL_SHADOW, SCL_PLANTS, SCL_BARE, SCL_WATER, SCL_CLOUD_LIKELY, SCL_CLOUD, SCL_CIRRUS = 3, 4, 5, 6, 8, 9, 10
"""Classes of Sentinel-2's scene classification (Sen2Cor)."""
# How far the field lies above its threshold where a cloud counts, and how much more where its shadow does.
_EDGE = -math.log(1 - DETECTED) / _THICKENING
_SHADE_LATER = (math.log(1 - DETECTED) - math.log(1 - _DARK)) / _THICKENING


def cloud_cover(site: Site, acquisition: int) -> float:
    """Share of a scene that clouds or their shadows hide at the n-th acquisition of its year, 0 to 1, 0.45 in the mean.

    The acquisitions go through the shares evenly (a golden-ratio sequence), so that every year has clear and overcast dates.
    """
    start = float(uniform(stream(site.seed, "clouds/cover"), site.calendar_year))
    return ((start + acquisition * _GOLDEN_RATIO) % 1.0) ** (1 / _MEAN_COVER - 1)


class Clouds:
    """The clouds of one date as functions of position.

    Parameters
    ----------
    site, day : which scene, and which day of its year
    cover : share of the scene that clouds or their shadows hide, 0 to 1
    sun : where shadows fall
    """

    def __init__(self, site: Site, day: int, cover: float, sun: Sun) -> None:
        self._key = stream(site.seed, f"clouds/{site.calendar_year}/{day}")
        self._missed = stream(site.seed, f"clouds/missed/{site.calendar_year}/{day}")
        box = site.box
        x, y = np.linspace(box.xmin, box.xmax, _PROBES), np.linspace(box.ymin, box.ymax, _PROBES)
        x, y = np.meshgrid(x, y)
        away = CLOUD_HEIGHT / math.tan(math.radians(max(sun.elevation, 5.0)))
        self._to_sun = away * math.sin(math.radians(sun.azimuth)), away * math.cos(math.radians(sun.azimuth))
        hiding = np.maximum(self._field(x, y), self._field(x + self._to_sun[0], y + self._to_sun[1]) - _SHADE_LATER)
        self._threshold = float(np.quantile(hiding, 1 - cover))

    def _field(self, x: Float64, y: Float64) -> Float64:
        return noise(self._key, x, y, _SCALE, octaves=5, gain=0.55)

    def opacity(self, x: Float64, y: Float64) -> Float32:
        """Share of the light from the ground that the clouds above it hold back, 0 to 1."""
        above = np.maximum(self._field(x, y) - self._threshold + _EDGE, 0.0)
        return (1 - np.exp(-_THICKENING * above)).astype(np.float32)

    def shade(self, x: Float64, y: Float64) -> Float32:
        """Share of the direct sunlight that clouds hold back from the ground, 0 to 1."""
        east, north = self._to_sun
        return self.opacity(x + east, y + north)

    def classified(self, x: Float64, y: Float64, opacity: Float32, shade: Float32,
                   clear: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:  # fmt: skip
        """Scene classification as a mask algorithm would give it.

        It is not perfect: 3 % of the thin clouds, in patches of 60 m, are missed, and haze below `DETECTED` always.

        Parameters
        ----------
        clear : class of each pixel without clouds
        """
        scl = np.where(shade > _DARK, np.uint8(SCL_SHADOW), clear)
        scl = np.where(opacity > DETECTED, np.uint8(SCL_CIRRUS), scl)
        scl = np.where(opacity > 0.3, np.uint8(SCL_CLOUD_LIKELY), scl)
        scl = np.where(opacity > _THIN, np.uint8(SCL_CLOUD), scl)
        patch = uniform(self._missed, np.floor(x / 60).astype(np.int64), np.floor(y / 60).astype(np.int64))
        missed = (opacity > DETECTED) & (opacity <= _THIN) & (patch < _MISSED)
        return np.where(missed, clear, scl).astype(np.uint8)
