"""Published relations between the dimensions of trees."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError

Float64 = npt.NDArray[np.float64]


def top_height(age: npt.ArrayLike, limit: npt.ArrayLike, rate: npt.ArrayLike, shape: float = 1.4) -> Float64:
    """Height of a stand's tallest trees, metres: limit (1 - exp(-rate age))^shape (Richards 1959; Chapman 1961).

    Parameters
    ----------
    age : years
    limit : height of an old stand, metres
    rate : 1/year
    """
    return np.asarray(limit) * (1.0 - np.exp(-np.asarray(rate) * np.asarray(age))) ** shape


def expected_dbh(height: npt.ArrayLike) -> Float64:
    """Mean stem diameter at 1.3 m, cm, of trees of a height, metres.

    A power of the height above 1.3 m with coefficients in the range of European stands (18 cm at 17 m, 30 cm at 25 m); not a
    published fit.
    """
    return 0.3 + 0.62 * np.maximum(np.asarray(height, np.float64) - 1.3, 0.0) ** 1.22


def crown_radius(dbh: npt.ArrayLike, height: npt.ArrayLike) -> Float64:
    """Radius of the crown, metres: D = 0.557 (H CD)^0.809 of Jucker et al. 2017 (Global Change Biology 23, 177), solved for CD.

    Parameters
    ----------
    dbh : cm
    height : metres
    """
    return 0.5 * (np.asarray(dbh, np.float64) / 0.557) ** (1.0 / 0.809) / np.asarray(height)


def stems_per_hectare(dbh: npt.ArrayLike, index: float) -> Float64:
    """Stems that a stand of a mean diameter (cm) carries: index (25 / D)^1.605 (Reineke 1933), index being the stems at 25 cm."""
    return index * (25.0 / np.asarray(dbh, np.float64)) ** 1.605


def above_ground_biomass(wood_density: npt.ArrayLike, dbh: npt.ArrayLike, height: npt.ArrayLike) -> Float64:
    """Above-ground dry biomass of a tree, kg, by Chave et al. 2014 (Global Change Biology 20, 3177, eq. 4).

    AGB = 0.0673 (rho D^2 H)^0.976. The equation was fitted to tropical trees; the scene takes it for its form, which holds wood
    density, diameter and height, not for its accuracy in European forest.

    Parameters
    ----------
    wood_density : g/cm3
    dbh : cm
    height : metres
    """
    volume = np.asarray(wood_density) * np.asarray(dbh, np.float64) ** 2 * np.asarray(height)
    return 0.0673 * volume**0.976


JENKINS = {
    "cedar or larch": (-2.0336, 2.2592),
    "Douglas-fir": (-2.2304, 2.4435),
    "true fir or hemlock": (-2.5384, 2.4814),
    "pine": (-2.5356, 2.4349),
    "spruce": (-2.0773, 2.3323),
    "aspen, alder, poplar or willow": (-2.2094, 2.3867),
    "soft maple or birch": (-1.9123, 2.3651),
    "mixed hardwood": (-2.4800, 2.4835),
    "hard maple, oak, hickory or beech": (-2.0127, 2.4342),
}
"""Groups of species and their b0 and b1: Jenkins et al. 2003, Forest Science 49, table 4."""


def biomass_by_group(dbh: npt.ArrayLike, group: str) -> Float64:
    """Above-ground dry biomass of a tree, kg, from its stem diameter alone: exp(b0 + b1 ln D) of Jenkins et al. 2003 (Forest
    Science 49, 12-35).

    The equations sum up published ones of North American trees of 2.5 cm and more. They know nothing of height, site or
    continent: differences between places of the same diameters are not in them.

    Parameters
    ----------
    dbh : cm
    group : one of `JENKINS`

    Raises
    ------
    ConfigError
        There is no such group.
    """
    if group not in JENKINS:
        raise ConfigError(f"no equation for {group!r}; there are {', '.join(JENKINS)}")
    constant, slope = JENKINS[group]
    return np.exp(constant + slope * np.log(np.asarray(dbh, np.float64)))
