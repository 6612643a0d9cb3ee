"""sparse_conv beside its reference and spconv, and beside torch.matmul of rows that need no gathering: the floor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from bench.harness import Case, Run
from torch import Tensor

from fusion3d.ops import KernelMap, kernel_map, sparse_conv, voxelize
from fusion3d.ops.sparse_conv import sparse_conv_backward_reference, sparse_conv_reference

_MATMUL = "torch.matmul, same sizes"


def _terrain(voxels: int) -> Tensor:
    """One surface voxel a cell: hills of 35 m, 0.9 m rough, some 8.9 neighbours."""
    side = round(voxels**0.5)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    rough = 0.9 * torch.rand(side, side, generator=torch.Generator().manual_seed(0))
    height = (20 * torch.sin(row / 40) + 15 * torch.cos(column / 30) + rough).floor().long()
    points = torch.stack([torch.zeros_like(row), height - height.min(), row, column], -1)
    return voxelize(points.flatten(0, 1)).coordinates


def _ours(features: Tensor, weight: Tensor, grad: Tensor, pairs: KernelMap) -> tuple[Tensor, ...]:
    result = sparse_conv(features, weight, pairs)
    return result.detach(), *torch.autograd.grad(result, (features, weight), grad)


def _reference(features: Tensor, weight: Tensor, grad: Tensor, pairs: KernelMap) -> tuple[Tensor, ...]:
    rows, x, w = (pairs.in_rows, pairs.out_rows, pairs.offsets), features.detach(), weight.detach()
    return sparse_conv_reference(x, w, *rows, pairs.outputs), *sparse_conv_backward_reference(grad, x, w, *rows)


def _matmul(features: Tensor, weight: Tensor, grad: Tensor, pairs: KernelMap) -> tuple[Tensor, ...]:
    """The three products of every kernel element, of as many rows as it has pairs, to memory that is there already."""
    counts, x, w = pairs.offsets.diff().tolist(), features.detach(), weight.detach()
    out, back, kernel = torch.empty_like(grad), torch.empty_like(x), torch.empty_like(w[0])
    for count, element in zip(counts, w, strict=True):
        torch.matmul(x[:count], element, out=out[:count])
        torch.matmul(grad[:count], element.T, out=back[:count])
        torch.matmul(x[:count].T, grad[:count], out=kernel)
    return out, back, kernel


def _spconv(features: Tensor, weight: Tensor, coordinates: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    import spconv.pytorch as spconv

    cpu = features.device.type == "cpu"
    channels = weight.shape[1:]
    layer = spconv.SubMConv3d(*channels, 3, bias=False, indice_key="map", algo=spconv.ConvAlgo.Native if cpu else None)
    layer.to(features.device)
    layer.weight.data = weight.detach().unflatten(0, (3, 3, 3)).permute(4, 0, 1, 2, 3).contiguous()
    shape = (coordinates[:, 1:].amax(0) + 1).tolist()
    tensor = spconv.SparseConvTensor(features, coordinates.int(), shape, 1)
    tensor = layer(tensor)  # finds the map, which is kept under its key
    indices = tensor.indice_dict

    def run(grad: Tensor) -> tuple[Tensor, ...]:
        source = spconv.SparseConvTensor(features, coordinates.int(), shape, 1, indice_dict=indices)
        result = layer(source).features
        back, kernel = torch.autograd.grad(result, (features, layer.weight), grad)
        return result.detach(), back, kernel.permute(1, 2, 3, 4, 0).flatten(0, 2)

    return run


def cases(device: torch.device, scale: float) -> Iterator[Case]:
    """200,000 voxels times `scale`, kernel 3, float32, with the map ready; forward and both gradients."""
    coordinates = _terrain(round(200_000 * scale)).to(device)
    pairs = kernel_map(coordinates)
    generator = torch.Generator().manual_seed(1)
    for channels in (16, 32, 64, 128):
        features, grad = (torch.randn(len(coordinates), channels, generator=generator).to(device) for _ in range(2))
        weight = torch.randn(27, channels, channels, generator=generator).to(device) / (9 * channels) ** 0.5
        arguments = features.requires_grad_(), weight.requires_grad_(), grad, pairs
        runs: dict[str, Run] = {
            "fusion3d": lambda a=arguments: _ours(*a),
            "pure torch (the reference)": lambda a=arguments: _reference(*a),
            _MATMUL: lambda a=arguments: _matmul(*a),
        }
        if find_spec("spconv"):
            peer = _spconv(features, weight, coordinates)
            runs["spconv" + (", Native" if device.type == "cpu" else "")] = lambda p=peer, g=grad: p(g)
        neighbours = pairs.in_rows.numel() / len(coordinates)
        name = f"{channels} -> {channels} channels: {len(coordinates):,} terrain voxels, {neighbours:.1f} neighbours, float32"
        # sums of up to 200,000 products of numbers near 1, in another order
        yield Case(name, runs, 5e-3, {_MATMUL: "it is the time of the products alone, of rows that lie in order"})
