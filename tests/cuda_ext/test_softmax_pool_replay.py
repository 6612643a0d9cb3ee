"""softmax_pool's rows in the order of CUDA's warps and teams, replayed on the host: torch's softmax, column by column."""

from __future__ import annotations

import ctypes
import mmap

import pytest
import torch

from fusion3d.ops import splits_from_counts
from fusion3d.ops.softmax_pool import softmax_pool_backward_reference, softmax_pool_reference

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 2**-9, torch.bfloat16: 2**-6}
LENGTHS = [0, 1, 31, 32, 33, 0, 0, 700, 64]  # around the width of a warp and the length of a walk
SPLITS = splits_from_counts(torch.tensor(LENGTHS))
ROWS = sum(LENGTHS)


class Input(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int32),
        ("wide", ctypes.c_int32),
        ("warp", ctypes.c_int32),
        ("features", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
        ("heads", ctypes.c_int64),
        ("row_splits", ctypes.c_void_p),
        ("permutation", ctypes.c_void_p),
        ("places", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("channels", ctypes.c_int64),
    ]


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


def given(features, logits, splits, permutation, *, wide, warp):
    return Input(
        TYPES.index(features.dtype),
        wide,
        warp,
        features.data_ptr(),
        logits.data_ptr(),
        logits.shape[1],
        splits.data_ptr(),
        None if permutation is None else permutation.data_ptr(),
        len(features) if permutation is None else len(permutation),
        len(splits) - 1,
        features.shape[1],
    )


def replayed(replay, features, logits, splits=SPLITS, permutation=None, *, wide=True, warp=False):
    wider = torch.float64 if features.dtype == torch.float64 else torch.float32
    columns = len(splits) - 1
    pooled = torch.full((columns, features.shape[1]), 7, dtype=features.dtype)
    peak, total = (torch.full((columns, logits.shape[1]), 7, dtype=wider) for _ in range(2))
    arguments = given(features, logits, splits, permutation, wide=wide, warp=warp)
    replay.replay_softmax_pool(ctypes.byref(arguments), *map(pointer, (pooled, peak, total)))
    return pooled, peak, total


def replayed_backward(replay, grad, features, logits, saved, splits=SPLITS, permutation=None, *, wide=True):
    gradients = torch.full(features.shape, 7, dtype=features.dtype), torch.full(logits.shape, 7, dtype=logits.dtype)
    arguments = given(features, logits, splits, permutation, wide=wide, warp=False)
    replay.replay_softmax_pool_backward(ctypes.byref(arguments), *map(pointer, (grad, *saved, *gradients)))
    return gradients


def numbers(width, dtype, seed, rows=ROWS, spread=1.0):
    return (torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread).to(dtype)


def shuffled():
    return torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))


def column_by_column(features, logits, permutation):
    """torch.softmax of every column, in float64."""
    order = torch.arange(ROWS) if permutation is None else permutation
    rows, scores = features[order].double(), logits[order].double()
    each = features.shape[1] // logits.shape[1]
    parts = zip(rows.split(LENGTHS), scores.split(LENGTHS))
    return torch.stack([(x * torch.softmax(y, 0).repeat_interleave(each, 1)).sum(0) for x, y in parts])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("warp", [False, True])
