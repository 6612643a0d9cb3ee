"""Sparse convolution over a kernel map: gather, multiply, scatter, one kernel element at a time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fusion3d.errors import ConfigError
from fusion3d.ops import native
from fusion3d.ops.csr import accumulation_dtype, check_float, check_index, check_int64, check_same
from fusion3d.ops.kernel_map import KernelMap


def sparse_conv(
    features: Float[Tensor, "inputs in_channels"],
    weight: Float[Tensor, "elements in_channels out_channels"],
    kernel_map: KernelMap,
    bias: Float[Tensor, " out_channels"] | None = None,
) -> Float[Tensor, "outputs out_channels"]:
    """``out[y] = bias + sum over pairs (x, y) of element k of features[x] @ weight[k]``.

    Parameters
    ----------
    features : [V_in, C_in]; under autocast, features and weight are cast to its dtype
    weight : [K, C_in, C_out]; from conv3d's [C_out, C_in, k, k, k] it is ``permute(2, 3, 4, 1, 0).flatten(0, 2)``
    kernel_map : from `kernel_map`, `strided_kernel_map` or `KernelMap.transposed`
    bias : [C_out]

    Returns
    -------
    [V_out, C_out]; half types are added up in float32

    Raises
    ------
    ConfigError
        A dtype, shape or device does not fit, or the map belongs to other voxels or another kernel.
    """
    device = features.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        features, weight = features.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    check_convolution(features, weight, kernel_map)
    rows = kernel_map.in_rows, kernel_map.out_rows, kernel_map.offsets
    result = native.run(_sparse_conv, features, weight, *rows, kernel_map.outputs)
    return result if bias is None else result + bias


def check_convolution(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> None:
    """Raise ConfigError unless features, weight and map belong together; the rows of the map are not looked at."""
    check_float("features", features, 2)
    check_float("weight", weight, 3)
    check_same("weight", weight, "features", features)
    check_same("kernel_map", kernel_map.in_rows, "features", features, dtype=False)
    if features.shape[0] != kernel_map.inputs:
        raise ConfigError(f"features has {features.shape[0]} rows but the kernel map reads {kernel_map.inputs} voxels")
    if weight.shape[:2] != (kernel_map.elements, features.shape[1]):
        expected = f"[{kernel_map.elements}, {features.shape[1]}, C_out]"
        raise ConfigError(f"weight must have shape {expected} for this kernel map and features, not {tuple(weight.shape)}")


def check_pairs(kernel_map: KernelMap) -> None:
    """Raise ConfigError unless the rows of a map lie within its voxels, rising within each kernel element."""
    rows = kernel_map.in_rows, kernel_map.out_rows, kernel_map.offsets
    _check_pairs(kernel_map.inputs, kernel_map.elements, *rows, kernel_map.outputs)


def sparse_conv_reference(
    features: Tensor, weight: Tensor, in_rows: Tensor, out_rows: Tensor, offsets: Tensor, outputs: int
) -> Tensor:
    """Sum over the kernel's elements; an output voxel occurs at most once in each, so every sum has a fixed order."""
    _check_pairs(features.shape[0], weight.shape[0], in_rows, out_rows, offsets, outputs)
    return _convolve(features, weight, in_rows, out_rows, offsets, outputs)


def _convolve(features: Tensor, weight: Tensor, in_rows: Tensor, out_rows: Tensor, offsets: Tensor, outputs: int) -> Tensor:
    dtype = accumulation_dtype(features.dtype)
    result = torch.zeros(outputs, weight.shape[2], dtype=dtype, device=features.device)
    for element, pairs in _elements(offsets):
        count = pairs.stop - pairs.start
        if count == outputs == features.shape[0]:  # rising rows that name every voxel: the identity, as for the centre
            result += (features @ weight[element]).to(dtype)
        else:
            product = features.index_select(0, in_rows[pairs]) @ weight[element]
            result.index_add_(0, out_rows[pairs], product.to(dtype))
    return result.to(features.dtype)


def sparse_conv_backward_reference(
    grad: Tensor, features: Tensor, weight: Tensor, in_rows: Tensor, out_rows: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the features, [V_in, C_in], by the transposed map, and of the weight, [K, C_in, C_out]."""
    _check_pairs(features.shape[0], weight.shape[0], in_rows, out_rows, offsets, grad.shape[0])
    grad_features = _convolve(grad, weight.transpose(1, 2), out_rows, in_rows, offsets, features.shape[0])
    grad_weight = torch.zeros_like(weight)
    for element, pairs in _elements(offsets):
        rows, upstream = features.index_select(0, in_rows[pairs]), grad.index_select(0, out_rows[pairs])
        grad_weight[element] = rows.T @ upstream
    return grad_features, grad_weight


def _check_pairs(inputs: int, elements: int, in_rows: Tensor, out_rows: Tensor, offsets: Tensor, outputs: int) -> None:
    check_index("in_rows", in_rows, inputs)
    check_index("out_rows", out_rows, outputs)
    check_int64("offsets", offsets)
    count = in_rows.numel()
    if out_rows.numel() != count:
        raise ConfigError(f"in_rows has {count} pairs but out_rows {out_rows.numel()}")
    if offsets.numel() != elements + 1:
        raise ConfigError(f"offsets must have one entry more than weight has kernel elements, {elements}, not {offsets.numel()}")
    if int(offsets[0]) != 0 or int(offsets[-1]) != count or bool((offsets.diff() < 0).any()):
        raise ConfigError(f"offsets must rise from 0 to the number of pairs, {count}")
    inside = torch.ones(count + 1, dtype=torch.bool, device=in_rows.device)
    inside[offsets.to(in_rows.device)] = False  # the first pair of an element may start anywhere
    for name, rows in (("in_rows", in_rows), ("out_rows", out_rows)):
        if bool(((rows.diff() <= 0) & inside[1:count]).any()):
            raise ConfigError(f"{name} must rise within each kernel element")


def _elements(offsets: Tensor) -> list[tuple[int, slice]]:
    """Kernel elements that have pairs, and where these are."""
    bounds = offsets.tolist()
    return [(k, slice(start, stop)) for k, (start, stop) in enumerate(pairwise(bounds)) if stop > start]


_sparse_conv = torch.library.custom_op(
    "fusion3d::sparse_conv",
    sparse_conv_reference,
    mutates_args=(),
    schema="(Tensor features, Tensor weight, Tensor in_rows, Tensor out_rows, Tensor offsets, SymInt outputs) -> Tensor",
)
_sparse_conv_backward = torch.library.custom_op(
    "fusion3d::sparse_conv_backward",
    sparse_conv_backward_reference,
    mutates_args=(),
    schema="(Tensor grad, Tensor features, Tensor weight, Tensor in_rows, Tensor out_rows, Tensor offsets) -> (Tensor, Tensor)",
)


@_sparse_conv.register_fake
def _(features: Tensor, weight: Tensor, in_rows: Tensor, out_rows: Tensor, offsets: Tensor, outputs: int) -> Tensor:
    return features.new_empty(outputs, weight.shape[2])


@_sparse_conv_backward.register_fake
def _(
    grad: Tensor, features: Tensor, weight: Tensor, in_rows: Tensor, out_rows: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    return features.new_empty(features.shape), weight.new_empty(weight.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:5])


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_sparse_conv_backward(grad.contiguous(), *ctx.saved_tensors), None, None, None, None


_sparse_conv.register_autograd(_gradient, setup_context=_save)
