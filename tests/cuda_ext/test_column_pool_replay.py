"""A CUDA warp's order of rows, replayed on the host: the winners of one row after the other, and its sums but for rounding."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
REDUCTIONS = ("sum", "mean", "max")
LENGTHS = [0, 1, 31, 32, 33, 0, 700]  # around the width of a warp
SPLITS = torch.tensor([0, *np.cumsum(LENGTHS)])


def replayed(replay, features, reduce, *, warp, permutation=None):
    pooled = torch.empty(len(LENGTHS), features.shape[1], dtype=features.dtype)
    winner = torch.full(pooled.shape, -7)
    pointers = [None if t is None else ctypes.c_void_p(t.data_ptr()) for t in (features, SPLITS, permutation)]
    sizes = [ctypes.c_int64(n) for n in (len(features), len(LENGTHS), features.shape[1])]
    outputs = [ctypes.c_void_p(t.data_ptr()) for t in (pooled, winner)]
    replay.replay_column_pool(TYPES.index(features.dtype), REDUCTIONS.index(reduce), int(warp), *pointers, *sizes, *outputs)
    return pooled, winner


def rows(dtype, seed=0):
    return torch.randint(-9, 9, (sum(LENGTHS), 8), generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_whole_numbers_are_added_up_exactly_in_any_order(replay, reduce, dtype):
    warp, serial = (replayed(replay, rows(dtype), reduce, warp=order)[0] for order in (True, False))
    assert torch.equal(warp, serial)
    parts = rows(torch.float64).split(LENGTHS)
    functions = {"sum": lambda x: x.sum(0), "mean": lambda x: x.mean(0), "max": lambda x: x.amax(0)}
    expected = torch.stack([functions[reduce](part) if len(part) else torch.zeros(8) for part in parts])
    torch.testing.assert_close(warp, expected.to(dtype))


@pytest.mark.parametrize("special", [torch.nan, torch.inf, -torch.inf, 0.0])
@pytest.mark.parametrize("dtype", TYPES)
def test_tied_and_special_values_have_the_first_winner_in_any_order(replay, dtype, special):
    features = rows(dtype, seed=1)
    features[torch.rand(features.shape, generator=torch.Generator().manual_seed(2)) < 0.3] = special
    features[2:34] = -torch.inf  # a column of nothing but -inf, and a bit of the one before
    permutation = torch.randperm(len(features), generator=torch.Generator().manual_seed(3))
    (warp, warp_winner), (serial, winner) = (
        replayed(replay, features, "max", warp=order, permutation=permutation) for order in (True, False)
    )
    torch.testing.assert_close(warp, serial, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(warp_winner, winner)
    for m, column in enumerate(features[permutation].double().split(LENGTHS)):
        for c in range(8 if len(column) else 0):
            values = column[:, c]
            first = int(values.isnan().nonzero()[0]) if values.isnan().any() else int((values == values.max()).nonzero()[0])
            assert winner[m, c] == permutation[SPLITS[m] + first]
    assert (winner[torch.tensor(LENGTHS) == 0] == -1).all()


def test_float_sums_differ_by_rounding_only(replay):
    features = torch.randn(sum(LENGTHS), 4, generator=torch.Generator().manual_seed(4))
    warp, serial = (replayed(replay, features, "sum", warp=order)[0] for order in (True, False))
    exact = torch.stack([part.sum(0) for part in features.double().split(LENGTHS)])
    torch.testing.assert_close(warp.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(serial.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_number_widens_to_torch_s_value(replay, dtype):
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = np.empty(bits.size, np.float32)
    replay.replay_widen(TYPES.index(dtype), bits.ctypes, wide.ctypes, ctypes.c_int64(bits.size))
    np.testing.assert_array_equal(wide, torch.from_numpy(bits.view(np.int16)).view(dtype).float().numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrowing_rounds_as_torch_does(replay, dtype):
    every = torch.from_numpy(np.arange(1 << 16, dtype=np.uint16).view(np.int16)).view(dtype).float()
    finite = every[every.isfinite()].sort().values
    halfway = (finite[1:] + finite[:-1]) / 2  # ties, and their neighbours on both sides
    up, down = halfway.nextafter(torch.tensor(torch.inf)), halfway.nextafter(torch.tensor(-torch.inf))
    edges = torch.tensor([65519.996, 65520.0, 3.4e38, 1e-8, 1e-40, torch.inf, -torch.inf, torch.nan])
    wide = torch.cat([every, halfway, up, down, edges])
    bits = np.empty(wide.numel(), np.uint16)
    replay.replay_narrow(TYPES.index(dtype), wide.numpy().ctypes, bits.ctypes, ctypes.c_int64(bits.size))
    narrowed = torch.from_numpy(bits.view(np.int16)).view(dtype)
    torch.testing.assert_close(narrowed, wide.to(dtype), rtol=0, atol=0, equal_nan=True)
