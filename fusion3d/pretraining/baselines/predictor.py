"""The predictor of a joint-embedding architecture: embeddings of the hidden columns of a chip from those of the others."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusion3d.errors import ConfigError


class ColumnPredictor(nn.Module):
    """Transformer over the columns of a chip; a learned token stands where nothing is known (He et al. 2022, CVPR).

    Parameters
    ----------
    dimensions : D, length of the embeddings, a multiple of 4
    depth, heads : layers and heads of attention
    """

    def __init__(self, dimensions: int, depth: int, heads: int) -> None:
        super().__init__()
        for name, value in (("depth", depth), ("heads", heads)):
            if value < 1:
                raise ConfigError(f"--model.alignment_options.{name} {value} must be at least 1")
        if dimensions % heads or dimensions % 4:
            raise ConfigError(
                f"--model.alignment_options.heads {heads} does not divide the {dimensions} dimensions of the embeddings, "
                f"or these are not a multiple of 4"
            )
        self.enter = nn.Linear(dimensions, dimensions)
        self.unknown = nn.Parameter(torch.randn(dimensions) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dimensions, heads, 4 * dimensions, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.leave = nn.Sequential(nn.LayerNorm(dimensions), nn.Linear(dimensions, dimensions))

    def forward(
        self, columns: Float[Tensor, "chips columns dimensions"], known: Bool[Tensor, "chips columns"], size: int
    ) -> Float[Tensor, "chips columns dimensions"]:
        """Predicted embeddings of every column.

        Parameters
        ----------
        size : columns on the side of a chip
        """
        tokens = torch.where(known[..., None], self.enter(columns), self.unknown.to(columns.dtype))
        tokens = tokens + column_waves(size, columns.shape[-1]).to(tokens)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.leave(tokens)


def column_waves(size: int, dimensions: int) -> Float[Tensor, "columns dimensions"]:
    """Sines and cosines of row and column, wavelengths from 2 pi to 10,000 columns (Vaswani et al. 2017, NeurIPS)."""
    frequency = 10_000.0 ** -(torch.arange(dimensions // 4) / (dimensions // 4))
    angle = torch.arange(size)[:, None] * frequency
    line = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows, cols = line[:, None].expand(-1, size, -1), line[None].expand(size, -1, -1)
    return torch.cat([rows, cols], dim=-1).reshape(size * size, dimensions)
