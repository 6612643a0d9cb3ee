// kernel_map and strided_kernel_map for CUDA tensors: the torch side of cuda/kernel_map.cu, and the twin of cpu/kernel_map.cpp.
#include <tuple>

#include "cuda/voxel_tensors.h"

namespace fusion3d::cuda {
namespace {

struct Pairs {
  Tensor in_rows, out_rows, offsets;
};

// `turned`: a submanifold kernel, of which the first half is searched.
Pairs find_pairs(const Tensor& like, const PairSearch& search, bool turned, void* stream) {
  const int64_t elements = search.kernel.elements(), blocks = pair_blocks(search.outputs), items = search.searched * blocks;
  Tensor offsets = torch::stable::new_zeros(like, {elements + 1}, std::nullopt, std::nullopt,
                                            torch::stable::Device(torch::headeronly::DeviceType::CPU));
  int64_t* const start = output<int64_t>(offsets);
  Tensor ends = torch::stable::new_empty(like, {items});
  if (items > 0) {
    succeed("counting pairs", count_pairs(search, output<int64_t>(ends), stream));
    ends = running_sum(ends);
    succeed("counting pairs", read_integers(data<int64_t>(ends), blocks - 1, blocks, search.searched, start + 1, stream));
  }
  if (turned) {
    start[search.searched + 1] = start[search.searched] + search.outputs;
    for (int64_t element = search.searched + 1; element < elements; ++element)
      start[element + 1] = start[element] + start[elements - element] - start[elements - element - 1];
  }
  Tensor in_rows = torch::stable::new_empty(like, {start[elements]}), out_rows = torch::stable::new_empty(like, {start[elements]});
  if (search.outputs > 0)
    succeed("listing pairs", list_pairs(search, {data<int64_t>(ends), blocks}, turned, output<int64_t>(in_rows),
                                        output<int64_t>(out_rows), stream));
  return {in_rows, out_rows, offsets};
}

std::tuple<Tensor, Tensor, Tensor> kernel_map_op(const Tensor& coordinates, int64_t kernel_size, int64_t dilation) {
  check_coordinates(coordinates);
  const Kernel kernel = submanifold_kernel(kernel_size, dilation);
  const OnDeviceOf device(coordinates);
  const Tensor given = torch::stable::contiguous(coordinates), keys = keys_of(given, true, device.stream);
  const int64_t voxels = given.size(0);
  const PairSearch search{data<int64_t>(keys), voxels, data<int64_t>(keys), voxels, kernel, kernel.elements() / 2};
  const Pairs pairs = find_pairs(given, search, true, device.stream);
  return {pairs.in_rows, pairs.out_rows, pairs.offsets};
}

Tensor coarse_voxels(const Tensor& given, int64_t stride, void* stream) {
  const int64_t voxels = given.size(0);
  if (voxels == 0) return torch::stable::new_empty(given, {0, 4});
  Tensor unsorted = torch::stable::new_empty(given, {voxels});
  succeed("coarse voxels", coarse_keys(data<int64_t>(given), voxels, stride, output<int64_t>(unsorted), stream));
  const Tensor keys = stable_sort(unsorted).first, ends = distinct_so_far(keys, stream);
  Tensor coarse = torch::stable::new_empty(given, {last_of(ends, stream), 4});
  succeed("coarse voxels", number_voxels(data<int64_t>(keys), data<int64_t>(ends), nullptr, voxels, output<int64_t>(coarse),
                                         nullptr, nullptr, stream));
  return coarse;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> strided_kernel_map_op(
    const Tensor& coordinates, int64_t kernel_size, int64_t stride) {
  check_coordinates(coordinates);
  const Kernel kernel = strided_kernel(kernel_size, stride);
  const OnDeviceOf device(coordinates);
  const Tensor given = torch::stable::contiguous(coordinates), keys = keys_of(given, true, device.stream);
  const Tensor coarse = coarse_voxels(given, stride, device.stream);
  const int64_t outputs = coarse.size(0);
  Tensor origins = torch::stable::new_empty(given, {outputs});
  succeed("coarse voxels", origin_keys(data<int64_t>(coarse), outputs, stride, output<int64_t>(origins), device.stream));
  const PairSearch search{data<int64_t>(keys), given.size(0), data<int64_t>(origins), outputs, kernel, kernel.elements()};
  const Pairs pairs = find_pairs(given, search, false, device.stream);
  return {coarse, pairs.in_rows, pairs.out_rows, pairs.offsets};
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CUDA, library) {
  library.impl("kernel_map", TORCH_BOX(&kernel_map_op));
  library.impl("strided_kernel_map", TORCH_BOX(&strided_kernel_map_op));
}

}  // namespace
}  // namespace fusion3d::cuda
