"""The compiled footprint_pool and its gradient give what the references give, and refuse what they refuse."""

from __future__ import annotations

import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import splits_from_counts
from fusion3d.ops.footprint_pool import (
    _footprint_pool,
    _footprint_pool_backward,
    footprint_pool_backward_reference,
    footprint_pool_reference,
)

pytestmark = pytest.mark.usefixtures("compiled")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU")

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
COLUMNS = 60
# Up to 700 products of numbers near 1, added up in another order than the reference's; half types are added in float32 by both.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-13, torch.float16: 2**-9, torch.bfloat16: 2**-6}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=cuda)])
def device(request):
    return request.param


def wide(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def scene(channels=4, dtype=torch.float32, counts=(3, 0, 1, 700, 0, 33, 2, 0), columns=COLUMNS):
    generator = torch.Generator().manual_seed(0)
    splits = splits_from_counts(torch.tensor(counts))
    pairs = int(splits[-1])
    features = torch.randn(columns, channels, generator=generator, dtype=torch.float64).to(dtype)
    column = torch.randint(0, max(1, columns - 5), (pairs,), generator=generator)  # the last columns are seen by nobody
    return features, splits, column, torch.rand(pairs, generator=generator, dtype=torch.float64).to(wide(dtype))


def assert_same_as_reference(features, splits, column, weight, device):
    moved = [t.to(device) for t in (features, splits, column, weight)]
    tolerance = TOLERANCE[features.dtype]
    expected = footprint_pool_reference(features, splits, column, weight)
    torch.testing.assert_close(_footprint_pool(*moved).cpu(), expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(features.dtype)
    gradient = _footprint_pool_backward(grad.to(device), *moved[1:], len(features))
    wanted = footprint_pool_backward_reference(grad, splits, column, weight, len(features))
    torch.testing.assert_close(gradient.cpu(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 8, 32, 37])  # less than, as much as and more than the packets
def test_equals_the_reference(device, channels, dtype):
    assert_same_as_reference(*scene(channels, dtype), device)


@pytest.mark.parametrize("counts", [(), (0,), (0, 0, 0), (5,)])
@pytest.mark.parametrize("channels", [0, 3])
def test_few_or_no_footprints(device, counts, channels):
    assert_same_as_reference(*scene(channels, counts=counts), device)


def test_no_columns(device):
    assert_same_as_reference(torch.empty(0, 3), torch.tensor([0, 0]), torch.empty(0, dtype=torch.int64), torch.empty(0), device)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_special_values_reach_the_footprints_that_see_them(device, value):
    features, splits, column, weight = scene()
    features[column[2], 1] = value
    assert_same_as_reference(features, splits, column, weight, device)


def test_memory_in_any_layout(device):
    features, splits, column, weight = (t.to(device) for t in scene(6))
    expected = _footprint_pool(features[:, 1:5].contiguous(), splits, column, weight)
    doubled = [torch.stack([t, t], 1)[:, 0] for t in (splits, column, weight)]
    assert torch.equal(_footprint_pool(features[:, 1:5], *doubled), expected)
    one = torch.ones((), device=device)
    gradient = _footprint_pool_backward(one.expand(len(splits) - 1, 4), *doubled, COLUMNS)
    assert torch.equal(gradient, _footprint_pool_backward(torch.ones_like(expected), splits, column, weight, COLUMNS))


def test_gradcheck(device):
    features, splits, column, weight = (t.to(device) for t in scene(2, torch.float64, (2, 0, 5, 1), columns=8))
    assert torch.autograd.gradcheck(lambda x: _footprint_pool(x, splits, column, weight), (features.requires_grad_(),))


def test_opcheck(device):
    features, splits, column, weight = (t.to(device) for t in scene(2, torch.float64))
    torch.library.opcheck(_footprint_pool, (features.requires_grad_(), splits, column, weight))


def test_one_and_two_threads_agree_to_the_bit():
    features, splits, column, weight = scene(24, counts=(40,) * 5000, columns=4096)
    grad, before, results = torch.randn(5000, 24), torch.get_num_threads(), []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        pooled = _footprint_pool(features, splits, column, weight)
        results.append((pooled, _footprint_pool_backward(grad, splits, column, weight, len(features))))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("splits", "column", "message"),
    [
        ([0, 2], [0, 1, 1], "row_splits must rise"),
        ([0, 4], [0, 1, 1], "row_splits must rise"),
        ([0, 2, 1, 3], [0, 1, 1], "row_splits must rise"),
        ([0, 1 << 40, 3], [0, 1, 1], "row_splits must rise"),
        ([0, 3], [0, 1, 2], "column holds values"),
        ([0, 3], [0, 1, -1], "column holds values"),
        ([0, 3], [0, 1, 1 << 62], "column holds values"),
    ],
)
def test_hostile_pairs_are_refused_in_words_and_read_nothing(device, splits, column, message):
    splits, column, weight = (
        torch.tensor(splits, device=device),
        torch.tensor(column, device=device),
        torch.ones(3, device=device),
    )
    with pytest.raises(RuntimeError, match=message):
        _footprint_pool(torch.ones(2, 4, device=device), splits, column, weight)
    with pytest.raises(RuntimeError, match=message):
        _footprint_pool_backward(torch.ones(len(splits) - 1, 4, device=device), splits, column, weight, 2)
    with pytest.raises(ConfigError, match=message):
        footprint_pool_reference(torch.ones(2, 4, device=device), splits, column, weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad": torch.ones(2, 4)}, "grad must have shape"),
        ({"grad": torch.ones(1, 4, dtype=torch.int64)}, "grad must be float32"),
        ({"weight": torch.ones(2)}, "2 weights for 3 pairs"),
        ({"weight": torch.ones(3, dtype=torch.int64)}, "weight must be float32"),
        ({"column": torch.ones(3)}, "column must be one-dimensional int64"),
        ({"columns": -1}, "columns"),
    ],
)
def test_the_operator_itself_refuses_arguments_that_do_not_fit(change, message):
    arguments = {
        "grad": torch.ones(1, 4),
        "row_splits": torch.tensor([0, 3]),
        "column": torch.zeros(3, dtype=torch.int64),
        "weight": torch.ones(3),
        "columns": 2,
    }
    with pytest.raises(RuntimeError, match=message):
        _footprint_pool_backward(*(arguments | change).values())
