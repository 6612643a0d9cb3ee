import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion3d.errors import ConfigError
from fusion3d.ops import kernel_map, strided_kernel_map, voxelize
from fusion3d.ops.kernel_map import _kernel_map, _strided_kernel_map
from fusion3d.ops.voxelize import COORDINATE_RANGE

VOXELS = st.lists(st.tuples(st.integers(0, 1), *(st.integers(-3, 3),) * 3), max_size=25)


def voxels(points):
    return voxelize(torch.tensor(points, dtype=torch.int64).view(-1, 4)).coordinates


def triples(pairs):
    elements = torch.repeat_interleave(torch.arange(pairs.elements), pairs.offsets.diff())
    return list(zip(elements.tolist(), pairs.in_rows.tolist(), pairs.out_rows.tolist(), strict=True))


def expected_triples(inputs, outputs, kernel_size, stride, dilation, before):
    """Look every neighbour up in a dictionary."""
    row_of = {tuple(voxel): row for row, voxel in enumerate(inputs.tolist())}
    found = []
    for element, offset in enumerate(itertools.product(range(kernel_size), repeat=3)):
        for out, (chip, *place) in enumerate(outputs.tolist()):
            wanted = (chip, *(x * stride + (d - before) * dilation for x, d in zip(place, offset, strict=True)))
            if wanted in row_of:
                found.append((element, row_of[wanted], out))
    return found


@settings(deadline=None, max_examples=40)
@given(VOXELS, st.sampled_from([(1, 1), (3, 1), (3, 2), (5, 1)]))
def test_submanifold_pairs_equal_a_dictionary_of_voxels(points, kernel):
    coordinates, (size, dilation) = voxels(points), kernel
    pairs = kernel_map(coordinates, size, dilation)
    assert triples(pairs) == expected_triples(coordinates, coordinates, size, 1, dilation, size // 2)


@settings(deadline=None, max_examples=40)
@given(VOXELS, st.sampled_from([(2, 2), (3, 2), (3, 3), (4, 2), (1, 1)]))
def test_strided_pairs_equal_a_dictionary_of_voxels(points, kernel):
    coordinates, (size, stride) = voxels(points), kernel
    coarse, pairs = strided_kernel_map(coordinates, size, stride)
    cells = {(chip, *(x // stride for x in place)) for chip, *place in coordinates.tolist()}
    assert coarse.tolist() == voxels(sorted(cells)).tolist()
    assert triples(pairs) == expected_triples(coordinates, coarse, size, stride, 1, (size - 1) // 2)


def test_kernel_of_the_stride_gives_every_voxel_to_one_coarse_voxel():
    coordinates = voxels([(0, z, y, x) for z in range(-3, 2) for y in range(5) for x in range(-1, 3)])
    _, pairs = strided_kernel_map(coordinates)
    assert sorted(pairs.in_rows.tolist()) == list(range(len(coordinates)))


def test_transposed_map_swaps_the_ends_of_each_pair():
    _, pairs = strided_kernel_map(voxels([(0, 0, 0, 0), (0, 1, 0, 0), (0, 0, 5, 5)]))
    back = pairs.transposed()
    assert (back.inputs, back.outputs) == (pairs.outputs, pairs.inputs)
    assert triples(back) == [(element, out, in_) for element, in_, out in triples(pairs)]


def test_opposite_corners_of_the_range_are_not_neighbours():
    chip, *ends = COORDINATE_RANGE
    corners = [(c, *corner) for c in (0, chip[1] - 1) for corner in itertools.product(*((low, high - 1) for low, high in ends))]
    coordinates = voxels(corners)
    assert kernel_map(coordinates, 3).in_rows.numel() == len(corners)
    assert strided_kernel_map(coordinates)[0].shape == (len(corners), 4)


def test_no_voxel_and_one_voxel():
    nothing = voxels([])
    assert kernel_map(nothing).offsets.tolist() == [0] * 28
    coarse, pairs = strided_kernel_map(nothing)
    assert coarse.shape == (0, 4)
    assert pairs.in_rows.numel() == 0
    assert triples(kernel_map(voxels([(1, -5, 2, 3)]))) == [(13, 0, 0)]


@pytest.mark.parametrize("order", [[1, 0], [0, 0]])
def test_unsorted_or_repeated_voxels_are_refused(order):
    coordinates = voxels([(0, 0, 0, 0), (0, 1, 0, 0)])[order]
    for function in (kernel_map, strided_kernel_map):
        with pytest.raises(ConfigError, match="voxelize"):
            function(coordinates)


@pytest.mark.parametrize(("size", "dilation"), [(2, 1), (0, 1), (3, 0), (3, 5000)])
def test_kernels_that_cannot_be_submanifold_are_refused(size, dilation):
    with pytest.raises(ConfigError, match="kernel"):
        kernel_map(voxels([]), size, dilation)


@pytest.mark.parametrize(("size", "stride"), [(2, 3), (2, 0), (5000, 2)])
def test_strides_that_skip_voxels_are_refused(size, stride):
    with pytest.raises(ConfigError, match="stride"):
        strided_kernel_map(voxels([]), size, stride)


def test_schema_and_fake_kernels_are_consistent():
    coordinates = voxels([(0, 0, 0, 0), (0, 1, 0, 0), (0, 0, 5, 5)])
    torch.library.opcheck(_kernel_map, (coordinates, 3, 1))
    torch.library.opcheck(_strided_kernel_map, (coordinates, 2, 2))
