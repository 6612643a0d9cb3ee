"""The trees of any window: positions on a jittered lattice for each stand, dimensions from the stand's age."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion3d.simulate.allometry import above_ground_biomass, crown_radius, expected_dbh
from fusion3d.simulate.keyed import hashed, noise, normal, stream, uniform
from fusion3d.simulate.landscape import Landscape
from fusion3d.simulate.model import SPECIES, Box, Cover, Trees
from fusion3d.simulate.parcels import REACH, Use, identity
from fusion3d.simulate.roads import HALF_WIDTH
from fusion3d.simulate.stands import MEAN_HEIGHT, stand_height, stands

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

LARGEST_CROWN = 6.0
"""No crown has a larger radius, metres."""
_YEARS = 5
_MORTALITY = 0.01
_FOREST, _GARDEN, _HEDGE = 0, 1, 2
_GARDEN_SPACING, _HEDGE_SPACING = 11.0, 2.8
_HEDGE_HALF_WIDTH = 1.6
_OPEN_SPECIES = np.array([2, 3, 4])
"""Beech, oak and birch grow in gardens and hedges."""

_DENSITY = np.array([species.wood_density for species in SPECIES])
_LEAVES = np.array([species.leaf_area_index for species in SPECIES])
_CROWN_DEPTH = np.array([species.crown_depth for species in SPECIES])


@dataclass(frozen=True)
class _Stems:
    """Candidates as arrays [T]: where a tree may stand and what it would be."""

    identity: npt.NDArray[np.uint64]
    x: Float64
    y: Float64
    species: Int64
    age: Float64
    site_index: Float64
    widest: Float64
    leafiness: Float64
    open_grown: Mask

    def take(self, which: npt.ArrayLike) -> _Stems:
        index = np.asarray(which)
        return _Stems(**{name: values[index] for name, values in vars(self).items()})


def trees(land: Landscape, box: Box) -> Trees:
    """Trees whose crowns reach into a window; the order of two trees is the same in every window."""
    reach = box.grow(LARGEST_CROWN)
    parts = [_forest_stems(land, reach), *_open_stems(land, reach)]
    names = vars(parts[0])
    stems = _Stems(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
    found = _grown(land, stems)
    nearest_x, nearest_y = np.clip(found.x, box.xmin, box.xmax), np.clip(found.y, box.ymin, box.ymax)
    return found.take(np.hypot(found.x - nearest_x, found.y - nearest_y) < found.crown_radius)


def _lattice(
    key: np.uint64, kind: int, parcel: Int64, x: Float64, y: Float64, spacing: Float64, box: Box, jitter: float
) -> tuple[Int64, npt.NDArray[np.uint64], Float64, Float64]:
    """Nodes of the parcels' lattices in a box: index of the parcel, identity, x and y."""
    rows: list[tuple[Int64, Int64, Int64]] = []
    for n in range(len(parcel)):
        (low_i, high_i), (low_j, high_j) = (
            (
                int(np.floor((max(low, at - REACH) - at) / spacing[n])) - 1,
                int(np.ceil((min(high, at + REACH) - at) / spacing[n])) + 1,
            )
            for low, high, at in ((box.xmin, box.xmax, x[n]), (box.ymin, box.ymax, y[n]))
        )
        if high_i <= low_i or high_j <= low_j:
            continue
        i, j = np.meshgrid(np.arange(low_i, high_i), np.arange(low_j, high_j), indexing="ij")
        rows.append((np.full(i.size, n), i.ravel(), j.ravel()))
    if not rows:
        nothing = np.zeros(0)
        return np.zeros(0, np.int64), np.zeros(0, np.uint64), nothing, nothing
    index, i, j = (np.concatenate(column) for column in zip(*rows))
    identities = hashed(key, parcel[index], kind, i, j)
    at_x = x[index] + spacing[index] * (i + 0.5 + jitter * (2 * uniform(key, identities, 0) - 1))
    at_y = y[index] + spacing[index] * (j + 0.5 + jitter * (2 * uniform(key, identities, 1) - 1))
    inside = box.contains(at_x, at_y)
    return index[inside], identities[inside], at_x[inside], at_y[inside]


def _forest_stems(land: Landscape, box: Box) -> _Stems:
    seed, key = land.site.seed, stream(land.site.seed, "trees")
    i, j = land.parcels.within(box)
    forest = land.parcels.use(i, j) == Use.FOREST
    grown = stands(seed, land.parcels, i[forest], j[forest])
    index, identities, x, y = _lattice(key, _FOREST, grown.parcel, grown.x, grown.y, grown.spacing, box, 0.36)
    # Gaps of some tens of metres, where noise is low, and holes of single trees.
    gap = noise(stream(seed, "gaps"), x, y, 28.0, 2)
    keep = (uniform(key, identities, 2) < grown.stocking[index]) & (gap > -1.55)
    index, identities, x, y = index[keep], identities[keep], x[keep], y[keep]
    cover, places, bank, road = land.describe(x, y)
    keep = (
        (identity(places.i, places.j) == grown.parcel[index]) & (cover == Cover.FOREST) & (bank > 2.0) & (road > HALF_WIDTH + 1.0)
    )
    index, identities, x, y = index[keep], identities[keep], x[keep], y[keep]
    other = uniform(key, identities, 3) < grown.admixture[index]
    return _Stems(
        identities, x, y, np.where(other, grown.admixed[index], grown.species[index]), grown.age[index],
        grown.site_index[index], 0.70 * grown.spacing[index] / np.sqrt(grown.stocking[index]),
        grown.leafiness[index] * (1.2 - 0.25 * grown.stocking[index]), np.zeros(len(x), bool),
    )  # fmt: skip


