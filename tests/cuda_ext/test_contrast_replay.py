"""The blocks and bands of contrast's CUDA kernels, replayed on the host thread by thread: what the reference gives."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch.nn.functional import normalize

from fusion3d.ops.contrast import contrast_backward_reference, contrast_reference

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


class Input(ctypes.Structure):
    _fields_ = [
        ("wide", ctypes.c_int32),
        ("wide_position", ctypes.c_int32),
        ("reversed", ctypes.c_int32),
        ("query", ctypes.c_void_p),
        ("key", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("position", ctypes.c_void_p),
        ("scene", ctypes.c_void_p),
        ("limit", ctypes.c_double),
        ("band_rows", ctypes.c_int64),
        ("chunk_keys", ctypes.c_int64),
    ]


def views(rows, channels, dtype, spread=14.0):
    a, b = torch.randn(2, rows, channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (normalize(a, dim=1) * spread).to(dtype), normalize(a + b, dim=1).to(dtype)


def places(rows, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(rows, 2, generator=generator) * 100).to(dtype), torch.randint(0, 3, (rows,), generator=generator)


def pointer(tensor):
    return None if tensor is None else tensor.data_ptr()


def replayed(
    replay, query, key, position=None, scene=None, radius=0.0, *, backward=None, last_first=False, band=4096, chunk=8192
):
    wide_position = position is not None and position.dtype == torch.float64
    given = Input(
        query.dtype == torch.float64,
        wide_position,
        last_first,
        pointer(query),
        pointer(key),
        *query.shape,
        pointer(position),
        pointer(scene),
        radius * radius,
        band,
        chunk,
    )
    if backward is None:
        outputs = [torch.full(query.shape[:1], 7, dtype=query.dtype) for _ in range(2)]
        replay.replay_contrast(ctypes.byref(given), *(ctypes.c_void_p(t.data_ptr()) for t in outputs))
    else:
        outputs = [torch.full(query.shape, 7, dtype=query.dtype) for _ in range(2)]
        pointers = (ctypes.c_void_p(t.data_ptr()) for t in (*backward, *outputs))
        replay.replay_contrast_backward(ctypes.byref(given), *pointers)
    return outputs


def assert_same_as_reference(replay, query, key, *exclusion, tolerance=None, **bands):
    tolerance = TOLERANCE[query.dtype] if tolerance is None else tolerance
    expected = contrast_reference(query, key, *(exclusion or (None, None, 0.0)), 64)
    for mine, theirs in zip(replayed(replay, query, key, *exclusion, **bands), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)
    grads = torch.randn(2, len(query), dtype=query.dtype, generator=torch.Generator().manual_seed(2)) / max(1, len(query))
    backward = *grads, *expected
    wanted = contrast_backward_reference(*backward, query, key, *(exclusion or (None, None, 0.0)), 64)
    for mine, theirs in zip(replayed(replay, query, key, *exclusion, backward=backward, **bands), wanted, strict=True):
        largest = float(theirs[theirs.isfinite()].abs().max()) if theirs.isfinite().any() else 1.0
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance * max(largest, 1e-30), equal_nan=True)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("channels", [1, 16, 70])  # less than, as much as and more than is fetched at a time; more than a tile
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])  # around the side of a tile
def test_equals_the_reference(replay, rows, channels, dtype):
    assert_same_as_reference(replay, *views(rows, channels, dtype))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("band", "chunk"), [(64, 128), (192, 64), (64, 8192), (4096, 64)])
def test_bands_and_chunks_are_joined(replay, band, chunk, dtype):
    assert_same_as_reference(replay, *views(300, 20, dtype), band=band, chunk=chunk)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("place_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shared", [False, True])
def test_exclusion_equals_the_reference(replay, shared, place_dtype, dtype):
    position, scene = places(150, place_dtype)
    query, key = views(150, 8, dtype)
    assert_same_as_reference(replay, query, key, position, None if shared else scene, 20.0, band=64, chunk=64)
    assert_same_as_reference(replay, query, key, position * 0, None, 1.0)  # every row alone


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_special_values_go_where_the_reference_sends_them(replay, dtype, value):
    query, key = views(100, 3, dtype)
    query[4, 1], key[70, 0] = value, -value
    assert_same_as_reference(replay, query, key, band=64, chunk=64)


@pytest.mark.parametrize("spread", [100.0, 3000.0])
def test_similarities_further_than_an_exponential_reaches(replay, spread):
    assert_same_as_reference(replay, *views(150, 16, torch.float32, spread), tolerance=spread * 2e-6)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_threads_of_a_phase_and_blocks_of_a_launch_may_run_in_any_order(replay, dtype):
    query, key = views(150, 40, dtype)
    position, scene = places(150)
    exclusion = position, scene, 20.0
    orders = [{"last_first": order, "band": 64, "chunk": 64} for order in (False, True)]
    sums = [replayed(replay, query, key, *exclusion, **order) for order in orders]
    assert all(torch.equal(a, b) for a, b in zip(*sums))
    backward = *sums[0], *sums[0]
    gradients = [replayed(replay, query, key, *exclusion, backward=backward, **order) for order in orders]
    assert all(torch.equal(a, b) for a, b in zip(*gradients))
