"""Neighbours of voxels: which input voxel meets which kernel element at which output voxel.

Kernel elements are numbered in the order of conv3d's weight, ``(level * k + row) * k + column``. Neighbours are found by
binary search for ``key + offset`` among the sorted 64-bit keys of `fusion3d.ops.voxelize`; a key holds the chip too, so voxels
of two chips never meet.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from fusion3d.errors import ConfigError
from fusion3d.ops import native
from fusion3d.ops.voxelize import (
    LARGEST_REACH,
    LEVEL_BITS,
    PLANE_BITS,
    check_coordinates,
    pack_coordinates,
    pack_unchecked,
)


@dataclass(frozen=True)
class KernelMap:
    """Pairs of input and output voxels, grouped by kernel element.

    Attributes
    ----------
    in_rows, out_rows : pairs of element k are ``offsets[k]:offsets[k + 1]``, both rows rising within an element
    offsets : on the CPU whatever the device of the rows, because it drives a loop over kernel elements
    inputs, outputs : number of input and of output voxels
    """

    in_rows: Int64[Tensor, " pairs"]
    out_rows: Int64[Tensor, " pairs"]
    offsets: Int64[Tensor, " elements_plus_one"]
    inputs: int
    outputs: int

    @property
    def elements(self) -> int:
        """Number of kernel elements, K."""
        return int(self.offsets.shape[0]) - 1

    def transposed(self) -> KernelMap:
        """The map of the inverse convolution: outputs become inputs, each pair keeps its kernel element."""
        return KernelMap(self.out_rows, self.in_rows, self.offsets, self.outputs, self.inputs)


def kernel_map(coordinates: Int64[Tensor, "voxels 4"], kernel_size: int = 3, dilation: int = 1) -> KernelMap:
    """The submanifold map: output voxels are the input voxels.

    Output voxel x meets input voxel ``x + (element - kernel_size // 2) * dilation`` along each axis, as conv3d with stride 1 and
    padding that keeps the size.

    Parameters
    ----------
    coordinates : [V, 4] chip, level, row, column; distinct and in the order `voxelize` returns
    kernel_size : odd
    dilation : spacing of the kernel's elements, voxels

    Raises
    ------
    ConfigError
        `coordinates` is not as described or out of range, `kernel_size` is even, or the kernel reaches past `LARGEST_REACH`.
    """
    check_coordinates(coordinates)
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ConfigError(f"a submanifold kernel has an odd size, not {kernel_size}")
    if dilation < 1 or kernel_size // 2 * dilation > LARGEST_REACH:
        raise ConfigError(f"a kernel of {kernel_size} with dilation {dilation} must reach 0 to {LARGEST_REACH} voxels")
    rows = coordinates.shape[0]
    in_rows, out_rows, offsets = native.run(_kernel_map, coordinates, kernel_size, dilation)
    return KernelMap(in_rows, out_rows, offsets, rows, rows)


def strided_kernel_map(
    coordinates: Int64[Tensor, "voxels 4"], kernel_size: int = 2, stride: int = 2
) -> tuple[Int64[Tensor, "coarse_voxels 4"], KernelMap]:
    """Coarser voxels and the map to them: output voxels are ``floor(coordinate / stride)`` of the input voxels.

    Output voxel x meets input voxel ``x * stride + element - (kernel_size - 1) // 2`` along each axis, as conv3d with that
    padding. The cells start at multiples of the stride in the coordinates as given: the caller fixes the phase of the grid by
    giving coordinates that do not depend on where a chip was cut.

    Returns
    -------
    coordinates of the coarse voxels in the order of `voxelize`, and the map

    Raises
    ------
    ConfigError
        `coordinates` is not as for `kernel_map`, or not 1 <= stride <= kernel_size <= `LARGEST_REACH`.
    """
    check_coordinates(coordinates)
    if not 1 <= stride <= kernel_size <= LARGEST_REACH:
        raise ConfigError(f"a kernel of {kernel_size} with stride {stride} must satisfy 1 <= stride <= kernel <= {LARGEST_REACH}")
    coarse, in_rows, out_rows, offsets = native.run(_strided_kernel_map, coordinates, kernel_size, stride)
    return coarse, KernelMap(in_rows, out_rows, offsets, coordinates.shape[0], coarse.shape[0])


def kernel_map_reference(coordinates: Tensor, kernel_size: int, dilation: int) -> tuple[Tensor, Tensor, Tensor]:
    """Search one half of the kernel: the opposite element joins the same voxels the other way round."""
    keys = _sorted_keys(coordinates)
    half = kernel_size**3 // 2
    steps = _steps(kernel_size, kernel_size // 2, dilation)
    found = [_search(keys, keys + step) for step in steps[:half]]
    own = torch.arange(keys.numel(), device=keys.device)
    return _concatenate([*found, (own, own), *((out, in_) for in_, out in reversed(found))])


def strided_kernel_map_reference(coordinates: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Search every element of the kernel at every coarse voxel."""
    keys = _sorted_keys(coordinates)
    scale = coordinates.new_tensor((1, stride, stride, stride))
    coarse = torch.div(coordinates, scale, rounding_mode="floor")
    order = torch.unique(pack_unchecked(coarse), return_inverse=True)[1]
    voxels = int(order.max()) + 1 if order.numel() else 0
    coarse = coarse.new_empty(voxels, 4).index_copy_(0, order, coarse)
    origin = pack_unchecked(coarse * scale)
    steps = _steps(kernel_size, (kernel_size - 1) // 2, 1)
    return coarse, *_concatenate([_search(keys, origin + step) for step in steps])


def _sorted_keys(coordinates: Tensor) -> Tensor:
    keys = pack_coordinates(coordinates)
    if not bool((keys[1:] > keys[:-1]).all()):
        raise ConfigError("coordinates are not distinct voxels in the order of their keys; take them from voxelize")
    return keys


def _steps(kernel_size: int, before: int, dilation: int) -> list[int]:
    """What each kernel element adds to a key; a key is linear in its coordinates."""
    offsets = [(element - before) * dilation for element in range(kernel_size)]
    return [
        level + (row << PLANE_BITS + LEVEL_BITS) + (column << LEVEL_BITS)
        for level in offsets
        for row in offsets
        for column in offsets
    ]


def _search(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of `keys` and of `wanted` that hold the same key."""
    if not keys.numel():
        return keys.new_empty(0), keys.new_empty(0)
    place = torch.searchsorted(keys, wanted).clamp_(max=keys.numel() - 1)
    out = (keys[place] == wanted).nonzero().squeeze(1)
    return place[out], out


def _concatenate(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    offsets = torch.tensor([0, *(in_rows.numel() for in_rows, _ in pairs)]).cumsum(0)
    return torch.cat([in_rows for in_rows, _ in pairs]), torch.cat([out_rows for _, out_rows in pairs]), offsets


_kernel_map = torch.library.custom_op(
    "fusion3d::kernel_map",
    kernel_map_reference,
    mutates_args=(),
    schema="(Tensor coordinates, int kernel_size, int dilation) -> (Tensor in_rows, Tensor out_rows, Tensor offsets)",
)
_strided_kernel_map = torch.library.custom_op(
    "fusion3d::strided_kernel_map",
    strided_kernel_map_reference,
    mutates_args=(),
    schema="(Tensor coordinates, int kernel_size, int stride)"
    " -> (Tensor coarse, Tensor in_rows, Tensor out_rows, Tensor offsets)",
)


@_kernel_map.register_fake
def _(coordinates: Tensor, kernel_size: int, dilation: int) -> tuple[Tensor, Tensor, Tensor]:
    pairs = torch.library.get_ctx().new_dynamic_size()
    offsets = torch.empty(kernel_size**3 + 1, dtype=torch.int64, device="cpu")
    return coordinates.new_empty(pairs), coordinates.new_empty(pairs), offsets


@_strided_kernel_map.register_fake
def _(coordinates: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    context = torch.library.get_ctx()
    voxels, pairs = context.new_dynamic_size(), context.new_dynamic_size()
    offsets = torch.empty(kernel_size**3 + 1, dtype=torch.int64, device="cpu")
    return coordinates.new_empty(voxels, 4), coordinates.new_empty(pairs), coordinates.new_empty(pairs), offsets
