"""Pool columns to LiDAR footprints (GEDI) with Gaussian weights.

A footprint is a Gaussian of laser energy on the ground, blurred once more by not knowing where it fell::

    k_ij = exp(-|x_i - x_j|^2 / (2 (s_f^2 + s_g^2))),    |x_i - x_j| <= 3 sqrt(s_f^2 + s_g^2)

x_i is the footprint's centre, x_j a column's centre. GEDI's 25 m are the diameter at 1/e^2 of the peak, four sigmas: s_f =
6.25 m (Dubayah et al. 2020, Science of Remote Sensing 1); the published waveform simulator uses 5.5 m (Hancock et al. 2019,
Earth and Space Science 6). The mission's requirement on geolocation is s_g = 10 m.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fusion3d.errors import ConfigError
from fusion3d.ops import native
from fusion3d.ops.csr import (
    accumulation_dtype,
    check_float,
    check_index,
    check_int64,
    check_same,
    check_splits,
    column_of_row,
    csr_by_column,
    splits_from_counts,
)

FOOTPRINT_SIGMA = 25 / 4
GEOLOCATION_SIGMA = 10.0
_TRUNCATION = 3.0


@dataclass(frozen=True)
class FootprintKernel:
    """Which columns a footprint sees, with what weight.

    Attributes
    ----------
    row_splits, column, weight : CSR by footprint; the weights of a footprint that sees a column add up to 1
    mass : share of each footprint's Gaussian that falls on present columns, 0 to 1
    """

    row_splits: Int64[Tensor, " footprints_plus_one"]
    column: Int64[Tensor, " pairs"]
    weight: Float[Tensor, " pairs"]
    mass: Float[Tensor, " footprints"]


def footprint_pool(
    columns: Float[Tensor, "columns channels"],
    chips: int,
    size: int,
    column_size: float,
    position: Float[Tensor, "footprints 2"],
    chip: Int64[Tensor, " footprints"],
    footprint_sigma: float = FOOTPRINT_SIGMA,
    geolocation_sigma: float = GEOLOCATION_SIGMA,
    present: Bool[Tensor, " columns"] | None = None,
) -> tuple[Float[Tensor, "footprints channels"], Float[Tensor, " footprints"]]:
    """Gaussian-weighted mean of the present columns under each footprint.

    Parameters
    ----------
    columns : [M, C] features of M = chips * size * size columns, numbered ``(chip * size + row) * size + col``
    column_size : side of a column, metres
    position : [F, 2] metres east and south of the north-west corner of the footprint's chip; may lie outside it
    chip : [F]
    footprint_sigma, geolocation_sigma : metres
    present : [M] columns that count; all by default

    Returns
    -------
    [F, C] features in the dtype of `columns`, 0 where no present column is seen, and [F] the share (0 to 1) of the Gaussian's
    mass on present columns, in float32 (float64 for float64 columns). The column that holds a footprint always counts as seen.

    Raises
    ------
    ConfigError
        A dtype, shape or device does not fit, a chip is out of range, or a length is not positive and finite.
    """
    check_float("columns", columns, 2)
    if columns.shape[0] != chips * size * size:
        raise ConfigError(f"columns has {columns.shape[0]} rows, but {chips} chips of {size} x {size} have {chips * size * size}")
    check_same("position", position, "columns", columns, dtype=False)
    kernel = footprint_kernel(chips, size, column_size, position, chip, footprint_sigma, geolocation_sigma, present)
    dtype = accumulation_dtype(columns.dtype)
    pooled = native.run(_footprint_pool, columns, kernel.row_splits, kernel.column, kernel.weight.to(dtype))
    return pooled, kernel.mass.to(dtype)


def footprint_kernel(
    chips: int,
    size: int,
    column_size: float,
    position: Float[Tensor, "footprints 2"],
    chip: Int64[Tensor, " footprints"],
    footprint_sigma: float = FOOTPRINT_SIGMA,
    geolocation_sigma: float = GEOLOCATION_SIGMA,
    present: Bool[Tensor, " columns"] | None = None,
) -> FootprintKernel:
    """The weights that `footprint_pool` applies, float64; same parameters and errors."""
    sigma = math.hypot(footprint_sigma, geolocation_sigma)
    if min(footprint_sigma, geolocation_sigma) < 0 or not (math.isfinite(sigma) and sigma > 0):
        raise ConfigError(f"footprint sigma {footprint_sigma} m and geolocation sigma {geolocation_sigma} m give no Gaussian")
    if not (math.isfinite(column_size) and column_size > 0) or chips < 0 or size < 0:
        raise ConfigError(f"{chips} chips of {size} x {size} columns of {column_size} m are not a grid of columns")
    check_float("position", position, 2)
    check_int64("chip", chip)
    check_same("chip", chip, "position", position, dtype=False)
    if position.shape != (chip.shape[0], 2):
        raise ConfigError(f"position must have shape [{chip.shape[0]}, 2] like chip, not {tuple(position.shape)}")
    if not bool(position.isfinite().all()):
        raise ConfigError("position holds values that are not finite")
    check_index("chip", chip, chips)
    if present is None:
        present = torch.ones(chips * size * size, dtype=torch.bool, device=position.device)
    if present.dtype != torch.bool or present.shape != (chips * size * size,):
        raise ConfigError(f"present must be bool of shape [{chips * size * size}], not {present.dtype} {tuple(present.shape)}")
    check_same("present", present, "position", position, dtype=False)
    return _kernel(size, position.detach().to(torch.float64) / column_size, chip, sigma / column_size, present)


def _kernel(size: int, position: Tensor, chip: Tensor, sigma: float, present: Tensor) -> FootprintKernel:
    """`position` and `sigma` are in columns here."""
    reach = math.floor(_TRUNCATION * sigma + 0.5)
    steps = torch.arange(-reach, reach + 1, device=position.device)
    home = position.floor().to(torch.int64)
    east, south = home[:, :1] + steps, home[:, 1:] + steps
    squared = _squares(south, position[:, 1:]).unsqueeze(2) + _squares(east, position[:, :1]).unsqueeze(1)
    nearest = squared[:, reach, reach].view(-1, 1, 1)
    seen = squared <= (_TRUNCATION * sigma) ** 2
    seen[:, reach, reach] = True
    # measured from the nearest centre, so that a Gaussian far narrower than a column does not underflow to 0 / 0
    weight = torch.where(seen, torch.exp((nearest - squared) / (2 * sigma * sigma)), 0.0)
    inside = (_within(south, size).unsqueeze(2) & _within(east, size).unsqueeze(1)) & seen
    footprint, i, j = inside.nonzero(as_tuple=True)
    column = (chip[footprint] * size + south[footprint, i]) * size + east[footprint, j]
    value = weight[footprint, i, j]
    kept = present[column]
    footprint, column, value = footprint[kept], column[kept], value[kept]
    row_splits = splits_from_counts(torch.bincount(footprint, minlength=chip.numel()))
    on_present = torch.segment_reduce(value, "sum", lengths=row_splits.diff(), unsafe=True)
    return FootprintKernel(row_splits, column, value / on_present[footprint], on_present / weight.sum((1, 2)))


def _squares(cells: Tensor, position: Tensor) -> Tensor:
    return (cells + 0.5 - position) ** 2


def _within(cells: Tensor, size: int) -> Tensor:
    return (cells >= 0) & (cells < size)


def footprint_pool_reference(columns: Tensor, row_splits: Tensor, column: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of the named columns of each footprint, [F, C]."""
    check_index("column", column, columns.shape[0])
    check_splits(row_splits, column.numel())
    return _weighted_sum(columns.to(weight.dtype), row_splits, column, weight).to(columns.dtype)


