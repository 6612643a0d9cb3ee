"""Pool rows (points, voxels) to columns: sum, mean and max.

Schema ``fusion3d::column_pool`` with its backward. The functions named ``*_reference`` are their definition in plain torch:
registered for every device (CompositeExplicitAutograd), they run where the compiled library has no kernel of its own (CPU, CUDA).
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
    as_stored,
    check_csr,
    check_csr_values,
    check_float,
    column_of_row,
    in_order,
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
    check_csr(features, row_splits, permutation)
    pooled, _ = native.run(_column_pool, features, row_splits, permutation, reduce)
    return pooled


def column_pool_reference(features: Tensor, row_splits: Tensor, permutation: Tensor | None, reduce: str) -> tuple[Tensor, Tensor]:
    """Pooled features [M, C] and, for max, the winning row of each [M, C] (-1 in an empty column); else an empty tensor."""
    check_csr_values(features.shape[0], row_splits, permutation)
    rows = in_order(features, permutation)
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
    return as_stored(grad.index_select(0, column_of_row(row_splits)), permutation, rows)


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
