"""Contrast by location: the loss of one pair of sensors.

With embeddings z of unit length, present columns V of a pair (a, b) and X_i the columns nearer to i than the exclusion radius:

    L_ab = -1/(2|V|) sum over i in V of [log exp(z_ia.z_ib/t) / sum over j in V \\ X_i of exp(z_ia.z_jb/t)] + a and b exchanged

`fusion3d.data.pairs` draws the pairs of a step. Only the encoders of drawn pairs run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusion3d.data.observation import ChipBatch, RasterObservation
from fusion3d.data.pairs import Pair
from fusion3d.errors import ConfigError
from fusion3d.ops import contrast, footprint_pool

_LEAST_MASS = 0.2
_TEMPERATURES = (0.01, 1.0)


def presence(batch: ChipBatch, sensor: str) -> Bool[Tensor, " columns"]:
    """[M] columns that a sensor saw; for gedi those that hold a footprint's centre."""
    if sensor == "als":
        if batch.als is None:
            return torch.zeros(batch.columns, dtype=torch.bool)
        return batch.als.present
    if sensor == "gedi":
        return _footprint_presence(batch)
    if sensor not in batch.rasters:
        return torch.zeros(batch.columns, dtype=torch.bool)
    return column_valid(batch.rasters[sensor], batch.size)


def _footprint_presence(batch: ChipBatch) -> Tensor:
    found = torch.zeros(batch.columns, dtype=torch.bool)
    if batch.gedi is None:
        return found
    found = found.to(batch.gedi.chip.device)
    cell = (batch.gedi.position / batch.column).long().clamp(0, batch.size - 1)
    found[(batch.gedi.chip * batch.size + cell[:, 1]) * batch.size + cell[:, 0]] = True
    return found


def column_valid(raster: RasterObservation, size: int) -> Bool[Tensor, " columns"]:
    """[M] columns with a valid pixel in any date and band."""
    valid = (raster.valid & raster.date_present[:, :, None, None, None]).any(dim=2).any(dim=1)
    return to_columns(valid[:, None].float(), raster, size).amax(dim=(-1, -2)).reshape(-1) > 0


