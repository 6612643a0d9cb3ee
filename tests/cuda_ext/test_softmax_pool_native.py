"""The compiled softmax_pool gives what its reference gives, on every kind of column, and refuses what the reference refuses."""

from __future__ import annotations

import mmap

import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import softmax_pool, splits_from_counts
from fusion3d.ops.native import NATIVE
from fusion3d.ops.softmax_pool import (
    _softmax_pool,
    _softmax_pool_backward,
    softmax_pool_backward_reference,
    softmax_pool_reference,
)

pytestmark = pytest.mark.usefixtures("compiled")
cuda = pytest.mark.skipif(
    not (torch.cuda.is_available() and NATIVE.cuda_targets),
    reason="torch finds no NVIDIA GPU, or the library holds no CUDA kernels",
)

DEVICES = ["cpu", pytest.param("cuda", marks=cuda)]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Both compute half types in float32 and round once, so they may differ by one step.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 2**-9, torch.bfloat16: 2**-6}
COUNTS = torch.tensor([3, 0, 1, 700, 0, 33, 2, 0, 1030])  # the last is longer than a piece
SPLITS = splits_from_counts(COUNTS)
ROWS = int(SPLITS[-1])


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def random_rows(channels, dtype=torch.float32, rows=ROWS, seed=0, spread=1.0):
    return (torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread).to(dtype)


def random_logits(heads, dtype=torch.float32, rows=ROWS, spread=3.0):
    return random_rows(heads, dtype, rows, seed=7, spread=spread)


def shuffled(rows=ROWS, kept=None):
    return torch.randperm(rows, generator=torch.Generator().manual_seed(1))[:kept]


def assert_same_as_reference(device, features, logits, splits=SPLITS, permutation=None, tolerance=None):
    tolerance = TOLERANCE[features.dtype] if tolerance is None else tolerance
    moved = [None if t is None else t.to(device) for t in (features, logits, splits, permutation)]
    expected = softmax_pool_reference(features, logits, splits, permutation)
    found = _softmax_pool(*moved)
    # a column with a NaN or an infinite logit has NaN for its total; nobody reads its peak
    known = ~expected[2].isnan()
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
    torch.testing.assert_close(found[0].cpu(), expected[0], rtol=tolerance, atol=tolerance, equal_nan=True)
    torch.testing.assert_close(found[1].cpu()[known], expected[1][known], rtol=0, atol=0)
    torch.testing.assert_close(found[2].cpu(), expected[2], rtol=min(tolerance, 1e-5), atol=0, equal_nan=True)
    grad = random_rows(features.shape[1], features.dtype, rows=len(splits) - 1, seed=5)
    back = grad, features, logits, *expected, splits, permutation
    wanted = softmax_pool_backward_reference(*back)
    gradients = _softmax_pool_backward(*[None if t is None else t.to(device) for t in back])
    for mine, theirs in zip(gradients, wanted, strict=True):
        largest = float(theirs[theirs.isfinite()].abs().max()) if theirs.isfinite().any() else 1.0
        torch.testing.assert_close(mine.cpu(), theirs, rtol=tolerance, atol=tolerance * max(largest, 1e-30), equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "heads"), [(1, 1), (3, 1), (32, 1), (37, 1), (32, 4), (24, 8), (5, 5), (128, 2)])
@pytest.mark.parametrize("order", ["sorted", "permuted"])
def test_equals_the_reference(device, order, channels, heads, dtype):
    permutation = shuffled() if order == "permuted" else None
    assert_same_as_reference(device, random_rows(channels, dtype), random_logits(heads, dtype), permutation=permutation)


def test_rows_left_out_have_no_gradient(device):
    features, logits = random_rows(16, rows=ROWS + 20), random_logits(2, rows=ROWS + 20)
    assert_same_as_reference(device, features, logits, SPLITS, shuffled(ROWS + 20, ROWS))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 0.0])
@pytest.mark.parametrize("where", ["features", "logits"])
def test_special_values_go_where_the_reference_sends_them(device, where, value, dtype):
    features, logits = random_rows(8, dtype), random_logits(2, dtype)
    changed = features if where == "features" else logits
    changed[torch.rand(changed.shape, generator=torch.Generator().manual_seed(2)) < 0.02] = value
    changed[int(SPLITS[5]) : int(SPLITS[6]), 0] = value  # nothing else in a column
    for permutation in (None, shuffled()):
        assert_same_as_reference(device, features, logits, permutation=permutation)


