"""The compiled sparse_conv gives what its reference gives in float64, for every kind of map, and refuses what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import KernelMap, kernel_map, sparse_conv, strided_kernel_map, voxelize
from fusion3d.ops.sparse_conv import (
    _sparse_conv,
    _sparse_conv_backward,
    sparse_conv_backward_reference,
    sparse_conv_reference,
)

pytestmark = pytest.mark.usefixtures("compiled")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU")

DEVICES = ["cpu", pytest.param("cuda", marks=cuda)]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Relative to the largest result. Up to 27 * 100 products are added up in float32 in an order of its own; half types are added up
# in float32 and rounded once.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14, torch.float16: 2**-11, torch.bfloat16: 2**-8}
CHANNELS = [(1, 1), (3, 5), (16, 32), (17, 33), (40, 100)]  # below, at and beyond vectors of 2, 4, 8 and 16 and their blocks
MAPS = ["submanifold", "dilated", "wide", "strided", "transposed"]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def voxels(points=900, size=11, seed=0):
    found = torch.randint(0, size, (points, 4), generator=torch.Generator().manual_seed(seed))
    found[:, 0] %= 2
    return voxelize(found).coordinates


def pairs_of(kind, points=900):
    """Maps between some 800 voxels: more than 3 tiles of 256 rows."""
    coordinates = voxels(points)
    if kind in ("strided", "transposed"):
        pairs = strided_kernel_map(coordinates, 3, 2)[1]
        return pairs if kind == "strided" else pairs.transposed()
    size, dilation = {"submanifold": (3, 1), "dilated": (3, 2), "wide": (5, 1)}[kind]
    return kernel_map(coordinates, size, dilation)


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rows_of(pairs, device="cpu"):
    return pairs.in_rows.to(device), pairs.out_rows.to(device), pairs.offsets


def case(pairs, in_channels, out_channels, dtype=torch.float32):
    features, grad = (random(n, c, dtype=dtype) for n, c in ((pairs.inputs, in_channels), (pairs.outputs, out_channels)))
    return features, random(pairs.elements, in_channels, out_channels, dtype=dtype, seed=1), grad


def assert_close(found, expected):
    scale = expected[expected.isfinite()].abs().max().clamp(min=1).item() if expected.numel() else 1
    tolerance = TOLERANCE[found.dtype] * scale
    torch.testing.assert_close(found.double().cpu(), expected, rtol=TOLERANCE[found.dtype], atol=tolerance, equal_nan=True)


def assert_same_as_reference(features, weight, grad, pairs, device="cpu"):
    x, w, g = (t.to(device) for t in (features, weight, grad))
    result = _sparse_conv(x, w, *rows_of(pairs, device), pairs.outputs)
    assert result.dtype == features.dtype
    assert_close(result, sparse_conv_reference(features.double(), weight.double(), *rows_of(pairs), pairs.outputs))
    found = _sparse_conv_backward(g, x, w, *rows_of(pairs, device))
    expected = sparse_conv_backward_reference(grad.double(), features.double(), weight.double(), *rows_of(pairs))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == features.dtype
        assert_close(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kind", MAPS)
def test_equals_the_reference(device, kind, channels, dtype):
    pairs = pairs_of(kind)
    assert_same_as_reference(*case(pairs, *channels, dtype), pairs, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [(1, 1), (3, 5), (17, 33), (40, 100), (128, 16)])
@pytest.mark.parametrize("instructions", ["portable", "avx2", "avx512"])
def test_every_instruction_set_equals_the_reference(monkeypatch, instructions, channels, dtype):
    monkeypatch.setenv("FUSION3D_CPU", instructions)
    pairs = pairs_of("submanifold", 400)
    arguments = case(pairs, *channels, dtype)
    try:
        sparse_conv(*arguments[:2], pairs)
    except ConfigError as refusal:
        pytest.skip(str(refusal))
    assert_same_as_reference(*arguments, pairs)


def test_an_unknown_instruction_set_is_refused_in_words(monkeypatch):
    monkeypatch.setenv("FUSION3D_CPU", "mmx")
    with pytest.raises(ConfigError, match="portable, avx2 or avx512, not mmx"):
        sparse_conv(*case(pairs_of("submanifold", 400), 3, 5, torch.float32)[:2], pairs_of("submanifold", 400))


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_go_to_their_neighbours_and_leave_no_trace_elsewhere(device, dtype, kind):
    pairs = pairs_of(kind)
    features, weight, grad = case(pairs, 3, 5, dtype)  # channels that are padded to vectors
    features[7, 1], features[50, 2] = torch.nan, torch.inf
    grad[9, 4], grad[60, 0] = torch.nan, -torch.inf
    result = _sparse_conv(features.to(device), weight.to(device), *rows_of(pairs, device), pairs.outputs).cpu()
    hit = torch.isin(torch.arange(pairs.outputs), pairs.out_rows[torch.isin(pairs.in_rows, torch.tensor([7, 50]))])
    assert torch.equal(result.isfinite().all(1), ~hit)
    gradients = _sparse_conv_backward(grad.to(device), features.to(device), weight.to(device), *rows_of(pairs, device))
    expected = sparse_conv_backward_reference(grad.double(), features.double(), weight.double(), *rows_of(pairs))
    for one, other in zip(gradients, expected, strict=True):
        assert torch.equal(one.cpu().isfinite(), other.isfinite())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("points", "channels"), [(0, (3, 5)), (1, (3, 5)), (40, (0, 5)), (40, (3, 0)), (40, (0, 0)), (0, (0, 0))]
)
def test_nothing_to_convolve(device, points, channels, dtype):
    pairs = pairs_of("submanifold", points)
    assert_same_as_reference(*case(pairs, *channels, dtype), pairs, device)


def test_no_pairs_and_no_elements_give_zeros(device):
    none = torch.empty(0, dtype=torch.int64)
    for elements in (0, 4):
        pairs = KernelMap(none, none, torch.zeros(elements + 1, dtype=torch.int64), 5, 1000)
        assert_same_as_reference(*case(pairs, 3, 5), pairs, device)
        result = _sparse_conv(
            torch.ones(5, 3, device=device), torch.ones(elements, 3, 5, device=device), *rows_of(pairs, device), 9
        )
        assert not result.any()


def test_outputs_that_no_pair_reaches_are_zero(device):
    rows = torch.tensor([600])
    pairs = KernelMap(torch.tensor([2]), rows, torch.tensor([0, 0, 1, 1]), 3, 2000)
    features, weight, _ = case(pairs, 4, 6)
    result = _sparse_conv(features.to(device), weight.to(device), *rows_of(pairs, device), 2000).cpu()
    torch.testing.assert_close(result[600], features[2] @ weight[1])
    assert not result[torch.arange(2000) != 600].any()


def test_many_voxels_in_many_slabs(device):
    pairs = kernel_map(voxels(30_000, size=32))
    assert pairs.inputs > 20_000  # 80 tiles, 20 slabs of the weight's gradient
    assert_same_as_reference(*case(pairs, 8, 12), pairs, device)


def test_memory_in_any_layout(device):
    pairs = pairs_of("submanifold", 300)
    features, weight, grad = (t.to(device) for t in case(pairs, 5, 7))
    rows = rows_of(pairs, device)
    expected = _sparse_conv(features, weight, *rows, pairs.outputs), *_sparse_conv_backward(grad, features, weight, *rows)
    stretched = [torch.stack([r, r * 0 - 1], 1)[:, 0] for r in rows]
    wide = torch.cat([features.new_zeros(1), features.flatten()])[1:].view_as(features)  # starts on an odd address
    for x, w, g in (
        (features.T.contiguous().T, weight.permute(2, 1, 0).contiguous().permute(2, 1, 0), grad.T.contiguous().T),
        (wide, weight.mT.contiguous().mT, torch.cat([grad, grad], 1)[:, :7]),
    ):
        found = _sparse_conv(x, w, *stretched, pairs.outputs), *_sparse_conv_backward(g, x, w, *stretched)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_gradient_of_an_expanded_scalar(device):
    pairs = pairs_of("strided", 200)
    features = torch.ones(pairs.inputs, 3, device=device, requires_grad=True)
    weight = torch.ones(pairs.elements, 3, 5, device=device, requires_grad=True)
    moved = replace(pairs, in_rows=pairs.in_rows.to(device), out_rows=pairs.out_rows.to(device))
    sparse_conv(features, weight, moved).sum().backward()
    met = torch.bincount(pairs.in_rows, minlength=pairs.inputs).float()
    assert torch.equal(features.grad.cpu(), (5 * met).unsqueeze(1).expand(-1, 3))
    assert torch.equal(weight.grad.cpu(), pairs.offsets.diff().float().view(-1, 1, 1).expand(-1, 3, 5))


@pytest.mark.parametrize("kind", ["submanifold", "strided", "transposed"])
def test_gradcheck(device, kind):
    pairs = pairs_of(kind, 20)
    moved = replace(pairs, in_rows=pairs.in_rows.to(device), out_rows=pairs.out_rows.to(device))
    features, weight, _ = case(pairs, 3, 2, torch.float64)
    inputs = [t.to(device).requires_grad_() for t in (features, weight)]
    assert torch.autograd.gradcheck(lambda x, w: sparse_conv(x, w, moved), inputs)


def test_opcheck(device):
    pairs = pairs_of("submanifold", 20)
    features, weight, grad = (t.to(device) for t in case(pairs, 3, 2))
    rows = rows_of(pairs, device)
    torch.library.opcheck(_sparse_conv, (features.requires_grad_(), weight.requires_grad_(), *rows, pairs.outputs))
    torch.library.opcheck(_sparse_conv_backward, (grad, features.detach(), weight.detach(), *rows))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_and_two_threads_and_two_runs_agree_to_the_bit(threads, dtype):
    pairs = kernel_map(voxels(20_000, size=28))
    features, weight, grad = case(pairs, 12, 20, dtype)
    results = []
    for count in (1, 2, 2, 3):
        threads(count)
        result = _sparse_conv(features, weight, *rows_of(pairs), pairs.outputs)
        results.append((result, *_sparse_conv_backward(grad, features, weight, *rows_of(pairs))))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@cuda
def test_two_runs_on_a_gpu_agree_to_the_bit():
    pairs = kernel_map(voxels(20_000, size=28))
    arguments = [t.cuda() for t in case(pairs, 40, 50)]
    features, weight, grad = arguments
    rows = rows_of(pairs, "cuda")
    runs = [
        (_sparse_conv(features, weight, *rows, pairs.outputs), *_sparse_conv_backward(grad, features, weight, *rows))
        for _ in "ab"
    ]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_long_sums_of_half_types_are_made_in_float32(device, dtype):
    depth, count = 20_480, 16_384
    one = torch.zeros(1, dtype=torch.int64, device=device)
    result = _sparse_conv(
        torch.ones(1, depth, dtype=dtype, device=device),
        torch.ones(1, depth, 1, dtype=dtype, device=device),
        one,
        one,
        torch.tensor([0, 1]),
        1,
    )
    assert result.item() == depth
    rows = torch.arange(count, device=device)
    ones = torch.ones(count, 1, dtype=dtype, device=device)
    _, gradient = _sparse_conv_backward(ones, ones, ones[:1].unsqueeze(2), rows, rows, torch.tensor([0, count]))
    assert gradient.item() == count


# in_rows, out_rows, offsets of a map from 3 rows to 4, and what is wrong with it
HOSTILE = [
    ([0, 3], [0, 1], [0, 2, 2], "in_rows holds values"),
    ([-1, 1], [0, 1], [0, 2, 2], "in_rows holds values"),
    ([0, 1 << 62], [0, 1], [0, 2, 2], "in_rows holds values"),
    ([-(1 << 62)], [0], [0, 1, 1], "in_rows holds values"),
    ([0, 1], [0, 4], [0, 2, 2], "out_rows holds values"),
    ([0, 1], [-1, 1], [0, 1, 2], "out_rows holds values"),
    ([0], [1 << 62], [0, 0, 1], "out_rows holds values"),
    ([1, 0], [0, 1], [0, 2, 2], "in_rows must rise"),
    ([0, 0], [0, 1], [0, 0, 2], "in_rows must rise"),
    ([0, 1, 2], [0, 2, 1], [0, 3, 3], "out_rows must rise"),
    ([0, 1], [1, 1], [0, 2, 2], "out_rows must rise"),
    ([0, 1], [0, 1], [0, 2], "offsets must have one entry more"),
    ([0, 1], [0, 1], [0, 1, 2, 2], "offsets must have one entry more"),
    ([0, 1], [0, 1], [0, 2, 1], "offsets must rise"),
    ([0, 1], [0, 1], [0, 1, 3], "offsets must rise"),
    ([0, 1], [0, 1], [0, 1 << 62, 2], "offsets must rise"),
    ([0, 1], [0, 1], [0, -(1 << 62), 2], "offsets must rise"),
    ([0, 1], [0, 1], [1, 1, 2], "offsets must rise"),
    ([0, 1], [0], [0, 2, 2], "in_rows has 2 pairs but out_rows 1"),
    ([], [], [], "offsets must have one entry more"),
]


@pytest.mark.parametrize(("in_rows", "out_rows", "offsets", "message"), HOSTILE)
def test_hostile_maps_are_refused_in_words_and_read_nothing(device, in_rows, out_rows, offsets, message):
    in_rows, out_rows = (torch.tensor(rows, dtype=torch.int64, device=device) for rows in (in_rows, out_rows))
    offsets = torch.tensor(offsets, dtype=torch.int64)
    features, weight, grad = (torch.ones(*shape, device=device) for shape in ((3, 2), (2, 2, 5), (4, 5)))
    pairs = in_rows, out_rows, offsets
    with pytest.raises(RuntimeError, match=message):
        _sparse_conv(features, weight, *pairs, 4)
    with pytest.raises(RuntimeError, match=message):
        _sparse_conv_backward(grad, features, weight, *pairs)
    with pytest.raises(ConfigError, match=message):
        sparse_conv_reference(features, weight, *pairs, 4)
    with pytest.raises(ConfigError, match=message):
        sparse_conv_backward_reference(grad, features, weight, *pairs)


def test_rows_that_fall_between_two_elements_are_no_fault(device):
    pairs = KernelMap(torch.tensor([2, 0]), torch.tensor([3, 1]), torch.tensor([0, 1, 1, 2]), 3, 4)
    assert_same_as_reference(*case(pairs, 2, 3), pairs, device)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.ones(3)}, "features must have 2 dimension"),
        (
            {"features": torch.ones(3, 2, dtype=torch.int64), "weight": torch.ones(2, 2, 5, dtype=torch.int64)},
            "grad and features",
        ),
        ({"features": torch.ones(3, 3)}, "weight must have shape"),
        ({"weight": torch.ones(2, 2)}, "weight must have 3 dimension"),
        ({"weight": torch.ones(2, 2, 5, dtype=torch.float64)}, "weight and features have different dtypes"),
        ({"grad": torch.ones(4, 4)}, "grad must have shape"),
        ({"grad": torch.ones(4, 5, dtype=torch.float64)}, "grad and features have different dtypes"),
        ({"in_rows": torch.tensor([0, 1], dtype=torch.int32)}, "in_rows must be one-dimensional int64"),
        ({"out_rows": torch.tensor([[0, 1]])}, "out_rows must be one-dimensional int64"),
        ({"offsets": torch.tensor([0.0, 1, 2])}, "offsets must be one-dimensional int64"),
    ],
)
def test_the_operator_itself_refuses_arguments_that_do_not_fit(change, message):
    arguments = {
        "grad": torch.ones(4, 5),
        "features": torch.ones(3, 2),
        "weight": torch.ones(2, 2, 5),
        "in_rows": torch.tensor([0, 1]),
        "out_rows": torch.tensor([0, 1]),
        "offsets": torch.tensor([0, 1, 2]),
    }
    with pytest.raises(RuntimeError, match=message):
        _sparse_conv_backward(*(arguments | change).values())


def test_whole_numbers_of_no_float_type_and_impossible_outputs_are_refused():
    rows = torch.tensor([0]), torch.tensor([0]), torch.tensor([0, 1])
    with pytest.raises(RuntimeError, match="features must be float32"):
        _sparse_conv(torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2, 5, dtype=torch.int64), *rows, 1)
    with pytest.raises(RuntimeError, match="outputs must not be negative"):
        _sparse_conv(torch.ones(1, 2), torch.ones(1, 2, 5), *rows, -1)
    with pytest.raises(RuntimeError):  # 2^62 rows of 5: more bytes than an int64 counts
        _sparse_conv(torch.ones(1, 2), torch.ones(1, 2, 5), *rows, 1 << 62)


@cuda
def test_a_map_on_another_device_is_refused_in_words():
    pairs = pairs_of("submanifold", 20)
    features, weight, _ = (t.cuda() for t in case(pairs, 2, 3))
    with pytest.raises(ConfigError, match="move one"):
        sparse_conv(features, weight, pairs)
