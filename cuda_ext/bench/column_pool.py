"""column_pool beside torch's own segment operators: short and long columns, sorted and permuted rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec

import torch
from bench.harness import Case, Run
from torch import Tensor
from torch.nn import functional

from fusion3d.ops import column_of_row, column_pool, splits_from_counts

_READ = "read once (sum of all)"


def _forward_backward(pool: Run, features: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    (pooled,) = pool()
    pooled.backward(grad)
    gradient, features.grad = features.grad, None  # the next contender starts with none
    assert gradient is not None
    return pooled.detach(), gradient


def _contenders(features: Tensor, counts: Tensor, reduce: str) -> dict[str, Run]:
    splits = splits_from_counts(counts)
    column = column_of_row(splits)
    order = torch.arange(len(features), device=features.device)
    wide = column.unsqueeze(1).expand_as(features)
    torch_name = {"sum": "sum", "mean": "mean", "max": "amax"}[reduce]
    pools: dict[str, Run] = {
        "fusion3d": lambda: (column_pool(features, splits, reduce),),  # type: ignore[arg-type]
        "torch.segment_reduce": lambda: (torch.segment_reduce(features, reduce, lengths=counts, unsafe=True),),
        "embedding_bag": lambda: (functional.embedding_bag(order, features, splits[:-1], mode=reduce),),
        "torch.scatter_reduce": lambda: (
            features.new_zeros(len(counts), features.shape[1]).scatter_reduce(0, wide, features, torch_name, include_self=False),
        ),
    }
    if find_spec("torch_scatter"):
        from torch_scatter import segment_csr

        pools["torch_scatter.segment_csr"] = lambda: (segment_csr(features, splits, reduce=reduce),)
    return pools


def cases(device: torch.device, scale: float) -> Iterator[Case]:
    """The cases of issue size times `scale`; results of half a gigabyte are dropped between two cases."""
    rows, channels = int(5_000_000 * scale), 32
    generator = torch.Generator().manual_seed(0)
    for kind, columns in (("short columns", rows // 50), ("long columns", max(1, rows // 50_000))):
        counts = torch.bincount(torch.randint(columns, (rows,), generator=generator), minlength=columns).to(device)
        features = torch.randn(rows, channels, generator=generator).to(device).requires_grad_()
        grad = torch.randn(columns, channels, generator=generator).to(device)
        size = f"{rows:,} rows, {columns:,} {kind}, {channels} channels, float32"
        tolerance = 1e-4 if kind == "short columns" else 2e-2  # peers add up 50,000 rows one after the other
        for reduce in ("max", "sum", "mean"):
            pools = _contenders(features, counts, reduce)
            forward: dict[str, Run] = {name: partial(_without_gradient, pool) for name, pool in pools.items()}
            forward[_READ] = lambda f=features: (f.detach().sum(),)
            yield Case(f"{reduce}, forward: {size}", forward, tolerance, {_READ: "it is the time of reading the features"})
            both: dict[str, Run] = {name: partial(_forward_backward, pool, features, grad) for name, pool in pools.items()}
            yield Case(f"{reduce}, forward and backward: {size}", both, tolerance, {})
        if kind == "short columns":
            yield from _permuted(features, counts, grad, size)


def _without_gradient(pool: Run) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return pool()


def _permuted(features: Tensor, counts: Tensor, grad: Tensor, size: str) -> Iterator[Case]:
    splits = splits_from_counts(counts)
    permutation = torch.randperm(len(features), generator=torch.Generator().manual_seed(1)).to(features.device)
    for reduce in ("max", "sum"):
        pools: dict[str, Run] = {
            "permuted": lambda r=reduce: (column_pool(features, splits, r, permutation),),
            "sorted": lambda r=reduce: (column_pool(features, splits, r),),
        }
        runs: dict[str, Run] = {name: partial(_forward_backward, pool, features, grad) for name, pool in pools.items()}
        yield Case(f"{reduce}, permuted, forward and backward: {size}", runs, 0, {"sorted": "its columns hold other rows"})
