import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusion3d.errors import ConfigError
from fusion3d.ops import column_of_row, csr_by_column, splits_from_counts
from fusion3d.ops.csr import check_splits, sum_by_index

COUNTS = st.lists(st.integers(0, 5), max_size=12)


def test_drawing_in_the_documentation():
    splits = splits_from_counts(torch.tensor([2, 0, 3, 1]))
    assert splits.tolist() == [0, 2, 2, 5, 6]
    assert column_of_row(splits).tolist() == [0, 0, 2, 2, 2, 3]


@given(COUNTS)
def test_counts_splits_and_columns_describe_the_same_rows(counts):
    splits = splits_from_counts(torch.tensor(counts, dtype=torch.int64))
    assert column_of_row(splits).tolist() == [m for m, count in enumerate(counts) for _ in range(count)]


@given(st.lists(st.integers(-1, 4), max_size=30))
def test_grouping_lists_each_column_s_rows_in_order_and_drops_minus_one(column):
    splits, permutation = csr_by_column(torch.tensor(column, dtype=torch.int64), 5)
    for m in range(5):
        assert permutation[splits[m] : splits[m + 1]].tolist() == [row for row, owner in enumerate(column) if owner == m]
    assert splits[-1] == permutation.numel() == sum(owner >= 0 for owner in column)


def test_no_columns_and_no_rows():
    splits, permutation = csr_by_column(torch.empty(0, dtype=torch.int64), 0)
    assert splits.tolist() == [0]
    assert permutation.tolist() == []


@pytest.mark.parametrize("column", [[0, 5], [-2, 0]])
def test_column_out_of_range_is_refused(column):
    with pytest.raises(ConfigError, match="outside"):
        csr_by_column(torch.tensor(column), 5)


@pytest.mark.parametrize("splits", [[], [1, 3], [0, 2], [0, 2, 1, 3]])
def test_splits_that_do_not_rise_from_0_to_the_rows_are_refused(splits):
    with pytest.raises(ConfigError, match="row_splits"):
        check_splits(torch.tensor(splits, dtype=torch.int64), 3)


@pytest.mark.parametrize("index", [torch.tensor([0.0]), torch.tensor([0], dtype=torch.int32), torch.tensor([[0]])])
def test_index_of_another_type_or_shape_is_refused(index):
    with pytest.raises(ConfigError, match="int64"):
        csr_by_column(index, 1)


def test_sum_by_index_equals_numpy_add_at():
    generator = np.random.default_rng(0)
    rows, index = generator.normal(size=(50, 3)), generator.integers(0, 7, 50)
    expected = np.zeros((7, 3))
    np.add.at(expected, index, rows)
    np.testing.assert_allclose(sum_by_index(torch.tensor(rows), torch.tensor(index), 7), expected)
