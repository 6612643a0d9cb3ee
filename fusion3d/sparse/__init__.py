"""Sparse 3D convolution on voxels: one set of modules, one weight layout, two backends."""

from fusion3d.sparse.backend import current_backend, set_backend, use_backend
from fusion3d.sparse.convolution import InverseConv3d, ResidualBlock, StridedConv3d, SubmanifoldConv3d
from fusion3d.sparse.tensor import SparseTensor
from fusion3d.sparse.unet import UNet

__all__ = [
    "InverseConv3d",
    "ResidualBlock",
    "SparseTensor",
    "StridedConv3d",
    "SubmanifoldConv3d",
    "UNet",
    "current_backend",
    "set_backend",
    "use_backend",
]
