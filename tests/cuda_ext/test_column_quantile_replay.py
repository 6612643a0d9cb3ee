"""How CUDA finds a quantile, replayed on the host: a warp's sorting network and a block's search by digits, against NumPy."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
QUANTILES = np.array([0.0, 0.1, 0.5, 0.98, 1.0])


def replayed(replay, heights, *, block):
    result = torch.empty(len(QUANTILES), dtype=heights.dtype)
    rows, count = ctypes.c_int64(len(heights)), ctypes.c_int64(len(QUANTILES))
    pointers = [ctypes.c_void_p(heights.data_ptr()), rows, QUANTILES.ctypes, count, ctypes.c_void_p(result.data_ptr())]
    replay.replay_column_quantile(TYPES.index(heights.dtype), int(block), *pointers)
    return result


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 3, 31, 32, 33, 100, 127, 128, 129, 1023, 1024, 3000])
def test_equals_numpy(replay, rows, block, dtype):
    heights = (torch.randn(rows, generator=torch.Generator().manual_seed(rows)) * 10).to(dtype)
    expected = torch.tensor(np.quantile(heights.double().numpy(), QUANTILES)).to(dtype)
    torch.testing.assert_close(replayed(replay, heights, block=block), expected, rtol=torch.finfo(dtype).eps, atol=1e-14)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("special", [torch.inf, -torch.inf, 0.0, -0.0])
def test_tied_and_infinite_heights(replay, special, block, dtype):
    heights = torch.randn(500, generator=torch.Generator().manual_seed(0)).round().to(dtype)
    heights[::3] = special
    ordered = heights.double().sort().values
    result = replayed(replay, heights, block=block)
    assert result[0] == ordered[0]
    assert result[-1] == ordered[-1]
    middle = ordered[249] if ordered[249] == ordered[250] else (ordered[249] + ordered[250]) / 2
    assert result[2] == middle.to(dtype)


@pytest.mark.parametrize("rows", [2, 3, 5, 7, 8, 11, 12])
def test_the_network_sorts_every_list_of_zeros_and_ones_and_so_every_list(replay, rows):
    """Knuth, The Art of Computer Programming 3, 5.3.4, theorem Z."""
    for bits in range(1 << rows):
        heights = torch.tensor([float(bits >> place & 1) for place in range(rows)])
        zeros = rows - bits.bit_count()
        result = replayed(replay, heights, block=False)
        expected = np.quantile([0.0] * zeros + [1.0] * (rows - zeros), QUANTILES)
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-6)
