"""Past 2^31 elements every operator is right, or refuses in words. Memory is reserved, not filled: only touched pages exist."""

from __future__ import annotations

import ctypes
import math
import mmap
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fusion3d.errors import ConfigError
from fusion3d.ops import column_pool, column_quantile, csr_by_column, height_profile, lift, softmax_pool
from fusion3d.ops.csr import splits_from_counts

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux reserves memory without filling it")
compiled = pytest.mark.usefixtures("compiled")
MAP_NORESERVE = 0x4000
CHANNELS = 32
ROWS = (1 << 31) // CHANNELS + 100  # elements of [ROWS, CHANNELS] pass 2^31, so do their offsets in a matrix
HALF = torch.bfloat16


def untouched(*shape: int, dtype: torch.dtype = HALF) -> torch.Tensor:
    """Zeros of which no page is there yet."""
    count = math.prod(shape)
    try:
        memory = mmap.mmap(-1, count * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    except OSError as error:
        pytest.skip(f"this machine reserves no {count * dtype.itemsize} bytes: {error}")
    return torch.frombuffer(memory, dtype=dtype, count=count).view(shape)


def far_rows() -> torch.Tensor:
    """Rows whose sums, maximum and mean only addresses past 2^31 can give; what lies 2^31 or 2^32 before them is zero."""
    features = untouched(ROWS, CHANNELS)
    features[-1], features[-2] = 5, 3
    return features


LAST = torch.tensor([0, ROWS - 2, ROWS - 1])
SPLITS = torch.tensor([0, 1, 3])


@compiled
@pytest.mark.parametrize(("reduce", "expected"), [("sum", 8), ("mean", 4), ("max", 5)])
def test_column_pool_reads_rows_past_2_31_elements(reduce, expected):
    pooled = column_pool(far_rows(), SPLITS, reduce, LAST)
    assert torch.equal(pooled, torch.tensor([[0], [expected]], dtype=HALF).expand(2, CHANNELS))


@compiled
def test_column_pool_s_winner_is_a_row_past_2_31_elements():
    winner = torch.ops.fusion3d.column_pool(far_rows(), SPLITS, LAST, "max")[1]
    assert winner[1].tolist() == [ROWS - 1] * CHANNELS


@compiled
def test_softmax_pool_reads_rows_past_2_31_elements():
    pooled = softmax_pool(far_rows(), untouched(ROWS, 1), SPLITS, LAST)
    assert torch.equal(pooled, torch.tensor([[0], [4]], dtype=HALF).expand(2, CHANNELS))


@compiled
def test_column_quantile_reads_heights_past_2_31():
    heights = untouched((1 << 31) + 10)
    heights[-1], heights[-2], heights[-3] = 5, 3, 1
    order = torch.tensor([0, *range(len(heights) - 3, len(heights))])
    assert column_quantile(heights, torch.tensor([0, 1, 4]), [0.0, 0.5, 1.0], order).tolist() == [[0, 0, 0], [1, 3, 5]]


@compiled
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_lift_reads_pixels_past_2_31_elements(mode, channels_last):
    side = math.isqrt((1 << 31) // CHANNELS) + 9
    raster = untouched(1, side, side, CHANNELS).permute(0, 3, 1, 2) if channels_last else untouched(1, CHANNELS, side, side)
    raster[0, -1, -1, -1] = 7
    at = torch.tensor([[side - 0.5, side - 0.5], [0.5, 0.5]], dtype=torch.float64)
    lifted = lift(raster, torch.zeros(2, dtype=torch.int64), at, mode)
    assert lifted[:, -1].tolist() == [7, 0]
    assert not lifted[:, :-1].any()


@compiled
def test_footprint_pool_reads_columns_past_2_31_elements():
    pairs = torch.tensor([ROWS - 2, 0, ROWS - 1]), torch.tensor([1.0, 9.0, 2.0])
    pooled = torch.ops.fusion3d.footprint_pool(far_rows(), torch.tensor([0, 3]), *pairs)
    assert pooled.tolist() == [[3 + 2 * 5] * CHANNELS]


@compiled
def test_sparse_conv_reads_rows_past_2_31_elements():
    pairs = torch.tensor([0, ROWS - 2, ROWS - 1]), torch.tensor([0, 1, 2]), torch.tensor([0, 3])
    result = torch.ops.fusion3d.sparse_conv(far_rows(), torch.ones(1, CHANNELS, 2, dtype=HALF), *pairs, 3)
    assert result[:, 0].tolist() == [0, 3 * CHANNELS, 5 * CHANNELS]


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


@pytest.mark.parametrize(("reduce", "expected"), [("sum", 8), ("mean", 4), ("max", 5)])
def test_a_warp_of_column_pool_reads_rows_past_2_31_elements(replay, reduce, expected):
    pooled, winner, features = torch.empty(2, CHANNELS, dtype=HALF), torch.empty(2, CHANNELS, dtype=torch.int64), far_rows()
    sizes = map(ctypes.c_int64, (len(LAST), 2, CHANNELS))
    which = 3, ("sum", "mean", "max").index(reduce), 1
    replay.replay_column_pool(*which, pointer(features), pointer(SPLITS), pointer(LAST), *sizes, pointer(pooled), pointer(winner))
    assert pooled[1].tolist() == [expected] * CHANNELS
    assert reduce != "max" or winner[1].tolist() == [ROWS - 1] * CHANNELS


def test_a_block_of_sparse_conv_reads_rows_past_2_31_elements(replay):
    from_, to, offsets = torch.tensor([0, ROWS - 2, ROWS - 1]), torch.tensor([0, 1, 2]), torch.tensor([0, 3])
    features, weight, result = far_rows(), torch.ones(1, CHANNELS, 2, dtype=HALF), torch.empty(3, 2, dtype=HALF)
    extents = map(ctypes.c_int64, (1, ROWS, 3, CHANNELS, 2))
    tensors = map(pointer, (features, weight, from_, to, offsets))
    replay.replay_sparse_conv(3, 0, *tensors, *extents, pointer(result))
    assert result[:, 0].tolist() == [0, 3 * CHANNELS, 5 * CHANNELS]


# --- refusals: each before anything is read or copied ---------------------------------------------------------------------------


@compiled
@pytest.mark.parametrize("rows", [1 << 32, (1 << 32) + 7, 1 << 40])
def test_more_rows_than_32_bits_tell_apart_are_refused(rows):
    features, splits = torch.zeros(1, 1).expand(rows, 1), torch.tensor([0, rows])
    for refused in (
        lambda: column_pool(features, splits, "max"),
        lambda: softmax_pool(features, features, splits),
        lambda: column_quantile(features[:, 0], splits, [0.5]),
        lambda: height_profile(features[:, 0], splits, [0.0, 1.0]),
    ):
        with pytest.raises(ConfigError, match=r"rows are outside \[0, 2\^32\); pool the scene in blocks"):
            refused()


@compiled
def test_a_gradient_of_more_rows_than_32_bits_tell_apart_is_refused():
    splits = torch.tensor([0, 1])
    with pytest.raises(RuntimeError, match="outside"):
        torch.ops.fusion3d.column_pool_backward(torch.ones(1, 1), splits, splits, torch.tensor([0]), 1 << 32, "sum")


@compiled
def test_a_column_of_2_31_rows_is_refused():
    rows = 1 << 31
    heights, splits = untouched(rows), torch.tensor([0, rows])
    for refused in (
        lambda: column_pool(heights[:, None], splits, "sum"),
        lambda: softmax_pool(heights[:, None], heights, splits),
        lambda: column_quantile(heights, splits, [0.5]),
        lambda: height_profile(heights, splits, [0.0, 1.0]),
    ):
        with pytest.raises(ConfigError, match=r"a column has 2\^31 rows or more"):
            refused()


@compiled
@pytest.mark.parametrize("shape", [[1 << 20, 1, 1 << 22, 1 << 22], [1, 1, (1 << 63) - 1, 1]])
def test_a_raster_whose_size_no_integer_holds_is_refused(shape):
    place = torch.zeros(1, dtype=torch.int64), torch.zeros(1, 2)
    with pytest.raises(RuntimeError, match="shape holds sizes of no raster"):
        torch.ops.fusion3d.lift_backward(torch.ones(1, 1), *place, shape, "nearest")


@compiled
def test_a_number_of_columns_past_every_integer_is_refused():
    with pytest.raises(ConfigError, match="there cannot be 9223372036854775807 columns"):
        csr_by_column(torch.tensor([0]), (1 << 63) - 1)
    pairs = torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1)
    with pytest.raises(RuntimeError, match="there cannot be"):
        torch.ops.fusion3d.footprint_pool_backward(torch.ones(1, 1), *pairs, (1 << 63) - 1)


@compiled
def test_no_channels_of_very_many_voxels_are_no_work():
    pairs = torch.tensor([0]), torch.tensor([0]), torch.tensor([0, 1])
    assert torch.ops.fusion3d.sparse_conv(torch.ones(1, 2), torch.ones(1, 2, 0), *pairs, 1 << 40).shape == (1 << 40, 0)


# --- shapes: what torch.compile and torch.export are told -----------------------------------------------------------------------

BIG = (1 << 31) + 5


def whole(*shape):
    return torch.empty(shape, dtype=torch.int64)


SHAPES = {
    "column_pool": (lambda: (torch.empty(BIG, 8), whole(BIG), None, "max"), [(BIG - 1, 8), (BIG - 1, 8)]),
    "column_pool_backward": (lambda: (torch.empty(4, 8), whole(4, 8), whole(5), None, BIG, "sum"), [(BIG, 8)]),
    "column_quantile": (lambda: (torch.empty(BIG), whole(BIG), torch.empty(5).double(), None), [(BIG - 1, 5)]),
    "contrast": (lambda: (torch.empty(BIG, 2), torch.empty(BIG, 2), None, None, 0.0, 9), [(BIG,), (BIG,)]),
    "contrast_backward": (
        lambda: (*(torch.empty(BIG) for _ in range(4)), *(torch.empty(BIG, 2) for _ in range(2)), None, None, 0.0, 9),
        [(BIG, 2), (BIG, 2)],
    ),
    "csr_by_column": (lambda: (whole(9), BIG), [(BIG + 1,), None]),
    "footprint_pool": (lambda: (torch.empty(BIG, 8), whole(BIG), whole(9), torch.empty(9)), [(BIG - 1, 8)]),
    "footprint_pool_backward": (lambda: (torch.empty(3, 8), whole(4), whole(9), torch.empty(9), BIG), [(BIG, 8)]),
    "height_profile": (lambda: (torch.empty(BIG), whole(BIG), torch.empty(9).double(), None), [(BIG - 1, 8)]),
    "kernel_map": (lambda: (whole(BIG, 4), 3, 1), [None, None, (28,)]),
    "lift": (lambda: (torch.empty(1, 8, 1 << 16, 1 << 16), whole(BIG), torch.empty(BIG, 2), "nearest"), [(BIG, 8)]),
    "lift_backward": (
        lambda: (torch.empty(5, 8), whole(5), torch.empty(5, 2), [1, 8, 1 << 16, 1 << 16], "nearest"),
        [(1, 8, 1 << 16, 1 << 16)],
    ),
    "profile_cell": (lambda: (torch.empty(BIG), whole(9), torch.empty(9).double()), [(BIG,)]),
    "softmax_pool": (
        lambda: (torch.empty(BIG, 8), torch.empty(BIG, 2), whole(BIG), None),
        [(BIG - 1, 8), (BIG - 1, 2), (BIG - 1, 2)],
    ),
    "sparse_conv": (lambda: (torch.empty(BIG, 8), torch.empty(1, 8, 3), whole(9), whole(9), whole(2), BIG), [(BIG, 3)]),
    "sparse_conv_backward": (
        lambda: (torch.empty(BIG, 3), torch.empty(BIG, 8), torch.empty(1, 8, 3), whole(9), whole(9), whole(2)),
        [(BIG, 8), (1, 8, 3)],
    ),
    "strided_kernel_map": (lambda: (whole(BIG, 4), 2, 2), [None, None, None, (9,)]),
    "voxelize": (lambda: (whole(BIG, 4),), [None, (BIG,), None, (BIG,)]),
}
"""Arguments and the shapes of the results; None where those depend on values. softmax_pool_backward's are its arguments'."""


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shapes_past_2_31(name):
    arguments, expected = SHAPES[name]
    with FakeTensorMode(shape_env=ShapeEnv()):
        results = getattr(torch.ops.fusion3d, name)(*arguments())
    results = [results] if isinstance(results, torch.Tensor) else results
    for result, shape in zip(results, expected, strict=True):
        assert shape is None or tuple(result.shape) == shape


def test_row_splits_count_past_2_31():
    assert splits_from_counts(torch.full((4,), 1 << 31)).tolist() == [k << 31 for k in range(5)]
