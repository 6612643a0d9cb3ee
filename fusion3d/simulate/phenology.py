"""Greenness by day of year: leaves of trees, meadows and their mowing, and two crops that differ in nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from fusion3d.simulate.model import SPECIES, Cover, Float64, leaf_share


@dataclass(frozen=True)
class DoubleLogistic:
    """Share of green cover over the year (Beck et al. 2006, Remote Sensing of Environment 100, equation 3).

    Parameters
    ----------
    winter, summer : the shares between which the curve moves, 0 to 1
    rise, fall : days of year on which half of the change is done
    pace : days; the greater, the slower

    Notes
    -----
    With one pace for both flanks the curve is symmetric: it peaks midway between `rise` and `fall`.
    """

    winter: float
    summer: float
    rise: float
    fall: float
    pace: float

    @property
    def peak(self) -> float:
        """Day of year of the greatest share."""
        return (self.rise + self.fall) / 2

    def __call__(self, day: npt.ArrayLike) -> Float64:
        day = np.asarray(day, np.float64)
        up = 1 / (1 + np.exp(-(day - self.rise) / self.pace))
        down = 1 / (1 + np.exp((day - self.fall) / self.pace))
        return self.winter + (self.summer - self.winter) * (up + down - 1)


CROPS = {
    Cover.WINTER_CROP: DoubleLogistic(0.08, 0.97, 85.0, 165.0, 12.0),
    Cover.SUMMER_CROP: DoubleLogistic(0.08, 0.97, 165.0, 245.0, 12.0),
}
"""Mirror images about day 165: the curves differ by a shift of 80 days, nothing else."""
EQUAL_CROPS = 165
"""Day of year on which both crops are equally green, so that one image cannot tell them."""
MEADOW = DoubleLogistic(0.55, 0.95, 85.0, 305.0, 14.0)
_MEADOW_LEFT = 0.35
_MEADOW_REGROWTH = 24.0
_HARVEST_AFTER = 30.0
_STRAW_ROTS = 45.0

_SPECIES_DELAY = (0.0, 0.0, 0.0, 8.0, -9.0)
"""Days by which a species' leaves come and go later than the mean of `leaf_share`."""
_AUTUMN_COLOUR = 282.0
_AUTUMN_PACE = 7.0
_TABLE = np.arange(-120.0, 487.0)


@cache
def _leaf_table(evergreen: bool) -> Float64:
    return np.array([leaf_share(day, evergreen) for day in _TABLE])


def leaves(species: int, day: float, shift: npt.ArrayLike = 0.0) -> tuple[Float64, Float64]:
    """Leaves of a species on a day.

    Parameters
    ----------
    species : index into `SPECIES`
    shift : [...] days by which spring and autumn are late

    Returns
    -------
    share : [...] of the summer's leaves that are on the tree
    green : [...] share of those that are green
    """
    own = day - np.asarray(shift, np.float64)
    if SPECIES[species].evergreen:
        return np.ones_like(own), np.ones_like(own)
    own = own - _SPECIES_DELAY[species]
    return np.interp(own, _TABLE, _leaf_table(False)), 1 / (1 + np.exp((own - _AUTUMN_COLOUR) / _AUTUMN_PACE))


def crop(cover: Cover, day: float, shift: npt.ArrayLike = 0.0) -> tuple[Float64, Float64]:
    """Green and straw-covered share of a field; the rest is bare soil.

    The straw of the harvest, 30 days after half of the green is gone, rots within weeks.
    """
    curve = CROPS[cover]
    own = day - np.asarray(shift, np.float64)
    green = curve(own)
    since = own - (curve.fall + _HARVEST_AFTER)
    straw = 1 / (1 + np.exp(-since / 3.0)) * np.exp(-np.maximum(since, 0) / _STRAW_ROTS)
    return green, 0.8 * straw * (1 - green)


def meadow(day: float, shift: npt.ArrayLike = 0.0, mowing: npt.ArrayLike | None = None) -> Float64:
    """Green share of a meadow.

    Parameters
    ----------
    mowing : [...] day of year on which it is mown, NaN for never; None where a sensor shall not see it
    """
    green = MEADOW(day - np.asarray(shift, np.float64))
    if mowing is None:
        return green
    since = day - np.asarray(mowing, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        cut = (1 - _MEADOW_LEFT) * np.exp(-since / _MEADOW_REGROWTH)
    return green * np.where(since >= 0, 1 - cut, 1.0)
