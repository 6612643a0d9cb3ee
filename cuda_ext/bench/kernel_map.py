"""Kernel maps of terrain voxels beside the reference and, where it is installed, spconv's Native algorithm."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import torch
from bench.harness import Case, Run
from bench.voxelize import terrain
from torch import Tensor

from fusion3d.ops.kernel_map import (
    _kernel_map,
    _strided_kernel_map,
    kernel_map_reference,
    strided_kernel_map_reference,
)
from fusion3d.ops.voxelize import _voxelize

_SPCONV = "spconv, Native"


def _spconv(coordinates: Tensor, size: int, stride: int) -> Run:
    from spconv.core import ConvAlgo
    from spconv.pytorch import ops

    low = coordinates.amin(0)
    indices = (coordinates - low).int().contiguous()
    shape = [int(extent) + size for extent in indices.amax(0)[1:]]

    def pairs() -> tuple[Tensor, ...]:
        padding = [(size - 1) // 2] * 3
        arguments = ([size] * 3, [stride] * 3, padding, [1] * 3, [0] * 3)
        return (ops.get_indice_pairs(indices, 1, shape, ConvAlgo.Native, *arguments, subm=stride == 1)[1],)

    return pairs


def cases(device: torch.device, scale: float) -> Iterator[Case]:
    """200,000 voxels times `scale`."""
    voxels = int(200_000 * scale)
    generator = torch.Generator().manual_seed(0)
    points = int(voxels * 1.7)  # 20 a square metre: 1.7 of them in a voxel, which has 9 neighbours
    coordinates = _voxelize(terrain(points, (points / 20) ** 0.5, generator))[0].to(device)
    kinds = {
        "submanifold, kernel 3": (3, 1),
        "submanifold, kernel 5": (5, 1),
        "stride 2, kernel 2": (2, 2),
        "stride 2, kernel 3": (3, 2),
    }
    for kind, (size, stride) in kinds.items():
        ours, theirs = (_kernel_map, kernel_map_reference) if stride == 1 else (_strided_kernel_map, strided_kernel_map_reference)
        runs: dict[str, Run] = {
            "fusion3d": lambda f=ours, a=(size, stride): f(coordinates, *a),
            "reference": lambda f=theirs, a=(size, stride): f(coordinates, *a),
        }
        if find_spec("spconv") and device.type == "cpu":
            runs[_SPCONV] = _spconv(coordinates, size, stride)
        yield Case(f"{kind}: {len(coordinates):,} voxels", runs, 0, {_SPCONV: "it lists the pairs in another order"})
