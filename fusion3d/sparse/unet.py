"""A sparse residual U-Net whose decoder can stop at any level."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from fusion3d.errors import ConfigError
from fusion3d.sparse.convolution import InverseConv3d, ResidualBlock, StridedConv3d, SubmanifoldConv3d
from fusion3d.sparse.tensor import SparseTensor


class UNet(nn.Module):
    """Residual blocks at each level, halving voxels on the way down and doubling them with skip connections on the way up.

    ::

        level 0   stem - blocks ------------------- merge - blocks -> stop_level 0
                           |                          |
        level 1        down + blocks ---- merge - blocks            -> stop_level 1
                           |                |
        level 2        down + blocks -------+                       -> stop_level 2, the coarsest: nothing is decoded

    Parameters
    ----------
    in_channels : of the input features
    channels : per level, finest first; its length is the number of levels
    blocks : residual blocks per level, on the way down and again on the way up (the coarsest level has them once)
    kernel_size : odd, of the stem and of the blocks

    Raises
    ------
    ConfigError
        `channels` and `blocks` differ in length or are empty, or a size is not valid.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], blocks: Sequence[int], kernel_size: int = 3) -> None:
        super().__init__()
        if not channels or len(channels) != len(blocks) or min(blocks) < 0:
            raise ConfigError(f"channels {list(channels)} and blocks {list(blocks)} must name the same levels, at least one")
        self.channels = tuple(channels)
        self.stem = SubmanifoldConv3d(in_channels, channels[0], kernel_size)
        self.encoder = nn.ModuleList(_blocks(width, count, kernel_size) for width, count in zip(channels, blocks, strict=True))
        steps = list(pairwise(channels))
        self.down = nn.ModuleList(StridedConv3d(fine, coarse) for fine, coarse in steps)
        self.up = nn.ModuleList(InverseConv3d(coarse, fine) for fine, coarse in steps)
        self.merge = nn.ModuleList(nn.Linear(2 * fine, fine) for fine, _ in steps)
        self.decoder = nn.ModuleList(_blocks(width, count, kernel_size) for width, count in list(zip(channels, blocks))[:-1])

    @property
    def levels(self) -> int:
        """Number of levels; the coarsest voxels are ``2 ** (levels - 1)`` finest voxels a side."""
        return len(self.channels)

    @property
    def receptive_field(self) -> int:
        """Finest voxels by which an input can be away, along any axis, from a finest output that it influences.

        The largest over all positions of the output relative to the coarse voxels: the bound is attained where the voxels in
        between are occupied. Outputs of a coarser `stop_level` see no further than this from the edges of their voxel.
        """
        phases = range(2 ** (self.levels - 1))
        spans = [(x, *self._decoded_span(0, x)) for x in phases]
        return max(max(x - low, high - x) for x, low, high in spans)

    def forward(self, x: SparseTensor, stop_level: int = 0) -> SparseTensor:
        """Decoded features at `stop_level`: [V at that level, channels[stop_level]]; a coarser level costs less.

        Raises
        ------
        ConfigError
            `stop_level` is not a level, or `x` does not start at stride 1.
        """
        if not 0 <= stop_level < self.levels:
            raise ConfigError(f"stop_level must be a level from 0 to {self.levels - 1}, not {stop_level}")
        if x.stride != 1:
            raise ConfigError(f"a U-Net starts at the finest voxels, not at stride {x.stride}")
        x = self.encoder[0](self.stem(x))
        skips = [x]
        for down, blocks in zip(self.down, self.encoder[1:], strict=True):
            x = blocks(down(x))
            skips.append(x)
        for level in reversed(range(stop_level, self.levels - 1)):
            skip = skips[level]
            risen = self.up[level](x, skip)
            merged = self.merge[level](torch.cat((skip.features, risen.features), dim=1))
            x = self.decoder[level](skip.with_features(merged))
        return x

    def _encoded_span(self, level: int, cell: int) -> tuple[int, int]:
        """First and last finest voxel, along one axis, that the encoder's output at a voxel of `level` can depend on."""
        radius = _radius(self.encoder[level])
        if level == 0:
            radius += self.stem.radius
            return cell - radius, cell + radius
        return self._encoded_span(level - 1, 2 * (cell - radius))[0], self._encoded_span(level - 1, 2 * (cell + radius) + 1)[1]

    def _decoded_span(self, level: int, cell: int) -> tuple[int, int]:
        if level == self.levels - 1:
            return self._encoded_span(level, cell)
        radius = _radius(self.decoder[level])
        first, last = cell - radius, cell + radius
        low = min(self._encoded_span(level, first)[0], self._decoded_span(level + 1, first // 2)[0])
        return low, max(self._encoded_span(level, last)[1], self._decoded_span(level + 1, last // 2)[1])


def _blocks(channels: int, count: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels, kernel_size) for _ in range(count)))


def _radius(blocks: nn.Module) -> int:
    return sum(block.radius for block in blocks.children() if isinstance(block, ResidualBlock))
