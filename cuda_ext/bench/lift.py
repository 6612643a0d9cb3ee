"""lift beside torch's grid_sample and indexing: points in any order and points sorted by pixel, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from bench.harness import Case, Run
from torch import Tensor
from torch.nn import functional

from fusion3d.ops import lift
from fusion3d.ops.lift import lift_reference

CHIPS, CHANNELS, SIZE = 4, 32, 256


def cases(device: torch.device, scale: float) -> Iterator[Case]:
    """2 M points times `scale` on 4 chips of 256 x 256 pixels and 32 channels."""
    each = max(1, int(500_000 * scale))
    generator = torch.Generator().manual_seed(0)
    raster = torch.randn(CHIPS, CHANNELS, SIZE, SIZE, generator=generator).to(device).requires_grad_()
    position = torch.randint(SIZE, (CHIPS, each, 2), generator=generator).float()
    position += 0.02 + 0.96 * torch.rand(CHIPS, each, 2, generator=generator)  # grid_sample rounds its own way at a pixel's edge
    grad = torch.randn(CHIPS * each, CHANNELS, generator=generator).to(device)
    pixel = position[..., 0].floor() * SIZE + position[..., 1].floor()
    ordered = position.gather(1, pixel.argsort(1).unsqueeze(2).expand_as(position))
    for kind, places in (("any order", position), ("sorted by pixel", ordered)):
        for mode in ("nearest", "bilinear"):
            runs = _contenders(raster, places.to(device), mode)
            name = f"{mode}, {{}}: {CHIPS * each:,} points {kind}, {CHIPS} x {CHANNELS} x {SIZE} x {SIZE}, float32"
            yield Case(name.format("forward"), {n: partial(_forward, run) for n, run in runs.items()}, 1e-4, {})
            both: dict[str, Run] = {n: partial(_both, run, raster, grad) for n, run in runs.items()}
            yield Case(name.format("forward and backward"), both, 1e-3, {})


def _contenders(raster: Tensor, position: Tensor, mode: str) -> dict[str, Run]:
    flat = position.reshape(-1, 2)
    chip = torch.arange(CHIPS, device=raster.device).repeat_interleave(position.shape[1])
    grid = (position.flip(2) / SIZE * 2 - 1).unsqueeze(2)
    row, col = flat.long().unbind(1)

    def grid_sample() -> tuple[Tensor]:
        lifted = functional.grid_sample(raster, grid, mode=mode, padding_mode="border", align_corners=False)
        return (lifted.squeeze(3).transpose(1, 2).reshape(-1, CHANNELS),)

    runs: dict[str, Run] = {
        "fusion3d": lambda: (lift(raster, chip, flat, mode),),  # type: ignore[arg-type]
        "grid_sample": grid_sample,
    }
    if mode == "nearest":
        runs["index"] = lambda: (raster[chip, :, row, col],)
    runs["reference"] = lambda: (lift_reference(raster, chip, flat, mode),)
    return runs


def _forward(run: Run) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return run()


def _both(run: Run, raster: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    (lifted,) = run()
    lifted.backward(grad)
    gradient, raster.grad = raster.grad, None  # the next contender starts with none
    assert gradient is not None
    return lifted.detach(), gradient
