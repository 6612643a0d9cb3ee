"""Maximum over columns by torch-scatter, where that package is installed: faster on a CPU than the plain torch definition."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor


@cache
def available() -> bool:
    """Whether torch-scatter can be imported; a build for another torch counts as absent."""
    return find_spec("torch_scatter") is not None and _segment_max() is not None


@cache
def _segment_max() -> Any:
    try:
        from torch_scatter import segment_max_csr
    except (ImportError, OSError, RuntimeError):
        return None
    return segment_max_csr


def scatter_max(rows: Tensor, row_splits: Tensor) -> tuple[Tensor, Tensor] | None:
    """Maximum of each column [M, C] and its first row [M, C], as `column_pool` defines them; None where torch-scatter differs.

    It passes over NaN and over columns of nothing but -inf, and rounds half types: those are left to the definition.
    """
    if not available() or rows.dtype not in (torch.float32, torch.float64) or not bool(rows.isfinite().all()):
        return None
    pooled, winner = _segment_max()(rows, row_splits)
    return pooled, torch.where((row_splits.diff() > 0).unsqueeze(1), winner, -1)
