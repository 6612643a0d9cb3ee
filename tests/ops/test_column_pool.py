from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion3d.errors import ConfigError
from fusion3d.ops import column_pool, splits_from_counts
from fusion3d.ops.column_pool import _column_pool, _column_pool_backward

REDUCTIONS = ("sum", "mean", "max")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
COUNTS = torch.tensor([3, 0, 1, 40, 0, 2])
SPLITS = splits_from_counts(COUNTS)


def features(channels=5, dtype=torch.float64, rows=46, seed=0):
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def numpy_pool(rows, splits, reduce):
    function = {"sum": np.sum, "mean": np.mean, "max": np.max}[reduce]
    pairs = pairwise(splits)
    return np.stack([function(rows[a:b], 0) if b > a else np.zeros(rows.shape[1]) for a, b in pairs])


def a_permutation(rows=46):
    return torch.randperm(rows, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_a_numpy_loop_and_empty_columns_give_zero(reduce, dtype):
    rows = features(dtype=dtype)
    pooled = column_pool(rows, SPLITS, reduce)
    assert pooled.dtype == dtype
    tolerance = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    expected = numpy_pool(rows.double().numpy(), SPLITS.numpy(), reduce)
    np.testing.assert_allclose(pooled.double().numpy(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_added_up_in_float32(dtype):
    rows = torch.ones(4096, 1, dtype=dtype)  # a running half-precision sum stalls at 2048 or 256
    assert column_pool(rows, torch.tensor([0, 4096]), "sum").item() == 4096
    assert column_pool(rows, torch.tensor([0, 4096]), "mean").item() == 1


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_permuted_rows_give_the_same_columns(reduce):
    rows, permutation = features(), a_permutation()
    stored = torch.empty_like(rows)
    stored[permutation] = rows
    torch.testing.assert_close(column_pool(stored, SPLITS, reduce, permutation), column_pool(rows, SPLITS, reduce))


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_rows_left_out_of_the_permutation_have_no_share_and_no_gradient(reduce):
    rows = torch.tensor([[1.0], [100.0], [3.0]], requires_grad=True)
    pooled = column_pool(rows, torch.tensor([0, 2]), reduce, torch.tensor([2, 0]))
    assert pooled.item() == {"sum": 4, "mean": 2, "max": 3}[reduce]
    pooled.sum().backward()
    assert rows.grad.flatten().tolist() == {"sum": [1, 0, 1], "mean": [0.5, 0, 0.5], "max": [0, 0, 1]}[reduce]


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("permutation", [None, a_permutation()])
def test_gradient(reduce, permutation):
    rows = features().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: column_pool(x, SPLITS, reduce, permutation), (rows,))


def test_max_sends_the_gradient_to_the_first_of_tied_rows():
    rows = torch.tensor([[1.0, 2.0], [5.0, 2.0], [5.0, 2.0]], requires_grad=True)
    column_pool(rows, torch.tensor([0, 3]), "max").sum().backward()
    assert rows.grad.tolist() == [[0, 1], [1, 0], [0, 0]]


def test_max_of_tied_permuted_rows_goes_to_the_first_in_order():
    rows = torch.zeros(3, 1, requires_grad=True)
    column_pool(rows, torch.tensor([0, 3]), "max", torch.tensor([2, 0, 1])).sum().backward()
    assert rows.grad.flatten().tolist() == [0, 0, 1]


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_nan_stays_in_its_own_column_and_channel(reduce):
    rows = torch.tensor([[1.0, 2.0], [torch.nan, 3.0], [7.0, torch.nan], [1.0, 1.0]], requires_grad=True)
    pooled = column_pool(rows, torch.tensor([0, 2, 3, 4]), reduce)
    assert pooled.isnan().tolist() == [[True, False], [False, True], [False, False]]
    if reduce == "max":
        pooled.sum().backward()
        assert rows.grad.tolist() == [[0, 0], [1, 1], [1, 1], [1, 1]]


def test_max_of_infinities():
    rows = torch.tensor([[-torch.inf], [-torch.inf], [torch.inf]], requires_grad=True)
    pooled = column_pool(rows, torch.tensor([0, 2, 3]), "max")
    assert pooled.flatten().tolist() == [-torch.inf, torch.inf]
    pooled.backward(torch.ones_like(pooled))
    assert rows.grad.flatten().tolist() == [1, 0, 1]


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_one_huge_column_among_empty_ones(reduce):
    rows = features(channels=2, rows=300_000, dtype=torch.float32).requires_grad_()
    pooled = column_pool(rows, torch.tensor([0, 0, 300_000, 300_000]), reduce)
    expected = numpy_pool(rows.detach().double().numpy(), [0, 0, 300_000, 300_000], reduce)
    np.testing.assert_allclose(pooled.detach().numpy(), expected, rtol=1e-4, atol=1e-2)
    pooled.sum().backward()
    assert rows.grad.sum().item() == pytest.approx({"sum": 600_000, "mean": 2, "max": 2}[reduce], rel=1e-4)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize(("shape", "columns"), [((0, 3), 0), ((0, 3), 4), ((2, 0), 4)])
def test_nothing_to_pool(reduce, shape, columns):
    rows = torch.zeros(shape, requires_grad=True)
    splits = torch.tensor([0] * columns + [shape[0]])
    pooled = column_pool(rows, splits, reduce)
    assert pooled.shape == (columns, shape[1])
    pooled.sum().backward()
    assert rows.grad.shape == shape


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.sampled_from(REDUCTIONS))
def test_pooling_a_scene_in_two_blocks_changes_nothing(counts, reduce):
    splits = splits_from_counts(torch.tensor(counts))
    rows = features(rows=sum(counts), channels=2)
    cut = len(counts) // 2
    edge = int(splits[cut])
    parts = column_pool(rows[:edge], splits[: cut + 1], reduce), column_pool(rows[edge:], splits[cut:] - edge, reduce)
    assert torch.equal(torch.cat(parts), column_pool(rows, splits, reduce))


def test_two_runs_agree_to_the_bit():
    rows = features(dtype=torch.float32)
    assert torch.equal(column_pool(rows, SPLITS, "sum"), column_pool(rows, SPLITS, "sum"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3), torch.tensor([0, 3]), "sum"), "dimension"),
        ((torch.ones(3, 1, dtype=torch.int64), torch.tensor([0, 3]), "sum"), "float32"),
        ((torch.ones(3, 1), torch.tensor([0, 3], dtype=torch.int32), "sum"), "int64"),
        ((torch.ones(3, 1), torch.tensor([0, 2]), "sum"), "row_splits"),
        ((torch.ones(3, 1), torch.tensor([0]), "sum"), "row_splits"),
        ((torch.ones(3, 1), torch.tensor([0, 3]), "median"), "reduce"),
        ((torch.ones(3, 1), torch.tensor([0, 3]), "sum", torch.tensor([0, 1, 1])), "twice"),
        ((torch.ones(3, 1), torch.tensor([0, 3]), "sum", torch.tensor([0, 1, 3])), "outside"),
        ((torch.ones(3, 1), torch.tensor([0, 3]), "sum", torch.tensor([0, 1])), "row_splits"),
    ],
)
def test_bad_arguments_are_refused_in_words(arguments, message):
    with pytest.raises(ConfigError, match=message):
        column_pool(*arguments)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("permutation", [None, a_permutation()])
def test_schema_fake_kernel_and_autograd_are_consistent(reduce, permutation):
    rows = features(channels=2)
    torch.library.opcheck(_column_pool, (rows.requires_grad_(), SPLITS, permutation, reduce))
    pooled, winner = _column_pool(rows.detach(), SPLITS, permutation, reduce)
    torch.library.opcheck(_column_pool_backward, (pooled, winner, SPLITS, permutation, 46, reduce))


def test_pooling_compiles_without_a_graph_break():
    rows = features(channels=2, dtype=torch.float32)
    compiled = torch.compile(lambda x: column_pool(x, SPLITS, "max"), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(rows), column_pool(rows, SPLITS, "max"))
