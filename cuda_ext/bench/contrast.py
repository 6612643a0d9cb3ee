"""contrast beside its reference and beside cross entropy on the whole matrix, which a training step would otherwise write."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from bench.harness import Case, Run
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from fusion3d.ops import contrast
from fusion3d.ops.contrast import TILE, contrast_backward_reference, contrast_reference

_CHANNELS = 256
_TEMPERATURE = 0.07
_RADIUS = 30.0
_PRODUCTS = "matmul, as many products"


def _ours(a: Tensor, b: Tensor, position: Tensor | None, radius: float) -> Tensor:
    return contrast(a, b, _TEMPERATURE, position, None, radius)


class _Reference(torch.autograd.Function):
    """The references, whatever is compiled."""

    @staticmethod
    def forward(ctx, query, key, position, radius):  # type: ignore[no-untyped-def]
        forth, back = contrast_reference(query, key, position, None, radius, TILE)
        ctx.save_for_backward(forth, back, query, key, position)
        ctx.radius = radius
        return forth, back

    @staticmethod
    def backward(ctx, *grads):  # type: ignore[no-untyped-def]
        forth, back, query, key, position = ctx.saved_tensors
        arguments = forth, back, query, key, position, None, ctx.radius, TILE
        return *contrast_backward_reference(*(g.contiguous() for g in grads), *arguments), None, None


def _reference(a: Tensor, b: Tensor, position: Tensor | None, radius: float) -> Tensor:
    query = a / _TEMPERATURE
    forth, back = _Reference.apply(query, b, position, radius)
    return ((forth + back) / 2 - (query * b).sum(1)).mean()


def _dense(a: Tensor, b: Tensor, position: Tensor | None, radius: float) -> Tensor:
    logits = a @ b.T / _TEMPERATURE
    if position is not None:
        east, north = (axis[:, None] - axis for axis in position.T)  # cdist loses the metres in a product
        near = east.square() + north.square() < radius * radius
        logits = logits.masked_fill(near.fill_diagonal_(False), -torch.inf)
    target = torch.arange(len(a), device=a.device)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def _forward(loss: partial[Tensor], a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return (loss(a, b),)


def _forward_backward(loss: partial[Tensor], a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    value = loss(a, b)
    # gradients of single embeddings are about 1 / rows
    return value.detach(), *(gradient * len(a) for gradient in torch.autograd.grad(value, (a, b)))


def _products(a: Tensor, b: Tensor, backward: bool) -> tuple[Tensor, ...]:
    with torch.no_grad():
        for start in range(0, len(a), TILE):
            rows = a[start : start + TILE]
            for key in range(0, len(b), TILE):
                tile = rows @ b[key : key + TILE].T
                if backward:
                    _ = rows @ b[key : key + TILE].T, tile @ b[key : key + TILE], tile.T @ rows
    return (rows,)


def cases(device: torch.device, scale: float) -> Iterator[Case]:
    """The rows of one scene for which the whole matrix fits, then the target's; `scale` is that of the number of pairs."""
    for full, dense in ((8_192, True), (27_648, False)):
        rows = max(2, int(full * scale**0.5))
        generator = torch.Generator().manual_seed(0)
        a = normalize(torch.randn(rows, _CHANNELS, generator=generator), dim=1)
        b = normalize(a + torch.randn(rows, _CHANNELS, generator=generator) / 16, dim=1)
        place = torch.rand(rows, 2, generator=generator) * (rows * 100) ** 0.5  # a column every 100 square metres
        a, b, place = a.to(device).requires_grad_(), b.to(device).requires_grad_(), place.to(device)
        for exclusion, position, radius in (("", None, 0.0), (f", {_RADIUS:.0f} m excluded", place, _RADIUS)):
            losses = {"fusion3d": _ours, "reference": _reference} | ({"cross_entropy, whole matrix": _dense} if dense else {})
            calls = {name: partial(loss, position=position, radius=radius) for name, loss in losses.items()}
            size = f"{rows:,} rows, {_CHANNELS} channels, float32{exclusion}"
            for kind, run in (("forward", _forward), ("forward and backward", _forward_backward)):
                runs: dict[str, Run] = {name: partial(run, call, a, b) for name, call in calls.items()}
                runs[_PRODUCTS] = partial(_products, a, b, run is _forward_backward)
                yield Case(f"contrast, {kind}: {size}", runs, 1e-5, {_PRODUCTS: "it makes the products only"})
