// The torch side of cuda/inspect.h: refusals in words, as cpu/index_check.h makes them.
#pragma once

#include <vector>

#include "cuda/device.h"
#include "cuda/inspect.h"

namespace fusion3d::cuda {

// Refuses an index with values outside [0, size). Waits for the stream.
inline void check_index(const char* name, const Tensor& index, int64_t size, void* stream) {
  Tensor outside = torch::stable::new_zeros(index, {1}, ScalarType::Long);
  int64_t found = 0;
  succeed(name, inspect_index(data<int64_t>(index), index.numel(), size, output<int64_t>(outside), stream));
  succeed(name, fetch(&found, outside.const_data_ptr(), sizeof found, stream));
  if (found) refuse(name, " holds values outside [0, ", size, ")");
}

// Refuses float64 values that are not finite. Waits for the stream.
inline void check_finite(const char* name, const Tensor& values, void* stream) {
  Tensor infinite = torch::stable::new_zeros(values, {1}, ScalarType::Long);
  int64_t found = 0;
  succeed(name, inspect_finite(data<double>(values), values.numel(), output<int64_t>(infinite), stream));
  succeed(name, fetch(&found, infinite.const_data_ptr(), sizeof found, stream));
  if (found) refuse(name, " holds values that are not finite");
}

// The float64 values of a short tensor.
inline std::vector<double> fetch_values(const char* name, const Tensor& tensor, void* stream) {
  std::vector<double> values(tensor.numel());
  if (!values.empty())
    succeed(name, fetch(values.data(), tensor.const_data_ptr(), int64_t(values.size() * sizeof(double)), stream));
  return values;
}

}  // namespace fusion3d::cuda
