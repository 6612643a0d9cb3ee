// height_profile for CUDA tensors: the torch side of cuda/height_profile.cu, and the twin of cpu/height_profile.cpp.
#include "cuda/device.h"
#include "cuda/height_profile.h"
#include "cuda/index_check.h"
#include "profile_tensors.h"

namespace fusion3d::cuda {
namespace {

// Refuses edges that do not rise. Waits for the stream.
Bins checked_bins(const ProfileTensors& tensors, void* stream) {
  const std::vector<double> edges = fetch_values("edges", tensors.edges, stream);
  check_edges(edges.data(), int64_t(edges.size()));
  return {data<double>(tensors.edges), tensors.bins()};
}

Tensor height_profile_op(
    const Tensor& heights, const Tensor& row_splits, const Tensor& edges, const std::optional<Tensor>& weights) {
  const FloatType type = float_type_of("heights", heights.scalar_type());
  const ProfileTensors tensors(heights, row_splits, edges);
  const std::optional<Tensor> amounts = weights ? std::optional(checked_weights(*weights, heights)) : std::nullopt;
  const OnDeviceOf device(heights);
  const Bins bins = checked_bins(tensors, device.stream);
  const int64_t longest = check_csr(tensors.csr, heights, device.stream);
  const Columns& columns = tensors.csr.columns;
  Tensor result = torch::stable::new_empty(weights ? *weights : row_splits, {columns.columns, bins.count});
  const auto weight_type = amounts ? std::optional(float_type_of("weights", amounts->scalar_type())) : std::nullopt;
  succeed("height_profile", height_profile(type, tensors.heights.const_data_ptr(), weight_type,
                                           amounts ? amounts->const_data_ptr() : nullptr, columns, longest, bins,
                                           result.mutable_data_ptr(), device.stream));
  return result;
}

Tensor profile_cell_op(const Tensor& heights, const Tensor& row_splits, const Tensor& edges) {
  const FloatType type = float_type_of("heights", heights.scalar_type());
  const ProfileTensors tensors(heights, row_splits, edges);
  const OnDeviceOf device(heights);
  const Bins bins = checked_bins(tensors, device.stream);
  check_csr(tensors.csr, heights, device.stream);
  Tensor result = torch::stable::new_empty(row_splits, {tensors.csr.columns.places});
  succeed("profile_cell", profile_cell(type, tensors.heights.const_data_ptr(), tensors.csr.columns, bins,
                                       output<int64_t>(result), device.stream));
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CUDA, library) {
  library.impl("height_profile", TORCH_BOX(&height_profile_op));
  library.impl("profile_cell", TORCH_BOX(&profile_cell_op));
}

}  // namespace
}  // namespace fusion3d::cuda