def _open_stems(land: Landscape, box: Box) -> list[_Stems]:
    """Trees of gardens and meadows, and hedges along some borders of open parcels."""
    key = stream(land.site.seed, "trees")
    i, j = land.parcels.within(box)
    use = land.parcels.use(i, j)
    parts = []
    for kind, spacing in ((_GARDEN, _GARDEN_SPACING), (_HEDGE, _HEDGE_SPACING)):
        open_land = np.isin(use, (Use.SETTLEMENT, Use.GRASS)) if kind == _GARDEN else use != Use.FOREST
        parcel = identity(i[open_land], j[open_land])
        seats = land.parcels.seat(i[open_land], j[open_land])
        index, identities, x, y = _lattice(key, kind, parcel, *seats, np.full(len(parcel), spacing), box, 0.42)
        if kind == _GARDEN:
            keep = uniform(key, identities, 2) < np.where(use[open_land][index] == Use.SETTLEMENT, 0.45, 0.03)
            index, identities, x, y = index[keep], identities[keep], x[keep], y[keep]
        cover, places, bank, road = land.describe(x, y)
        own = identity(places.i, places.j)
        keep = (own == parcel[index]) & (bank > 1.5) & (road > HALF_WIDTH + 1.5) & (cover != Cover.BUILDING)
        keep &= ~land.near_building(x, y, 2.5)
        if kind == _HEDGE:
            other = identity(places.other_i, places.other_j)
            hedged = uniform(key, np.minimum(own, other), np.maximum(own, other)) < 0.4
            open_beyond = land.parcels.use(places.other_i, places.other_j) != Use.FOREST
            keep &= hedged & open_beyond & (places.edge < _HEDGE_HALF_WIDTH) & (uniform(key, identities, 2) < 0.9)
        identities, x, y = identities[keep], x[keep], y[keep]
        age = 15.0 + (75.0 if kind == _GARDEN else 25.0) * uniform(key, identities, 4)
        stems = _Stems(
            identities, x, y, _OPEN_SPECIES[(3 * uniform(key, identities, 3)).astype(np.int64)], age, np.full(len(x), 0.75),
            np.full(len(x), LARGEST_CROWN if kind == _GARDEN else 2.2), np.ones(len(x)), np.ones(len(x), bool),
        )  # fmt: skip
        parts.append(stems)
    return parts


def _grown(land: Landscape, stems: _Stems) -> Trees:
    """The trees of the site's year."""
    key = stream(land.site.seed, "trees")
    age = stems.age
    if land.site.year == 2:
        lived = uniform(key, stems.identity, 5) < (1.0 - _MORTALITY) ** _YEARS
        stems = stems.take(lived)
        age = stems.age + _YEARS
    own = stems.identity
    # The tallest are the stand's top height; the suppressed ones stay far below it.
    relative = np.clip(MEAN_HEIGHT * np.exp(0.11 * normal(key, own, 6)) - 0.25 * (uniform(key, own, 7) < 0.08), 0.4, 1.08)
    height = np.maximum(relative * stand_height(stems.species, age, stems.site_index), 0.8)
    dbh = np.maximum(expected_dbh(height) * np.exp(0.14 * normal(key, own, 8)) * np.where(stems.open_grown, 1.15, 1.0), 0.5)
    radius = crown_radius(expected_dbh(height), height) * (dbh / expected_dbh(height)) ** 0.6
    radius = np.clip(radius * np.exp(0.08 * normal(key, own, 9)), 0.35, np.minimum(stems.widest, LARGEST_CROWN))
    depth = _CROWN_DEPTH[stems.species] * np.where(stems.open_grown, 1.35, 1.0) * (1.0 + 0.1 * normal(key, own, 10))
    density = _DENSITY[stems.species] * (1.0 + 0.08 * np.clip(normal(key, own, 11), -3, 3))
    leaves = _LEAVES[stems.species] * np.pi * radius**2 * stems.leafiness * np.exp(0.15 * normal(key, own, 12))
    return Trees(
        own, stems.x, stems.y, land.ground(stems.x, stems.y), stems.species.astype(np.uint8), height,
        height * (1.0 - np.clip(depth, 0.2, 0.92)), radius, dbh, density, above_ground_biomass(density, dbh, height), leaves,
    )  # fmt: skip
