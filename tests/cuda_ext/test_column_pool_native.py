"""The compiled column_pool gives what its reference gives, on every kind of column, and refuses what the reference refuses."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import column_pool, splits_from_counts
from fusion3d.ops.column_pool import (
    _column_pool,
    _column_pool_backward,
    column_pool_backward_reference,
    column_pool_reference,
)

pytestmark = pytest.mark.usefixtures("compiled")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU")

DEVICES = ["cpu", pytest.param("cuda", marks=cuda)]
REDUCTIONS = ("sum", "mean", "max")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Columns of up to 700 rows of numbers near 1, added up in another order than the reference does: sums of half types are made in
# float32 by both and rounded once, so they may differ by one step (2^-10, 2^-7); float32 and float64 by the order of addition.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.float16: 2**-10, torch.bfloat16: 2**-7}
COUNTS = torch.tensor([3, 0, 1, 700, 0, 33, 2, 0])
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


def random_rows(channels, dtype=torch.float32, rows=ROWS, seed=0):
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def shuffled(rows=ROWS, kept=None):
    return torch.randperm(rows, generator=torch.Generator().manual_seed(1))[:kept]


def assert_same_as_reference(features, splits, permutation, reduce, device, tolerance):
    moved = [None if t is None else t.to(device) for t in (features, splits, permutation)]
    pooled, winner = _column_pool(*moved, reduce)
    expected, expected_winner = column_pool_reference(features, splits, permutation, reduce)
    torch.testing.assert_close(pooled.cpu(), expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    assert torch.equal(winner.cpu(), expected_winner)
    grad = random_rows(features.shape[1], features.dtype, rows=len(splits) - 1, seed=5)
    back = grad.to(device), expected_winner.to(device), *moved[1:], len(features), reduce
    gradient = _column_pool_backward(*back)
    wanted = column_pool_backward_reference(grad, expected_winner, splits, permutation, len(features), reduce)
    assert torch.equal(gradient.cpu(), wanted)  # copies and one division: no rounding may differ


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 8, 32, 37])  # less than, as much as and more than the packets
@pytest.mark.parametrize("order", ["sorted", "permuted"])
def test_equals_the_reference(device, order, channels, dtype, reduce):
    permutation = shuffled() if order == "permuted" else None
    assert_same_as_reference(random_rows(channels, dtype), SPLITS, permutation, reduce, device, TOLERANCE[dtype])


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_rows_left_out_have_no_gradient(device, reduce):
    permutation = shuffled(ROWS + 20, ROWS)
    features = random_rows(16, rows=ROWS + 20)
    assert_same_as_reference(features, SPLITS, permutation, reduce, device, 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 0.0, -0.0])
def test_special_and_tied_values(device, value, dtype):
    features = random_rows(9, dtype).round()
    features[torch.rand(features.shape, generator=torch.Generator().manual_seed(2)) < 0.4] = value
    features[int(SPLITS[5]) : int(SPLITS[6])] = -torch.inf
    for permutation in (None, shuffled()):
        assert_same_as_reference(features, SPLITS, permutation, "max", device, 0)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_nan_and_infinity_go_through_a_sum_in_their_own_channel(device, reduce):
    features = torch.ones(4, 3, device=device)
    features[0, 0], features[1, 1], features[3, 2] = torch.nan, torch.inf, -torch.inf
    pooled = column_pool(features, torch.tensor([0, 2, 4], device=device), reduce)
    assert pooled[:, 0].isnan().tolist() == [True, False]
    assert pooled[0, 1] == torch.inf
    assert pooled[1, 2] == {"sum": -torch.inf, "mean": -torch.inf, "max": 1}[reduce]


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("channels", [3, 16])
def test_one_huge_column(device, reduce, channels):
    features = random_rows(channels, rows=200_000)
    splits = torch.tensor([0, 0, 200_000, 200_000], device=device)
    pooled = column_pool(features.to(device), splits, reduce).cpu()
    exact = {"sum": features.double().sum(0), "mean": features.double().mean(0), "max": features.double().amax(0)}[reduce]
    torch.testing.assert_close(pooled[1].double(), exact, rtol=1e-5, atol=1e-2 if reduce == "sum" else 1e-6)
    assert not pooled[[0, 2]].any()
    gradient = _column_pool_backward(
        torch.ones(3, channels, device=device),
        *_column_pool(features.to(device), splits, None, reduce)[1:],
        splits,
        None,
        200_000,
        reduce,
    )
    assert gradient.double().sum().item() == pytest.approx({"sum": 200_000, "mean": 1, "max": 1}[reduce] * channels, rel=1e-4)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize(("rows", "columns", "channels"), [(0, 0, 3), (0, 4, 3), (2, 4, 0), (0, 0, 0)])
def test_nothing_to_pool(device, reduce, rows, columns, channels):
    features = torch.zeros(rows, channels)
    assert_same_as_reference(features, torch.tensor([0] * columns + [rows]), None, reduce, device, 0)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_memory_in_any_layout(device, reduce):
    wide = random_rows(14).to(device)
    expected = column_pool(wide[:, 1:8].contiguous(), SPLITS.to(device), reduce)
    assert torch.equal(column_pool(wide[:, 1:8], SPLITS.to(device), reduce), expected)
    assert torch.equal(column_pool(wide[:, 1:8].T.contiguous().T, SPLITS.to(device), reduce), expected)
    strided = torch.stack([SPLITS, SPLITS * 0], 1).to(device)[:, 0]
    assert torch.equal(column_pool(wide[:, 1:8].contiguous(), strided, reduce), expected)
    offset = torch.cat([wide.new_zeros(1), wide[:, 1:8].flatten()])[1:].view(ROWS, 7)  # starts on an odd address
    assert torch.equal(column_pool(offset, SPLITS.to(device), reduce), expected)


def test_gradient_of_the_gradient_s_own_layouts(device):
    features = random_rows(4).to(device).requires_grad_()
    column_pool(features, SPLITS.to(device), "mean").sum().backward()  # an expanded scalar
    expected = (1 / COUNTS.clamp(min=1)).repeat_interleave(COUNTS).unsqueeze(1).expand(ROWS, 4)
    torch.testing.assert_close(features.grad.cpu(), expected)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("order", ["sorted", "permuted"])
def test_gradcheck(device, order, reduce):
    counts = torch.tensor([2, 0, 5, 1])
    features = random_rows(5, torch.float64, rows=8).to(device).requires_grad_()
    permutation = shuffled(8).to(device) if order == "permuted" else None
    splits = splits_from_counts(counts).to(device)
    assert torch.autograd.gradcheck(lambda x: column_pool(x, splits, reduce, permutation), (features,))


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_opcheck(device, reduce):
    features = random_rows(2).to(device).requires_grad_()
    torch.library.opcheck(_column_pool, (features, SPLITS.to(device), shuffled().to(device), reduce))


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("order", ["sorted", "permuted"])
def test_one_and_two_threads_agree_to_the_bit(two_threads, order, reduce):
    counts = torch.cat([torch.full((3000,), 7), torch.tensor([60_000, 0, 9000]), torch.full((2000,), 3)])
    splits = splits_from_counts(counts)
    rows = int(splits[-1])
    features, permutation = random_rows(24, rows=rows), shuffled(rows) if order == "permuted" else None
    results = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        pooled, winner = _column_pool(features, splits, permutation, reduce)
        results.append((pooled, winner, _column_pool_backward(pooled, winner, splits, permutation, rows, reduce)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_large_results_written_past_the_caches_are_whole(device):
    counts = torch.randint(0, 9, (70_000,), generator=torch.Generator().manual_seed(3))
    splits, rows = splits_from_counts(counts), int(counts.sum())  # 36 MB of gradient
    grad = random_rows(32, rows=len(counts))
    gradient = _column_pool_backward(
        grad.to(device), torch.empty(0, dtype=torch.int64, device=device), splits.to(device), None, rows, "sum"
    )
    assert torch.equal(gradient.cpu(), grad.repeat_interleave(counts, 0))


HOSTILE = [
    ([0, 2], None, "row_splits must rise"),
    ([0, 4], None, "row_splits must rise"),
    ([1, 3], None, "row_splits must rise"),
    ([0, 2, 1, 3], None, "row_splits must rise"),
    ([0, 1 << 40, 3], None, "row_splits must rise"),
    ([0, -(1 << 62), 3], None, "row_splits must rise"),
    ([3], None, "row_splits must rise"),
    ([0, 3], [0, 1, 1], "twice"),
    ([0, 3], [0, 1, 3], "outside"),
    ([0, 3], [0, 1, -1], "outside"),
    ([0, 3], [0, 1, 1 << 62], "outside"),
    ([0, 3], [0, 1], "row_splits must rise"),
]


@pytest.mark.parametrize("reduce", ["sum", "max"])
@pytest.mark.parametrize(("splits", "permutation", "message"), HOSTILE)
def test_hostile_offsets_are_refused_in_words_and_read_nothing(device, splits, permutation, message, reduce):
    splits = torch.tensor(splits, device=device)
    permutation = None if permutation is None else torch.tensor(permutation, device=device)
    with pytest.raises(ConfigError, match=message):
        column_pool(torch.ones(3, 2, device=device), splits, reduce, permutation)
    grad = torch.ones(len(splits) - 1, 2, device=device)
    with pytest.raises(RuntimeError, match=message):
        _column_pool_backward(grad, grad.long(), splits, permutation, 3, reduce)


def test_hostile_winners_move_no_gradient_and_write_nothing(device):
    grad = torch.ones(1, 4, device=device)
    winner = torch.tensor([[-1, 3, 1 << 31, 1]], device=device)
    gradient = _column_pool_backward(grad, winner, torch.tensor([0, 3], device=device), None, 3, "max")
    assert gradient.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad": torch.ones(2, 2)}, "grad must have shape"),
        ({"grad": torch.ones(1)}, "grad must have 2 dimension"),
        ({"grad": torch.ones(1, 2, dtype=torch.int64)}, "grad must be float32"),
        ({"winner": torch.zeros(1, 1, dtype=torch.int64)}, "winner must have shape"),
        ({"winner": torch.zeros(1, 2)}, "winner must be int64"),
        ({"row_splits": torch.tensor([0, 3], dtype=torch.int32)}, "row_splits must be one-dimensional int64"),
        ({"row_splits": torch.tensor([[0, 3]])}, "row_splits must be one-dimensional int64"),
        ({"row_splits": torch.empty(0, dtype=torch.int64)}, "row_splits is empty"),
        ({"permutation": torch.zeros(3)}, "permutation must be one-dimensional int64"),
        ({"rows": 1 << 32}, "outside"),
        ({"rows": -1}, "outside"),
        ({"reduce": "median"}, "sum, mean, max"),
    ],
)
def test_the_operator_itself_refuses_arguments_that_do_not_fit(change, message):
    arguments = {
        "grad": torch.ones(1, 2),
        "winner": torch.zeros(1, 2, dtype=torch.int64),
        "row_splits": torch.tensor([0, 3]),
        "permutation": None,
        "rows": 3,
        "reduce": "max",
    }
    with pytest.raises(RuntimeError, match=message):
        _column_pool_backward(*(arguments | change).values())


@cuda
def test_tensors_on_two_devices_are_refused_in_words():
    with pytest.raises(ConfigError, match="move one"):
        column_pool(torch.ones(3, 2), torch.tensor([0, 3], device="cuda"), "sum")


def test_sums_of_long_half_columns_are_made_in_float32(device):
    for dtype in (torch.float16, torch.bfloat16):
        features = torch.ones(30_000, 1, dtype=dtype, device=device)
        parts = [
            column_pool(features[a:b], torch.tensor([0, b - a], device=device), "sum").item()
            for a, b in pairwise([0, 4096, 20480])
        ]
        assert parts == [4096, 16384]
