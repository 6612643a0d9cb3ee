// What both bindings of footprint_pool take and refuse.
#pragma once

#include "binding.h"

namespace fusion3d {

// Pairs of a footprint and a column, grouped by footprint, in dense memory, shapes checked; values are checked by their device.
struct FootprintPairs {
  // The weights are taken in the type that the features of `tensor` are added up in.
  FootprintPairs(
      const char* name, const Tensor& tensor, const Tensor& row_splits, const Tensor& column, const Tensor& weight)
      : columns(torch::stable::contiguous(column)),
        csr(name, tensor, row_splits, std::nullopt, column.numel(), tensor.size(1)) {
    check_int64("column", column);
    check_same_device("column", column, name, tensor);
    check_same_device("weight", weight, name, tensor);
    check_dimensions("weight", weight, 1);
    with_float_type("weight", weight.scalar_type(), [](auto) {});
    if (weight.numel() != column.numel()) refuse("there are ", weight.numel(), " weights for ", column.numel(), " pairs");
    const auto wide = tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    weights = torch::stable::contiguous(torch::stable::to(weight, wide));
  }

  int64_t count() const { return csr.rows; }
  int64_t footprints() const { return csr.columns.columns; }

  Tensor columns, weights;
  CsrTensors csr;
};

}  // namespace fusion3d
