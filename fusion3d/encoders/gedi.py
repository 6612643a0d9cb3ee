"""Encoder of GEDI footprints: a set of vertical points (height, energy), from a waveform or from a curve of relative heights."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fusion3d.data.observation import FOOTPRINT_ATTRIBUTES, ChipBatch
from fusion3d.encoders.dates import DateFeatures
from fusion3d.encoders.output import EmbeddingHead, FootprintEmbedding
from fusion3d.encoders.registry import Encoder, register, sensor_missing
from fusion3d.errors import ConfigError
from fusion3d.ops import column_of_row, column_pool, softmax_pool

_LONGEST, _HARMONICS = 256.0, 8
"""Wavelengths of the height features, metres: 256, 128, ... 2."""
_DAY_WIDTH = 16


@register
class GediEncoder(Encoder):
    """Encoder of footprints: the points of each are a set, pooled by attention and by maximum.

    Parameters
    ----------
    width, shared_dim : W and D
    point_channels : channels of a vertical point
    heads : of the attention over the points of a footprint
    """

    kind = "gedi"
    presets = {
        "tiny": {"width": 96, "shared_dim": 64, "point_channels": 64, "heads": 4},
        "small": {"width": 192, "shared_dim": 128, "point_channels": 128, "heads": 8},
        "base": {"width": 384, "shared_dim": 256, "point_channels": 256, "heads": 8},
    }

    def __init__(self, width: int, shared_dim: int, point_channels: int, heads: int) -> None:
        super().__init__(width=width, shared_dim=shared_dim, point_channels=point_channels, heads=heads)
        if point_channels % heads:
            raise ConfigError(f"{point_channels} point channels cannot be shared out between {heads} heads; take a multiple")
        self.points = nn.Sequential(
            nn.Linear(2 * _HARMONICS + 4, point_channels), nn.GELU(), nn.Linear(point_channels, point_channels), nn.GELU()
        )
        self.score = nn.Linear(point_channels, heads, bias=False)  # a softmax does not see a bias
        self.date = DateFeatures(_DAY_WIDTH)
        self.head = EmbeddingHead(2 * point_channels + len(FOOTPRINT_ATTRIBUTES) + _DAY_WIDTH, width, shared_dim)

    def receptive_field(self, column: float, *, voxel: float | None = None, cell: float | None = None) -> int:
        """0: a footprint is embedded from its own waveform."""
        return 0

    def forward(self, batch: ChipBatch, sensor: str = "gedi", cell: float | None = None) -> FootprintEmbedding:
        """As `Encoder.forward`, one embedding a footprint whatever `cell`; present where a vertical point is finite."""
        if sensor != self.kind or batch.gedi is None:
            raise sensor_missing(batch, sensor)
        footprints = batch.gedi
        finite = footprints.height.isfinite() & footprints.energy.isfinite()
        footprint = column_of_row(footprints.row_splits, footprints.height.shape[0])[finite]
        row_splits = torch.cat((finite.new_zeros(1, dtype=torch.int64), finite.cumsum(0)))[footprints.row_splits]
        height, energy = footprints.height[finite].to(self.dtype), footprints.energy[finite].to(self.dtype)
        points = self.points(point_features(height, energy, footprint, row_splits))
        pooled = (
            softmax_pool(points, self.score(points), row_splits),
            column_pool(points, row_splits, "max"),
            footprints.attributes.to(self.dtype).nan_to_num(0.0, 0.0, 0.0),
            self.date(footprints.day),
        )
        present = row_splits.diff() > 0
        shared, features = self.head(torch.cat(pooled, dim=1), present)
        return FootprintEmbedding(shared, features, present)


def point_features(
    height: Float[Tensor, " points"], energy: Float[Tensor, " points"], footprint: Tensor, row_splits: Tensor
) -> Float[Tensor, "points features"]:
    """Fourier features of height, height, energy over the footprint's total and over its maximum, energy from there down.

    Energy below 0 (noise under the waveform's baseline) counts as 0 in the sums.
    """
    positive = energy.clamp(min=0).unsqueeze(1)
    tiny = torch.finfo(energy.dtype).tiny
    total = column_pool(positive, row_splits, "sum").clamp(min=tiny)[footprint]
    highest = column_pool(positive, row_splits, "max").clamp(min=tiny)[footprint]
    below = _energy_below(height, positive / total, footprint, row_splits)
    frequencies = 2 * math.pi / _LONGEST * 2 ** torch.arange(_HARMONICS, device=height.device, dtype=height.dtype)
    angles = height.unsqueeze(1) * frequencies
    tall = height.unsqueeze(1) / 20
    return torch.cat((angles.sin(), angles.cos(), tall, 10 * energy.unsqueeze(1), positive / highest, below), dim=1)


def _energy_below(height: Tensor, share: Tensor, footprint: Tensor, row_splits: Tensor) -> Tensor:
    """Share of a footprint's energy at or below each of its points, [N, 1]."""
    upwards = height.argsort(stable=True)
    upwards = upwards[footprint[upwards].argsort(stable=True)]
    running = share[upwards].double().cumsum(0)
    before = torch.cat((running.new_zeros(1, 1), running))[row_splits[:-1]][footprint]
    # Points of the same height share the sum up to the last of them: their order means nothing.
    level = torch.stack((footprint.double(), height[upwards].double()), dim=1)
    _, tied, count = level.unique_consecutive(dim=0, return_inverse=True, return_counts=True)
    running = running[(count.cumsum(0) - 1)[tied]]
    return torch.empty_like(share).index_copy_(0, upwards, (running - before).to(share.dtype))
