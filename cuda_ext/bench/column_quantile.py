"""column_quantile beside numba (counting sort, then exact percentiles), NumPy and torch.sort: short and long columns.

"Any order" starts from rows with a cell id each, which all contenders have to group first; "sorted" from rows that are grouped.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
from bench.harness import Case, Run
from torch import Tensor

from fusion3d.ops import column_quantile, csr_by_column, splits_from_counts
from fusion3d.ops.column_quantile import column_quantile_reference

QUANTILES = (0.25, 0.5, 0.75, 0.95, 0.98)


def cases(device: torch.device, scale: float) -> Iterator[Case]:
    """10 M heights times `scale`, in columns of about 100, 1000 and 100,000 rows."""
    rows = int(10_000_000 * scale)
    for length in (100, 1000, 100_000):
        columns = max(1, rows // length)
        generator = torch.Generator().manual_seed(0)
        cell = torch.randint(columns, (rows,), generator=generator)
        heights = (torch.rand(rows, generator=generator) ** 2 * 35).to(device)
        splits = splits_from_counts(torch.bincount(cell, minlength=columns)).to(device)
        size = f"{rows:,} heights, {columns:,} columns, {len(QUANTILES)} quantiles, float32"
        yield Case(f"sorted: {size}", _grouped(heights, splits), 1e-5, {})
        yield Case(f"any order: {size}", _scattered(heights, cell.to(device), columns), 1e-5, {})


def _grouped(heights: Tensor, splits: Tensor) -> dict[str, Run]:
    wanted = torch.tensor(QUANTILES, dtype=torch.float64, device=heights.device)
    runs: dict[str, Run] = {
        "fusion3d": lambda: (column_quantile(heights, splits, QUANTILES),),
        "torch.sort twice (reference)": lambda: (column_quantile_reference(heights, splits, wanted),),
    }
    if heights.device.type == "cpu":
        rows, bounds = heights.numpy(), splits.numpy()
        runs["numpy.quantile of each"] = lambda: (_numpy(rows, bounds),)
        if find_spec("numba"):
            from bench.numba_quantile import grouped_quantiles

            runs["numba"] = partial(_numba, grouped_quantiles, rows, bounds)
    return runs


def _scattered(heights: Tensor, cell: Tensor, columns: int) -> dict[str, Run]:
    def ours() -> tuple[Tensor]:
        by_cell = csr_by_column(cell, columns)
        return (column_quantile(heights, by_cell.row_splits, QUANTILES, by_cell.permutation),)

    runs: dict[str, Run] = {"fusion3d": ours}
    if heights.device.type == "cpu" and find_spec("numba"):
        from bench.numba_quantile import scattered_quantiles

        runs["numba"] = partial(_numba, scattered_quantiles, heights.numpy(), cell.numpy(), columns)
    return runs


def _numpy(heights: np.ndarray, splits: np.ndarray) -> Tensor:
    parts = np.split(heights, splits[1:-1])
    return torch.tensor(np.stack([np.quantile(part, QUANTILES) for part in parts]), dtype=torch.float32)


def _numba(kernel, *arguments: object) -> tuple[Tensor]:  # type: ignore[no-untyped-def]
    return (torch.from_numpy(kernel(*arguments, np.array(QUANTILES))),)
