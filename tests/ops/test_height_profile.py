from itertools import pairwise

import numpy as np
import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import height_profile, splits_from_counts
from fusion3d.ops.height_profile import _profile_cell

SPLITS = splits_from_counts(torch.tensor([3, 0, 1, 100, 2, 0]))
EDGES = [0.0, 0.5, 2.0, 5.0, 30.0]


def heights(dtype=torch.float64):
    return (torch.rand(106, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 40 - 5).to(dtype)


def numpy_profile(rows, splits, weights=None):
    pairs = pairwise(splits.tolist())
    return np.stack([np.histogram(rows[a:b], EDGES, weights=None if weights is None else weights[a:b])[0] for a, b in pairs])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_counts_equal_numpy_histogram(dtype):
    rows = heights(dtype)
    profile = height_profile(rows, SPLITS, EDGES)
    assert profile.dtype == torch.int64
    np.testing.assert_array_equal(profile.numpy(), numpy_profile(rows.double().numpy(), SPLITS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weighted_sums_equal_numpy_histogram(dtype):
    weights = torch.rand(106, generator=torch.Generator().manual_seed(1)).to(dtype)
    profile = height_profile(heights(), SPLITS, EDGES, weights)
    assert profile.dtype == dtype
    np.testing.assert_allclose(profile.numpy(), numpy_profile(heights().numpy(), SPLITS, weights.numpy()), rtol=1e-5)


def test_edges_belong_to_the_bin_above_but_the_last_to_the_bin_below():
    profile = height_profile(torch.tensor([0.0, 0.5, 2.0, 30.0]), torch.tensor([0, 4]), EDGES)
    assert profile.tolist() == [[1, 1, 1, 1]]


def test_heights_outside_and_nan_are_in_no_bin():
    rows = torch.tensor([-0.1, 30.1, torch.nan, torch.inf, -torch.inf])
    assert height_profile(rows, torch.tensor([0, 5]), EDGES).tolist() == [[0, 0, 0, 0]]
    assert height_profile(rows, torch.tensor([0, 5]), EDGES, torch.ones(5)).tolist() == [[0, 0, 0, 0]]


def test_weights_of_a_constant_one_count():
    counted, summed = height_profile(heights(), SPLITS, EDGES), height_profile(heights(), SPLITS, EDGES, torch.ones(106))
    assert torch.equal(counted, summed.long())


def test_gradient_of_the_weights():
    weights = torch.rand(106, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: height_profile(heights(), SPLITS, EDGES, w), (weights,))


@pytest.mark.parametrize("columns", [0, 3])
@pytest.mark.parametrize("weights", [None, torch.empty(0)])
def test_nothing_to_count(columns, weights):
    profile = height_profile(torch.empty(0), torch.zeros(columns + 1, dtype=torch.int64), EDGES, weights)
    assert profile.tolist() == [[0] * 4] * columns


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2), torch.tensor([0, 2]), [0.0]), "at least 2"),
        ((torch.ones(2), torch.tensor([0, 2]), [0.0, 1.0, 1.0]), "rise"),
        ((torch.ones(2), torch.tensor([0, 2]), [0.0, float("nan")]), "rise"),
        ((torch.ones(2), torch.tensor([0, 1]), EDGES), "row_splits"),
        ((torch.ones(2), torch.tensor([0, 2]), EDGES, torch.ones(3)), "weights"),
    ],
)
def test_bad_arguments_are_refused_in_words(arguments, message):
    with pytest.raises(ConfigError, match=message):
        height_profile(*arguments)


def test_schema_and_fake_kernel_are_consistent():
    torch.library.opcheck(_profile_cell, (heights(), SPLITS, torch.tensor(EDGES, dtype=torch.float64)))
