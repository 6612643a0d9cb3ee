"""Forest stands: what a forest parcel grows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion3d.simulate.allometry import expected_dbh, stems_per_hectare, top_height
from fusion3d.simulate.keyed import normal, stream, uniform
from fusion3d.simulate.model import SPECIES
from fusion3d.simulate.parcels import Parcels, identity

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_RATE = np.array([0.026, 0.028, 0.021, 0.020, 0.034])
"""1/year in the growth curve, by species: birch is quick, oak slow."""
_LIMIT = np.array([species.top_height for species in SPECIES])
_DENSITY_INDEX = 800.0
"""Stems a hectare at 25 cm of a fully stocked stand: thinned stands, about two thirds of the self-thinning limit."""
_MOST_STEMS = 2400.0
MEAN_HEIGHT = 0.88
"""Mean over top height within a stand."""


@dataclass(frozen=True)
class Stands:
    """Forest stands as arrays [S].

    Attributes
    ----------
    parcel : identity; x, y : seed point, metres
    species : dominant, index into `SPECIES`; admixed : the second; admixture : its share, 0 to 0.3
    age : years, in year 1; site_index : factor on the height, about 1
    stocking : 0.5 to 1 of the full density; spacing : side of the lattice of the trees at full density, metres
    leafiness : factor on the leaf area, about 1
    """

    parcel: Int64
    x: Float64
    y: Float64
    species: Int64
    admixed: Int64
    admixture: Float64
    age: Float64
    site_index: Float64
    stocking: Float64
    spacing: Float64
    leafiness: Float64


def stands(seed: int, parcels: Parcels, i: Int64, j: Int64) -> Stands:
    """The stands that parcels carry, or would carry were they forest."""
    key = stream(seed, "stands")
    parcel = identity(i, j)
    x, y = parcels.seat(i, j)
    species, age = parcels.species(i, j), parcels.age(i, j)
    admixed = (species + 1 + (uniform(key, parcel, 0) * (len(SPECIES) - 1)).astype(np.int64)) % len(SPECIES)
    site_index = np.clip(1.0 + 0.09 * normal(key, parcel, 1), 0.78, 1.18)
    mean = MEAN_HEIGHT * stand_height(species, age, site_index)
    stems = np.minimum(stems_per_hectare(np.maximum(expected_dbh(mean), 1.0), _DENSITY_INDEX), _MOST_STEMS)
    return Stands(
        parcel, x, y, species, admixed, 0.3 * uniform(key, parcel, 2), age, site_index,
        0.5 + 0.5 * uniform(key, parcel, 3) ** 0.7, 100.0 / np.sqrt(stems), np.exp(0.12 * normal(key, parcel, 4)),
    )  # fmt: skip


def stand_height(species: Int64, age: Float64, site_index: Float64) -> Float64:
    """Height of a species' tallest trees at an age, metres."""
    return site_index * top_height(age, _LIMIT[species], _RATE[species])
