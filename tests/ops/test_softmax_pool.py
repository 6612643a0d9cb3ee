from itertools import pairwise

import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import softmax_pool, splits_from_counts
from fusion3d.ops.softmax_pool import _softmax_pool, _softmax_pool_backward

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
COUNTS = torch.tensor([3, 0, 1, 40, 0, 2])
SPLITS = splits_from_counts(COUNTS)


def features(channels=5, dtype=torch.float64, rows=46, seed=0):
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def a_permutation(rows=46):
    return torch.randperm(rows, generator=torch.Generator().manual_seed(1))


def dense_softmax_pool(rows, logits, splits):
    heads = logits.shape[1]
    pooled = []
    for start, stop in pairwise(splits.tolist()):
        weights = torch.softmax(logits[start:stop], 0)[:, :, None]
        pooled.append((rows[start:stop].view(stop - start, heads, rows.shape[1] // heads) * weights).sum(0).flatten())
    return torch.stack(pooled)


@pytest.mark.parametrize("heads", [1, 2])
def test_equals_torch_column_by_column(heads):
    rows, logits = features(4), features(heads, seed=2) * 5
    torch.testing.assert_close(softmax_pool(rows, logits, SPLITS), dense_softmax_pool(rows, logits, SPLITS))


@pytest.mark.parametrize("dtype", DTYPES)
def test_takes_one_logit_a_row_in_every_dtype(dtype):
    rows, logits = features(4, dtype), features(1, dtype, seed=2)
    pooled = softmax_pool(rows, logits[:, 0], SPLITS)
    assert pooled.dtype == dtype
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 1e-5)
    expected = dense_softmax_pool(rows.double(), logits.double(), SPLITS)
    torch.testing.assert_close(pooled.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("permutation", [None, a_permutation()])
def test_gradients_of_features_and_logits(permutation):
    rows, logits = features(4).requires_grad_(), features(2, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: softmax_pool(x, y, SPLITS, permutation), (rows, logits))


def test_permuted_rows_give_the_same_columns():
    rows, logits, permutation = features(4), features(2, seed=2), a_permutation()
    stored, stored_logits = torch.empty_like(rows), torch.empty_like(logits)
    stored[permutation], stored_logits[permutation] = rows, logits
    torch.testing.assert_close(softmax_pool(stored, stored_logits, SPLITS, permutation), softmax_pool(rows, logits, SPLITS))


def test_of_large_logits_does_not_overflow():
    pooled = softmax_pool(torch.tensor([[1.0], [3.0]]), torch.tensor([1e30, 1e30]), torch.tensor([0, 2]))
    assert pooled.item() == 2


def test_ignores_rows_with_logit_minus_infinity():
    rows = torch.tensor([[1.0], [3.0], [9.0]], requires_grad=True)
    logits = torch.tensor([0.0, -torch.inf, -torch.inf], requires_grad=True)
    pooled = softmax_pool(rows, logits, torch.tensor([0, 2, 3]))
    assert pooled.flatten().tolist() == [1, 0]
    pooled.sum().backward()
    assert rows.grad.flatten().tolist() == [1, 0, 0]
    assert logits.grad.tolist() == [0, 0, 0]


def test_of_a_nan_logit_is_nan_in_its_column_only():
    pooled = softmax_pool(torch.ones(3, 1), torch.tensor([torch.nan, 0.0, 0.0]), torch.tensor([0, 2, 3]))
    assert pooled.isnan().flatten().tolist() == [True, False]


@pytest.mark.parametrize("columns", [0, 3])
def test_of_nothing(columns):
    rows, logits = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, 2, requires_grad=True)
    pooled = softmax_pool(rows, logits, torch.zeros(columns + 1, dtype=torch.int64))
    assert pooled.tolist() == [[0] * 4] * columns
    pooled.sum().backward()
    assert logits.grad.shape == (0, 2)


@pytest.mark.parametrize(
    ("logits", "message"),
    [(torch.ones(2), "rows"), (torch.ones(3, 2), "heads"), (torch.ones(3).double(), "convert"), (torch.ones(3, 0), "heads")],
)
def test_refuses_bad_logits_in_words(logits, message):
    with pytest.raises(ConfigError, match=message):
        softmax_pool(torch.ones(3, 3), logits, torch.tensor([0, 3]))


def test_schema_fake_kernel_and_autograd_are_consistent():
    rows, logits = features(4).requires_grad_(), features(2, seed=2).requires_grad_()
    torch.library.opcheck(_softmax_pool, (rows, logits, SPLITS, a_permutation()))
    rows, logits = rows.detach(), logits.detach()
    pooled, peak, total = _softmax_pool(rows, logits, SPLITS, None)
    torch.library.opcheck(_softmax_pool_backward, (pooled, rows, logits, pooled, peak, total, SPLITS, None))
