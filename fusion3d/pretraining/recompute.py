"""Work whose backward pass computes it again: between the two, only its result and what it learns from are kept.

As activation checkpoints (Chen et al. 2016, arXiv 1604.06174; `torch.utils.checkpoint`). Those without reentrance keep the graph
of the work, some thousand small blocks between the large ones that are freed, so that a process that does one piece of work after
the other grows with their number. Those with reentrance lose the weights that the work uses but is not given, and
`DistributedDataParallel` with them. Here the graph of the first run tells the weights and is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import Node, saved_tensors_hooks

from fusion3d.pretraining.memory import give_back_freed_memory

_Result = TypeVar("_Result")


def recomputed(work: Callable[..., _Result], device: torch.device, *given: Tensor) -> _Result:
    """The result of some work on some tensors, with its gradient.

    Parameters
    ----------
    work : runs now and in each backward pass; it must do the same each time
    device : of the work; what its layers draw there is drawn again
    given : what `work` is called with; any other tensor that it uses must be a weight, or have no gradient. Hooks of weights
        run twice

    Returns
    -------
    What the work returns; tensors in it may stand in dataclasses, dictionaries, lists and tuples.
    """
    give_back_freed_memory()
    if not torch.is_grad_enabled():
        return work(*given)
    again, inside = _Again(work, device), _apart(given)
    with saved_tensors_hooks(lambda _: None, _never):
        result = again.first(inside)
    learnt = [tensor for tensor in _tensors(result) if tensor.requires_grad]
    if not learnt:
        return result
    weights = [weight for weight in used_by(learnt) if not any(weight is tensor for tensor in inside)]
    values = iter(
        cast(tuple[Tensor, ...], _Recomputed.apply(again, [tensor.detach() for tensor in learnt], len(given), *given, *weights))
    )
    return cast(_Result, _with_tensors(result, lambda tensor: next(values) if tensor.requires_grad else tensor))


def used_by(results: Iterable[Tensor]) -> list[Tensor]:
    """Every leaf tensor that the backward pass of some results reaches."""
    found: dict[int, Tensor] = {}
    seen: set[Node | None] = {None}
    waiting = []
    for result in results:
        if result.grad_fn is None and result.requires_grad:
            found[id(result)] = result
        waiting.append(result.grad_fn)
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            found[id(leaf)] = leaf
        waiting.extend(following for following, _ in node.next_functions)  # type: ignore[union-attr]
    return list(found.values())


class _Again:
    """Work that is done twice under the same circumstances: precision and random numbers."""

    def __init__(self, work: Callable[..., Any], device: torch.device) -> None:
        self._work, self._device = work, device
        self._random = torch.get_rng_state()
        self._random_there = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self._precision = [
            (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)) for kind in sorted({"cpu", device.type})
        ]

    def first(self, given: Sequence[Tensor]) -> Any:
        with self._precise():
            return self._work(*given)

    def once_more(self, given: Sequence[Tensor]) -> Any:
        with torch.random.fork_rng([self._device] if self._random_there is not None else []), self._precise():
            torch.set_rng_state(self._random)
            if self._random_there is not None:
                torch.cuda.set_rng_state(self._random_there, self._device)
            return self._work(*given)

    @contextmanager
    def _precise(self) -> Iterator[None]:
        # weights that autocast keeps in another precision would be kept with a graph that is dropped
        with ExitStack() as stack:
            for kind, dtype, enabled in self._precision:
                stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False))
            yield


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, again: _Again, values: list[Tensor], count: int, *own: Tensor) -> tuple[Tensor, ...]:
        ctx.again, ctx.given, ctx.weights = again, own[:count], own[count:]
        ctx.set_materialize_grads(False)
        return tuple(values)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        give_back_freed_memory()
        inside = _apart(ctx.given)
        with torch.enable_grad():
            learnt = [tensor for tensor in _tensors(ctx.again.once_more(inside)) if tensor.requires_grad]
        asked = [(tensor, gradient) for tensor, gradient in zip(learnt, gradients, strict=True) if gradient is not None]
        give_back_freed_memory()  # what the way here has freed: the way back would find other holes
        own = [*inside, *ctx.weights]
        wanted = [tensor for tensor in own if tensor.requires_grad]
        found = iter(torch.autograd.grad([t for t, _ in asked], wanted, [gradient for _, gradient in asked], allow_unused=True))
        return (None, None, None, *(next(found) if tensor.requires_grad else None for tensor in own))


def _apart(given: Sequence[Tensor]) -> list[Tensor]:
    """The tensors without what they were computed from: a backward pass ends at them."""
    return [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in given]


def _never(_: object) -> Tensor:
    raise RuntimeError("the graph of a first run is never gone back through")


def _tensors(result: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _with_tensors(result, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


def _with_tensors(result: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The result with its tensors replaced, in an order that depends on its shape alone."""
    if isinstance(result, Tensor):
        return change(result)
    if is_dataclass(result) and not isinstance(result, type):
        return replace(result, **{field.name: _with_tensors(getattr(result, field.name), change) for field in fields(result)})
    if isinstance(result, dict):
        return {name: _with_tensors(item, change) for name, item in result.items()}
    return type(result)(_with_tensors(item, change) for item in result) if type(result) in (list, tuple) else result
