"""footprint_pool's sums beside embedding_bag and index_add: the kernel is made beforehand, for all alike."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from bench.harness import Case, Run
from torch import Tensor
from torch.nn import functional

from fusion3d.ops import FootprintKernel, column_of_row, footprint_kernel
from fusion3d.ops.footprint_pool import _footprint_pool

CHIPS, SIZE, COLUMN, CHANNELS = 8, 128, 10.0, 64


def cases(device: torch.device, scale: float) -> Iterator[Case]:
    """40,000 footprints times `scale` on 8 chips of 128 x 128 columns of 10 m and 64 channels."""
    footprints = max(1, int(40_000 * scale))
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(CHIPS * SIZE * SIZE, CHANNELS, generator=generator).to(device).requires_grad_()
    position = (torch.rand(footprints, 2, generator=generator) * SIZE * COLUMN).to(device)
    chip = torch.randint(0, CHIPS, (footprints,), generator=generator).to(device)
    grad = torch.randn(footprints, CHANNELS, generator=generator).to(device)
    kernel = footprint_kernel(CHIPS, SIZE, COLUMN, position, chip)
    runs = _contenders(columns, kernel)
    name = f"{{}}: {footprints:,} footprints, {kernel.column.numel():,} pairs, {CHANNELS} channels, float32"
    yield Case(name.format("forward"), {n: partial(_forward, run) for n, run in runs.items()}, 1e-4, {})
    both: dict[str, Run] = {n: partial(_both, run, columns, grad) for n, run in runs.items()}
    yield Case(name.format("forward and backward"), both, 1e-4, {})


def _contenders(columns: Tensor, kernel: FootprintKernel) -> dict[str, Run]:
    splits, column, weight = kernel.row_splits, kernel.column, kernel.weight.float()
    footprints = splits.numel() - 1
    footprint = column_of_row(splits)

    def embedding_bag() -> tuple[Tensor]:
        bag = functional.embedding_bag
        return (bag(column, columns, splits, mode="sum", per_sample_weights=weight, include_last_offset=True),)

    def index_add() -> tuple[Tensor]:
        pairs = columns.index_select(0, column) * weight.unsqueeze(1)
        return (columns.new_zeros(footprints, columns.shape[1]).index_add(0, footprint, pairs),)

    return {
        "fusion3d": lambda: (_footprint_pool(columns, splits, column, weight),),
        "embedding_bag": embedding_bag,
        "index_select and index_add": index_add,
    }


def _forward(run: Run) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return run()


def _both(run: Run, columns: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    (pooled,) = run()
    pooled.backward(grad)
    gradient, columns.grad = columns.grad, None  # the next contender starts with none
    assert gradient is not None
    return pooled.detach(), gradient
