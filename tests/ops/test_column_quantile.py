from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion3d.errors import ConfigError
from fusion3d.ops import column_quantile, splits_from_counts
from fusion3d.ops.column_quantile import _column_quantile

QUANTILES = [0.0, 0.1, 0.25, 0.5, 0.75, 0.98, 1.0]
COUNTS = torch.tensor([3, 0, 1, 100, 2, 0])
SPLITS = splits_from_counts(COUNTS)


def numpy_quantiles(heights, splits, quantiles):
    pairs = pairwise(splits)
    return np.stack([np.quantile(heights[a:b], quantiles) if b > a else np.full(len(quantiles), np.nan) for a, b in pairs])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_equals_numpy_and_empty_columns_are_nan(dtype):
    heights = torch.randn(106, generator=torch.Generator().manual_seed(0)).to(dtype) * 10
    result = column_quantile(heights, SPLITS, QUANTILES)
    assert result.dtype == dtype
    expected = torch.tensor(numpy_quantiles(heights.double().numpy(), SPLITS.numpy(), QUANTILES)).to(dtype)
    tolerance = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=0, equal_nan=True)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(-5, 5), max_size=6), min_size=1, max_size=5), st.floats(0, 1))
def test_equals_numpy_with_ties_for_any_quantile(columns, quantile):
    splits = splits_from_counts(torch.tensor([len(column) for column in columns]))
    heights = np.array([height for column in columns for height in column], dtype=np.float64)
    expected = numpy_quantiles(heights, splits.numpy(), [quantile])
    np.testing.assert_allclose(column_quantile(torch.tensor(heights), splits, [quantile]).numpy(), expected, atol=1e-12)


def test_one_huge_column_is_exact():
    heights = torch.randperm(1_000_001, generator=torch.Generator().manual_seed(0)).float()
    result = column_quantile(heights, torch.tensor([0, 0, 1_000_001]), [0.25, 0.98])
    assert result[1].tolist() == [250_000, 980_000]


def test_order_within_a_column_does_not_matter():
    heights = torch.randn(106, generator=torch.Generator().manual_seed(0))
    shuffled = torch.cat([part[torch.randperm(len(part))] for part in heights.split(COUNTS.tolist())])
    torch.testing.assert_close(
        column_quantile(shuffled, SPLITS, QUANTILES), column_quantile(heights, SPLITS, QUANTILES), rtol=0, atol=0, equal_nan=True
    )


def test_nan_makes_its_own_column_nan_as_in_numpy():
    result = column_quantile(torch.tensor([1.0, torch.nan, 2.0, 5.0]), torch.tensor([0, 2, 4]), [0.0, 0.5])
    assert result.isnan().tolist() == [[True, True], [False, False]]


def test_equal_infinities_are_their_own_quantile():
    heights = torch.tensor([torch.inf, torch.inf, 1.0, torch.inf])
    result = column_quantile(heights, torch.tensor([0, 2, 4]), [0.0, 0.5, 1.0])
    assert result[0].tolist() == [torch.inf] * 3
    assert result[1, [0, 2]].tolist() == [1, torch.inf]


@pytest.mark.parametrize(("columns", "quantiles"), [(0, [0.5]), (3, [0.5]), (3, [])])
def test_nothing_to_rank(columns, quantiles):
    result = column_quantile(torch.empty(0), torch.zeros(columns + 1, dtype=torch.int64), quantiles)
    assert result.shape == (columns, len(quantiles))
    assert result.isnan().all()


@pytest.mark.parametrize(
    ("heights", "splits", "quantiles", "message"),
    [
        (torch.ones(2), torch.tensor([0, 2]), [1.5], r"\[0, 1\]"),
        (torch.ones(2), torch.tensor([0, 2]), [float("nan")], r"\[0, 1\]"),
        (torch.ones(2), torch.tensor([0, 2]), [[0.5]], "one dimension"),
        (torch.ones(2), torch.tensor([0, 3]), [0.5], "row_splits"),
        (torch.ones(2, 1), torch.tensor([0, 2]), [0.5], "dimension"),
        (torch.ones(2, dtype=torch.int32), torch.tensor([0, 2]), [0.5], "float32"),
    ],
)
def test_bad_arguments_are_refused_in_words(heights, splits, quantiles, message):
    with pytest.raises(ConfigError, match=message):
        column_quantile(heights, splits, quantiles)


def test_schema_and_fake_kernel_are_consistent():
    filled = torch.tensor([0, 3, 4, 106])  # opcheck holds NaN unequal to NaN
    torch.library.opcheck(_column_quantile, (torch.rand(106), filled, torch.tensor(QUANTILES, dtype=torch.float64)))