@pytest.mark.parametrize("spread", [0.0, 100.0, 1e30])
def test_tied_and_huge_logits(device, spread):
    assert_same_as_reference(device, random_rows(8), random_logits(2).round() * spread)


def test_a_sum_of_huge_features_does_not_overflow_before_it_is_weighted(device):
    features = torch.full((2, 4), 3e38, device=device)
    pooled = softmax_pool(features, torch.zeros(2, device=device), torch.tensor([0, 2], device=device))
    torch.testing.assert_close(pooled, features[:1])


def test_one_huge_column(device):
    features, logits = random_rows(6, rows=200_000), random_logits(2, rows=200_000)
    splits = torch.tensor([0, 0, 200_000, 200_000])
    pooled = softmax_pool(*(t.to(device) for t in (features, logits, splits))).cpu()
    weights = torch.softmax(logits.double(), 0).repeat_interleave(3, 1)
    torch.testing.assert_close(pooled[1].double(), (features.double() * weights).sum(0), rtol=1e-5, atol=1e-6)
    assert not pooled[[0, 2]].any()
    assert_same_as_reference(device, features.double(), logits.double(), splits)  # the float32 reference adds up row by row


@pytest.mark.parametrize(("rows", "columns", "channels"), [(0, 0, 3), (0, 4, 3), (2, 4, 0), (0, 0, 0)])
def test_nothing_to_pool(device, rows, columns, channels):
    splits = torch.tensor([0] * columns + [rows])
    assert_same_as_reference(device, torch.zeros(rows, channels), torch.zeros(rows, 1), splits)


def test_sizes_beyond_32_bits():
    rows, channels = 70_000_000, 32  # 2.2e9 elements of which few pages are touched
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    features, logits = (
        torch.frombuffer(mmap.mmap(-1, 2 * rows * width, flags), dtype=torch.bfloat16).view(rows, width)
        for width in (channels, 1)
    )
    permutation = torch.tensor([rows - 1, 5, rows - 2])
    features[permutation] = torch.tensor([[1.0], [3.0], [7.0]], dtype=torch.bfloat16).expand(-1, channels)
    pooled = softmax_pool(features, logits, torch.tensor([0, 2, 3]), permutation)
    assert pooled.tolist() == [[2.0] * channels, [7.0] * channels]


def test_no_columns_of_a_huge_width(device):
    width = 1 << 40
    splits = torch.zeros(1, dtype=torch.int64, device=device)
    empty = torch.empty(0, width, device=device)
    assert softmax_pool(empty, empty, splits).shape == (0, width)


def test_memory_in_any_layout(device):
    wide, scores = random_rows(14).to(device), random_logits(4).to(device)
    splits = SPLITS.to(device)
    features, logits = wide[:, 1:9], scores[:, 1:3]
    expected = softmax_pool(features.contiguous(), logits.contiguous(), splits)
    assert torch.equal(softmax_pool(features, logits, splits), expected)
    assert torch.equal(softmax_pool(features.T.contiguous().T, logits.T.contiguous().T, splits), expected)
    strided = torch.stack([splits, splits * 0], 1)[:, 0]
    assert torch.equal(softmax_pool(features, logits, strided), expected)
    offset = torch.cat([wide.new_zeros(1), features.flatten()])[1:].view(ROWS, 8)  # starts on an odd address
    assert torch.equal(softmax_pool(offset, logits, splits), expected)
    gradients = [
        torch.autograd.grad(softmax_pool(x, y, splits).sum(), (x, y))  # an expanded upstream gradient
        for x, y in (
            (a.detach().requires_grad_(), b.detach().requires_grad_()) for a, b in ((features, logits), (offset, logits))
        )
    ]
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


@pytest.mark.parametrize("order", ["sorted", "permuted"])
@pytest.mark.parametrize("heads", [1, 2])
def test_gradcheck(device, heads, order):
    splits = splits_from_counts(torch.tensor([2, 0, 5, 1])).to(device)
    features = random_rows(4, torch.float64, rows=8).to(device).requires_grad_()
    logits = random_logits(heads, torch.float64, rows=8, spread=1.0).to(device).requires_grad_()
    permutation = shuffled(8).to(device) if order == "permuted" else None
    assert torch.autograd.gradcheck(lambda x, y: softmax_pool(x, y, splits, permutation), (features, logits))


