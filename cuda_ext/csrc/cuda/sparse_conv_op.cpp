// sparse_conv for CUDA tensors: the torch side of cuda/sparse_conv.cu, and the twin of cpu/sparse_conv.cpp.
#include <algorithm>
#include <tuple>

#include "binding.h"
#include "cuda/device.h"
#include "cuda/sparse_conv_launch.h"
#include "sparse_conv_tensors.h"

namespace fusion3d::cuda {
namespace {

constexpr int64_t kShortestPart = 2048;  // pairs
constexpr int64_t kManyParts = 512;      // beside one for each element; 128 x 128 float sums of as many take 34 MB

Tensor on_device_of(const Tensor& like, const Tensor& offsets) {
  Tensor moved = torch::stable::new_empty(like, {offsets.numel()}, ScalarType::Long);
  return torch::stable::copy_(moved, offsets);
}

// Refuses rows that do not fit; `pairs` has its offsets on the device. Waits for the stream.
void check_pairs(const KernelPairs& pairs, int64_t count, const Tensor& like, void* stream) {
  Tensor on_device = torch::stable::new_zeros(like, {kPairFaults}, ScalarType::Int);
  int32_t found[kPairFaults] = {};
  succeed("checking the kernel map", inspect_pairs(pairs, count, output<int32_t>(on_device), found, stream));
  for (int fault = 1; fault < kPairFaults; ++fault)
    if (found[fault]) refuse_fault(PairFault(fault), pairs);
}

void convolve(FloatType type, const Tensor& features, const Tensor& weight, const KernelPairs& pairs, Tensor& result,
              void* stream) {
  const int64_t starts = (sparse_conv_tiles(type, pairs.outputs) + 1) * pairs.elements;
  Tensor room = torch::stable::new_empty(features, {starts}, ScalarType::Long);
  succeed("sparse_conv", sparse_conv(type, features.const_data_ptr(), weight.const_data_ptr(), pairs, weight.size(1),
                                     weight.size(2), output<int64_t>(room), result.mutable_data_ptr(), stream));
}

Tensor sparse_conv_op(const Tensor& features, const Tensor& weight, const Tensor& in_rows, const Tensor& out_rows,
                      const Tensor& offsets, int64_t outputs) {
  check_channels(features, weight);
  const FloatType type = float_type_of("features", features.scalar_type());
  const PairTensors map(features, weight, in_rows, out_rows, offsets, features.size(0), outputs);
  const OnDeviceOf device(features);
  const Tensor bounds = on_device_of(features, offsets);
  KernelPairs pairs = map.pairs;
  pairs.offsets = data<int64_t>(bounds);
  check_pairs(pairs, in_rows.numel(), features, device.stream);
  Tensor result = torch::stable::new_empty(features, {outputs, weight.size(2)});
  convolve(type, torch::stable::contiguous(features), torch::stable::contiguous(weight), pairs, result, device.stream);
  return result;
}

std::tuple<Tensor, Tensor> sparse_conv_backward_op(const Tensor& grad, const Tensor& features, const Tensor& weight,
                                                   const Tensor& in_rows, const Tensor& out_rows, const Tensor& offsets) {
  check_channels(features, weight);
  check_grad(grad, features, weight);
  const FloatType type = float_type_of("features", features.scalar_type());
  const PairTensors map(features, weight, in_rows, out_rows, offsets, features.size(0), grad.size(0));
  const OnDeviceOf device(features);
  const Tensor bounds = on_device_of(features, offsets);
  KernelPairs pairs = map.pairs;
  pairs.offsets = data<int64_t>(bounds);
  check_pairs(pairs, in_rows.numel(), features, device.stream);
  const Tensor rows = torch::stable::contiguous(features), upstream = torch::stable::contiguous(grad);
  Tensor grad_features = torch::stable::new_empty(features, {features.size(0), features.size(1)});
  const Tensor transposed = torch::stable::contiguous(torch::stable::transpose(weight, 1, 2));
  convolve(type, upstream, transposed, pairs.transposed(), grad_features, device.stream);

  const int64_t longest = std::max(kShortestPart, (in_rows.numel() + kManyParts - 1) / kManyParts);
  Tensor first_part = torch::stable::new_empty(offsets, {offsets.numel()});
  int64_t* const first = output<int64_t>(first_part);
  first[0] = 0;
  for (int64_t k = 0; k < pairs.elements; ++k) {
    const int64_t count = map.pairs.offsets[k + 1] - map.pairs.offsets[k];
    first[k + 1] = first[k] + (count + longest - 1) / longest;
  }
  const int64_t part_count = first[pairs.elements], channels = weight.size(2);
  const Tensor first_on_device = on_device_of(features, first_part);
  Tensor partial = torch::stable::new_empty(features, {part_count, features.size(1), channels},
                                            type == FloatType::f64 ? ScalarType::Double : ScalarType::Float);
  Tensor grad_weight = torch::stable::new_empty(weight, {weight.size(0), weight.size(1), channels});
  succeed("sparse_conv_backward",
          sparse_conv_weight_gradient(type, rows.const_data_ptr(), upstream.const_data_ptr(), pairs,
                                      {data<int64_t>(first_on_device), longest}, part_count, features.size(1), channels,
                                      partial.mutable_data_ptr(), grad_weight.mutable_data_ptr(), device.stream));
  return {grad_features, grad_weight};
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CUDA, library) {
  library.impl("sparse_conv", TORCH_BOX(&sparse_conv_op));
  library.impl("sparse_conv_backward", TORCH_BOX(&sparse_conv_backward_op));
}

}  // namespace
}  // namespace fusion3d::cuda
