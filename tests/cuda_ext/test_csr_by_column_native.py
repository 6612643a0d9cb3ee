"""The compiled csr_by_column lists the rows that its reference lists, in the same order."""

from __future__ import annotations

import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import csr_by_column
from fusion3d.ops.csr import _csr_by_column, csr_by_column_reference

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (0, 5), (7, 1), (300_000, 1), (300_000, 1000), (1000, 300_000)])
def test_equals_the_reference_for_any_number_of_threads(rows, columns, threads):
    column = torch.randint(-1, columns, (rows,), generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    grouped = csr_by_column(column, columns)
    torch.set_num_threads(before)
    for mine, expected in zip(grouped, csr_by_column_reference(column, columns), strict=True):
        assert torch.equal(mine, expected)


def test_every_row_left_out():
    splits, permutation = csr_by_column(torch.full((9,), -1), 0)
    assert (splits.tolist(), permutation.tolist()) == ([0], [])


def test_strided_columns():
    column = torch.randint(0, 9, (40, 2))
    assert torch.equal(csr_by_column(column[:, 1], 9).permutation, csr_by_column(column[:, 1].clone(), 9).permutation)


@pytest.mark.parametrize("wrong", [-2, 5, 1 << 62, -(1 << 63)])
def test_hostile_columns_are_refused_in_words_and_write_nothing(wrong):
    with pytest.raises(ConfigError, match=r"outside \[-1, 5\)"):
        csr_by_column(torch.tensor([0, wrong, 3]), 5)


def test_negative_number_of_columns_is_refused():
    with pytest.raises(ConfigError, match="columns"):
        csr_by_column(torch.tensor([-1]), -1)


def test_opcheck():
    torch.library.opcheck(_csr_by_column, (torch.tensor([3, -1, 0, 3]), 4))
