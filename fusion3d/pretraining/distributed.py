"""The batches of all processes that train together, seen as one batch.

Each process encodes its own chips; what the loss compares is gathered, and every process computes the same loss over all of it.
A gradient flows back to the rows of this process only, times the number of processes: data-parallel training averages gradients
over processes, and the mean of these is the gradient of one process that had all the chips. The backward pass needs no
exchange, so a process without a row of its own holds up nobody.

Every process must make the same calls in the same order: what decides whether a call is made (the drawn pairs) must be drawn
alike on all of them. With one process each of these functions gives back what it was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, distributed


def world() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process among them."""
    return distributed.get_rank() if world() > 1 else 0


def counts_by_rank(count: int, device: torch.device | str = "cpu") -> list[int]:
    """`count` of every process.

    Parameters
    ----------
    device : one that the processes can exchange tensors of
    """
    if world() == 1:
        return [count]
    own = torch.tensor([count], dtype=torch.int64, device=device)
    found = [torch.empty_like(own) for _ in range(world())]
    distributed.all_gather(found, own)
    return [int(part) for part in found]


def counted_before(count: int, device: torch.device | str = "cpu") -> int:
    """Sum of the counts of the processes before this one."""
    return sum(counts_by_rank(count, device)[: rank()])


def gather_rows(rows: Shaped[Tensor, "rows ..."], counts: Sequence[int] | None = None) -> Shaped[Tensor, "all_rows ..."]:
    """Rows of all processes, in their order, with a gradient to those of this process (see the head of this file).

    Parameters
    ----------
    rows : of one dtype and one shape but for the number of rows, which may be 0
    counts : rows of each process, where they are known already
    """
    if world() == 1:
        return rows
    known = counts_by_rank(rows.shape[0], rows.device) if counts is None else list(counts)
    return _Gather.apply(rows, known)  # type: ignore[no-any-return]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ends = list(accumulate(counts))
        ctx.own = slice(ends[rank()] - counts[rank()], ends[rank()])
        # Collectives want equal shapes: shorter ones are padded, and the padding is cut off again.
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: rows.shape[0]] = rows
        found = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(found, padded)
        return torch.cat([part[:count] for part, count in zip(found, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0][ctx.own] * world(), None


def total_over_ranks(values: Tensor) -> Tensor:
    """Sum over the processes, without a gradient."""
    if world() == 1:
        return values.detach()
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total


def largest_over_ranks(values: Tensor) -> Tensor:
    """Maximum over the processes, without a gradient."""
    if world() == 1:
        return values.detach()
    largest = values.detach().clone()
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return largest


def of_any_rank(weights: Mapping[str, float], names: Sequence[str], device: torch.device | str = "cpu") -> Mapping[str, float]:
    """The weights of every name that some process has one of, so that all of them make the same exchanges.

    Parameters
    ----------
    weights : of this process, 0 or more
    names : all that there may be, in the same order on every process
    """
    if world() == 1:
        return weights
    own = torch.tensor([weights.get(name, -1.0) for name in names], dtype=torch.float64, device=device)
    found = zip(names, largest_over_ranks(own).tolist(), strict=True)
    return {name: weight for name, weight in found if weight >= 0}


def mean_over_ranks(total: Float[Tensor, ""], count: Tensor | int) -> Float[Tensor, ""] | None:
    """Mean of what all processes added up, None where nobody has anything; with a gradient as `gather_rows`.

    Parameters
    ----------
    total : sum of the terms of this process
    count : how many they are
    """
    number = torch.as_tensor(count, device=total.device).to(torch.float64)
    summed, counted = total_over_ranks(torch.stack([total.detach().double(), number]))
    if counted == 0:
        return None
    if world() == 1:
        return total / counted.to(total.dtype)
    own = world() * (total - total.detach())
    return (summed.to(total.dtype) + own) / counted.to(total.dtype)


def sum_over_ranks(values: Float[Tensor, " values"]) -> Float[Tensor, " values"]:
    """Sum over the processes, with a gradient as `gather_rows`."""
    if world() == 1:
        return values
    return total_over_ranks(values) + world() * (values - values.detach())
