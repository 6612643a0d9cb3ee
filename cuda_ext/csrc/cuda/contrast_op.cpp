// contrast for CUDA tensors: the torch side of cuda/contrast.cu, and the twin of cpu/contrast.cpp.
#include "cuda/contrast.h"

#include <tuple>

#include "contrast_check.h"
#include "cuda/device.h"

namespace fusion3d::cuda {
namespace {

ContrastInput input_of(const ContrastTensors& tensors) {
  if (tensors.channels >= kMostChannels) refuse("embeddings of ", tensors.channels, " channels; at most ", kMostChannels - 1);
  const bool wide_position = tensors.position && tensors.position->scalar_type() == ScalarType::Double;
  return {float_type_of("query", tensors.wide),
          tensors.query.const_data_ptr(),
          tensors.key.const_data_ptr(),
          tensors.rows,
          tensors.channels,
          wide_position ? FloatType::f64 : FloatType::f32,
          tensors.position ? tensors.position->const_data_ptr() : nullptr,
          tensors.scene ? data<int64_t>(*tensors.scene) : nullptr,
          tensors.limit};
}

std::tuple<Tensor, Tensor> contrast_op(
    const Tensor& query, const Tensor& key, const std::optional<Tensor>& position, const std::optional<Tensor>& scene,
    double radius, int64_t) {
  const OnDeviceOf device(query);
  const ContrastTensors tensors(query, key, position, scene, radius);
  const ContrastInput input = input_of(tensors);
  Tensor forth = tensors.new_rows(), back = tensors.new_rows();
  Tensor scratch = torch::stable::new_empty(query, {contrast_scratch(input.type, tensors.rows)}, ScalarType::Byte);
  succeed("contrast", contrast(input, forth.mutable_data_ptr(), back.mutable_data_ptr(), scratch.mutable_data_ptr(),
                               device.stream));
  return {in_type_of(query, forth), in_type_of(query, back)};
}

std::tuple<Tensor, Tensor> contrast_backward_op(
    const Tensor& grad_forth, const Tensor& grad_back, const Tensor& forth, const Tensor& back, const Tensor& query,
    const Tensor& key, const std::optional<Tensor>& position, const std::optional<Tensor>& scene, double radius, int64_t) {
  const OnDeviceOf device(query);
  const ContrastTensors tensors(query, key, position, scene, radius);
  const ContrastInput input = input_of(tensors);
  const Tensor levels[] = {tensors.per_row("forth", forth), tensors.per_row("back", back)};
  const Tensor grads[] = {tensors.per_row("grad_forth", grad_forth), tensors.per_row("grad_back", grad_back)};
  Tensor grad_query = tensors.new_matrix(), grad_key = tensors.new_matrix();
  Tensor scratch = torch::stable::new_empty(query, {contrast_backward_scratch(input.type, tensors.rows)}, ScalarType::Byte);
  succeed("contrast_backward",
          contrast_backward(input, grads[0].const_data_ptr(), grads[1].const_data_ptr(), levels[0].const_data_ptr(),
                            levels[1].const_data_ptr(), grad_query.mutable_data_ptr(), grad_key.mutable_data_ptr(),
                            scratch.mutable_data_ptr(), device.stream));
  return {in_type_of(query, grad_query), in_type_of(key, grad_key)};
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CUDA, library) {
  library.impl("contrast", TORCH_BOX(&contrast_op));
  library.impl("contrast_backward", TORCH_BOX(&contrast_backward_op));
}

}  // namespace
}  // namespace fusion3d::cuda
