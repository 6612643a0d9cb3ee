"""Exact quantiles of the heights in each column (relative heights, RH)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fusion3d.errors import ConfigError
from fusion3d.ops import native
from fusion3d.ops.csr import check_float, check_index, check_int64, check_same, check_splits, column_of_row


def column_quantile(
    heights: Float[Tensor, " rows"],
    row_splits: Int64[Tensor, " columns_plus_one"],
    quantiles: Float[Tensor, " quantiles"] | Sequence[float],
    permutation: Int64[Tensor, " ordered_rows"] | None = None,
) -> Float[Tensor, "columns quantiles"]:
    """Quantiles of each column's heights, linear between order statistics (numpy's default, type 7 of Hyndman and Fan 1996).

    Parameters
    ----------
    heights : [N], any unit, in any order within a column; no gradient flows
    row_splits : [M + 1], see `fusion3d.ops.csr`
    quantiles : [Q] in [0, 1]
    permutation : order in which `row_splits` counts the rows, as `csr_by_column` gives it; reading through it is faster than
        ordering the heights first

    Returns
    -------
    [M, Q], dtype of `heights`; NaN for an empty column and for a column that holds a NaN. Half types are interpolated in
    float64. Between equal order statistics, infinite ones too, the quantile is that value.

    Raises
    ------
    ConfigError
        A dtype, shape or device does not fit, `row_splits` or `permutation` is not valid, or a quantile lies outside [0, 1].
    """
    check_float("heights", heights, 1)
    check_int64("row_splits", row_splits)
    check_same("row_splits", row_splits, "heights", heights, dtype=False)
    if permutation is not None:
        check_int64("permutation", permutation)
        check_same("permutation", permutation, "heights", heights, dtype=False)
    wanted = torch.as_tensor(quantiles, dtype=torch.float64).to(heights.device)
    if wanted.dim() != 1:
        raise ConfigError(f"quantiles must have one dimension, not shape {tuple(wanted.shape)}")
    return native.run(_column_quantile, heights.detach(), row_splits, wanted, permutation)


def column_quantile_reference(
    heights: Tensor, row_splits: Tensor, quantiles: Tensor, permutation: Tensor | None = None
) -> Tensor:
    """Sort by height, then stably by column; read the two order statistics that enclose each quantile."""
    if permutation is not None:
        check_index("permutation", permutation, heights.numel())
        heights = heights.index_select(0, permutation)
    check_splits(row_splits, heights.numel())
    if not bool(((quantiles >= 0) & (quantiles <= 1)).all()):
        raise ConfigError(f"quantiles must lie in [0, 1]: {quantiles.tolist()}")
    lengths, starts = row_splits.diff(), row_splits[:-1]
    result = heights.new_full((lengths.numel(), quantiles.numel()), torch.nan)
    filled = lengths > 0
    if not bool(filled.any()) or quantiles.numel() == 0:
        return result
    values, order = torch.sort(heights, stable=True)
    ordered = values[torch.sort(column_of_row(row_splits)[order], stable=True).indices].to(torch.float64)
    starts, last = starts[filled, None], (lengths[filled] - 1)[:, None]
    position = last * quantiles
    below = position.floor().to(torch.int64)
    low, high = ordered[starts + below], ordered[starts + torch.minimum(below + 1, last)]
    weight = position - below
    between = torch.where((low == high) | (weight == 0), low, torch.lerp(low, high, weight))
    # a sort puts NaN last, so a column holds one exactly when its last value is one
    between = between.masked_fill(ordered[starts + last].isnan(), torch.nan)
    result[filled] = between.to(heights.dtype)
    return result


_column_quantile = torch.library.custom_op(
    "fusion3d::column_quantile",
    column_quantile_reference,
    mutates_args=(),
    schema="(Tensor heights, Tensor row_splits, Tensor quantiles, Tensor? permutation=None) -> Tensor",
)


@_column_quantile.register_fake
def _(heights: Tensor, row_splits: Tensor, quantiles: Tensor, permutation: Tensor | None = None) -> Tensor:
    return heights.new_empty(row_splits.shape[0] - 1, quantiles.shape[0])
