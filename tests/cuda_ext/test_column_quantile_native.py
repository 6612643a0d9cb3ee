"""The compiled column_quantile gives the reference's quantiles for every kind of column, and refuses what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import column_quantile, splits_from_counts
from fusion3d.ops.column_quantile import _column_quantile, column_quantile_reference

pytestmark = pytest.mark.usefixtures("compiled")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU")

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
QUANTILES = torch.tensor([0.98, 0.0, 0.1, 0.25, 0.5, 1.0, 1 / 3], dtype=torch.float64)
# around the lists of a tile (16 of up to 1024 places), the tiles of a long column and the rows that threads share
LENGTHS = [3, 0, 1, 700, 0, 33, 2, 15, 16, 17, 31, 32, 64, 1023, 1024, 1025, 5000, 16_384, 16_385, 140_000, 0]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=cuda)])
def device(request):
    return request.param


def heights_of(rows, dtype=torch.float32, seed=0):
    return (torch.randn(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 10).to(dtype)


def assert_same_as_reference(heights, splits, device, permutation=None, quantiles=QUANTILES):
    moved = [None if t is None else t.to(device) for t in (heights, splits, quantiles, permutation)]
    expected = column_quantile_reference(heights, splits, quantiles, permutation)
    # The order statistics are exact. Between them torch fuses multiplication and addition of float64 where it vectorises.
    step = torch.finfo(heights.dtype).eps
    torch.testing.assert_close(_column_quantile(*moved).cpu(), expected, rtol=step, atol=1e-14, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["sorted", "permuted"])
def test_equals_the_reference(device, order, dtype):
    splits = splits_from_counts(torch.tensor(LENGTHS))
    rows = int(splits[-1])
    permutation = torch.randperm(rows + 40, generator=torch.Generator().manual_seed(1))[:rows] if order == "permuted" else None
    assert_same_as_reference(heights_of(rows + (40 if order == "permuted" else 0), dtype), splits, device, permutation)


def test_equals_numpy(device):
    lengths = [5, 1024, 3000]
    heights = heights_of(sum(lengths), torch.float64)
    result = column_quantile(heights.to(device), splits_from_counts(torch.tensor(lengths)).to(device), QUANTILES).cpu()
    expected = np.stack([np.quantile(part.numpy(), QUANTILES.numpy()) for part in heights.split(lengths)])
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-14)


def test_every_length_up_to_the_long_ones_is_sorted(device):
    """Zeros and ones, in every proportion: a network that sorts these sorts everything (Knuth, 5.3.4, theorem Z)."""
    splits = splits_from_counts(torch.arange(1100))
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(1100, generator=generator).repeat_interleave(torch.arange(1100))
    assert_same_as_reference((torch.rand(len(share), generator=generator) < share).float(), splits, device)


def test_columns_of_very_unequal_length_next_to_each_other(device):
    lengths = torch.randint(0, 12, (3000,), generator=torch.Generator().manual_seed(0)) ** 2
    lengths[::97] = 1000
    assert_same_as_reference(heights_of(int(lengths.sum())), splits_from_counts(lengths), device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf, 0.0, -0.0])
def test_special_and_tied_heights(device, value, dtype):
    lengths = torch.tensor([4, 40, 300, 3000, 20_000, 7, 2000])
    heights = heights_of(int(lengths.sum()), dtype).round()
    heights[torch.rand(len(heights), generator=torch.Generator().manual_seed(2)) < 0.4] = value
    heights[-2007:] = value  # two columns of nothing else
    assert_same_as_reference(heights, splits_from_counts(lengths), device)


@pytest.mark.parametrize("rows", [9, 4000])
def test_one_nan_makes_its_own_column_nan_wherever_it_is(device, rows):
    for place in (0, rows // 2, rows - 1):
        heights = heights_of(3 * rows)
        heights[rows + place] = torch.nan
        result = column_quantile(heights.to(device), torch.tensor([0, rows, 2 * rows, 3 * rows], device=device), QUANTILES)
        assert result.isnan().all(1).tolist() == [False, True, False]
        assert result.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("quantiles", [0, 1, 101])
def test_any_number_of_quantiles(device, quantiles):
    wanted = torch.linspace(0, 1, quantiles, dtype=torch.float64)
    assert_same_as_reference(heights_of(3300), torch.tensor([0, 100, 2100, 3300]), device, quantiles=wanted)


@pytest.mark.parametrize("columns", [0, 4])
def test_nothing_to_rank(device, columns):
    result = column_quantile(torch.empty(0, device=device), torch.zeros(columns + 1, dtype=torch.int64, device=device), [0.5])
    assert result.shape == (columns, 1)
    assert result.isnan().all()


def test_memory_in_any_layout(device):
    wide = heights_of(400).view(200, 2).to(device)
    splits = torch.tensor([0, 150, 200], device=device)
    expected = column_quantile(wide[:, 1].contiguous(), splits, QUANTILES)
    assert torch.equal(column_quantile(wide[:, 1], splits, QUANTILES), expected)
    strided = torch.stack([splits, splits * 0], 1)[:, 0]
    assert torch.equal(column_quantile(wide[:, 1], strided, torch.stack([QUANTILES, QUANTILES], 1)[:, 0]), expected)


def test_one_and_two_threads_agree_to_the_bit():
    splits = splits_from_counts(torch.cat([torch.full((3000,), 7), torch.tensor([300_000, 0, 9000]), torch.full((2000,), 30)]))
    heights, before = heights_of(int(splits[-1])), torch.get_num_threads()
    results = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        results.append(_column_quantile(heights, splits, QUANTILES))
    torch.set_num_threads(before)
    assert all(torch.equal(results[0].nan_to_num(-1), other.nan_to_num(-1)) for other in results[1:])


def test_opcheck(device):
    arguments = heights_of(3300).to(device), torch.tensor([0, 100, 2100, 3300], device=device), QUANTILES.to(device)
    torch.library.opcheck(_column_quantile, arguments)
    torch.library.opcheck(_column_quantile, (*arguments, torch.arange(3300, device=device).flip(0)))


@pytest.mark.parametrize(
    ("splits", "permutation", "message"),
    [
        ([0, 2], None, "row_splits must rise"),
        ([0, 4], None, "row_splits must rise"),
        ([1, 3], None, "row_splits must rise"),
        ([0, 2, 1, 3], None, "row_splits must rise"),
        ([0, 1 << 40, 3], None, "row_splits must rise"),
        ([0, -(1 << 62), 3], None, "row_splits must rise"),
        ([3], None, "row_splits must rise"),
        ([], None, "row_splits is empty"),
        ([0, 3], [0, 1, 3], "permutation holds values"),
        ([0, 3], [0, 1, -1], "permutation holds values"),
        ([0, 3], [0, 1, 1 << 62], "permutation holds values"),
        ([0, 3], [0, 1], "row_splits must rise"),
    ],
)
def test_hostile_offsets_are_refused_in_words_and_read_nothing(device, splits, permutation, message):
    splits = torch.tensor(splits, device=device, dtype=torch.int64)
    permutation = None if permutation is None else torch.tensor(permutation, device=device)
    for function in (column_quantile, lambda *a: column_quantile_reference(a[0], a[1], QUANTILES.to(device), a[3])):
        with pytest.raises(ConfigError, match=message):
            function(torch.ones(3, device=device), splits, QUANTILES, permutation)


@pytest.mark.parametrize("quantile", [-1e-9, 1 + 1e-9, torch.nan, torch.inf])
def test_quantiles_outside_0_to_1_are_refused(device, quantile):
    with pytest.raises(ConfigError, match="quantiles must lie in"):
        column_quantile(torch.ones(3, device=device), torch.tensor([0, 3], device=device), [0.5, quantile])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heights": torch.ones(3, 1)}, "heights must have 1 dimension"),
        ({"heights": torch.ones(3, dtype=torch.int32)}, "heights must be float32"),
        ({"quantiles": torch.ones(1)}, "quantiles must be float64"),
        ({"quantiles": torch.ones(1, 1, dtype=torch.float64)}, "quantiles must have 1 dimension"),
        ({"row_splits": torch.tensor([0, 3], dtype=torch.int32)}, "row_splits must be one-dimensional int64"),
        ({"permutation": torch.zeros(3)}, "permutation must be one-dimensional int64"),
    ],
)
def test_the_operator_itself_refuses_arguments_that_do_not_fit(change, message):
    arguments = {
        "heights": torch.ones(3),
        "row_splits": torch.tensor([0, 3]),
        "quantiles": torch.ones(1, dtype=torch.float64),
        "permutation": None,
    }
    with pytest.raises(RuntimeError, match=message):
        _column_quantile(*(arguments | change).values())
