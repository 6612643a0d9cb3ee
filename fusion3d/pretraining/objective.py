"""Contrast by location: the loss of one pair of sensors.

With embeddings z of unit length, present columns V of a pair (a, b) and X_i the columns nearer to i than the exclusion radius:

    L_ab = -1/(2|V|) sum over i in V of [log exp(z_ia.z_ib/t) / sum over j in V \\ X_i of exp(z_ia.z_jb/t)] + a and b exchanged

`fusion3d.data.pairs` draws the pairs of a step. Only the encoders of drawn pairs run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from fusion3d.data.observation import ChipBatch, RasterObservation
from fusion3d.data.pairs import Pair
from fusion3d.data.turn import ground_position
from fusion3d.errors import ConfigError
from fusion3d.ops import contrast, footprint_pool
from fusion3d.pretraining.distributed import counts_by_rank, gather_rows, rank

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


def meetings(batch: ChipBatch, sensors: Sequence[str]) -> Int64[Tensor, " pairs"]:
    """Columns that both sensors of each pair of `sensors` saw, in the order of ``combinations(sensors, 2)``."""
    total = torch.zeros(len(sensors) * (len(sensors) - 1) // 2, dtype=torch.int64)
    for chip in range(batch.chips):  # one at a time: masks of all pixels of a batch are large
        part = batch.part(chip, chip + 1)
        seen = {name: presence(part, name) for name in sensors if name in part.sensors}
        total += torch.tensor(
            [int((seen[a] & seen[b]).sum()) if a in seen and b in seen else 0 for a, b in combinations(sensors, 2)],
            dtype=torch.int64,
        )
    return total


def meeting_pairs(batch: ChipBatch, least: int = 2) -> list[Pair]:
    """Pairs of sensors that saw at least `least` of the same columns of a batch; one meeting gives no negative."""
    counts = meetings(batch, batch.sensors).tolist()
    return [pair for pair, count in zip(combinations(batch.sensors, 2), counts, strict=True) if count >= least]


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
        self.log_temperature = nn.Parameter(torch.tensor([math.log(temperature)]))  # one row: shards are made of rows
        self.exclusion, self.geolocation_sigma, self.max_columns = exclusion, geolocation_sigma, max_columns

    @property
    def temperature(self) -> Tensor:
        low, high = (math.log(bound) for bound in _TEMPERATURES)
        return self.log_temperature.clamp(low, high).exp().squeeze()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Put the parameter back within its bounds, where its gradient is not zero."""
        self.log_temperature.clamp_(*(math.log(bound) for bound in _TEMPERATURES))

    def forward(
        self, batch: ChipBatch, pair: Pair, embedded: Mapping[str, Embedded], generator: torch.Generator
    ) -> tuple[Tensor | None, int]:
        """The loss of a pair, None when fewer than two sites are left, and the number of sites.

        The sites of all processes that train together are contrasted with one another: the loss is that of one process with
        all chips, and so is the gradient after the processes' gradients have been averaged.

        Parameters
        ----------
        generator : in the same state on every process
        """
        return self.of(self.meet(batch, pair, embedded).gathered(self.max_columns, generator), batch.column)

    def alone(
        self, batch: ChipBatch, pair: Pair, embedded: Mapping[str, Embedded], generator: torch.Generator
    ) -> tuple[Tensor | None, int]:
        """As a call, of this process's own chips."""
        return self.of(self.meet(batch, pair, embedded).sampled(self.max_columns, generator), batch.column)

    def of(self, sites: Sites, column: float) -> tuple[Tensor | None, int]:
        """The loss of sites that two sensors saw, None when there are fewer than two, and their number.

        Parameters
        ----------
        column : side of a column, metres
        """
        count = len(sites.first)
        if count < 2:
            return None, count
        position = (sites.position - sites.position.amin(dim=0)).float()
        # Half a column: the same column in two overlapping chips is no negative of itself, its neighbour is.
        radius = max(self.exclusion, column / 2)
        return contrast(sites.first.float(), sites.second.float(), self.temperature, position, sites.scene, radius), count

    def meet(self, batch: ChipBatch, pair: Pair, embedded: Mapping[str, Embedded]) -> Sites:
        """What the two sensors say of the columns that both saw; of the footprints, when one of them is gedi."""
        first, second = (embedded[name] for name in pair)
        device = first.vectors.device
        if "gedi" not in pair:
            keep = first.present & second.present
            scene = batch.scene.to(device).repeat_interleave(batch.size**2)
            return Sites(first.vectors[keep], second.vectors[keep], column_position(batch, device)[keep], scene[keep])
        footprints, columns = (first, second) if pair[0] == "gedi" else (second, first)
        if batch.gedi is None:
            nothing = footprints.vectors[:0]
            places = torch.zeros(0, 2, dtype=torch.float64, device=device), torch.zeros(0, dtype=torch.int64, device=device)
            return Sites(nothing, nothing, *places)
        gedi = batch.gedi
        chip, position = gedi.chip.to(device), gedi.position.to(device)
        pooled, mass = footprint_pool(
            columns.vectors.float(),
            batch.chips,
            batch.size,
            batch.column,
            position,
            chip,
            geolocation_sigma=self.geolocation_sigma,
            present=columns.present,
        )
        keep = footprints.present & (mass >= _LEAST_MASS)
        unit = nn.functional.normalize(pooled[keep], dim=1)
        vectors = footprints.vectors[keep]
        place = ground_position(batch, chip, position)[keep], batch.scene.to(device)[chip][keep]
        return Sites(*((vectors, unit) if pair[0] == "gedi" else (unit, vectors)), *place)


