// Sorting and running sums by torch's own CUDA kernels. The stable ABI has no function for them, but its dispatcher calls any
// operator by name: arguments in the order of the schema.
#pragma once

#include <array>
#include <utility>

#include "binding.h"

namespace fusion3d {

// Rising values and where they were; equal ones keep their order.
inline std::pair<Tensor, Tensor> stable_sort(const Tensor& values) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  const std::optional<bool> stable = true;
  std::array<StableIValue, 4> stack{from(values), from(stable), from(int64_t(0)), from(false)};  // dim, descending
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
}

inline Tensor running_sum(const Tensor& values) {
  using torch::stable::detail::from;
  std::array<StableIValue, 3> stack{from(values), from(int64_t(0)), from(std::nullopt)};  // dim, dtype
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::cumsum", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace fusion3d
