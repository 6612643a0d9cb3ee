"""Sparse convolution by spconv's kernels, over fusion3d's own kernel maps.

spconv is given the pairs of a `KernelMap` in place of those that it would find itself. Output voxels, their order, padding and
kernel elements are therefore exactly those of the native backend for every kind of layer, and weights stay [K, C_in, C_out].

spconv has two algorithms, and two layouts of the pairs. *Native* (CPU tensors; CUDA beyond 32 kernel elements) reads a list for
each element; *implicit GEMM* (its default on CUDA) reads a table with the partner of each voxel under each element, -1 for none,
and for each voxel a bit mask of the elements that have one, by which it sorts voxels into alike tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int32
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from fusion3d.ops import KernelMap, check_pairs

_LARGEST_IMPLICIT = 32
"""Kernel elements that one int32 mask holds, and up to which implicit GEMM is spconv's default."""


@dataclass(frozen=True)
class PairLists:
    """Pairs as the Native algorithm reads them: ``pairs[0, k, :counts[k]]`` are input rows, ``pairs[1, k]`` output rows."""

    pairs: Int32[Tensor, "2 elements longest"]
    counts: Int32[Tensor, " elements"]
    outputs: int
    centred: bool


@dataclass(frozen=True)
class PairTable:
    """One direction of pairs as implicit GEMM reads them.

    Attributes
    ----------
    partner : row that meets each voxel under each element, -1 for none
    mask : bit k of a voxel is set where `partner` of element k is not -1
    order : voxels by rising mask
    """

    partner: Int32[Tensor, "elements voxels"]
    mask: Int32[Tensor, "voxels 1"]
    order: Int32[Tensor, " voxels"]


def pair_lists(kernel_map: KernelMap) -> PairLists:
    """The lists of a map."""
    rows = kernel_map.in_rows
    counts = kernel_map.offsets.diff()
    element, place = _places(kernel_map)
    pairs = torch.full((2, kernel_map.elements, int(counts.max())), -1, dtype=torch.int32, device=rows.device)
    pairs[0, element, place] = rows.int()
    pairs[1, element, place] = kernel_map.out_rows.int()
    return PairLists(pairs, counts.int().to(rows.device), kernel_map.outputs, _centred(kernel_map, counts))


def pair_table(kernel_map: KernelMap) -> PairTable:
    """The table of a map: the input row that each output voxel meets; of `KernelMap.transposed`, the other way round."""
    rows, elements = kernel_map.in_rows, kernel_map.elements
    element, _ = _places(kernel_map)
    partner = torch.full((elements, kernel_map.outputs), -1, dtype=torch.int32, device=rows.device)
    partner[element, kernel_map.out_rows] = rows.int()
    bits = torch.zeros(kernel_map.outputs, dtype=torch.int64, device=rows.device)
    for number, found in enumerate(partner >= 0):
        bits |= found.long() << number
    order = torch.argsort(bits, stable=True).int()
    return PairTable(partner, bits.to(torch.int32).unsqueeze(1), order)  # wraps at bit 31: the same 32 bits


def _places(kernel_map: KernelMap) -> tuple[Tensor, Tensor]:
    """Kernel element of each pair, and its place within the element."""
    device = kernel_map.in_rows.device
    offsets = kernel_map.offsets.to(device)
    element = torch.repeat_interleave(torch.arange(kernel_map.elements, device=device), offsets.diff())
    return element, torch.arange(element.numel(), device=device) - offsets[element]


def _centred(kernel_map: KernelMap, counts: Tensor) -> bool:
    """Whether the middle element joins every voxel to itself, as in a submanifold map: spconv then skips its gathering."""
    middle = kernel_map.elements // 2
    whole = kernel_map.inputs == kernel_map.outputs == int(counts[middle])
    return kernel_map.elements % 2 == 1 and whole and torch.equal(counts, counts.flip(0))


_LISTS = WeakTensorKeyDictionary()
_TABLES = WeakTensorKeyDictionary()
"""Layouts by the input rows of their map: all layers over the same voxels share one, and it goes when the map does."""


def _shared(cache: Any, kernel_map: KernelMap, build: Any) -> Any:
    if kernel_map.in_rows not in cache:
        check_pairs(kernel_map)
        cache[kernel_map.in_rows] = build(kernel_map)
    return cache[kernel_map.in_rows]


def convolve(
    features: Float[Tensor, "inputs in_channels"], weight: Float[Tensor, "elements in_channels out_channels"], pairs: KernelMap
) -> Float[Tensor, "outputs out_channels"]:
    """`fusion3d.ops.sparse_conv` without bias, by spconv: at least one pair, a dtype that spconv has, sizes below its limit."""
    if features.device.type == "cpu" or pairs.elements > _LARGEST_IMPLICIT:
        return _Native.apply(features, weight, _shared(_LISTS, pairs, pair_lists))
    return by_implicit_gemm(features, weight, pairs)


def by_implicit_gemm(features: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
    """`convolve` by spconv's default algorithm on CUDA, for at most 32 kernel elements."""
    with torch.cuda.device(features.device):  # spconv asks the current device for its architecture and stream
        forth, back = _shared(_TABLES, pairs, pair_table), _shared(_TABLES, pairs.transposed(), pair_table)
        return _ImplicitGemm.apply(features, weight, forth, back)


def _spconv_weight(weight: Tensor) -> Tensor:
    """[K, C_in, C_out] to spconv's [C_out, K, 1, 1, C_in]."""
    return weight.permute(2, 0, 1)[:, :, None, None].contiguous()


def _our_weight(weight: Tensor) -> Tensor:
    return weight.flatten(1, 3).permute(1, 2, 0)


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, lists: PairLists) -> Tensor:
        from spconv.core import ConvAlgo
        from spconv.pytorch import ops

        features, filters = features.contiguous(), _spconv_weight(weight)
        ctx.save_for_backward(features, filters)
        ctx.lists = lists
        return ops.indice_conv(features, filters, lists.pairs, lists.counts, lists.outputs, False, lists.centred, ConvAlgo.Native)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from spconv.core import ConvAlgo
        from spconv.pytorch import ops

        features, filters = ctx.saved_tensors
        lists = ctx.lists
        grad_features, grad_filters = ops.indice_conv_backward(
            features, filters, grad.contiguous(), lists.pairs, lists.counts, False, lists.centred, ConvAlgo.Native
        )
        return grad_features, _our_weight(grad_filters), None


class _ImplicitGemm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, forth: PairTable, back: PairTable) -> Tensor:
        from spconv.pytorch import ops

        features, filters = features.contiguous(), _spconv_weight(weight)
        masks = [np.array([0xFFFFFFFF], dtype=np.uint32)]
        train = any(ctx.needs_input_grad[:2])
        outputs = forth.order.numel()
        result, tiles, width = ops.implicit_gemm(
            features, filters, forth.partner, [forth.mask], [forth.order], outputs, masks, train, False, fp32_accum=True
        )
        ctx.save_for_backward(features, filters)
        ctx.others = forth, back, masks, tiles, width
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from spconv.pytorch import ops

        features, filters = ctx.saved_tensors
        forth, back, masks, tiles, width = ctx.others
        with torch.cuda.device(features.device):
            grad_features, grad_filters = ops.implicit_gemm_backward(
                features, filters, grad.contiguous(), forth.partner, back.partner, [forth.mask], [back.mask],
                [forth.order], [back.order], tiles, masks, width, False, fp32_accum=True,
            )  # fmt: skip
        return grad_features, _our_weight(grad_filters), None, None
