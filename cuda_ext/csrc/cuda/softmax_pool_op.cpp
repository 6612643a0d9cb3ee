// softmax_pool for CUDA tensors: the torch side of cuda/softmax_pool.cu, and the twin of cpu/softmax_pool.cpp.
#include <tuple>

#include "binding.h"
#include "cuda/device.h"
#include "cuda/softmax_pool.h"
#include "softmax_check.h"

namespace fusion3d::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor> softmax_pool_op(
    const Tensor& features, const Tensor& logits, const Tensor& row_splits, const std::optional<Tensor>& permutation) {
  check_logits(features, logits);
  const FloatType type = float_type_of("features", features.scalar_type());
  const CsrTensors csr("features", features, row_splits, permutation, features.size(0), features.size(1));
  const OnDeviceOf device(features);
  const int64_t longest = check_csr(csr, features, device.stream);
  const Columns& columns = csr.columns;
  const Tensor rows = torch::stable::contiguous(features), scores = torch::stable::contiguous(logits);
  Tensor pooled = torch::stable::new_empty(features, {columns.columns, columns.channels});
  Tensor peak = torch::stable::new_empty(logits, {columns.columns, logits.size(1)}, accumulator_of(features));
  Tensor total = torch::stable::new_empty(logits, {columns.columns, logits.size(1)}, accumulator_of(features));
  succeed("softmax_pool", softmax_pool(type, rows.const_data_ptr(), scores.const_data_ptr(), logits.size(1), columns, longest,
                                       pooled.mutable_data_ptr(), peak.mutable_data_ptr(), total.mutable_data_ptr(),
                                       device.stream));
  return {pooled, peak, total};
}

std::tuple<Tensor, Tensor> softmax_pool_backward_op(
    const Tensor& grad, const Tensor& features, const Tensor& logits, const Tensor& pooled, const Tensor& peak,
    const Tensor& total, const Tensor& row_splits, const std::optional<Tensor>& permutation) {
  check_logits(features, logits);
  const FloatType type = float_type_of("features", features.scalar_type());
  const CsrTensors csr("features", features, row_splits, permutation, features.size(0), features.size(1));
  check_pooled(grad, pooled, peak, total, features, logits, csr.columns.columns);
  const OnDeviceOf device(features);
  check_csr(csr, features, device.stream);
  const Tensor dense[] = {torch::stable::contiguous(grad),   torch::stable::contiguous(features),
                          torch::stable::contiguous(logits), torch::stable::contiguous(pooled),
                          torch::stable::contiguous(peak),   torch::stable::contiguous(total)};
  const SoftmaxSaved saved{dense[0].const_data_ptr(), dense[1].const_data_ptr(), dense[2].const_data_ptr(),
                           dense[3].const_data_ptr(), dense[4].const_data_ptr(), dense[5].const_data_ptr()};
  Tensor grad_features = torch::stable::new_empty(features, {csr.rows, csr.columns.channels});
  Tensor grad_logits = torch::stable::new_empty(logits, {csr.rows, logits.size(1)});
  if (csr.leaves_rows_out()) {
    torch::stable::zero_(grad_features);
    torch::stable::zero_(grad_logits);
  }
  succeed("softmax_pool_backward", softmax_pool_backward(type, saved, logits.size(1), csr.columns,
                                                         grad_features.mutable_data_ptr(), grad_logits.mutable_data_ptr(),
                                                         device.stream));
  return {grad_features, grad_logits};
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CUDA, library) {
  library.impl("softmax_pool", TORCH_BOX(&softmax_pool_op));
  library.impl("softmax_pool_backward", TORCH_BOX(&softmax_pool_backward_op));
}

}  // namespace
}  // namespace fusion3d::cuda
