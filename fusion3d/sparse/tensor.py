"""Features on voxels, and the kernel maps that layers over the same voxels share."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from jaxtyping import Float, Int64
from torch import Tensor

from fusion3d.errors import ConfigError
from fusion3d.ops import KernelMap, kernel_map, strided_kernel_map


@dataclass(frozen=True)
class SparseTensor:
    """Features of the voxels of one level.

    A voxel of a coarser level is ``floor(coordinate / 2)`` of one of the finer, so levels are cut at multiples of 2 **in the
    coordinates as given**. Whoever makes the coordinates fixes the phase: give rows and columns that count from the same
    origin modulo 2^levels wherever the chip was cut, and a voxel sees the same network in every chip.

    Attributes
    ----------
    features : [V, C]
    coordinates : [V, 4] chip, level, row, column in units of this tensor's voxels, in the order of `fusion3d.ops.voxelize`
    stride : side of these voxels in finest voxels
    maps : kernel maps found so far, shared by every tensor derived from the same finest voxels
    """

    features: Float[Tensor, "voxels channels"]
    coordinates: Int64[Tensor, "voxels 4"]
    stride: int = 1
    maps: dict[Hashable, tuple[Tensor, KernelMap]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.features.dim() != 2 or self.coordinates.shape != (self.features.shape[0], 4):
            raise ConfigError(
                f"features of shape {tuple(self.features.shape)} do not fit coordinates of shape {tuple(self.coordinates.shape)};"
                " they must be [V, C] and [V, 4]"
            )

    @property
    def voxels(self) -> int:
        """V."""
        return self.features.shape[0]

    def with_features(self, features: Float[Tensor, "voxels channels"]) -> SparseTensor:
        """Other features on the same voxels."""
        return replace(self, features=features)

    def submanifold_map(self, kernel_size: int, dilation: int) -> KernelMap:
        """The map from these voxels to themselves."""
        key = ("submanifold", self.stride, kernel_size, dilation)
        if key not in self.maps:
            self.maps[key] = self.coordinates, kernel_map(self.coordinates, kernel_size, dilation)
        return self.maps[key][1]

    def strided_map(self, kernel_size: int, stride: int) -> tuple[Int64[Tensor, "coarse_voxels 4"], KernelMap]:
        """Coordinates of the voxels `stride` times as large, and the map to them."""
        key = ("strided", self.stride, kernel_size, stride)
        if key not in self.maps:
            self.maps[key] = strided_kernel_map(self.coordinates, kernel_size, stride)
        return self.maps[key]
