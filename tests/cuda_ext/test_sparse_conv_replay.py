"""sparse_conv's CUDA blocks, replayed on the host: whole numbers exactly, whatever the order in which threads take turns."""

from __future__ import annotations

import ctypes

import pytest
import torch

from fusion3d.ops import kernel_map, strided_kernel_map, voxelize
from fusion3d.ops.sparse_conv import sparse_conv_backward_reference, sparse_conv_reference

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
CHANNELS = [(1, 1), (3, 33), (40, 7), (64, 32)]  # less and more than a block's 32; 16 or 32 channels deep


def pairs_of(kind):
    points = torch.randint(0, 9, (700, 4), generator=torch.Generator().manual_seed(0))  # tiles hold 128 or 256 rows
    points[:, 0] %= 2
    coordinates = voxelize(points).coordinates
    if kind == "submanifold":
        return kernel_map(coordinates)
    pairs = strided_kernel_map(coordinates, 3, 2)[1]
    return pairs if kind == "strided" else pairs.transposed()


def numbers(*shape, dtype, seed):
    whole = torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed))
    return (whole * (torch.rand(shape, generator=torch.Generator().manual_seed(seed + 1)) < 0.1)).to(dtype)


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


def sizes(*values):
    return [ctypes.c_int64(value) for value in values]


def convolved(replay, features, weight, pairs, *, backwards=False):
    result = torch.full((pairs.outputs, weight.shape[2]), torch.nan, dtype=features.dtype)
    rows = [pointer(t) for t in (features, weight, pairs.in_rows, pairs.out_rows, pairs.offsets)]
    extents = sizes(pairs.elements, pairs.inputs, pairs.outputs, *weight.shape[1:])
    replay.replay_sparse_conv(TYPES.index(features.dtype), int(backwards), *rows, *extents, pointer(result))
    return result


def weight_gradient(replay, features, grad, pairs, longest, *, backwards=False):
    result = torch.full((pairs.elements, features.shape[1], grad.shape[1]), torch.nan, dtype=features.dtype)
    rows = [pointer(t) for t in (features, grad, pairs.in_rows, pairs.out_rows, pairs.offsets)]
    extents = sizes(pairs.elements, pairs.inputs, pairs.outputs, *result.shape[1:])
    head = TYPES.index(features.dtype), int(backwards), ctypes.c_int64(longest)
    replay.replay_sparse_conv_weight_gradient(*head, *rows, *extents, pointer(result))
    return result


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kind", ["submanifold", "strided", "transposed"])
def test_whole_numbers_are_convolved_exactly_in_any_order_of_threads(replay, kind, channels, dtype):
    pairs = pairs_of(kind)
    features = numbers(pairs.inputs, channels[0], dtype=dtype, seed=1)
    weight = numbers(pairs.elements, *channels, dtype=dtype, seed=3)
    expected = sparse_conv_reference(
        features.double(), weight.double(), pairs.in_rows, pairs.out_rows, pairs.offsets, pairs.outputs
    )
    assert expected.abs().max() < 256  # exact in bfloat16
    for backwards in (False, True):
        assert torch.equal(convolved(replay, features, weight, pairs, backwards=backwards), expected.to(dtype))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("longest", [1, 50, 100_000])
def test_the_weight_s_gradient_of_whole_numbers_is_exact_however_it_is_parted(replay, longest, channels, dtype):
    pairs = pairs_of("submanifold" if longest > 1 else "strided")
    features = numbers(pairs.inputs, channels[0], dtype=dtype, seed=1)
    grad = numbers(pairs.outputs, channels[1], dtype=dtype, seed=5)
    weight = torch.zeros(pairs.elements, *channels, dtype=torch.float64)
    expected = sparse_conv_backward_reference(
        grad.double(), features.double(), weight, pairs.in_rows, pairs.out_rows, pairs.offsets
    )[1]
    assert expected.abs().max() < 256
    for backwards in (False, True):
        assert torch.equal(weight_gradient(replay, features, grad, pairs, longest, backwards=backwards), expected.to(dtype))


def test_float_sums_differ_by_rounding_only_and_not_at_all_between_orders_of_threads(replay):
    pairs, generator = pairs_of("submanifold"), torch.Generator().manual_seed(7)
    features, grad = (torch.randn(pairs.inputs, c, generator=generator) for c in (40, 33))
    weight = torch.randn(27, 40, 33, generator=generator) / 20
    rows = pairs.in_rows, pairs.out_rows, pairs.offsets
    result = convolved(replay, features, weight, pairs)
    expected = sparse_conv_reference(features.double(), weight.double(), *rows, pairs.outputs)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(result, convolved(replay, features, weight, pairs, backwards=True))
    gradient = weight_gradient(replay, features, grad, pairs, 64)
    _, expected = sparse_conv_backward_reference(grad.double(), features.double(), weight.double(), *rows)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=2e-4)
    assert torch.equal(gradient, weight_gradient(replay, features, grad, pairs, 64, backwards=True))


def test_a_nan_reaches_its_neighbours_only(replay):
    pairs = pairs_of("submanifold")
    features, weight = torch.ones(pairs.inputs, 3), torch.ones(27, 3, 5)
    features[100, 1] = torch.nan
    hit = torch.zeros(pairs.outputs, dtype=torch.bool)
    hit[pairs.out_rows[pairs.in_rows == 100]] = True
    result = convolved(replay, features, weight, pairs)
    assert torch.equal(result.isnan(), hit.unsqueeze(1).expand_as(result))


def test_no_pairs_and_no_channels_give_zeros(replay):
    pairs = kernel_map(torch.empty(0, 4, dtype=torch.int64))
    assert not weight_gradient(replay, torch.empty(0, 3), torch.empty(0, 5), pairs, 9).any()
    assert not convolved(replay, torch.empty(700, 0), torch.empty(27, 0, 5), pairs_of("submanifold")).any()
