"""softmax_pool beside the same made of torch's own operators."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec

import torch
from bench.harness import Case, Run
from torch import Tensor

from fusion3d.ops import column_of_row, softmax_pool, splits_from_counts
from fusion3d.ops.softmax_pool import softmax_pool_backward_reference, softmax_pool_reference

_READ = "read once (sum of all)"


class _Reference(torch.autograd.Function):
    """The references, whatever is compiled."""

    @staticmethod
    def forward(ctx, features, logits, splits):  # type: ignore[no-untyped-def]
        outputs = softmax_pool_reference(features, logits, splits, None)
        ctx.save_for_backward(features, logits, *outputs, splits)
        return outputs[0]

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        features, logits, pooled, peak, total, splits = ctx.saved_tensors
        gradients = softmax_pool_backward_reference(grad.contiguous(), features, logits, pooled, peak, total, splits, None)
        return *gradients, None


def _scattered(features: Tensor, logits: Tensor, column: Tensor, columns: int) -> Tensor:
    index = column.unsqueeze(1).expand_as(logits)
    peak = logits.new_zeros(columns, logits.shape[1]).scatter_reduce(0, index, logits.detach(), "amax", include_self=False)
    power = (logits - peak[column]).exp()
    weights = power / torch.zeros_like(peak).index_add(0, column, power)[column]
    weighted = features.view(len(features), logits.shape[1], -1) * weights.unsqueeze(2)
    return features.new_zeros(columns, features.shape[1]).index_add(0, column, weighted.flatten(1))


def _torch_scatter(features: Tensor, logits: Tensor, splits: Tensor) -> Tensor:
    from torch_scatter import gather_csr, segment_csr

    power = (logits - gather_csr(segment_csr(logits.detach(), splits, reduce="max"), splits)).exp()
    weights = power / gather_csr(segment_csr(power, splits, reduce="sum"), splits)
    weighted = features.view(len(features), logits.shape[1], -1) * weights.unsqueeze(2)
    return segment_csr(weighted.flatten(1), splits, reduce="sum")


def _forward(pool: partial[Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return (pool(),)


def _forward_backward(pool: partial[Tensor], features: Tensor, logits: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    pooled = pool()
    return pooled.detach(), *torch.autograd.grad(pooled, (features, logits), grad)


def cases(device: torch.device, scale: float) -> Iterator[Case]:
    """The cases of column_pool, with one logit a row and with four."""
    rows, channels = int(5_000_000 * scale), 32
    generator = torch.Generator().manual_seed(0)
    for kind, columns, heads in (
        ("short columns", rows // 50, 1),
        ("short columns", rows // 50, 4),
        ("long columns", rows // 50_000, 1),
    ):
        columns = max(1, columns)
        counts = torch.bincount(torch.randint(columns, (rows,), generator=generator), minlength=columns).to(device)
        features = torch.randn(rows, channels, generator=generator).to(device).requires_grad_()
        logits = torch.randn(rows, heads, generator=generator).to(device).requires_grad_()
        grad = torch.randn(columns, channels, generator=generator).to(device)
        splits = splits_from_counts(counts)
        pools = {
            "fusion3d": partial(softmax_pool, features, logits, splits),
            "reference": partial(_Reference.apply, features, logits, splits),
            "index_add, scatter_reduce": partial(_scattered, features, logits, column_of_row(splits), columns),
        }
        if find_spec("torch_scatter"):
            pools["torch_scatter"] = partial(_torch_scatter, features, logits, splits)
        size = f"{rows:,} rows, {columns:,} {kind}, {channels} channels, {heads} logits a row, float32"
        tolerance = 1e-4 if kind == "short columns" else 1e-2  # peers add up 50,000 rows one after the other
        forward: dict[str, Run] = {name: partial(_forward, pool) for name, pool in pools.items()}
        forward[_READ] = lambda f=features: (f.detach().sum(),)
        yield Case(f"softmax, forward: {size}", forward, tolerance, {_READ: "it is the time of reading the features"})
        both: dict[str, Run] = {name: partial(_forward_backward, pool, features, logits, grad) for name, pool in pools.items()}
        yield Case(f"softmax, forward and backward: {size}", both, tolerance, {})
