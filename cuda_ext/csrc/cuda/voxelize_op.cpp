// voxelize for CUDA tensors: the torch side of cuda/voxelize.cu, and the twin of cpu/voxelize.cpp.
#include <tuple>

#include "cuda/voxel_tensors.h"

namespace fusion3d::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> voxelize_op(const Tensor& coordinates) {
  check_coordinates(coordinates);
  const OnDeviceOf device(coordinates);
  const Tensor given = torch::stable::contiguous(coordinates);
  const int64_t points = given.size(0);
  const auto empty = [&](int64_t count) { return torch::stable::new_empty(given, {count}); };
  if (points == 0) return {torch::stable::new_empty(given, {0, 4}), empty(0), torch::stable::new_zeros(given, {1}), empty(0)};
  const auto [keys, permutation] = stable_sort(keys_of(given, false, device.stream));
  const Tensor ends = distinct_so_far(keys, device.stream);
  const int64_t count = last_of(ends, device.stream);
  Tensor voxels = torch::stable::new_empty(given, {count, 4}), inverse = empty(points), row_splits = empty(count + 1);
  succeed("voxelize", number_voxels(data<int64_t>(keys), data<int64_t>(ends), data<int64_t>(permutation), points,
                                    output<int64_t>(voxels), output<int64_t>(inverse), output<int64_t>(row_splits),
                                    device.stream));
  return {voxels, inverse, row_splits, permutation};
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CUDA, library) { library.impl("voxelize", TORCH_BOX(&voxelize_op)); }

}  // namespace
}  // namespace fusion3d::cuda
