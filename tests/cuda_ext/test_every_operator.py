"""What every operator must do, on small data: the suite of sanitizers and GPU tools. A new operator adds a line to CASES."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest
import torch

import fusion3d.ops
from fusion3d.ops import csr_by_column, splits_from_counts, voxelize
from fusion3d.ops.kernel_map import kernel_map_reference

pytestmark = pytest.mark.usefixtures("compiled")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.float16: 2e-3, torch.bfloat16: 2e-2}
COUNTS = torch.tensor([3, 0, 1, 2500, 0, 33, 2, 0])  # empty, short, and longer than any piece that threads share
ROWS, COLUMNS, CHANNELS = int(COUNTS.sum()), len(COUNTS), 12


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def whole(low: int, high: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def order() -> torch.Tensor:
    return torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))


SPLITS = splits_from_counts(COUNTS)
POINTS = whole(-9, 9, 600, 4).abs_()
VOXELS = voxelize(POINTS).coordinates
PAIRS = kernel_map_reference(VOXELS, 3, 1)
PIXELS = (whole(0, 2, 500), random(500, 2, seed=2).abs_() * 3)  # chip and position
FOOTPRINTS = csr_by_column(whole(0, 20, 300), 20).row_splits, whole(0, COLUMNS, 300, seed=3), random(300, seed=4).abs_()


def of_columns(name: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """Arguments of the operators that pool rows to columns, backward ones with what the forward ones return."""
    features, logits = random(ROWS, CHANNELS, dtype=dtype), random(ROWS, 3, dtype=dtype, seed=5)
    grad = random(COLUMNS, CHANNELS, dtype=dtype, seed=6)
    saved = reference(name.removesuffix("_backward"))
    if name == "softmax_pool":
        return features, logits, SPLITS, order()
    if name == "softmax_pool_backward":
        return grad, features, logits, *saved(features, logits, SPLITS, order()), SPLITS, order()
    if name == "column_pool":
        return features, SPLITS, order(), "max"
    return grad, saved(features, SPLITS, order(), "max")[1], SPLITS, order(), ROWS, "max"


def of_contrast(dtype: torch.dtype, *, backward: bool) -> tuple[Any, ...]:
    query, key = random(400, CHANNELS, dtype=dtype) / 4, random(400, CHANNELS, dtype=dtype, seed=1) / 4
    places = random(400, 2, seed=2), whole(0, 3, 400), 0.5, 128
    if not backward:
        return query, key, *places
    grads = random(400, dtype=dtype, seed=3), random(400, dtype=dtype, seed=4)
    return *grads, *reference("contrast")(query, key, *places), query, key, *places


CASES: dict[str, Callable[[torch.dtype], tuple[Any, ...]]] = {
    "column_pool": lambda dtype: of_columns("column_pool", dtype),
    "column_pool_backward": lambda dtype: of_columns("column_pool_backward", dtype),
    "column_quantile": lambda dtype: (random(ROWS, dtype=dtype), SPLITS, torch.tensor([0, 0.37, 1.0]).double(), order()),
    "contrast": lambda dtype: of_contrast(dtype, backward=False),
    "contrast_backward": lambda dtype: of_contrast(dtype, backward=True),
    "csr_by_column": lambda _: (whole(-1, 50, 2000), 50),
    "footprint_pool": lambda dtype: (random(COLUMNS, CHANNELS, dtype=dtype), *FOOTPRINTS[:2], wide(FOOTPRINTS[2], dtype)),
    "footprint_pool_backward": lambda dtype: (
        random(20, CHANNELS, dtype=dtype), *FOOTPRINTS[:2], wide(FOOTPRINTS[2], dtype), COLUMNS,
    ),
    "height_profile": lambda dtype: (
        random(ROWS, dtype=dtype), SPLITS, torch.linspace(-2, 2, 9).double(), random(ROWS, dtype=dtype, seed=1),
    ),
    "kernel_map": lambda _: (VOXELS, 3, 1),
    "lift": lambda dtype: (random(2, CHANNELS, 7, 9, dtype=dtype), *PIXELS, "bilinear"),
    "lift_backward": lambda dtype: (random(500, CHANNELS, dtype=dtype), *PIXELS, [2, CHANNELS, 7, 9], "bilinear"),
    "profile_cell": lambda dtype: (random(ROWS, dtype=dtype), SPLITS, torch.linspace(-2, 2, 9).double()),
    "softmax_pool": lambda dtype: of_columns("softmax_pool", dtype),
    "softmax_pool_backward": lambda dtype: of_columns("softmax_pool_backward", dtype),
    "sparse_conv": lambda dtype: (
        random(len(VOXELS), CHANNELS, dtype=dtype), random(27, CHANNELS, 20, dtype=dtype, seed=1) / 9, *PAIRS, len(VOXELS),
    ),
    "sparse_conv_backward": lambda dtype: (
        random(len(VOXELS), 20, dtype=dtype, seed=2),
        random(len(VOXELS), CHANNELS, dtype=dtype),
        random(27, CHANNELS, 20, dtype=dtype, seed=1) / 9,
        *PAIRS,
    ),
    "strided_kernel_map": lambda _: (VOXELS, 2, 2),
    "voxelize": lambda _: (POINTS,),
}  # fmt: skip
"""Arguments of each operator's schema, by name."""


def wide(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return weight.to(torch.float64 if dtype == torch.float64 else torch.float32)


def reference(name: str) -> Callable[..., Any]:
    """The definition that an operator's file gives."""
    for module in pkgutil.iter_modules(fusion3d.ops.__path__):
        if module.name.startswith("_"):  # the library itself
            continue
        found = getattr(importlib.import_module(f"fusion3d.ops.{module.name}"), f"{name}_reference", None)
        if found is not None:
            return found
    raise LookupError(f"no {name}_reference in fusion3d.ops")


def tensors(results: Any) -> list[torch.Tensor]:
    return [results] if isinstance(results, torch.Tensor) else list(results)


def schemas() -> list[str]:
    return [name.removeprefix("fusion3d::") for name in torch._C._dispatch_get_all_op_names() if name.startswith("fusion3d::")]


def test_every_operator_has_a_case():
    assert sorted(CASES) == sorted(schemas())


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_operator_is_compiled(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fusion3d::{name}", "CPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=cuda)])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("name", sorted(CASES))
def test_equals_the_reference(name, dtype, device):
    arguments = CASES[name](dtype)
    offsets = PAIRS[2]  # stay on the CPU
    moved = [a.to(device) if isinstance(a, torch.Tensor) and a is not offsets else a for a in arguments]
    results = tensors(getattr(torch.ops.fusion3d, name)(*moved))
    for mine, expected in zip(results, tensors(reference(name)(*arguments)), strict=True):
        assert mine.dtype == expected.dtype
        scale = expected.nan_to_num().abs().max().item() if expected.is_floating_point() else 1
        torch.testing.assert_close(mine.cpu(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale, equal_nan=True)