@dataclass(frozen=True)
class Sites:
    """Columns or footprints that two sensors saw.

    Attributes
    ----------
    first, second : unit vectors
    position : metres east and south of the store's first column; float64, so that processes may compare them
    scene : number of the store; sites of different stores are never near
    """

    first: Float[Tensor, "sites dimensions"]
    second: Float[Tensor, "sites dimensions"]
    position: Float64[Tensor, "sites 2"]
    scene: Int64[Tensor, " sites"]

    def __getitem__(self, chosen: Tensor) -> Sites:
        return Sites(self.first[chosen], self.second[chosen], self.position[chosen], self.scene[chosen])

    def sampled(self, most: int, generator: torch.Generator) -> Sites:
        """At most so many of them, in their order."""
        count = len(self.first)
        return self if count <= most else self[_some_of(count, most, generator).to(self.first.device)]

    def gathered(self, most: int, generator: torch.Generator) -> Sites:
        """At most so many of the sites of all processes: those that `sampled` takes of all sites in the processes' order."""
        counts = counts_by_rank(len(self.first), self.first.device)
        if len(counts) == 1:
            return self.sampled(most, generator)
        own, total = self, sum(counts)
        if total > most:  # chosen before they are sent: `most` bounds what is exchanged
            starts = torch.tensor([0, *counts]).cumsum(0)
            chosen = _some_of(total, most, generator)
            bounds = torch.searchsorted(chosen, starts)
            counts = bounds.diff().tolist()
            own = self[(chosen[bounds[rank()] : bounds[rank() + 1]] - starts[rank()]).to(self.first.device)]
        if not sum(counts):
            return own
        vectors = gather_rows(torch.cat([own.first, own.second], dim=1), counts)
        first, second = vectors.split([own.first.shape[1], own.second.shape[1]], dim=1)
        return Sites(first, second, gather_rows(own.position, counts), gather_rows(own.scene, counts))


def _some_of(count: int, most: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator)[:most].sort().values


def column_position(batch: ChipBatch, device: torch.device | str = "cpu") -> Float64[Tensor, "columns 2"]:
    """[M, 2] metres east and south of the store's first column's corner, of the centres of a batch's columns."""
    at = torch.arange(batch.columns, device=device)
    chip, inside = at // batch.size**2, at % batch.size**2
    place = torch.stack([inside % batch.size, inside // batch.size], dim=1).double() + 0.5
    return ground_position(batch, chip, place * batch.column)
