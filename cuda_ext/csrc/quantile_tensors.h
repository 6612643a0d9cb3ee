// What both bindings of column_quantile take and refuse.
#pragma once

#include "binding.h"

namespace fusion3d {

// The arguments in dense memory, their shapes checked; values are checked by the device that they are on.
struct QuantileTensors {
  QuantileTensors(
      const Tensor& given, const Tensor& row_splits, const Tensor& wanted, const std::optional<Tensor>& permutation)
      : csr("heights", given, row_splits, std::nullopt, permutation ? permutation->numel() : given.numel(), 1),
        heights(torch::stable::contiguous(given)),
        quantiles(torch::stable::contiguous(wanted)),
        order(permutation ? std::optional(torch::stable::contiguous(*permutation)) : std::nullopt) {
    check_dimensions("heights", given, 1);
    check_dimensions("quantiles", wanted, 1);
    check_same_device("quantiles", wanted, "heights", given);
    if (wanted.scalar_type() != ScalarType::Double) refuse("quantiles must be float64");
    if (!permutation) return;
    check_int64("permutation", *permutation);
    check_same_device("permutation", *permutation, "heights", given);
  }

  CsrTensors csr;  // of ordered rows: a row may be named twice, for nothing is written to it. First: it refuses too many
  Tensor heights, quantiles;
  std::optional<Tensor> order;
};

inline void check_quantile_values(const double* quantiles, int64_t count) {
  for (int64_t q = 0; q < count; ++q)
    if (!(quantiles[q] >= 0 && quantiles[q] <= 1)) refuse("quantiles must lie in [0, 1]; one is ", quantiles[q]);
}

}  // namespace fusion3d
