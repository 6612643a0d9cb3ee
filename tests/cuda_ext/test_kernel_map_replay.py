"""CUDA's blocks replayed on the host list the pairs of the reference, whatever the size of a block."""

from __future__ import annotations

import ctypes

import pytest
import torch

from fusion3d.ops import voxelize
from fusion3d.ops.kernel_map import kernel_map_reference, strided_kernel_map_reference
from fusion3d.ops.voxelize import COORDINATE_RANGE, pack_coordinates, pack_unchecked


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


def voxels(count=2000, side=14):
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(count, 4, generator=generator) * torch.tensor([2, side, side, side])).long()
    return voxelize(points - torch.tensor([0, 3, 3, 3])).coordinates


def replayed(replay, keys, origins, size, before, dilation, block, *, turned):
    elements, outputs = size**3, len(origins)
    searched = elements // 2 if turned else elements
    ends = torch.zeros(max(1, searched * -(-outputs // block)), dtype=torch.int64)
    shape = [ctypes.c_int64(n) for n in (outputs, size, before, dilation, searched)]
    arguments = (pointer(keys), ctypes.c_int64(len(keys)), pointer(origins), *shape, int(turned), ctypes.c_int64(block))
    replay.replay_kernel_map.restype = ctypes.c_int64
    found = replay.replay_kernel_map(*arguments, pointer(ends), None, None)
    pairs = torch.full((2, 2 * found + outputs if turned else found), -7)
    replay.replay_kernel_map(*arguments, pointer(ends), pointer(pairs[0]), pointer(pairs[1]))
    return pairs


@pytest.mark.parametrize("block", [1, 32, 256, 5000])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 1), (5, 2)])
def test_submanifold_pairs_in_the_order_of_the_blocks(replay, kernel, block):
    size, dilation = kernel
    keys = pack_coordinates(voxels())
    pairs = replayed(replay, keys, keys, size, size // 2, dilation, block, turned=True)
    expected = kernel_map_reference(voxels(), size, dilation)
    assert torch.equal(pairs, torch.stack(expected[:2]))


@pytest.mark.parametrize("block", [1, 32, 256, 5000])
@pytest.mark.parametrize("kernel", [(2, 2), (3, 2), (1, 1)])
def test_strided_pairs_in_the_order_of_the_blocks(replay, kernel, block):
    size, stride = kernel
    coarse, *expected = strided_kernel_map_reference(voxels(), size, stride)
    origins = pack_unchecked(coarse * torch.tensor([1, stride, stride, stride]))
    pairs = replayed(replay, pack_coordinates(voxels()), origins, size, (size - 1) // 2, 1, block, turned=False)
    assert torch.equal(pairs, torch.stack(expected[:2]))


def anywhere(count=3000):
    generator = torch.Generator().manual_seed(1)
    ends = torch.tensor(COORDINATE_RANGE)
    inside = torch.stack([torch.randint(low, high, (count,), generator=generator) for low, high in COORDINATE_RANGE], 1)
    return torch.cat([inside, ends[:, :1].T, ends[:, 1:].T - 1])


def test_keys_are_python_s_and_turn_back_into_coordinates(replay):
    coordinates = anywhere()
    keys, unpacked = torch.empty(len(coordinates), dtype=torch.int64), torch.empty_like(coordinates)
    low, high = torch.empty(4, dtype=torch.int64), torch.empty(4, dtype=torch.int64)
    count = ctypes.c_int64(len(coordinates))
    replay.replay_pack(pointer(coordinates), count, *map(pointer, (keys, unpacked, low, high)))
    assert torch.equal(keys, pack_coordinates(coordinates))
    assert torch.equal(unpacked, coordinates)
    assert torch.equal(torch.stack([low, high]), torch.stack(coordinates.aminmax(dim=0)))


@pytest.mark.parametrize("stride", [1, 2, 3, 7, 4096])
def test_coarse_voxels_are_floors(replay, stride):
    coordinates = anywhere()
    coarse, origins = (torch.empty(len(coordinates), dtype=torch.int64) for _ in range(2))
    sizes = ctypes.c_int64(len(coordinates)), ctypes.c_int64(stride)
    replay.replay_coarse(pointer(coordinates), *sizes, pointer(coarse), pointer(origins))
    scale = torch.tensor([1, stride, stride, stride])
    floors = coordinates.div(scale, rounding_mode="floor")
    assert torch.equal(coarse, pack_unchecked(floors))
    assert torch.equal(origins, pack_unchecked(floors * scale))
