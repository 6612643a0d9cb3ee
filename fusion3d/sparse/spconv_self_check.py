"""A small problem on which spconv must agree with the native backend; run in a process of its own, which spconv may kill.

``python -c "from fusion3d.sparse.spconv_self_check import main; main('cuda')"`` prints one line of JSON: ``{"problem": ""}`` when
everything agrees, else what does not.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor

from fusion3d.ops import KernelMap, kernel_map, sparse_conv, strided_kernel_map, voxelize

_TRIALS = 8
"""Of each case on a CPU: threads that race go wrong now and then only."""

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2}
"""Largest difference over the largest value."""

_CHANNELS = ((7, 5), (16, 32))


def main(device: str) -> None:
    """Print the verdict on one device."""
    print(json.dumps({"problem": first_problem(torch.device(device))}))


def first_problem(device: torch.device) -> str:
    """The first case in which spconv's output or a gradient is not the native backend's; empty where all agree."""
    dtypes = (torch.float32, torch.float16) if device.type == "cuda" else (torch.float32,)
    random = torch.Generator().manual_seed(0)
    for name, pairs in _maps(device).items():
        for in_channels, out_channels in _CHANNELS:
            for dtype in dtypes:
                tensors = (
                    torch.randn(pairs.inputs, in_channels, generator=random),
                    torch.randn(pairs.elements, in_channels, out_channels, generator=random) / pairs.elements,
                    torch.randn(pairs.outputs, out_channels, generator=random),
                )
                difference = _difference(pairs, *(tensor.to(device, dtype) for tensor in tensors))
                if not difference <= _TOLERANCE[dtype]:  # NaN is a difference too
                    kind = str(dtype).removeprefix("torch.")
                    return f"{name} convolution {in_channels} -> {out_channels} in {kind} is off by {difference:.1e}"
    return ""


def _maps(device: torch.device) -> dict[str, KernelMap]:
    random = torch.Generator().manual_seed(1)
    points = torch.randint(-12, 12, (6000, 4), generator=random)
    points[:, 0] = points[:, 0] % 3
    coordinates = voxelize(points.to(device)).coordinates
    strided = strided_kernel_map(coordinates)[1]
    return {
        "submanifold": kernel_map(coordinates),
        "dilated": kernel_map(coordinates, dilation=2),
        "strided": strided,
        "inverse": strided.transposed(),
        "5 x 5 x 5": kernel_map(coordinates, 5),
    }


def _difference(pairs: KernelMap, features: Tensor, weight: Tensor, upstream: Tensor) -> float:
    from fusion3d.sparse.spconv_convolution import convolve

    expected = _with_gradients(sparse_conv, pairs, features, weight, upstream)
    trials = _TRIALS if features.device.type == "cpu" else 1
    differences = [
        (one - other).abs().max() / other.abs().max()
        for _ in range(trials)
        for one, other in zip(_with_gradients(convolve, pairs, features, weight, upstream), expected, strict=True)
    ]
    return float(torch.stack(differences).max())  # NaN if one of them is


def _with_gradients(convolution, pairs: KernelMap, features: Tensor, weight: Tensor, upstream: Tensor) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
    inputs = features.clone().requires_grad_(), weight.clone().requires_grad_()
    result = convolution(*inputs, pairs)
    return tuple(value.detach().double() for value in (result, *torch.autograd.grad(result, inputs, upstream)))
