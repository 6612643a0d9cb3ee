"""Compressed sparse rows (CSR): how every operator here knows which rows belong to which column.

Rows are sorted by column; ``row_splits`` has one entry more than there are columns, and column m owns the rows
``row_splits[m]:row_splits[m + 1]``::

    row          0   1   2   3   4   5
    column       0   0   2   2   2   3          column 1 is empty
    row_splits   [0, 2, 2, 5, 6]

Rows that are not stored in that order are reached through a ``permutation``: row ``permutation[k]`` is the k-th in order. A
permutation may leave rows out (they belong to no column) but names none twice.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from fusion3d.errors import ConfigError
from fusion3d.ops import native

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Csr(NamedTuple):
    """Rows grouped by column: ``permutation[row_splits[m]:row_splits[m + 1]]`` are the rows of column m."""

    row_splits: Int64[Tensor, " columns_plus_one"]
    permutation: Int64[Tensor, " rows"]


def splits_from_counts(counts: Int64[Tensor, " columns"]) -> Int64[Tensor, " columns_plus_one"]:
    """Row splits of columns that hold `counts` rows each."""
    splits = counts.new_zeros(counts.numel() + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=splits[1:])
    return splits


def csr_by_column(column: Int64[Tensor, " rows"], columns: int) -> Csr:
    """Group rows by column, in their order of appearance within each column.

    Parameters
    ----------
    column : of each row, in [0, columns); -1 leaves the row out
    columns : M

    Raises
    ------
    ConfigError
        `column` is not one-dimensional int64, or holds a value outside [-1, columns).
    """
    check_int64("column", column)
    return Csr(*native.run(_csr_by_column, column, columns))


def csr_by_column_reference(column: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Row splits and permutation by a stable sort."""
    check_index("column", column, columns, lowest=-1)
    ordered, permutation = torch.sort(column, stable=True)
    starts = torch.searchsorted(ordered, torch.arange(columns + 1, device=column.device))
    return starts - starts[0], permutation[starts[0] :].clone()  # an operator's results are not views


_csr_by_column = torch.library.custom_op(
    "fusion3d::csr_by_column",
    csr_by_column_reference,
    mutates_args=(),
    schema="(Tensor column, SymInt columns) -> (Tensor row_splits, Tensor permutation)",
)