def to_columns(pixels: Float[Tensor, "chips channels height width"], raster: RasterObservation, size: int) -> Tensor:
    """Pixels by column: [chips, channels, size, size, k, k], with k pixels a side of a column (1 where pixels are coarser)."""
    chips, channels = pixels.shape[:2]
    fine = raster.pixels_per_column
    if fine:
        cut = pixels[..., : size * fine, : size * fine].reshape(chips, channels, size, fine, size, fine)
        return cut.transpose(3, 4)
    at = torch.arange(size, device=pixels.device)
    rows, cols = ((at + raster.pixel_origin[:, axis, None]) // raster.columns_per_pixel for axis in (0, 1))
    chip = torch.arange(chips, device=pixels.device)[:, None, None]
    return pixels.permute(0, 2, 3, 1)[chip, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)[..., None, None]


def meeting_pairs(batch: ChipBatch, least: int = 2) -> list[Pair]:
    """Pairs of sensors that saw at least `least` of the same columns of a batch; one meeting gives no negative."""
    seen = {name: presence(batch, name) for name in batch.sensors}
    return [pair for pair in combinations(batch.sensors, 2) if int((seen[pair[0]] & seen[pair[1]]).sum()) >= least]


@dataclass(frozen=True)
class Embedded:
    """Unit vectors of the columns of a batch ([M, D]) or, for gedi, of its footprints ([F, D]), and which of them are there."""

    vectors: Float[Tensor, "sites dimensions"]
    present: Bool[Tensor, " sites"]


class LocationContrast(nn.Module):
    """L_ab of a pair of sensors, with a learnt temperature.

    Parameters
    ----------
    temperature : at the start; it stays within 0.01 and 1
    exclusion : metres; nearer columns are no negatives. 0 excludes only the same column seen in two overlapping chips
    geolocation_sigma : of GEDI, metres, one standard deviation. 10 m is the mission's requirement (Dubayah et al. 2020, Science
        of Remote Sensing 1)
    max_columns : more columns than that are subsampled
    """

    def __init__(
        self, temperature: float = 0.07, exclusion: float = 0.0, geolocation_sigma: float = 10.0, max_columns: int = 4096
    ) -> None:
        super().__init__()
        if not _TEMPERATURES[0] <= temperature <= _TEMPERATURES[1]:
            raise ConfigError(f"--model.temperature {temperature} must lie between {_TEMPERATURES[0]} and {_TEMPERATURES[1]}")
        if max_columns < 2:
            raise ConfigError(f"--model.max_columns {max_columns} must be at least 2: contrast needs a negative")
        if not (math.isfinite(exclusion) and exclusion >= 0):
            raise ConfigError(f"--model.exclusion {exclusion} must be a number of metres, 0 or more")
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.exclusion, self.geolocation_sigma, self.max_columns = exclusion, geolocation_sigma, max_columns

    @property
    def temperature(self) -> Tensor:
        low, high = (math.log(bound) for bound in _TEMPERATURES)
        return self.log_temperature.clamp(low, high).exp()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Put the parameter back within its bounds, where its gradient is not zero."""
        self.log_temperature.clamp_(*(math.log(bound) for bound in _TEMPERATURES))

    def forward(
        self, batch: ChipBatch, pair: Pair, embedded: Mapping[str, Embedded], generator: torch.Generator
    ) -> tuple[Tensor | None, int]:
        """The loss of a pair, None when fewer than two sites are left, and the number of sites."""
        first, second, position, scene = self._meet(batch, pair, embedded)
        if len(first) > self.max_columns:
            chosen = torch.randperm(len(first), generator=generator)[: self.max_columns].sort().values.to(first.device)
            first, second, position, scene = first[chosen], second[chosen], position[chosen], scene[chosen]
        if len(first) < 2:
            return None, len(first)
        # Half a column: the same column in two overlapping chips is no negative of itself, its neighbour is.
        radius = max(self.exclusion, batch.column / 2)
        return contrast(first.float(), second.float(), self.temperature, position, scene, radius), len(first)

    def _meet(self, batch: ChipBatch, pair: Pair, embedded: Mapping[str, Embedded]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vectors of both sensors, position and store of the sites where they meet."""
        first, second = (embedded[name] for name in pair)
        if "gedi" not in pair:
            keep = first.present & second.present
            device = first.vectors.device
            scene = batch.scene.to(device).repeat_interleave(batch.size**2)
            return first.vectors[keep], second.vectors[keep], column_position(batch, device)[keep], scene[keep]
        footprints, columns = (first, second) if pair[0] == "gedi" else (second, first)
        gedi = batch.gedi
        assert gedi is not None
        pooled, mass = footprint_pool(
            columns.vectors.float(),
            batch.chips,
            batch.size,
            batch.column,
            gedi.position,
            gedi.chip,
            geolocation_sigma=self.geolocation_sigma,
            present=columns.present,
        )
        keep = footprints.present & (mass >= _LEAST_MASS)
        corner = relative_origin(batch).to(gedi.position)[gedi.chip] * batch.column
        position = corner.flip(1) + gedi.position
        unit = nn.functional.normalize(pooled[keep], dim=1)
        vectors = footprints.vectors[keep]
        place = position[keep], batch.scene.to(gedi.chip.device)[gedi.chip][keep]
        return (vectors, unit, *place) if pair[0] == "gedi" else (unit, vectors, *place)


def relative_origin(batch: ChipBatch) -> Tensor:
    """[B, 2] rows and columns from the batch's first corner, small enough for float32."""
    return batch.origin - batch.origin.amin(dim=0)


def column_position(batch: ChipBatch, device: torch.device | str = "cpu") -> Float[Tensor, "columns 2"]:
    """[M, 2] metres east and south of the batch's first corner, of the centres of its columns."""
    at = torch.arange(batch.size, device=device)
    origin = relative_origin(batch).to(device)
    south = (origin[:, 0, None, None] + at[None, :, None]).expand(-1, -1, batch.size)
    east = (origin[:, 1, None, None] + at[None, None, :]).expand(-1, batch.size, -1)
    return (torch.stack([east, south], dim=-1).reshape(-1, 2).float() + 0.5) * batch.column
