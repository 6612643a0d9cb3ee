// column_pool for CUDA tensors: the torch side of cuda/column_pool.cu, and the twin of cpu/column_pool.cpp.
#include <tuple>

#include "binding.h"
#include "cuda/device.h"

namespace fusion3d::cuda {
namespace {

std::tuple<Tensor, Tensor> column_pool_op(
    const Tensor& features, const Tensor& row_splits, const std::optional<Tensor>& permutation, const std::string& reduce) {
  check_dimensions("features", features, 2);
  const Reduce how = reduce_of(reduce);
  const FloatType type = float_type_of("features", features.scalar_type());
  const CsrTensors csr("features", features, row_splits, permutation, features.size(0), features.size(1));
  const OnDeviceOf device(features);
  const int64_t longest = check_csr(csr, features, device.stream);
  const Columns& columns = csr.columns;
  const Tensor rows = torch::stable::contiguous(features);
  Tensor pooled = torch::stable::new_empty(features, {columns.columns, columns.channels});
  Tensor winner = how == Reduce::max ? torch::stable::new_empty(row_splits, {columns.columns, columns.channels})
                                     : torch::stable::new_empty(row_splits, {0});
  succeed("column_pool", column_pool(how, type, rows.const_data_ptr(), columns, longest, pooled.mutable_data_ptr(),
                                     output<int64_t>(winner), device.stream));
  return {pooled, winner};
}

Tensor column_pool_backward_op(
    const Tensor& grad, const Tensor& winner, const Tensor& row_splits, const std::optional<Tensor>& permutation, int64_t rows,
    const std::string& reduce) {
  check_dimensions("grad", grad, 2);
  const Reduce how = reduce_of(reduce);
  const FloatType type = float_type_of("grad", grad.scalar_type());
  const CsrTensors csr("grad", grad, row_splits, permutation, rows, grad.size(1));
  const Columns& columns = csr.columns;
  check_shape("grad", grad, columns.columns, columns.channels);
  if (how == Reduce::max) check_winner(winner, grad);
  const OnDeviceOf device(grad);
  const int64_t longest = check_csr(csr, grad, device.stream);
  const Tensor upstream = torch::stable::contiguous(grad), winners = torch::stable::contiguous(winner);
  Tensor result = torch::stable::new_empty(grad, {rows, columns.channels});
  if (csr.leaves_rows_out()) torch::stable::zero_(result);
  succeed("column_pool_backward", column_pool_backward(how, type, upstream.const_data_ptr(), data<int64_t>(winners), columns,
                                                       longest, result.mutable_data_ptr(), device.stream));
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CUDA, library) {
  library.impl("column_pool", TORCH_BOX(&column_pool_op));
  library.impl("column_pool_backward", TORCH_BOX(&column_pool_backward_op));
}

}  // namespace
}  // namespace fusion3d::cuda
