"""sparse_conv against torch's dense convolutions on whole numbers, whose float32 sums are exact: equal to the last bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fusion3d.ops import kernel_map, sparse_conv, strided_kernel_map, voxelize

SIZE = 9
CHANNELS = [(1, 1), (3, 5), (4, 8), (7, 30), (33, 17)]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))])
def device(request):
    return request.param


def coordinates():
    points = torch.randint(0, SIZE, (500, 4), generator=torch.Generator().manual_seed(0))
    points[:, 0] %= 2
    return voxelize(points).coordinates


def whole(*shape, seed):
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).float()


def dense(features, at, size=SIZE):
    chip, level, row, column = at.unbind(1)
    return features.new_zeros(2, features.shape[1], size, size, size).index_put(
        (chip, torch.arange(features.shape[1]).unsqueeze(1), level, row, column), features.T
    )


def read(volume, at):
    chip, level, row, column = at.unbind(1)
    return volume[chip, :, level, row, column]


def dense_weight(weight, size):
    return weight.unflatten(0, (size, size, size)).permute(4, 3, 0, 1, 2)


def assert_equal(features, weight, pairs, expected, device):
    """Result and both gradients of the sparse convolution, and of the dense one read at its voxels."""
    upstream = whole(*expected.shape, seed=9)
    wanted = expected, *torch.autograd.grad((expected * upstream).sum(), (features, weight))
    x, w = (t.detach().to(device).requires_grad_() for t in (features, weight))
    moved = type(pairs)(pairs.in_rows.to(device), pairs.out_rows.to(device), pairs.offsets, pairs.inputs, pairs.outputs)
    found = sparse_conv(x, w, moved)
    gradients = torch.autograd.grad((found * upstream.to(device)).sum(), (x, w))
    for one, other in zip((found, *gradients), wanted, strict=True):
        assert other.abs().max() < 2**24  # whole numbers of float32
        assert torch.equal(one.cpu(), other)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(("size", "dilation"), [(1, 1), (3, 1), (3, 2), (3, 3), (5, 1), (5, 2)])
def test_submanifold_equals_conv3d_to_the_bit(device, size, dilation, channels):
    at = coordinates()
    features = whole(len(at), channels[0], seed=1).requires_grad_()
    weight = whole(size**3, *channels, seed=2).requires_grad_()
    volume = F.conv3d(dense(features, at), dense_weight(weight, size), padding=size // 2 * dilation, dilation=dilation)
    assert_equal(features, weight, kernel_map(at, size, dilation), read(volume, at), device)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (2, 2), (3, 2), (3, 3), (4, 2), (5, 3)])
def test_strided_equals_conv3d_to_the_bit(device, size, stride, channels):
    fine = coordinates()
    coarse, pairs = strided_kernel_map(fine, size, stride)
    features = whole(len(fine), channels[0], seed=1).requires_grad_()
    weight = whole(size**3, *channels, seed=2).requires_grad_()
    before = (size - 1) // 2
    volume = F.conv3d(F.pad(dense(features, fine), (before, size) * 3), dense_weight(weight, size), stride=stride)
    assert_equal(features, weight, pairs, read(volume, coarse), device)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (5, 3)])
def test_inverse_equals_conv_transpose3d_to_the_bit(device, size, stride, channels):
    fine = coordinates()
    coarse, pairs = strided_kernel_map(fine, size, stride)
    features = whole(len(coarse), channels[0], seed=1).requires_grad_()
    weight = whole(size**3, *channels, seed=2).requires_grad_()
    volume = F.conv_transpose3d(dense(features, coarse), dense_weight(weight, size).transpose(0, 1), stride=stride)
    before = (size - 1) // 2
    volume = F.pad(volume[:, :, before:, before:, before:], (0, SIZE) * 3)
    assert_equal(features, weight, pairs.transposed(), read(volume, fine), device)
