"""What several sensors say of the same places: columns, and GEDI's footprints with the columns under them.

At a footprint, the word of every other sensor is the Gaussian-weighted mean of its columns there. Columns are compared with
columns and footprints with footprints: a footprint and a column under it are neither the same place nor different ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from fusion3d.data.observation import ChipBatch
from fusion3d.data.turn import ground_position
from fusion3d.ops import footprint_pool
from fusion3d.pretraining.baselines.masking import footprint_column
from fusion3d.pretraining.objective import Embedded, LocationContrast, column_position

_LEAST_MASS = 0.2
"""Of a footprint's Gaussian that must lie on columns that the other sensor saw."""
_BETWEEN_STORES = 1e6
"""Metres."""


@dataclass(frozen=True)
class Places:
    """S sensors' unit vectors of P places.

    Attributes
    ----------
    sensors : names, S of them
    vectors : 0 where not `present`
    tile : chip of each place
    position : metres east and south of the batch's first corner, those of another store far away
    radius : metres; nearer places are no negatives of each other
    """

    sensors: tuple[str, ...]
    vectors: Float[Tensor, "sensors places dimensions"]
    present: Bool[Tensor, "sensors places"]
    tile: Int64[Tensor, " places"]
    position: Float[Tensor, "places 2"]
    radius: float

    def at(self, chosen: Tensor) -> Places:
        """Some of the places, by mask or by number."""
        return Places(
            self.sensors,
            self.vectors[:, chosen],
            self.present[:, chosen],
            self.tile[chosen],
            self.position[chosen],
            self.radius,
        )


def common_places(
    batch: ChipBatch, embedded: Mapping[str, Embedded], contrast: LocationContrast, generator: torch.Generator
) -> list[Places]:
    """Columns, and footprints where GEDI is among the sensors: those that a sensor saw, `max_columns` of each at most.

    Parameters
    ----------
    embedded : by sensor, of columns or, for gedi, of footprints
    contrast : says what is near, how well footprints are located and how many places there may be
    generator : on the CPU; of the places, where there are too many
    """
    columns = {name: embedded[name] for name in sorted(embedded) if name != "gedi"}
    if not columns:
        return []
    found = [_columns(batch, columns, contrast)]
    if "gedi" in embedded:
        found.append(_footprints(batch, columns, embedded["gedi"], contrast))
    return [_thinned(places, contrast.max_columns, generator) for places in found]


def _columns(batch: ChipBatch, embedded: Mapping[str, Embedded], contrast: LocationContrast) -> Places:
    vectors, present = _stacked(embedded)
    scene = batch.scene.to(vectors.device).repeat_interleave(batch.size**2)
    position = _placed(column_position(batch, vectors.device), scene, batch)
    tile = torch.arange(batch.chips, device=vectors.device).repeat_interleave(batch.size**2)
    return Places(tuple(embedded), vectors, present, tile, position, exclusion_radius(batch, contrast))


def _footprints(batch: ChipBatch, columns: Mapping[str, Embedded], gedi: Embedded, contrast: LocationContrast) -> Places:
    observed = batch.gedi
    assert observed is not None
    under = {"gedi": gedi}
    for name, found in columns.items():
        pooled, mass = footprint_pool(
            found.vectors,
            batch.chips,
            batch.size,
            batch.column,
            observed.position,
            observed.chip,
            geolocation_sigma=contrast.geolocation_sigma,
            present=found.present,
        )
        under[name] = Embedded(normalize(pooled, dim=1), gedi.present & (mass >= _LEAST_MASS))
    vectors, present = _stacked(under)
    position = _placed(
        ground_position(batch, observed.chip, observed.position), batch.scene.to(observed.chip.device)[observed.chip], batch
    )
    return Places(tuple(under), vectors, present, observed.chip, position, exclusion_radius(batch, contrast))


def _placed(position: Tensor, scene: Tensor, batch: ChipBatch) -> Tensor:
    """Metres from the batch's first corner, in float32; places of different stores are far from each other."""
    first = batch.origin.amin(dim=0).flip(0).to(position) * batch.column
    return (position - first + scene.to(position).unsqueeze(1) * _BETWEEN_STORES).float()


def on_columns(batch: ChipBatch, sensor: str, found: Embedded) -> Embedded:
    """Embeddings by column: GEDI's are the mean of the footprints whose centre a column holds."""
    if sensor != "gedi":
        return found
    assert batch.gedi is not None
    column = footprint_column(batch, batch.gedi)[found.present]
    total = found.vectors.new_zeros(batch.columns, found.vectors.shape[1]).index_add(0, column, found.vectors[found.present])
    present = torch.zeros(batch.columns, dtype=torch.bool, device=column.device).index_fill(0, column, True)
    return Embedded(normalize(total, dim=1), present)


def exclusion_radius(batch: ChipBatch, contrast: LocationContrast) -> float:
    """Metres, as in `LocationContrast`: half a column at least, for columns seen in two overlapping chips."""
    return max(contrast.exclusion, batch.column / 2)


def _stacked(embedded: Mapping[str, Embedded]) -> tuple[Tensor, Tensor]:
    present = torch.stack([found.present for found in embedded.values()])
    vectors = torch.stack([found.vectors for found in embedded.values()])
    return torch.where(present[..., None], vectors, 0.0), present


def _thinned(places: Places, most: int, generator: torch.Generator) -> Places:
    seen = places.present.any(dim=0).nonzero()[:, 0]
    if len(seen) > most:
        chosen = torch.randperm(len(seen), generator=generator)[:most].sort().values
        seen = seen[chosen.to(seen.device)]
    return places.at(seen)
