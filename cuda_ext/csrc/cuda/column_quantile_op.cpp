// column_quantile for CUDA tensors: the torch side of cuda/column_quantile.cu, and the twin of cpu/column_quantile.cpp.
#include "cuda/column_quantile.h"
#include "cuda/device.h"
#include "cuda/index_check.h"
#include "quantile_tensors.h"

namespace fusion3d::cuda {
namespace {

Tensor column_quantile_op(
    const Tensor& heights, const Tensor& row_splits, const Tensor& quantiles, const std::optional<Tensor>& permutation) {
  const FloatType type = float_type_of("heights", heights.scalar_type());
  const QuantileTensors tensors(heights, row_splits, quantiles, permutation);
  const OnDeviceOf device(heights);
  if (tensors.order) check_index("permutation", *tensors.order, heights.size(0), device.stream);
  const int64_t longest = check_csr(tensors.csr, heights, device.stream);
  const std::vector<double> wanted = fetch_values("quantiles", tensors.quantiles, device.stream);
  check_quantile_values(wanted.data(), int64_t(wanted.size()));
  Tensor result = torch::stable::new_empty(heights, {tensors.csr.columns.columns, int64_t(wanted.size())});
  const Quantiles on_device{data<double>(tensors.quantiles), int64_t(wanted.size())};
  succeed("column_quantile", column_quantile(type, tensors.heights.const_data_ptr(),
                                             tensors.order ? data<int64_t>(*tensors.order) : nullptr, tensors.csr.columns,
                                             longest, on_device, result.mutable_data_ptr(), device.stream));
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CUDA, library) { library.impl("column_quantile", TORCH_BOX(&column_quantile_op)); }

}  // namespace
}  // namespace fusion3d::cuda
