"""Pool rows (points, voxels) to columns: their mean, weighted by the softmax of learned logits over the column.

Schema ``fusion3d::softmax_pool`` with its backward; the references are explained in `fusion3d.ops.column_pool`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fusion3d.errors import ConfigError
from fusion3d.ops import native
from fusion3d.ops.csr import (
    accumulation_dtype,
    as_stored,
    check_csr,
    check_csr_values,
    check_float,
    check_same,
    column_of_row,
    in_order,
    sum_by_column,
)


def softmax_pool(
    features: Float[Tensor, "rows channels"],
    logits: Float[Tensor, "rows heads"] | Float[Tensor, " rows"],
    row_splits: Int64[Tensor, " columns_plus_one"],
    permutation: Int64[Tensor, " ordered_rows"] | None = None,
) -> Float[Tensor, "columns channels"]:
    """Mean of each column's rows weighted by the softmax of their logits over the column; an empty column gives 0.

    Parameters
    ----------
    features : [N, C]
    logits : [N] or [N, H] with H dividing C: head h weighs channels ``h * C / H`` to ``(h + 1) * C / H``. A row with logit -inf
        has no weight; a column of such rows gives 0.
    row_splits, permutation : as in `column_pool`

    Raises
    ------
    ConfigError
        A dtype, shape or device does not fit, H does not divide C, or `row_splits` or `permutation` is not valid.
    """
    check_float("features", features, 2)
    logits = logits.unsqueeze(1) if logits.dim() == 1 else logits
    check_float("logits", logits, 2)
    check_same("logits", logits, "features", features)
    if logits.shape[0] != features.shape[0]:
        raise ConfigError(f"logits has {logits.shape[0]} rows but features {features.shape[0]}")
    if logits.shape[1] == 0 or features.shape[1] % logits.shape[1]:
        raise ConfigError(f"the {features.shape[1]} channels cannot be shared out between {logits.shape[1]} heads of logits")
    check_csr(features, row_splits, permutation)
    pooled, _, _ = native.run(_softmax_pool, features, logits, row_splits, permutation)
    return pooled


def softmax_pool_reference(
    features: Tensor, logits: Tensor, row_splits: Tensor, permutation: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Pooled features [M, C], each column's largest logit [M, H] and its sum of exponentials below that [M, H].

    Both are float32 for half types. They stay apart because their log-sum-exp would round the sum away next to a large logit.
    """
    check_csr_values(features.shape[0], row_splits, permutation)
    dtype = accumulation_dtype(features.dtype)
    rows, scores = in_order(features, permutation).to(dtype), in_order(logits, permutation).to(dtype)
    column = column_of_row(row_splits)
    peak = torch.segment_reduce(scores, "max", lengths=row_splits.diff(), unsafe=True)
    peak = peak.masked_fill(peak == -torch.inf, 0)
    total = sum_by_column((scores - peak.index_select(0, column)).exp(), row_splits)
    weighted = _by_head(rows, logits.shape[1]) * _weights(scores, peak, total, column).unsqueeze(2)
    return sum_by_column(weighted.flatten(1), row_splits).to(features.dtype), peak, total


def softmax_pool_backward_reference(
    grad: Tensor,
    features: Tensor,
    logits: Tensor,
    pooled: Tensor,
    peak: Tensor,
    total: Tensor,
    row_splits: Tensor,
    permutation: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gradients of features [N, C] and logits [N, H]; the weights are computed again, not kept."""
    dtype, heads, column = peak.dtype, logits.shape[1], column_of_row(row_splits)
    weights = _weights(in_order(logits, permutation).to(dtype), peak, total, column)
    upstream = grad.to(dtype)
    rows = _by_head(in_order(features, permutation).to(dtype), heads)
    upstream_rows = _by_head(upstream.index_select(0, column), heads)
    mean = (_by_head(pooled.to(dtype), heads) * _by_head(upstream, heads)).sum(2)
    grad_logits = weights * ((rows * upstream_rows).sum(2) - mean.index_select(0, column))
    grad_features = (upstream_rows * weights.unsqueeze(2)).flatten(1)
    count = features.shape[0]
    return (
        as_stored(grad_features.to(features.dtype), permutation, count),
        as_stored(grad_logits.to(logits.dtype), permutation, count),
    )


def _by_head(rows: Tensor, heads: int) -> Tensor:
    return rows.view(rows.shape[0], heads, rows.shape[1] // heads)


def _weights(scores: Tensor, peak: Tensor, total: Tensor, column: Tensor) -> Tensor:
    share = 1 / total.masked_fill(total == 0, 1)  # 0 where every logit is -inf
    return (scores - peak.index_select(0, column)).exp() * share.index_select(0, column)


_softmax_pool = torch.library.custom_op(
    "fusion3d::softmax_pool",
    softmax_pool_reference,
    mutates_args=(),
    schema="(Tensor features, Tensor logits, Tensor row_splits, Tensor? permutation)"
    " -> (Tensor pooled, Tensor peak, Tensor total)",
)
_softmax_pool_backward = torch.library.custom_op(
    "fusion3d::softmax_pool_backward",
    softmax_pool_backward_reference,
    mutates_args=(),
    schema="(Tensor grad, Tensor features, Tensor logits, Tensor pooled, Tensor peak, Tensor total, Tensor row_splits,"
    " Tensor? permutation) -> (Tensor, Tensor)",
)


@_softmax_pool.register_fake
def _(features: Tensor, logits: Tensor, row_splits: Tensor, permutation: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    columns = row_splits.shape[0] - 1
    peak, total = (logits.new_empty((columns, logits.shape[1]), dtype=accumulation_dtype(features.dtype)) for _ in range(2))
    return features.new_empty(columns, features.shape[1]), peak, total


@_softmax_pool_backward.register_fake
def _(
    grad: Tensor,
    features: Tensor,
    logits: Tensor,
    pooled: Tensor,
    peak: Tensor,
    total: Tensor,
    row_splits: Tensor,
    permutation: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return features.new_empty(features.shape), logits.new_empty(logits.shape)


def _save_softmax(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    features, logits, row_splits, permutation = inputs
    ctx.save_for_backward(features, logits, *output, row_splits, permutation)


def _softmax_gradient(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_softmax_pool_backward(grad.contiguous(), *ctx.saved_tensors), None, None


_softmax_pool.register_autograd(_softmax_gradient, setup_context=_save_softmax)
