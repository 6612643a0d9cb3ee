"""Sparse 3D convolution on voxels: one set of modules, one weight layout."""

from fusion3d.sparse.convolution import InverseConv3d, ResidualBlock, StridedConv3d, SubmanifoldConv3d
from fusion3d.sparse.tensor import SparseTensor
from fusion3d.sparse.unet import UNet

__all__ = ["InverseConv3d", "ResidualBlock", "SparseTensor", "StridedConv3d", "SubmanifoldConv3d", "UNet"]
