"""torch-scatter gives the definition's maximum wherever it is used, and is left out where it would differ."""

from __future__ import annotations

import pytest
import torch

from fusion3d.ops.column_pool import _max
from fusion3d.ops.torch_scatter_max import available, scatter_max

pytestmark = pytest.mark.skipif(
    not available(), reason="torch-scatter is not installed: pip install torch-scatter --no-build-isolation"
)

SPLITS = torch.tensor([0, 0, 3, 3, 7, 8])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maximum_and_first_row_equal_the_definition_with_ties_and_empty_columns(dtype):
    rows = torch.randint(-2, 2, (8, 5), generator=torch.Generator().manual_seed(0)).to(dtype)
    for ours, theirs in zip(scatter_max(rows, SPLITS), _max(rows, SPLITS), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_it_would_treat_otherwise_is_left_to_the_definition(value):
    rows = torch.zeros(8, 2)
    rows[4, 1] = value
    assert scatter_max(rows, SPLITS) is None


def test_half_types_are_left_to_the_definition():
    assert scatter_max(torch.zeros(8, 2, dtype=torch.bfloat16), SPLITS) is None
