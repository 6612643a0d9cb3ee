"""Sparse convolutions on voxels, with one weight layout: [K, C_in, C_out].

Element ``(level * k + row) * k + column`` of K = k^3 is conv3d's ``weight[:, :, level, row, column]`` transposed, so
``conv3d_weight.permute(2, 3, 4, 1, 0).flatten(0, 2)`` converts. No layer mixes chips.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fusion3d.errors import ConfigError
from fusion3d.sparse.backend import convolve
from fusion3d.sparse.tensor import SparseTensor


class _Convolution(nn.Module):
    """Weight [K, C_in, C_out] and bias [C_out], initialised as nn.Conv3d's."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool) -> None:
        super().__init__()
        if min(in_channels, out_channels, kernel_size) < 1:
            raise ConfigError(f"a convolution {in_channels} -> {out_channels} with kernel {kernel_size} needs sizes from 1 up")
        self.kernel_size = kernel_size
        self.weight = nn.Parameter(torch.empty(kernel_size**3, in_channels, out_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.weight.shape[0] * self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        in_channels, out_channels = self.weight.shape[1:]
        return f"{in_channels}, {out_channels}, kernel_size={self.kernel_size}, bias={self.bias is not None}"


class SubmanifoldConv3d(_Convolution):
    """Convolution whose output voxels are its input voxels: conv3d, padded to the same size, read at the occupied voxels.

    Parameters
    ----------
    in_channels, out_channels : at least 1
    kernel_size : odd
    dilation : spacing of the kernel's elements, voxels
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, dilation: int = 1, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias)
        if kernel_size % 2 == 0 or dilation < 1:
            raise ConfigError(
                f"a submanifold convolution needs an odd kernel and dilation >= 1, not {kernel_size} and {dilation}"
            )
        self.dilation = dilation

    @property
    def radius(self) -> int:
        """Voxels of its own level by which an input can be away from an output."""
        return self.kernel_size // 2 * self.dilation

    def forward(self, x: SparseTensor) -> SparseTensor:
        pairs = x.submanifold_map(self.kernel_size, self.dilation)
        return x.with_features(convolve(x.features, self.weight, pairs, self.bias))


class StridedConv3d(_Convolution):
    """Convolution to voxels `stride` times as large: a coarse voxel exists where it holds a fine one.

    conv3d with that stride and padding ``(kernel_size - 1) // 2``, read at the coarse voxels.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 2, stride: int = 2, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias)
        if not 1 <= stride <= kernel_size:
            raise ConfigError(f"a stride of {stride} must lie between 1 and the kernel size {kernel_size}")
        self.stride = stride

    def forward(self, x: SparseTensor) -> SparseTensor:
        coordinates, pairs = x.strided_map(self.kernel_size, self.stride)
        features = convolve(x.features, self.weight, pairs, self.bias)
        return SparseTensor(features, coordinates, x.stride * self.stride, x.maps)


class InverseConv3d(_Convolution):
    """Convolution back to the finer voxels that a `StridedConv3d` of the same kernel and stride came from.

    conv_transpose3d with that stride and padding, read at the fine voxels.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 2, stride: int = 2, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias)
        if not 1 <= stride <= kernel_size:
            raise ConfigError(f"a stride of {stride} must lie between 1 and the kernel size {kernel_size}")
        self.stride = stride

    def forward(self, x: SparseTensor, fine: SparseTensor) -> SparseTensor:
        """Features of `x` on the voxels of `fine`.

        Raises
        ------
        ConfigError
            `x` is not one `stride` coarser than `fine`, or has other voxels than the strided convolution gives.
        """
        if x.stride != fine.stride * self.stride:
            raise ConfigError(f"an inverse convolution of stride {self.stride} cannot go from stride {x.stride} to {fine.stride}")
        _, pairs = fine.strided_map(self.kernel_size, self.stride)
        return fine.with_features(convolve(x.features, self.weight, pairs.transposed(), self.bias))


class ResidualBlock(nn.Module):
    """``x + conv(gelu(norm(conv(gelu(norm(x))))))`` with submanifold convolutions.

    The norm is LayerNorm over the channels of one voxel: what a voxel gets does not depend on the other voxels of the batch.
    """

    def __init__(self, channels: int, kernel_size: int = 3, dilation: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.conv1 = SubmanifoldConv3d(channels, channels, kernel_size, dilation)
        self.norm2 = nn.LayerNorm(channels)
        self.conv2 = SubmanifoldConv3d(channels, channels, kernel_size, dilation)

    @property
    def radius(self) -> int:
        """Voxels of its own level by which an input can be away from an output."""
        return self.conv1.radius + self.conv2.radius

    def forward(self, x: SparseTensor) -> SparseTensor:
        inner = self.conv1(x.with_features(_activated(self.norm1, x.features)))
        inner = self.conv2(x.with_features(_activated(self.norm2, inner.features)))
        return x.with_features(x.features + inner.features)


def _activated(norm: nn.LayerNorm, features: Tensor) -> Tensor:
    return nn.functional.gelu(norm(features))
