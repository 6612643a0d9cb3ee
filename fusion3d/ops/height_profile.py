"""Vertical histograms: how the points or the energy of each column are spread over height."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fusion3d.errors import ConfigError
from fusion3d.ops import native
from fusion3d.ops.csr import (
    accumulation_dtype,
    check_float,
    check_int64,
    check_same,
    check_splits,
    column_of_row,
    csr_by_column_reference,
    sum_by_column,
)


def height_profile(
    heights: Float[Tensor, " rows"],
    row_splits: Int64[Tensor, " columns_plus_one"],
    edges: Float[Tensor, " edges"] | Sequence[float],
    weights: Float[Tensor, " rows"] | None = None,
) -> Float[Tensor, "columns bins"] | Int64[Tensor, "columns bins"]:
    """Number, or summed weight, of each column's rows in each height bin.

    Bins are half-open ``[edges[k], edges[k + 1])`` except the last, which holds its upper edge too, as in numpy.histogram.
    Heights outside the edges and NaN fall in no bin.

    Parameters
    ----------
    heights : [N], unit of `edges`
    row_splits : [M + 1], see `fusion3d.ops.csr`
    edges : [K + 1], rising
    weights : [N] of each row; differentiable

    Returns
    -------
    [M, K]: int64 counts without weights, else sums in the weights' dtype

    Raises
    ------
    ConfigError
        A dtype, shape or device does not fit, `row_splits` is not valid, or there are under two edges or they do not rise.
    """
    check_float("heights", heights, 1)
    check_int64("row_splits", row_splits)
    check_same("row_splits", row_splits, "heights", heights, dtype=False)
    bounds = torch.as_tensor(edges, dtype=torch.float64).to(heights.device)
    if bounds.dim() != 1 or bounds.numel() < 2:
        raise ConfigError(f"edges must be one-dimensional with at least 2 heights, not of shape {tuple(bounds.shape)}")
    if weights is not None:
        check_float("weights", weights, 1)
        check_same("weights", weights, "heights", heights, dtype=False)
        if weights.shape != heights.shape:
            raise ConfigError(f"there are {weights.shape[0]} weights for {heights.shape[0]} heights")
    return native.run(_height_profile, heights.detach(), row_splits, bounds, weights)


def height_profile_reference(heights: Tensor, row_splits: Tensor, edges: Tensor, weights: Tensor | None) -> Tensor:
    """Number or summed weight of the rows of each cell, [M, K]."""
    columns, bins = row_splits.shape[0] - 1, edges.shape[0] - 1
    cell = profile_cell_reference(heights, row_splits, edges)
    if weights is None:
        return torch.bincount(cell + 1, minlength=columns * bins + 1)[1:].view(columns, bins)
    by_cell, permutation = csr_by_column_reference(cell, columns * bins)
    ordered = weights.detach().index_select(0, permutation).to(accumulation_dtype(weights.dtype))
    return sum_by_column(ordered.unsqueeze(1), by_cell).to(weights.dtype).view(columns, bins)


def profile_cell_reference(heights: Tensor, row_splits: Tensor, edges: Tensor) -> Tensor:
    """``column * K + bin`` of each row, [N]; -1 for a row in no bin."""
    check_splits(row_splits, heights.numel())
    if not bool((edges.diff() > 0).all()):
        raise ConfigError(f"edges must rise: {edges.tolist()}")
    bins = edges.numel() - 1
    height = heights.to(torch.float64)
    # only the top edge itself belongs to the bin below it
    bin_ = (torch.searchsorted(edges, height, right=True) - 1).clamp(max=bins - 1)
    inside = (height >= edges[0]) & (height <= edges[-1])
    return torch.where(inside, column_of_row(row_splits) * bins + bin_, -1)


_height_profile = torch.library.custom_op(
    "fusion3d::height_profile",
    height_profile_reference,
    mutates_args=(),
    schema="(Tensor heights, Tensor row_splits, Tensor edges, Tensor? weights) -> Tensor",
)
_profile_cell = torch.library.custom_op(
    "fusion3d::profile_cell",
    profile_cell_reference,
    mutates_args=(),
    schema="(Tensor heights, Tensor row_splits, Tensor edges) -> Tensor",
)


@_height_profile.register_fake
def _(heights: Tensor, row_splits: Tensor, edges: Tensor, weights: Tensor | None) -> Tensor:
    return (row_splits if weights is None else weights).new_empty(row_splits.shape[0] - 1, edges.shape[0] - 1)


@_profile_cell.register_fake
def _(heights: Tensor, row_splits: Tensor, edges: Tensor) -> Tensor:
    return row_splits.new_empty(heights.shape[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    heights, row_splits, edges, _ = inputs
    ctx.save_for_backward(heights, row_splits, edges)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The weight of a row has its cell's gradient; 0 in no bin."""
    cell = _profile_cell(*ctx.saved_tensors)
    with_none = torch.cat((grad.new_zeros(1), grad.flatten()))
    return None, None, None, with_none.index_select(0, cell + 1)


_height_profile.register_autograd(_gradient, setup_context=_save)
