import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import kernel_map, sparse_conv, strided_kernel_map, voxelize
from fusion3d.ops.sparse_conv import _sparse_conv, _sparse_conv_backward


def voxels(count=120, size=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randint(0, size, (count, 4), generator=generator)
    points[:, 0] %= 2
    return voxelize(points).coordinates


def case(dtype=torch.float64, in_channels=3, out_channels=5, count=120):
    generator = torch.Generator().manual_seed(1)
    coordinates = voxels(count)
    features = torch.randn(len(coordinates), in_channels, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(27, in_channels, out_channels, generator=generator, dtype=torch.float64).to(dtype) / 5
    return features, weight, kernel_map(coordinates)


def loop(features, weight, pairs):
    out = torch.zeros(pairs.outputs, weight.shape[2], dtype=torch.float64)
    for k in range(pairs.elements):
        for p in range(pairs.offsets[k], pairs.offsets[k + 1]):
            out[pairs.out_rows[p]] += features[pairs.in_rows[p]].double() @ weight[k].double()
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_equals_a_loop_over_the_pairs(dtype):
    features, weight, pairs = case(dtype)
    result = sparse_conv(features, weight, pairs)
    assert result.dtype == dtype
    tolerance = {torch.float16: 5e-3, torch.bfloat16: 4e-2, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(result.double(), loop(features, weight, pairs), rtol=tolerance, atol=tolerance)


def test_strided_and_transposed_maps_equal_a_loop_over_the_pairs():
    coarse, pairs = strided_kernel_map(voxels())
    weight = torch.randn(8, 3, 5, dtype=torch.float64)
    fine_features = torch.randn(pairs.inputs, 3, dtype=torch.float64)
    torch.testing.assert_close(sparse_conv(fine_features, weight, pairs), loop(fine_features, weight, pairs))
    coarse_features, back = torch.randn(len(coarse), 3, dtype=torch.float64), pairs.transposed()
    torch.testing.assert_close(sparse_conv(coarse_features, weight, back), loop(coarse_features, weight, back))


def test_gradients_of_features_weight_and_bias():
    features, weight, pairs = case(count=14, out_channels=2)
    inputs = features.requires_grad_(), weight.requires_grad_(), torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w, b: sparse_conv(x, w, pairs, b), inputs)


def test_gradient_through_a_strided_map():
    _, pairs = strided_kernel_map(voxels(14))
    inputs = torch.randn(pairs.inputs, 2, dtype=torch.float64), torch.randn(8, 2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, w: sparse_conv(x, w, pairs), [x.requires_grad_() for x in inputs])


def test_nan_reaches_only_the_neighbours():
    coordinates = voxelize(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 3]])).coordinates
    features = torch.tensor([[torch.nan], [1.0], [1.0], [1.0]])
    result = sparse_conv(features, torch.ones(27, 1, 1), kernel_map(coordinates))
    assert result.isnan().flatten().tolist() == [True, True, False, False]


def test_no_voxels():
    features, weight = torch.zeros(0, 3, requires_grad=True), torch.zeros(27, 3, 5, requires_grad=True)
    result = sparse_conv(features, weight, kernel_map(torch.empty(0, 4, dtype=torch.int64)), torch.ones(5))
    assert result.shape == (0, 5)
    result.sum().backward()
    assert not weight.grad.any()


def test_two_runs_agree_to_the_bit():
    features, weight, pairs = case(torch.float32)
    assert torch.equal(sparse_conv(features, weight, pairs), sparse_conv(features, weight, pairs))


def test_autocast_computes_in_its_dtype_and_gives_gradients_in_the_parameters_dtype():
    features, weight, pairs = case(torch.float32)
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        result = sparse_conv(features, weight, pairs, torch.zeros(5))
    assert result.dtype == torch.bfloat16
    result.float().sum().backward()
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("features", "weight", "message"),
    [
        (torch.ones(2, 3), torch.ones(27, 3, 5), "rows"),
        (None, torch.ones(8, 3, 5, dtype=torch.float64), "weight must have shape"),
        (None, torch.ones(27, 4, 5, dtype=torch.float64), "weight must have shape"),
        (None, torch.ones(27, 3, 5), "convert"),
        (None, torch.ones(3, 5), "dimension"),
    ],
)
def test_bad_arguments_are_refused_in_words(features, weight, message):
    good, _, pairs = case()
    with pytest.raises(ConfigError, match=message):
        sparse_conv(good if features is None else features, weight, pairs)


def test_schema_fake_kernel_and_autograd_are_consistent():
    features, weight, pairs = case(count=14)
    rows = pairs.in_rows, pairs.out_rows, pairs.offsets
    torch.library.opcheck(_sparse_conv, (features.requires_grad_(), weight.requires_grad_(), *rows, pairs.outputs))
    grad = torch.ones(pairs.outputs, 5, dtype=torch.float64)
    torch.library.opcheck(_sparse_conv_backward, (grad, features.detach(), weight.detach(), *rows))