def footprint_pool_backward_reference(grad: Tensor, row_splits: Tensor, column: Tensor, weight: Tensor, columns: int) -> Tensor:
    """Gradient of the columns [M, C]: the same sum over the pairs, sorted by column."""
    by_column, permutation = csr_by_column(column, columns)
    footprint = column_of_row(row_splits)[permutation]
    return _weighted_sum(grad.to(weight.dtype), by_column, footprint, weight[permutation]).to(grad.dtype)


def _weighted_sum(rows: Tensor, row_splits: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    if not rows.numel() or not index.numel():
        return rows.new_zeros(row_splits.numel() - 1, rows.shape[1])
    bag = torch.nn.functional.embedding_bag
    return bag(index, rows, row_splits, mode="sum", per_sample_weights=weight, include_last_offset=True)


_footprint_pool = torch.library.custom_op(
    "fusion3d::footprint_pool",
    footprint_pool_reference,
    mutates_args=(),
    schema="(Tensor columns, Tensor row_splits, Tensor column, Tensor weight) -> Tensor",
)
_footprint_pool_backward = torch.library.custom_op(
    "fusion3d::footprint_pool_backward",
    footprint_pool_backward_reference,
    mutates_args=(),
    schema="(Tensor grad, Tensor row_splits, Tensor column, Tensor weight, SymInt columns) -> Tensor",
)


@_footprint_pool.register_fake
def _(columns: Tensor, row_splits: Tensor, column: Tensor, weight: Tensor) -> Tensor:
    return columns.new_empty(row_splits.shape[0] - 1, columns.shape[1])


@_footprint_pool_backward.register_fake
def _(grad: Tensor, row_splits: Tensor, column: Tensor, weight: Tensor, columns: int) -> Tensor:
    return grad.new_empty(columns, grad.shape[1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    columns, row_splits, column, weight = inputs
    ctx.save_for_backward(row_splits, column, weight)
    ctx.columns = columns.shape[0]


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _footprint_pool_backward(grad.contiguous(), *ctx.saved_tensors, ctx.columns), None, None, None


_footprint_pool.register_autograd(_gradient, setup_context=_save)