@pytest.mark.parametrize("order", ["sorted", "permuted"])
# a packet a head, fewer channels than a packet, several packets, more packets than a team of lanes has or than a power of two
@pytest.mark.parametrize(("channels", "heads", "wide"), [(16, 2, 1), (3, 1, 0), (6, 3, 0), (64, 2, 1), (24, 1, 1), (544, 1, 1)])
def test_equals_torch_s_softmax(replay, channels, heads, wide, order, warp, dtype):
    features, logits = numbers(channels, dtype, 0), numbers(heads, dtype, 1, spread=3.0)
    permutation = shuffled() if order == "permuted" else None
    features.requires_grad_()
    logits.requires_grad_()
    exact = column_by_column(features, logits, permutation)
    saved = replayed(replay, features.detach(), logits.detach(), permutation=permutation, wide=wide, warp=warp)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(saved[0].double(), exact.detach(), rtol=tolerance, atol=tolerance)
    if warp:
        return  # the backward pass walks columns of every length alike
    grad = numbers(channels, dtype, 2, rows=len(LENGTHS))
    gradients = replayed_backward(replay, grad, features.detach(), logits.detach(), saved, permutation=permutation, wide=wide)
    for mine, theirs in zip(gradients, torch.autograd.grad(exact, (features, logits), grad.double()), strict=True):
        largest = float(theirs.double().abs().max())
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=2 * tolerance, atol=2 * tolerance * largest)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 0.0])
@pytest.mark.parametrize("where", ["features", "logits"])
def test_special_values_go_where_the_reference_sends_them(replay, where, value, dtype):
    features, logits = numbers(16, dtype, 0), numbers(2, dtype, 1)
    changed = features if where == "features" else logits
    changed[torch.rand(changed.shape, generator=torch.Generator().manual_seed(2)) < 0.02] = value
    changed[1:32, 0] = value  # nothing else in a column
    expected = softmax_pool_reference(features, logits, SPLITS, None)
    grad = numbers(16, dtype, 5, rows=len(LENGTHS))
    wanted = softmax_pool_backward_reference(grad, features, logits, *expected, SPLITS, None)
    tolerance = TOLERANCE[dtype]
    known = ~expected[2].isnan()  # nobody reads the peak of a column whose total is NaN
    for warp in (False, True):
        saved = replayed(replay, features, logits, warp=warp)
        assert torch.equal(saved[1][known], expected[1][known])
        torch.testing.assert_close(saved[0], expected[0], rtol=tolerance, atol=tolerance, equal_nan=True)
        torch.testing.assert_close(saved[2], expected[2], rtol=1e-5, atol=0, equal_nan=True)
        for mine, theirs in zip(replayed_backward(replay, grad, features, logits, saved), wanted, strict=True):
            largest = float(theirs[theirs.isfinite()].abs().max())
            torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance * largest, equal_nan=True)


@pytest.mark.parametrize("warp", [False, True])
def test_logits_further_apart_than_an_exponential_reaches(replay, warp):
    features = numbers(4, torch.float32, 0)
    logits = numbers(1, torch.float32, 1) * 1e30
    pooled, peak, total = replayed(replay, features, logits, warp=warp)
    assert peak.isfinite().all()
    for m, (rows, scores) in enumerate(zip(features.split(LENGTHS), logits.split(LENGTHS))):
        expected = rows[scores[:, 0].argmax()] if len(rows) else torch.zeros(4)
        assert torch.equal(pooled[m], expected)
        assert total[m, 0] == (1 if len(rows) else 0)


def test_offsets_beyond_32_bits_are_reached(replay):
    rows, channels = 1 << 28, 32  # 2^33 elements, 17 GB of memory of which four pages are touched
    features = reserved(rows, channels)
    logits = reserved(rows, 1)
    permutation = torch.tensor([rows - 1, 5, rows - 2])
    values = torch.tensor([[1.0], [3.0], [7.0]], dtype=torch.bfloat16)
    features[permutation], logits[permutation] = values.expand(-1, channels), torch.zeros(3, 1, dtype=torch.bfloat16)
    splits = torch.tensor([0, 2, 3])
    saved = replayed(replay, features, logits, splits, permutation)
    assert saved[0][:, 0].tolist() == [2, 7]
    gradients = reserved(rows, channels), reserved(rows, 1)
    arguments = given(features, logits, splits, permutation, wide=True, warp=False)
    grad = torch.ones(2, channels, dtype=torch.bfloat16)
    replay.replay_softmax_pool_backward(ctypes.byref(arguments), *map(pointer, (grad, *saved, *gradients)))
    assert gradients[0][permutation, -1].tolist() == [0.5, 0.5, 1]
    assert gradients[1][permutation, 0].tolist() == [-16, 16, 0]  # a half of 32 channels, each 1 from the mean


def reserved(rows, channels):
    """bfloat16 zeros in pages that are not there until they are touched."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    return torch.frombuffer(mmap.mmap(-1, 2 * rows * channels, flags), dtype=torch.bfloat16).view(rows, channels)