def test_opcheck(device):
    features, logits = random_rows(4).to(device).requires_grad_(), random_logits(2).to(device).requires_grad_()
    torch.library.opcheck(_softmax_pool, (features, logits, SPLITS.to(device), shuffled().to(device)))


@pytest.mark.parametrize("order", ["sorted", "permuted"])
def test_one_and_two_threads_agree_to_the_bit(two_threads, order):
    counts = torch.cat([torch.full((3000,), 7), torch.tensor([60_000, 0, 9000]), torch.full((2000,), 3)])
    splits = splits_from_counts(counts)
    rows = int(splits[-1])
    features, logits, permutation = random_rows(24, rows=rows), random_logits(3, rows=rows), None
    if order == "permuted":
        permutation = shuffled(rows)
    results = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        pooled = _softmax_pool(features, logits, splits, permutation)
        results.append((*pooled, *_softmax_pool_backward(pooled[0], features, logits, *pooled, splits, permutation)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


HOSTILE = [
    ([0, 2], None, "row_splits must rise"),
    ([1, 3], None, "row_splits must rise"),
    ([0, 2, 1, 3], None, "row_splits must rise"),
    ([0, 1 << 40, 3], None, "row_splits must rise"),
    ([0, -(1 << 62), 3], None, "row_splits must rise"),
    ([0, 3], [0, 1, 1], "twice"),
    ([0, 3], [0, 1, 1 << 62], "outside"),
    ([0, 3], [0, 1, -1], "outside"),
]


@pytest.mark.parametrize(("splits", "permutation", "message"), HOSTILE)
def test_hostile_offsets_are_refused_in_words_and_read_nothing(device, splits, permutation, message):
    splits = torch.tensor(splits, device=device)
    permutation = None if permutation is None else torch.tensor(permutation, device=device)
    features, logits = torch.ones(3, 2, device=device), torch.ones(3, 1, device=device)
    with pytest.raises(ConfigError, match=message):
        softmax_pool(features, logits, splits, permutation)
    grad, sums = torch.ones(len(splits) - 1, 2, device=device), torch.ones(len(splits) - 1, 1, device=device)
    with pytest.raises(RuntimeError, match=message):
        _softmax_pool_backward(grad, features, logits, grad, sums, sums, splits, permutation)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad": torch.ones(2, 4)}, "grad must have shape"),
        ({"grad": torch.ones(1, 4).double()}, "grad does not have the type"),
        ({"pooled": torch.ones(1, 2)}, "pooled must have shape"),
        ({"peak": torch.ones(1, 1)}, "peak must have shape"),
        ({"total": torch.ones(1, 2).double()}, "total does not have the type"),
        ({"logits": torch.ones(3, 3)}, "cannot be shared out"),
        ({"logits": torch.ones(3, 0)}, "cannot be shared out"),
        ({"logits": torch.ones(2, 2)}, "logits has 2 rows"),
        ({"logits": torch.ones(3, 2).half()}, "logits does not have the type"),
        ({"features": torch.ones(3)}, "features must have 2 dimension"),
        ({"row_splits": torch.tensor([0, 3], dtype=torch.int32)}, "row_splits must be one-dimensional int64"),
        ({"row_splits": torch.empty(0, dtype=torch.int64)}, "row_splits is empty"),
        ({"permutation": torch.zeros(3)}, "permutation must be one-dimensional int64"),
    ],
)
def test_the_operator_itself_refuses_arguments_that_do_not_fit(device, change, message):
    arguments = {
        "grad": torch.ones(1, 4),
        "features": torch.ones(3, 4),
        "logits": torch.ones(3, 2),
        "pooled": torch.ones(1, 4),
        "peak": torch.ones(1, 2),
        "total": torch.ones(1, 2),
        "row_splits": torch.tensor([0, 3]),
        "permutation": None,
    } | change
    with pytest.raises(RuntimeError, match=message):
        _softmax_pool_backward(*(None if t is None else t.to(device) for t in arguments.values()))
