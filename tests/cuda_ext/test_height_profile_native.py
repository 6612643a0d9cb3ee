"""The compiled height_profile gives the reference's counts and sums, for any edges, and refuses what it refuses."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import height_profile, splits_from_counts
from fusion3d.ops.height_profile import (
    _height_profile,
    _profile_cell,
    height_profile_reference,
    profile_cell_reference,
)

pytestmark = pytest.mark.usefixtures("compiled")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU")

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SPLITS = splits_from_counts(torch.tensor([3, 0, 1, 700, 0, 33, 2, 0]))
ROWS = int(SPLITS[-1])
INFINITY = float("inf")
EDGES = {
    "one bin": [0.0, 30.0],
    "equal": list(range(-2, 31)),
    "unequal": [0.0, 0.5, 2.0, 5.0, 30.0],
    "all but one in a corner": [*np.linspace(0, 1e-6, 50).tolist(), 1.0, 1e12],
    "infinite": [-INFINITY, -1.0, 0.0, 3.0, INFINITY],
    "as wide as numbers go": [-1.7e308, 0.0, 1.0, 1.7e308],
    "as narrow as numbers go": [0.0, 5e-324, 1e-323],
}
# sums of up to 700 numbers below 1, added up in another order; half types in float32 by both, then rounded once
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.float16: 2**-10, torch.bfloat16: 2**-7}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=cuda)])
def device(request):
    return request.param


def bounds(name):
    return torch.tensor(EDGES[name], dtype=torch.float64)


def heights_of(rows=ROWS, dtype=torch.float32, edges=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    heights = (torch.rand(rows, generator=generator, dtype=torch.float64) * 40 - 5).to(dtype)
    if edges is not None:  # some heights on each edge, as far as the type has them
        heights[::3] = edges[torch.randint(0, len(edges), heights[::3].shape, generator=generator)].to(dtype)
    heights[5::50] = torch.nan
    return heights


def weights_of(rows=ROWS, dtype=torch.float32):
    return torch.rand(rows, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("edges", EDGES)
def test_counts_and_cells_equal_the_reference(device, edges, dtype):
    limits = bounds(edges)
    heights = heights_of(dtype=dtype, edges=limits)
    moved = [t.to(device) for t in (heights, SPLITS, limits)]
    counts = _height_profile(*moved, None)
    assert counts.dtype == torch.int64
    assert torch.equal(counts.cpu(), height_profile_reference(heights, SPLITS, limits, None))
    assert torch.equal(_profile_cell(*moved).cpu(), profile_cell_reference(heights, SPLITS, limits))


def test_counts_equal_numpy_histogram(device):
    heights = heights_of(dtype=torch.float64, edges=bounds("unequal"))
    counts = height_profile(heights.to(device), SPLITS.to(device), EDGES["unequal"])
    parts = np.split(heights.numpy(), SPLITS[1:-1])
    np.testing.assert_array_equal(counts.cpu(), [np.histogram(part, EDGES["unequal"])[0] for part in parts])


@pytest.mark.parametrize("weight_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_equal_the_reference(device, dtype, weight_dtype):
    heights, weights, limits = heights_of(dtype=dtype), weights_of(dtype=weight_dtype), bounds("unequal")
    sums = _height_profile(heights.to(device), SPLITS.to(device), limits.to(device), weights.to(device))
    assert sums.dtype == weight_dtype
    expected = height_profile_reference(heights, SPLITS, limits, weights)
    tolerance = TOLERANCE[weight_dtype]
    torch.testing.assert_close(sums.cpu(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_special_weights_reach_their_own_bin(device, value):
    weights = torch.tensor([1.0, value, 2.0], device=device)
    sums = height_profile(
        torch.tensor([0.5, 1.5, 9.0], device=device), torch.tensor([0, 3], device=device), [0, 1, 2, 3], weights
    )
    assert sums[0, 0] == 1
    assert not sums[0, 1].isfinite()
    assert sums[0, 2] == 0


def test_one_huge_column(device):
    heights, weights = heights_of(300_000), weights_of(300_000, torch.float64)
    splits, limits = torch.tensor([0, 0, 300_000, 300_000]), bounds("equal")
    moved = [t.to(device) for t in (heights, splits, limits)]
    assert torch.equal(_height_profile(*moved, None).cpu(), height_profile_reference(heights, splits, limits, None))
    expected = height_profile_reference(heights, splits, limits, weights)
    torch.testing.assert_close(_height_profile(*moved, weights.to(device)).cpu(), expected)


@pytest.mark.parametrize("columns", [0, 3])
@pytest.mark.parametrize("weights", [None, torch.empty(0)])
def test_nothing_to_count(device, columns, weights):
    splits = torch.zeros(columns + 1, dtype=torch.int64, device=device)
    profile = height_profile(
        torch.empty(0, device=device), splits, EDGES["unequal"], None if weights is None else weights.to(device)
    )
    assert profile.tolist() == [[0] * 4] * columns


def test_memory_in_any_layout(device):
    heights, weights, splits = heights_of().to(device), weights_of().to(device), SPLITS.to(device)
    doubled = [torch.stack([t, t], 1)[:, 0] for t in (heights, splits, bounds("equal").to(device), weights)]
    assert torch.equal(_height_profile(*doubled), _height_profile(heights, splits, bounds("equal").to(device), weights))


def test_gradcheck(device):
    heights, weights = heights_of().to(device)[:40], weights_of(40, torch.float64).to(device).requires_grad_()
    splits = torch.tensor([0, 10, 10, 40], device=device)
    assert torch.autograd.gradcheck(lambda w: height_profile(heights, splits, EDGES["unequal"], w), (weights,))


def test_opcheck(device):
    heights, splits, limits = torch.rand(ROWS, device=device), SPLITS.to(device), bounds("unequal").to(device)
    torch.library.opcheck(_height_profile, (heights, splits, limits, None))
    torch.library.opcheck(_height_profile, (heights, splits, limits, weights_of().to(device).requires_grad_()))


def test_one_and_two_threads_agree_to_the_bit():
    splits = splits_from_counts(torch.cat([torch.full((3000,), 7), torch.tensor([300_000, 0, 9000])]))
    rows = int(splits[-1])
    heights, weights, before, results = heights_of(rows), weights_of(rows), torch.get_num_threads(), []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        results.append(_height_profile(heights, splits, bounds("equal"), weights))
    torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize(
    ("splits", "edges", "message"),
    [
        ([0, 2], [0, 1], "row_splits must rise"),
        ([0, 4], [0, 1], "row_splits must rise"),
        ([0, 2, 1, 3], [0, 1], "row_splits must rise"),
        ([0, 1 << 40, 3], [0, 1], "row_splits must rise"),
        ([0, 3], [0, 1, 1], "edges must rise"),
        ([0, 3], [0, torch.nan, 1], "edges must rise"),
        ([0, 3], [0, torch.nan], "edges must rise"),
    ],
)
@pytest.mark.parametrize("weights", [None, torch.ones(3)])
def test_hostile_arguments_are_refused_in_words_and_read_nothing(device, splits, edges, message, weights):
    heights, splits = torch.ones(3, device=device), torch.tensor(splits, device=device)
    with pytest.raises(ConfigError, match=message):
        height_profile(heights, splits, edges, None if weights is None else weights.to(device))
    with pytest.raises(RuntimeError, match=message):
        _profile_cell(heights, splits, torch.tensor(edges, dtype=torch.float64, device=device))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heights": torch.ones(3, 1)}, "heights must have 1 dimension"),
        ({"heights": torch.ones(3, dtype=torch.int64)}, "heights must be float32"),
        ({"edges": torch.ones(2)}, "edges must be float64"),
        ({"edges": torch.ones(1, dtype=torch.float64)}, "at least 2"),
        ({"weights": torch.ones(2)}, "2 weights for 3 heights"),
        ({"weights": torch.ones(3, dtype=torch.int64)}, "weights must be float32"),
    ],
)
def test_the_operator_itself_refuses_arguments_that_do_not_fit(change, message):
    arguments = {
        "heights": torch.ones(3),
        "row_splits": torch.tensor([0, 3]),
        "edges": torch.tensor([0.0, 2.0], dtype=torch.float64),
        "weights": torch.ones(3),
    }
    with pytest.raises(RuntimeError, match=message):
        _height_profile(*(arguments | change).values())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("warp", [False, True])
def test_the_order_of_a_warp_replayed_on_the_host_equals_numpy(replay, warp, weighted):
    heights = heights_of(edges=bounds("unequal")).float()
    weights = torch.randint(0, 100, (ROWS,)).float() if weighted else None  # whole numbers are added up exactly in any order
    edges, columns = np.array(EDGES["unequal"]), len(SPLITS) - 1
    result = torch.empty(columns, len(edges) - 1, dtype=torch.float32 if weighted else torch.int64)
    pointers = [None if t is None else ctypes.c_void_p(t.data_ptr()) for t in (heights, weights, SPLITS)]
    count = ctypes.c_int64(len(edges) - 1)
    output = ctypes.c_void_p(result.data_ptr())
    replay.replay_height_profile(int(warp), *pointers, ctypes.c_int64(columns), edges.ctypes, count, output)
    pairs = list(zip(SPLITS[:-1].tolist(), SPLITS[1:].tolist(), strict=True))
    expected = [np.histogram(heights[a:b], edges, weights=None if weights is None else weights[a:b])[0] for a, b in pairs]
    np.testing.assert_array_equal(result, expected)
