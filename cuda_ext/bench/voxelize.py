"""voxelize beside torch.unique and Open3D: points of a terrain with trees, in the order of a scan and in no order."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import torch
from bench.harness import Case, Run
from torch import Tensor

from fusion3d.ops.voxelize import _voxelize, pack_coordinates, voxelize_reference

_VOXEL = 0.5  # m
_OPEN3D = "Open3D voxel_down_sample"


def terrain(points: int, side: float, generator: torch.Generator) -> Tensor:
    """Voxel coordinates of points on `side` x `side` m: half on rolling ground, half in the uppermost 2 m of crowns above it."""
    x, y, depth = (torch.rand(points, generator=generator, dtype=torch.float64) for _ in range(3))
    x, y = x * side, y * side
    crown = 12 + 4 * torch.sin(x / 2) * torch.cos(y / 2) - 2 * depth
    ground = 20 * torch.sin(x / 80) + 15 * torch.cos(y / 60)
    z = ground + torch.where(torch.rand(points, generator=generator) < 0.5, crown, 0)
    row, column, level = ((axis / _VOXEL).floor().long() for axis in (-y, x, z))
    return torch.stack([torch.zeros_like(row), level, row - 20_000, column + 20_000], 1)


def in_order_of_a_scan(coordinates: Tensor) -> Tensor:
    """Strips of 50 m, each from north to south."""
    strip = coordinates[:, 3].div(int(50 / _VOXEL), rounding_mode="floor")
    return coordinates[torch.argsort(strip * (1 << 20) + coordinates[:, 2], stable=True)]


def cases(device: torch.device, scale: float) -> Iterator[Case]:
    """10 M points times `scale`: 10 a square metre as ALS has them, and 50."""
    generator = torch.Generator().manual_seed(0)
    points = int(10_000_000 * scale)
    for density in (50, 10):
        scan = in_order_of_a_scan(terrain(points, (points / density) ** 0.5, generator))
        for order in ("scan order", "no order"):
            given = (scan if order == "scan order" else scan[torch.randperm(points, generator=generator)]).to(device)
            keys = pack_coordinates(given)
            runs: dict[str, Run] = {
                "fusion3d": lambda c=given: _voxelize(c)[1:2],
                "torch.unique of packed keys": lambda k=keys: torch.unique(k, return_inverse=True)[1:],
                "packing and torch.unique": lambda c=given: torch.unique(pack_coordinates(c), return_inverse=True)[1:],
                "reference": lambda c=given: voxelize_reference(c)[1:2],
            }
            if find_spec("open3d") and device.type == "cpu":
                runs[_OPEN3D] = _open3d(given)
            unchecked = {_OPEN3D: "it gives the mean point of each voxel, in no order and without the points' voxels"}
            yield Case(f"{points:,} points, {density} a square metre, {order}, voxels of {_VOXEL} m", runs, 0, unchecked)


def _open3d(coordinates: Tensor) -> Run:
    import open3d

    centres = (coordinates[:, [3, 2, 1]].double() + 0.5) * _VOXEL
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(centres.numpy()))
    voxels = pack_coordinates(coordinates).unique().numel()
    found = len(cloud.voxel_down_sample(_VOXEL).points)
    if found != voxels:
        raise AssertionError(f"Open3D finds {found} voxels, there are {voxels}")
    return lambda: (torch.tensor(len(cloud.voxel_down_sample(_VOXEL).points)),)
