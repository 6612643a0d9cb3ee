// footprint_pool for CUDA tensors: the torch side of cuda/footprint_pool.cu, and the twin of cpu/footprint_pool.cpp.
#include "cuda/device.h"
#include "cuda/footprint_pool.h"
#include "cuda/group_rows.h"
#include "cuda/index_check.h"
#include "footprint_tensors.h"

namespace fusion3d::cuda {
namespace {

Tensor footprint_pool_op(const Tensor& columns, const Tensor& row_splits, const Tensor& column, const Tensor& weight) {
  check_dimensions("columns", columns, 2);
  const FloatType type = float_type_of("columns", columns.scalar_type());
  const FootprintPairs pairs("columns", columns, row_splits, column, weight);
  const OnDeviceOf device(columns);
  check_index("column", pairs.columns, columns.size(0), device.stream);
  check_csr(pairs.csr, columns, device.stream);
  const Tensor rows = torch::stable::contiguous(columns);
  Tensor result = torch::stable::new_empty(columns, {pairs.footprints(), columns.size(1)});
  succeed("footprint_pool", weighted_sums(type, rows.const_data_ptr(), data<int64_t>(pairs.columns),
                                          pairs.weights.const_data_ptr(), nullptr, pairs.csr.columns,
                                          result.mutable_data_ptr(), device.stream));
  return result;
}

Tensor footprint_pool_backward_op(
    const Tensor& grad, const Tensor& row_splits, const Tensor& column, const Tensor& weight, int64_t columns) {
  check_dimensions("grad", grad, 2);
  const FloatType type = float_type_of("grad", grad.scalar_type());
  const FootprintPairs pairs("grad", grad, row_splits, column, weight);
  check_shape("grad", grad, pairs.footprints(), grad.size(1));
  check_columns(columns);
  const OnDeviceOf device(grad);
  check_index("column", pairs.columns, columns, device.stream);
  check_csr(pairs.csr, grad, device.stream);
  const Tensor rows = torch::stable::contiguous(grad);
  const RowGroups groups = group_rows(pairs.columns, columns, device.stream);
  Tensor footprint = torch::stable::new_empty(column, {pairs.count()});
  succeed("footprint_pool_backward", groups_of_places(pairs.csr.columns, output<int64_t>(footprint), device.stream));
  Tensor result = torch::stable::new_empty(grad, {columns, grad.size(1)});
  const Columns by_column{data<int64_t>(groups.splits), nullptr, pairs.count(), columns, grad.size(1)};
  succeed("footprint_pool_backward", weighted_sums(type, rows.const_data_ptr(), data<int64_t>(footprint),
                                                   pairs.weights.const_data_ptr(), data<int64_t>(groups.order), by_column,
                                                   result.mutable_data_ptr(), device.stream));
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CUDA, library) {
  library.impl("footprint_pool", TORCH_BOX(&footprint_pool_op));
  library.impl("footprint_pool_backward", TORCH_BOX(&footprint_pool_backward_op));
}

}  // namespace
}  // namespace fusion3d::cuda
