"""Which library multiplies sparse convolutions: `native` (fusion3d's own operator) or `spconv`.

Modules, weights and kernel maps are the same under both, so a checkpoint of one runs under the other. The choice is one for the
process: the environment variable ``FUSION3D_SPARSE_BACKEND`` sets it at import, `set_backend` and `use_backend` change it.

spconv takes over the arithmetic of layers that it can do. What it cannot is settled openly: dtypes that it lacks are an error,
while layers without voxels or pairs, kernels of one element and sizes that overflow its 32-bit indices run natively.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from fusion3d.errors import ConfigError
from fusion3d.ops import KernelMap, check_convolution, sparse_conv
from fusion3d.sparse import spconv_verdict

BACKENDS = ("native", "spconv")
ENVIRONMENT = "FUSION3D_SPARSE_BACKEND"

OVERFLOW = 1 << 31
"""Bytes from which a tensor leaves the 32-bit offsets of spconv's kernels."""

_INDEX_BYTES = 4
_DTYPES = {"cpu": (torch.float32, torch.float64), "cuda": (torch.float32, torch.float16)}
_chosen = os.environ.get(ENVIRONMENT) or "native"


def current_backend() -> str:
    """The backend that convolutions use now.

    Raises
    ------
    ConfigError
        ``FUSION3D_SPARSE_BACKEND`` names no backend.
    """
    if _chosen not in BACKENDS:
        raise ConfigError(f"there is no sparse backend {_chosen!r} ({ENVIRONMENT}); choose from {', '.join(BACKENDS)}")
    return _chosen


def set_backend(name: str) -> None:
    """Use `name` ("native" or "spconv") from now on, in the whole process.

    Raises
    ------
    ConfigError
        No such backend, or spconv is not installed as it must be. Whether it also computes rightly is found out in a process of
        its own before the first convolution on each kind of device.
    """
    global _chosen
    if name not in BACKENDS:
        raise ConfigError(f"there is no sparse backend {name!r}; choose from {', '.join(BACKENDS)}")
    if name == "spconv":
        spconv_verdict.require_installed()
    _chosen = name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """`set_backend` for a ``with`` block; the backward pass of what ran inside keeps the block's backend."""
    global _chosen
    before = _chosen
    set_backend(name)
    try:
        yield
    finally:
        _chosen = before


def convolve(
    features: Float[Tensor, "inputs in_channels"],
    weight: Float[Tensor, "elements in_channels out_channels"],
    kernel_map: KernelMap,
    bias: Float[Tensor, " out_channels"] | None = None,
) -> Float[Tensor, "outputs out_channels"]:
    """`fusion3d.ops.sparse_conv` by the backend that was chosen.

    Raises
    ------
    ConfigError
        As `fusion3d.ops.sparse_conv`; or spconv was chosen and lacks the dtype, is refused on this machine or is not installed.
    """
    if _chosen == "native":
        return sparse_conv(features, weight, kernel_map, bias)
    return _by_spconv(features, weight, kernel_map, bias)


@torch.compiler.disable  # spconv's functions read memory addresses: torch.compile breaks the graph here
def _by_spconv(features: Tensor, weight: Tensor, kernel_map: KernelMap, bias: Tensor | None) -> Tensor:
    current_backend()
    device = features.device
    if device.type not in _DTYPES:
        raise ConfigError(f"spconv does not run on {device.type}; take the native sparse backend ({ENVIRONMENT}=native)")
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
        features, weight = features.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    check_convolution(features, weight, kernel_map)
    _check_dtype(features)
    if not _worthwhile(kernel_map) or _overflows(features, weight, kernel_map):
        return sparse_conv(features, weight, kernel_map, bias)
    spconv_verdict.require(device)
    from fusion3d.sparse.spconv_convolution import convolve as spconv_convolve

    result = spconv_convolve(features, weight, kernel_map)
    return result if bias is None else result + bias


def _check_dtype(features: Tensor) -> None:
    known = _DTYPES[features.device.type]
    if features.dtype not in known:
        names = " and ".join(str(dtype).removeprefix("torch.") for dtype in known)
        raise ConfigError(
            f"spconv computes in {names} on {features.device.type}, not in {str(features.dtype).removeprefix('torch.')}; "
            f"change the precision, or take the native sparse backend ({ENVIRONMENT}=native)"
        )


def _worthwhile(kernel_map: KernelMap) -> bool:
    """False where spconv asserts, for nothing to multiply, or where one matrix product does the whole layer."""
    return kernel_map.elements > 1 and kernel_map.in_rows.numel() > 0


def _overflows(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> bool:
    largest = largest_bytes(kernel_map, weight.shape[1], weight.shape[2], features.element_size())
    if largest < OVERFLOW:
        return False
    warnings.warn(
        f"a sparse convolution over {max(kernel_map.inputs, kernel_map.outputs):,} voxels needs a tensor of {largest:,} bytes, "
        f"past the 2^31 that spconv can address: it runs on the native backend, with equal results; smaller batches avoid it",
        RuntimeWarning,
        stacklevel=4,
    )
    return True


def largest_bytes(kernel_map: KernelMap, in_channels: int, out_channels: int, element_size: int) -> int:
    """Bytes of the largest tensor that spconv would index: features, output, or its table of neighbours."""
    features = max(kernel_map.inputs * in_channels, kernel_map.outputs * out_channels) * element_size
    table = kernel_map.elements * max(kernel_map.inputs, kernel_map.outputs) * _INDEX_BYTES
    return max(features, table)


def report() -> list[str]:
    """Which backend sparse convolutions use, and whether spconv could: one line each. Runs spconv's self-check afresh."""
    active = f"sparse convolution: {_chosen} backend"
    if _chosen not in BACKENDS:
        active = f"sparse convolution: {ENVIRONMENT}={_chosen} names no backend; choose from {', '.join(BACKENDS)}"
    return [active, f"spconv: {spconv_verdict.describe()}"]
