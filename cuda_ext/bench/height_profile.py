"""height_profile beside bincount, scatter_add and histc: 32 bins of a metre, counts and weighted sums."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from bench.harness import Case, Run
from torch import Tensor

from fusion3d.ops import column_of_row, height_profile, splits_from_counts
from fusion3d.ops.height_profile import height_profile_reference

BINS = 32


def cases(device: torch.device, scale: float) -> Iterator[Case]:
    """10 M heights times `scale`, in columns of about 100 rows and in one."""
    rows = int(10_000_000 * scale)
    generator = torch.Generator().manual_seed(0)
    heights = torch.rand(rows, generator=generator) * (BINS + 4) - 2
    heights[heights == BINS] = 0  # the upper edge belongs to the last bin, for the peers to none
    heights = heights.to(device)
    weights = torch.rand(rows, generator=generator).to(device)
    for columns in (max(1, rows // 100), 1):
        counts = torch.bincount(torch.randint(columns, (rows,), generator=generator), minlength=columns)
        splits = splits_from_counts(counts).to(device)
        size = f"{rows:,} heights, {columns:,} columns, {BINS} bins, float32"
        yield Case(f"counts: {size}", _counts(heights, splits), 0, {})
        tolerance = 1e-4 if columns > 1 else 2e-2  # peers add up all rows one after the other
        yield Case(f"weighted sums: {size}", _sums(heights, splits, weights), tolerance, {})


def _cells(heights: Tensor, splits: Tensor) -> Tensor:
    """The peers' way: edges are whole metres, so the bin is the integer part; a bin more on either side for what is outside."""
    return column_of_row(splits) * (BINS + 2) + heights.floor().clamp(-1, BINS).long() + 1


def _counts(heights: Tensor, splits: Tensor) -> dict[str, Run]:
    edges = torch.arange(BINS + 1, dtype=torch.float64, device=heights.device)
    columns = splits.numel() - 1

    def bincount() -> tuple[Tensor]:
        counts = torch.bincount(_cells(heights, splits), minlength=columns * (BINS + 2))
        return (counts.view(columns, BINS + 2)[:, 1:-1],)

    runs: dict[str, Run] = {
        "fusion3d": lambda: (height_profile(heights, splits, edges),),
        "torch.bincount": bincount,
        "reference": lambda: (height_profile_reference(heights, splits, edges, None),),
    }
    if columns == 1:
        runs["torch.histc"] = lambda: (torch.histc(heights, BINS, 0, BINS).long().unsqueeze(0),)
    return runs


def _sums(heights: Tensor, splits: Tensor, weights: Tensor) -> dict[str, Run]:
    edges = torch.arange(BINS + 1, dtype=torch.float64, device=heights.device)
    columns = splits.numel() - 1

    def scatter_add() -> tuple[Tensor]:
        sums = weights.new_zeros(columns * (BINS + 2)).scatter_add_(0, _cells(heights, splits), weights)
        return (sums.view(columns, BINS + 2)[:, 1:-1],)

    def bincount() -> tuple[Tensor]:
        sums = torch.bincount(_cells(heights, splits), weights, minlength=columns * (BINS + 2))
        return (sums.view(columns, BINS + 2)[:, 1:-1].float(),)

    return {
        "fusion3d": lambda: (height_profile(heights, splits, edges, weights),),
        "scatter_add": scatter_add,
        "torch.bincount": bincount,
        "reference": lambda: (height_profile_reference(heights, splits, edges, weights),),
    }
