"""Operators on columns: schema, autograd and reference; one file an operator, compiled kernels join the same schemas."""

from fusion3d.ops.column_pool import column_pool
from fusion3d.ops.column_quantile import column_quantile
from fusion3d.ops.contrast import contrast, contrast_rows
from fusion3d.ops.csr import Csr, column_of_row, csr_by_column, splits_from_counts
from fusion3d.ops.footprint_pool import FootprintKernel, footprint_kernel, footprint_pool
from fusion3d.ops.height_profile import height_profile
from fusion3d.ops.kernel_map import KernelMap, kernel_map, strided_kernel_map
from fusion3d.ops.lift import lift
from fusion3d.ops.softmax_pool import softmax_pool
from fusion3d.ops.sparse_conv import check_convolution, check_pairs, sparse_conv
from fusion3d.ops.voxelize import Voxels, voxel_row_splits, voxelize

__all__ = [
    "Csr",
    "FootprintKernel",
    "KernelMap",
    "Voxels",
    "check_convolution",
    "check_pairs",
    "column_of_row",
    "column_pool",
    "column_quantile",
    "contrast",
    "contrast_rows",
    "csr_by_column",
    "footprint_kernel",
    "footprint_pool",
    "height_profile",
    "kernel_map",
    "lift",
    "softmax_pool",
    "sparse_conv",
    "splits_from_counts",
    "strided_kernel_map",
    "voxel_row_splits",
    "voxelize",
]
