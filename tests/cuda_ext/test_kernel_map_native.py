"""The compiled kernel maps list the pairs of their references in the same order, and refuse what the references refuse."""

from __future__ import annotations

import itertools

import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import kernel_map, strided_kernel_map, voxelize
from fusion3d.ops.kernel_map import (
    _kernel_map,
    _strided_kernel_map,
    kernel_map_reference,
    strided_kernel_map_reference,
)
from fusion3d.ops.voxelize import COORDINATE_RANGE

pytestmark = pytest.mark.usefixtures("compiled")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=cuda)]
SUBMANIFOLD = [(1, 1), (3, 1), (3, 2), (5, 1), (5, 3), (3, 4096)]
STRIDED = [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (4, 3), (6, 5)]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def block(count, chips=2, side=24, seed=0):
    """Voxels of a dense block around the origin of every axis, about 1 in 5 of them filled."""
    generator = torch.Generator().manual_seed(seed)
    low, size = torch.tensor([0, -8, -side // 2, -side // 2]), torch.tensor([chips, 16, side, side])
    return voxelize(low + (torch.rand(count, 4, generator=generator) * size).long()).coordinates


def corners():
    """Voxels at and beside every corner of the range of coordinates."""
    axes = [sorted({low, low + 1, high - 2, high - 1}) for low, high in COORDINATE_RANGE]
    return voxelize(torch.tensor(list(itertools.product(*axes)))).coordinates


SCENES = {
    "none": torch.empty(0, 4, dtype=torch.int64),
    "one": torch.tensor([[1, -5, 2, 3]]),
    "block": block(3500),
    "several parts": block(60_000, chips=3, side=50),
    "a stack": torch.tensor([[7, level, -65_536, 65_535] for level in range(-4096, 4096)]),
    "corners": corners(),
}


def assert_equal(ours, expected):
    for one, other in zip(ours, expected, strict=True):
        assert torch.equal(one.cpu(), other)


@pytest.mark.parametrize("kernel", SUBMANIFOLD)
@pytest.mark.parametrize("scene", SCENES)
def test_submanifold_map_equals_the_reference(device, scene, kernel):
    pairs = _kernel_map(SCENES[scene].to(device), *kernel)
    assert [part.device.type for part in pairs] == [device, device, "cpu"]
    assert_equal(pairs, kernel_map_reference(SCENES[scene], *kernel))


@pytest.mark.parametrize("kernel", STRIDED)
@pytest.mark.parametrize("scene", SCENES)
def test_strided_map_equals_the_reference(device, scene, kernel):
    pairs = _strided_kernel_map(SCENES[scene].to(device), *kernel)
    assert_equal(pairs, strided_kernel_map_reference(SCENES[scene], *kernel))


def test_strides_as_long_as_the_reach(device):
    scene = voxelize(torch.cat([SCENES["corners"], SCENES["block"]])).coordinates
    for stride in (16, 17):  # kernels of thousands of elements a side cannot be listed
        assert_equal(_strided_kernel_map(scene.to(device), 17, stride), strided_kernel_map_reference(scene, 17, stride))


def test_transposed_map_is_the_reference_s_turned_round(device):
    _, pairs = strided_kernel_map(SCENES["block"].to(device), 3, 2)
    _, in_rows, out_rows, offsets = strided_kernel_map_reference(SCENES["block"], 3, 2)
    back = pairs.transposed()
    assert_equal((back.in_rows, back.out_rows, back.offsets), (out_rows, in_rows, offsets))


def test_memory_in_any_layout(device):
    coordinates = SCENES["block"].to(device)
    for other in (torch.cat([coordinates] * 2, 1)[:, :4], coordinates.T.contiguous().T):
        assert_equal(_kernel_map(other, 3, 1), kernel_map_reference(SCENES["block"], 3, 1))
        assert_equal(_strided_kernel_map(other, 2, 2), strided_kernel_map_reference(SCENES["block"], 2, 2))


def test_any_number_of_threads_gives_the_same(threads):
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append((*_kernel_map(SCENES["several parts"], 3, 1), *_strided_kernel_map(SCENES["several parts"], 3, 2)))
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


@pytest.mark.parametrize("function", [kernel_map, strided_kernel_map])
@pytest.mark.parametrize("place", [1, 17_000, -1])
def test_unsorted_or_repeated_voxels_are_refused(device, place, function):
    coordinates = SCENES["several parts"].clone()
    coordinates[place] = coordinates[place - 1]
    with pytest.raises(ConfigError, match="voxelize"):
        function(coordinates.to(device))
    with pytest.raises(ConfigError, match="voxelize"):
        function(SCENES["several parts"].flip(0).to(device))


@pytest.mark.parametrize("function", [kernel_map, strided_kernel_map])
@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("value", [-(1 << 63), -(1 << 17), 1 << 13, (1 << 63) - 1])
def test_coordinates_out_of_range_are_refused_by_name(device, value, axis, function):
    if COORDINATE_RANGE[axis][0] <= value < COORDINATE_RANGE[axis][1]:
        value = COORDINATE_RANGE[axis][1]
    coordinates = SCENES["block"].clone()
    coordinates[50, axis] = value
    with pytest.raises(ConfigError, match=f"voxel {('chip', 'level', 'row', 'column')[axis]}s run from"):
        function(coordinates.to(device))


@pytest.mark.parametrize(
    ("operator", "size", "other"),
    [
        *((_kernel_map, size, 1) for size in (0, -3, 2, 8195, (1 << 62) + 1)),
        *((_kernel_map, 3, dilation) for dilation in (0, -1, 4097, 1 << 62)),
        *((_strided_kernel_map, size, 2) for size in (0, 1, -4, 4097, 1 << 62)),
        *((_strided_kernel_map, 2, stride) for stride in (0, -1, 3, -(1 << 63))),
    ],
)
def test_the_operators_themselves_refuse_kernels_that_do_not_fit(device, operator, size, other):
    with pytest.raises(RuntimeError, match="kernel"):
        operator(SCENES["one"].to(device), size, other)


@pytest.mark.parametrize("operator", [_kernel_map, _strided_kernel_map])
@pytest.mark.parametrize(
    "coordinates", [torch.zeros(3, 3, dtype=torch.int64), torch.zeros(3, 4), torch.zeros(4, dtype=torch.int64)]
)
def test_the_operators_themselves_refuse_other_shapes_and_types(device, coordinates, operator):
    with pytest.raises(RuntimeError, match=r"\[V, 4\]"):
        operator(coordinates.to(device), 3, 1)


def test_opcheck(device):
    coordinates = block(40, side=4).to(device)
    torch.library.opcheck(_kernel_map, (coordinates, 3, 1))
    torch.library.opcheck(_strided_kernel_map, (coordinates, 2, 2))
