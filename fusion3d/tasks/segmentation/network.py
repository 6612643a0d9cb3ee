"""The network that gives points their classes: voxel features of the als encoder's finest level, then a small head."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fusion3d.encoders.als import AlsEncoder
from fusion3d.tasks.segmentation.pieces import EXTRAS, Piece

_HIDDEN = 128
_LARGEST = 4.0
"""Standard deviations at which features are cut off: those of shapes have long tails."""


class PointHead(nn.Module):
    """Two hidden layers on standardised features."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.layers = nn.Sequential(
            nn.Linear(inputs, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, classes)
        )

    def standardise_to(self, features: Float[Tensor, "points features"]) -> None:
        """Take mean and spread from features; what does not vary is left as it is."""
        spread = features.std(dim=0)
        self.mean.copy_(features.mean(dim=0))
        self.scale.copy_(torch.where(spread > 1e-6, spread, 1.0))

    def forward(self, features: Float[Tensor, "points features"]) -> Float[Tensor, "points classes"]:
        return self.layers(((features - self.mean) / self.scale).clamp(-_LARGEST, _LARGEST))


class PointClassifier(nn.Module):
    """Encoder and head."""

    def __init__(self, encoder: AlsEncoder, classes: int, voxel: float) -> None:
        super().__init__()
        self.encoder, self.voxel = encoder, voxel
        self.head = PointHead(int(encoder.hyperparameters["channels"]) + len(EXTRAS), classes)

    def features(self, piece: Piece) -> Float[Tensor, "core features"]:
        """What the head is given of the points of a square."""
        device = self.head.mean.device
        coordinates, height, attributes = (part.to(device) for part in (piece.coordinates, piece.height, piece.attributes))
        found = self.encoder.at_points(coordinates, height, attributes, self.voxel)[: len(piece)]
        return torch.cat((found.float(), piece.extras.to(device)), dim=1)

    def forward(self, piece: Piece) -> Float[Tensor, "core classes"]:
        return self.head(self.features(piece))


def untrained(encoder: AlsEncoder, seed: int) -> AlsEncoder:
    """The same architecture with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type(encoder)(**encoder.hyperparameters)  # type: ignore[arg-type]
