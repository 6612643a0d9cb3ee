"""Pool rows (points, voxels) to columns: sum, mean, max and a softmax-weighted mean.

Schemas ``fusion3d::column_pool`` and ``fusion3d::softmax_pool`` with their backward. The functions named ``*_reference`` are
their definition in plain torch: registered for every device (CompositeExplicitAutograd), they run where the compiled library has
no kernel of its own (CPU, CUDA).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fusion3d.errors import ConfigError
from fusion3d.ops import native
from fusion3d.ops.csr import (
    accumulation_dtype,
    check_float,
    check_int64,
    check_permutation,
    check_same,
    check_splits,
    column_of_row,
    sum_by_column,
)
from fusion3d.ops.torch_scatter_max import scatter_max

_REDUCTIONS = ("sum", "mean", "max")
_PIECE = 1 << 18


def column_pool(
    features: Float[Tensor, "rows channels"],
    row_splits: Int64[Tensor, " columns_plus_one"],
    reduce: Literal["sum", "mean", "max"],
    permutation: Int64[Tensor, " ordered_rows"] | None = None,
) -> Float[Tensor, "columns channels"]:
    """Sum, mean or maximum of each column's rows; an empty column gives 0.

    Parameters
    ----------
    features : [N, C]; half types are added up in float32
    row_splits : [M + 1], see `fusion3d.ops.csr`
    reduce : "max" lets NaN through and sends the gradient to the first of tied rows
    permutation : order in which `row_splits` counts the rows; rows that it leaves out belong to no column

    Returns
    -------
    [M, C], dtype of `features`

    Raises
    ------
    ConfigError
        A dtype, shape or device does not fit, `reduce` is unknown, or `row_splits` or `permutation` is not valid.
    """
    if reduce not in _REDUCTIONS:
        raise ConfigError(f"reduce must be one of {', '.join(_REDUCTIONS)}, not {reduce!r}")
    check_float("features", features, 2)
    _check_csr(features, row_splits, permutation)
    pooled, _ = native.run(_column_pool, features, row_splits, permutation, reduce)
    return pooled


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
    _check_csr(features, row_splits, permutation)
    pooled, _, _ = native.run(_softmax_pool, features, logits, row_splits, permutation)
    return pooled


def _check_csr(features: Tensor, row_splits: Tensor, permutation: Tensor | None) -> None:
    check_int64("row_splits", row_splits)
    check_same("row_splits", row_splits, "features", features, dtype=False)
    if permutation is not None:
        check_int64("permutation", permutation)
        check_same("permutation", permutation, "features", features, dtype=False)


def _ordered(rows: Tensor, permutation: Tensor | None) -> Tensor:
    return rows if permutation is None else rows.index_select(0, permutation)


def _stored(ordered: Tensor, permutation: Tensor | None, rows: int) -> Tensor:
    if permutation is None:
        return ordered
    return ordered.new_zeros(rows, *ordered.shape[1:]).index_copy_(0, permutation, ordered)


def _check_values(rows: int, row_splits: Tensor, permutation: Tensor | None) -> None:
    if permutation is not None:
        check_permutation(permutation, rows)
    check_splits(row_splits, rows if permutation is None else permutation.numel())


# --- sum, mean, max -----------------------------------------------------------------------------------------------------------


def column_pool_reference(features: Tensor, row_splits: Tensor, permutation: Tensor | None, reduce: str) -> tuple[Tensor, Tensor]:
    """Pooled features [M, C] and, for max, the winning row of each [M, C] (-1 in an empty column); else an empty tensor."""
    _check_values(features.shape[0], row_splits, permutation)
    rows = _ordered(features, permutation)
    if reduce == "max":
        pooled, winner = scatter_max(rows, row_splits) or _max(rows, row_splits)
        if permutation is not None:
            filled = winner >= 0
            winner[filled] = permutation[winner[filled]]
        return pooled, winner
    total = sum_by_column(rows.to(accumulation_dtype(rows.dtype)), row_splits)
    if reduce == "mean":
        total = total / row_splits.diff().clamp(min=1).unsqueeze(1)
    return total.to(features.dtype), row_splits.new_empty(0)


def _max(rows: Tensor, row_splits: Tensor) -> tuple[Tensor, Tensor]:
    lengths = row_splits.diff()
    pooled = torch.segment_reduce(rows, "max", lengths=lengths, unsafe=True)
    pooled.masked_fill_((lengths == 0).unsqueeze(1), 0)
    count, channels = rows.shape
    column = column_of_row(row_splits)
    winner = row_splits.new_full(pooled.shape, count)
    for start in range(0, count, _PIECE):  # pieces bound the memory of the list of matches
        piece = slice(start, start + _PIECE)
        best = pooled.index_select(0, column[piece])
        row, channel = ((rows[piece] == best) | best.isnan() & rows[piece].isnan()).nonzero(as_tuple=True)
        row = row + start
        winner.view(-1).scatter_reduce_(0, column[row] * channels + channel, row, "amin")
    winner[lengths == 0] = -1
    return pooled, winner


def column_pool_backward_reference(
    grad: Tensor, winner: Tensor, row_splits: Tensor, permutation: Tensor | None, rows: int, reduce: str
) -> Tensor:
    """Gradient of the features, [N, C], from that of the pooled ones, [M, C]."""
    if reduce == "max":
        filled = row_splits.diff() > 0
        # a row belongs to one column, so no address is written twice
        return grad.new_zeros(rows, grad.shape[1]).scatter_(0, winner[filled], grad[filled])
    if reduce == "mean":
        grad = (grad.to(accumulation_dtype(grad.dtype)) / row_splits.diff().clamp(min=1).unsqueeze(1)).to(grad.dtype)
    return _stored(grad.index_select(0, column_of_row(row_splits)), permutation, rows)


_column_pool = torch.library.custom_op(
    "fusion3d::column_pool",
    column_pool_reference,
    mutates_args=(),
    schema="(Tensor features, Tensor row_splits, Tensor? permutation, str reduce) -> (Tensor pooled, Tensor winner)",
)
_column_pool_backward = torch.library.custom_op(
    "fusion3d::column_pool_backward",
    column_pool_backward_reference,
    mutates_args=(),
    schema="(Tensor grad, Tensor winner, Tensor row_splits, Tensor? permutation, SymInt rows, str reduce) -> Tensor",
)


@_column_pool.register_fake
def _(features: Tensor, row_splits: Tensor, permutation: Tensor | None, reduce: str) -> tuple[Tensor, Tensor]:
    shape = (row_splits.shape[0] - 1, features.shape[1])
    return features.new_empty(shape), row_splits.new_empty(shape if reduce == "max" else 0)


@_column_pool_backward.register_fake
def _(grad: Tensor, winner: Tensor, row_splits: Tensor, permutation: Tensor | None, rows: int, reduce: str) -> Tensor:
    return grad.new_empty(rows, grad.shape[1])


def _save_pool(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    features, row_splits, permutation, reduce = inputs
    ctx.save_for_backward(output[1], row_splits, permutation)
    ctx.rows, ctx.reduce = features.shape[0], reduce
    ctx.set_materialize_grads(True)


def _pool_gradient(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    winner, row_splits, permutation = ctx.saved_tensors
    return _column_pool_backward(grad.contiguous(), winner, row_splits, permutation, ctx.rows, ctx.reduce), None, None, None


_column_pool.register_autograd(_pool_gradient, setup_context=_save_pool)


# --- softmax ------------------------------------------------------------------------------------------------------------------


def softmax_pool_reference(
    features: Tensor, logits: Tensor, row_splits: Tensor, permutation: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Pooled features [M, C], each column's largest logit [M, H] and its sum of exponentials below that [M, H].

    Both are float32 for half types. They stay apart because their log-sum-exp would round the sum away next to a large logit.
    """
    _check_values(features.shape[0], row_splits, permutation)
    dtype = accumulation_dtype(features.dtype)
    rows, scores = _ordered(features, permutation).to(dtype), _ordered(logits, permutation).to(dtype)
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
    weights = _weights(_ordered(logits, permutation).to(dtype), peak, total, column)
    upstream = grad.to(dtype)
    rows = _by_head(_ordered(features, permutation).to(dtype), heads)
    upstream_rows = _by_head(upstream.index_select(0, column), heads)
    mean = (_by_head(pooled.to(dtype), heads) * _by_head(upstream, heads)).sum(2)
    grad_logits = weights * ((rows * upstream_rows).sum(2) - mean.index_select(0, column))
    grad_features = (upstream_rows * weights.unsqueeze(2)).flatten(1)
    count = features.shape[0]
    return (
        _stored(grad_features.to(features.dtype), permutation, count),
        _stored(grad_logits.to(logits.dtype), permutation, count),
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