@_csr_by_column.register_fake
def _(column: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    return column.new_empty(columns + 1), column.new_empty(torch.library.get_ctx().new_dynamic_size())


def column_of_row(row_splits: Int64[Tensor, " columns_plus_one"], rows: int | None = None) -> Int64[Tensor, " rows"]:
    """The column that owns each row; whoever knows how many `rows` there are spares a GPU the wait for that number."""
    columns = torch.arange(row_splits.numel() - 1, device=row_splits.device)
    return torch.repeat_interleave(columns, row_splits.diff(), output_size=rows)


def sum_by_column(rows: Shaped[Tensor, "rows channels"], row_splits: Int64[Tensor, " columns_plus_one"]) -> Tensor:
    """Sums of sorted rows, [M, C], in the dtype of `rows`; 0 for empty columns. Not differentiable: it is an inner loop."""
    return torch.segment_reduce(rows.detach(), "sum", lengths=row_splits.diff(), unsafe=True)


def sum_by_index(
    rows: Shaped[Tensor, "rows channels"], index: Int64[Tensor, " rows"], size: int
) -> Shaped[Tensor, "size channels"]:
    """Deterministic ``zeros(size, C).index_add(0, index, rows)`` for an index in any order, also where index_add uses atomics."""
    if rows.device.type == "cpu":
        return rows.new_zeros(size, rows.shape[1]).index_add_(0, index, rows)
    row_splits, permutation = csr_by_column(index, size)
    return sum_by_column(rows.index_select(0, permutation), row_splits)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype to add up in: float32 for the half types, else the dtype itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def check_float(name: str, tensor: Tensor, dimensions: int) -> None:
    """Raise ConfigError unless `tensor` has that many dimensions and one of the four float types."""
    if tensor.dtype not in FLOATS:
        raise ConfigError(f"{name} must be float32, float64, float16 or bfloat16, not {tensor.dtype}")
    if tensor.dim() != dimensions:
        raise ConfigError(f"{name} must have {dimensions} dimension(s), not shape {tuple(tensor.shape)}")


def check_same(name: str, tensor: Tensor, other_name: str, other: Tensor, *, dtype: bool = True) -> None:
    """Raise ConfigError unless two tensors share their device and, if asked, their dtype."""
    if tensor.device != other.device:
        raise ConfigError(f"{name} is on {tensor.device} but {other_name} on {other.device}; move one")
    if dtype and tensor.dtype != other.dtype:
        raise ConfigError(f"{name} is {tensor.dtype} but {other_name} is {other.dtype}; convert one")


def check_int64(name: str, tensor: Tensor) -> None:
    """Raise ConfigError unless `tensor` is one-dimensional int64."""
    if tensor.dtype != torch.int64 or tensor.dim() != 1:
        raise ConfigError(f"{name} must be one-dimensional int64, not {tensor.dtype} of shape {tuple(tensor.shape)}")


def check_index(name: str, index: Tensor, size: int, *, lowest: int = 0) -> None:
    """Raise ConfigError unless `index` is one-dimensional int64 with values in [lowest, size)."""
    check_int64(name, index)
    if index.numel() == 0:
        return
    low, high = (int(value) for value in index.aminmax())
    if low < lowest or high >= size:
        raise ConfigError(f"{name} holds values from {low} to {high}, outside [{lowest}, {size})")


def check_splits(row_splits: Tensor, rows: int) -> None:
    """Raise ConfigError unless `row_splits` starts at 0, never decreases and ends at `rows`."""
    check_int64("row_splits", row_splits)
    if row_splits.numel() == 0:
        raise ConfigError("row_splits is empty; it needs one entry more than there are columns")
    first, last = int(row_splits[0]), int(row_splits[-1])
    if first != 0 or last != rows or bool((row_splits.diff() < 0).any()):
        raise ConfigError(f"row_splits must rise from 0 to the number of rows, {rows}; it goes from {first} to {last}")


def check_permutation(permutation: Tensor, rows: int) -> None:
    """Raise ConfigError unless `permutation` names rows of [0, rows), none of them twice."""
    check_index("permutation", permutation, rows)
    if bool((torch.bincount(permutation, minlength=1) > 1).any()):
        raise ConfigError("permutation names a row twice")


def check_csr(features: Tensor, row_splits: Tensor, permutation: Tensor | None) -> None:
    """Raise ConfigError unless `row_splits` and `permutation` have the dtype, shape and device that go with `features`."""
    check_int64("row_splits", row_splits)
    check_same("row_splits", row_splits, "features", features, dtype=False)
    if permutation is not None:
        check_int64("permutation", permutation)
        check_same("permutation", permutation, "features", features, dtype=False)


def check_csr_values(rows: int, row_splits: Tensor, permutation: Tensor | None) -> None:
    """Raise ConfigError unless the values of `row_splits` and `permutation` fit that many rows."""
    if permutation is not None:
        check_permutation(permutation, rows)
    check_splits(row_splits, rows if permutation is None else permutation.numel())


def in_order(rows: Tensor, permutation: Tensor | None) -> Tensor:
    """Stored rows in the order in which `row_splits` counts them."""
    return rows if permutation is None else rows.index_select(0, permutation)


def as_stored(ordered: Tensor, permutation: Tensor | None, rows: int) -> Tensor:
    """Ordered rows where `rows` rows are stored; 0 for those that the permutation leaves out."""
    if permutation is None:
        return ordered
    return ordered.new_zeros(rows, *ordered.shape[1:]).index_copy_(0, permutation, ordered)
