"""Reflectance of what covers the ground, 400 to 2500 nm.

The curves are parametric shapes after the literature, not a radiative transfer model such as PROSPECT: a bright plateau times
exp(-absorption), the absorption a sum of bands whose places are the textbook ones: chlorophyll and red edge (Gates et al. 1965;
Horler et al. 1983), leaf water at 970, 1200, 1450 and 1940 nm (Palmer & Williams 1974), lignin and cellulose at 1730, 2100 and
2300 nm (Curran 1989), clay at 2200 nm and moisture of soils (Clark 1999; Lobell & Asner 2002). Levels are typical of airborne
images of closed canopies, not of single leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError
from fusion3d.simulate.model import SPECIES, Float32, Float64

SHORTEST, LONGEST = 400.0, 2500.0
"""Nanometres between which the curves hold."""
LIGNIN_BAND = (1690.0, 1770.0)
"""Nanometres outside which the simulated variation of lignin changes nothing."""
_LIGNIN_DEPTH = 0.35
_NODES = 9


class Material(IntEnum):
    """Rows of `spectra`; the first are the green crowns of `SPECIES`, in their order."""

    SPRUCE = 0
    PINE = 1
    BEECH = 2
    OAK = 3
    BIRCH = 4
    AUTUMN_LEAVES = 5
    WOOD = 6
    LITTER = 7
    GRASS = 8
    CROP = 9
    DRY_PLANTS = 10
    SHRUB = 11
    DRY_SOIL = 12
    WET_SOIL = 13
    WATER = 14
    ASPHALT = 15
    ROOF_TILES = 16
    ROOF_SLATE = 17
    ROOF_METAL = 18


@dataclass(frozen=True)
class _Plants:
    """A closed cover of leaves.

    Parameters
    ----------
    plateau : reflectance between 750 and 1300 nm before water absorbs
    pigments : chlorophyll and carotenoids, 1 is a beech in June
    red_edge : wavelength of the steepest rise, nanometres
    water, dry_matter : strength of their bands, 1 is a beech in June
    """

    plateau: float
    pigments: float
    red_edge: float
    water: float
    dry_matter: float = 1.0


_PLANTS = {
    Material.SPRUCE: _Plants(0.29, 1.08, 717.0, 1.18, 1.30),
    Material.PINE: _Plants(0.33, 0.96, 714.0, 1.08, 1.45),
    Material.BEECH: _Plants(0.50, 1.00, 718.0, 1.00, 1.00),
    Material.OAK: _Plants(0.44, 1.02, 720.0, 0.92, 1.15),
    Material.BIRCH: _Plants(0.45, 0.88, 713.0, 0.95, 0.85),
    Material.GRASS: _Plants(0.45, 0.82, 712.0, 0.85, 0.80),
    Material.CROP: _Plants(0.50, 0.98, 719.0, 1.05, 0.60),
    Material.SHRUB: _Plants(0.40, 0.85, 714.0, 0.85, 1.10),
}


def spectra(wavelength: npt.ArrayLike, fwhm: npt.ArrayLike | None = None) -> Float32:
    """Reflectance of every `Material`.

    Parameters
    ----------
    wavelength : [W] centres, nanometres
    fwhm : width of the bands, nanometres, one or [W]; None for the value at the centre alone

    Returns
    -------
    [materials, W] reflectance, 0 to 1; of bands the mean over their width

    Raises
    ------
    ConfigError
        A wavelength is outside 400 to 2500 nm.
    """
    centre = np.atleast_1d(np.asarray(wavelength, np.float64))
    if centre.size and not (centre.min() >= SHORTEST and centre.max() <= LONGEST):
        raise ConfigError(f"spectra are defined from {SHORTEST:g} to {LONGEST:g} nm")
    if fwhm is None:
        return _at(centre).astype(np.float32)
    reach = np.linspace(-0.5, 0.5, _NODES)[:, None] * np.broadcast_to(np.asarray(fwhm, np.float64), centre.shape)
    nodes = np.clip(centre + reach, SHORTEST, LONGEST)
    return _at(nodes.ravel()).reshape(len(Material), _NODES, -1).mean(axis=1).astype(np.float32)


def lignin_transmission(wavelength: Float64, strength: npt.ArrayLike) -> Float32:
    """Factor on leaf reflectance by which crowns of some lignin differ from the mean crown.

    Parameters
    ----------
    wavelength : [W] nanometres
    strength : [...] 0 to 1

    Returns
    -------
    [..., W]; exactly 1 outside `LIGNIN_BAND`
    """
    low, high = LIGNIN_BAND
    inside = (wavelength > low) & (wavelength < high)
    bump = np.where(inside, 0.5 - 0.5 * np.cos(2 * np.pi * (wavelength - low) / (high - low)), 0.0)
    return np.exp(-_LIGNIN_DEPTH * np.asarray(strength, np.float64)[..., None] * bump).astype(np.float32)


def sky_share(wavelength: npt.ArrayLike) -> Float32:
    """Share of the light on flat ground that comes from the sky, not the sun: after Rayleigh scattering and thin haze.

    It is what lights a shadow, blue more than infrared (Iqbal 1983, chapter 6).
    """
    micrometres = np.asarray(wavelength, np.float64) / 1e3
    return np.clip(0.006 * micrometres**-4 + 0.06 * micrometres**-1.3, 0.0, 0.6).astype(np.float32)


def _at(w: Float64) -> Float64:
    rows = [np.zeros_like(w)] * len(Material)
    for material, plants in _PLANTS.items():
        rows[material] = _green(w, plants)
    rows[Material.AUTUMN_LEAVES] = _autumn(w)
    rows[Material.DRY_PLANTS] = _dry(w, 0.46)
    rows[Material.LITTER] = 0.52 * _dry(w, 0.46)
    rows[Material.WOOD] = 0.48 * _dry(w, 0.46) + 0.02
    rows[Material.DRY_SOIL] = _soil(w, 0.0)
    rows[Material.WET_SOIL] = _soil(w, 1.0)
    rows[Material.WATER] = _water(w)
    rows[Material.ASPHALT] = 0.09 + 0.05 * (w - SHORTEST) / 2100 - 0.012 * _band(w, 1730, 15) - 0.015 * _band(w, 2310, 25)
    # Iron oxide makes tiles red: a rise from 500 to 600 nm and a shallow dip at 870 nm.
    rows[Material.ROOF_TILES] = (0.06 + 0.26 * _rise(w, 585, 28) + 0.05 * _rise(w, 1100, 150)) * np.exp(
        -0.14 * _band(w, 870, 60) - 0.12 * _band(w, 2205, 25)
    )
    rows[Material.ROOF_SLATE] = 0.11 + 0.03 * _rise(w, 900, 250) - 0.01 * _band(w, 2250, 40)
    rows[Material.ROOF_METAL] = 0.33 + 0.06 * _rise(w, 1200, 300) - 0.05 * _band(w, 1000, 120)
    return np.stack(rows)


def _band(w: Float64, centre: float, width: float) -> Float64:
    return np.exp(-0.5 * ((w - centre) / width) ** 2)


def _rise(w: Float64, centre: float, width: float) -> Float64:
    return 1.0 / (1.0 + np.exp(-(w - centre) / width))


def _pigments(w: Float64, red_edge: float) -> Float64:
    return (1 - _rise(w, red_edge, 9.0)) * (
        1.55 + 1.30 * _band(w, 430, 45) + 0.95 * _band(w, 485, 26) + 0.25 * _band(w, 620, 30) + 1.15 * _band(w, 672, 24)
    )


def _leaf_water(w: Float64) -> Float64:
    narrow = 0.06 * _band(w, 970, 28) + 0.15 * _band(w, 1200, 45) + 1.05 * _band(w, 1450, 55) + 1.5 * _band(w, 1940, 70)
    return narrow + 0.48 * _rise(w, 1385, 28) + 1.3 * _band(w, 2750, 430)


def _dry_matter(w: Float64) -> Float64:
    return 0.05 * _band(w, 1730, 22) + 0.12 * _band(w, 2100, 55) + 0.08 * _band(w, 2300, 40)


def _green(w: Float64, plants: _Plants) -> Float64:
    absorbed = plants.pigments * _pigments(w, plants.red_edge) + plants.water * _leaf_water(w)
    return plants.plateau * np.exp(-absorbed - plants.dry_matter * _dry_matter(w))


def _autumn(w: Float64) -> Float64:
    """Leaves that lost most chlorophyll and half their water, but kept carotenoids and tannins: yellow to copper."""
    brown = 1.9 * (1 - _rise(w, 565, 38)) + 0.35 * _band(w, 672, 24) + 0.45 * (1 - _rise(w, 700, 45))
    return 0.44 * np.exp(-brown - 0.55 * _leaf_water(w) - 1.3 * _dry_matter(w))


def _dry(w: Float64, plateau: float) -> Float64:
    """Straw and dead leaves: no red edge but a steady rise, and the bands of lignin and cellulose laid bare."""
    brown = 1.75 * (1 - _rise(w, 590, 130))
    return plateau * np.exp(-brown - 0.12 * _leaf_water(w) - 2.2 * _dry_matter(w))


def _soil(w: Float64, wet: float) -> Float64:
    dry = (0.05 + 0.26 * _rise(w, 680, 170) + 0.09 * _rise(w, 1350, 350)) * np.exp(-0.16 * _band(w, 2205, 22))
    return dry * np.exp(-wet * (0.55 + 0.35 * _band(w, 1450, 60) + 0.75 * _band(w, 1940, 75) + 0.25 * _rise(w, 1400, 60)))


def _water(w: Float64) -> Float64:
    """A river with some sediment: greenish, black beyond 900 nm."""
    return 0.006 + 0.055 * _band(w, 555, 75) * (1 - _rise(w, 720, 25)) + 0.012 * (1 - _rise(w, 700, 30))


def green_crowns() -> tuple[Material, ...]:
    """The rows of the species' green crowns, by index into `SPECIES`."""
    return tuple(Material(index) for index in range(len(SPECIES)))
