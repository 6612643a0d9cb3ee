// What both bindings of height_profile take and refuse.
#pragma once

#include "binding.h"

namespace fusion3d {

// The arguments in dense memory, their shapes checked; values are checked by the device that they are on.
struct ProfileTensors {
  ProfileTensors(const Tensor& given, const Tensor& row_splits, const Tensor& limits)
      : csr("heights", given, row_splits, std::nullopt, given.numel(), 1), heights(torch::stable::contiguous(given)) {
    check_dimensions("heights", given, 1);
    check_dimensions("edges", limits, 1);
    check_same_device("edges", limits, "heights", given);
    if (limits.scalar_type() != ScalarType::Double) refuse("edges must be float64");
    if (limits.numel() < 2) refuse("edges must hold at least 2 heights, not ", limits.numel());
    edges = torch::stable::contiguous(limits);
  }

  int64_t bins() const { return edges.numel() - 1; }

  CsrTensors csr;  // first: it refuses too many heights
  Tensor heights, edges;
};

inline Tensor checked_weights(const Tensor& weights, const Tensor& heights) {
  check_dimensions("weights", weights, 1);
  check_same_device("weights", weights, "heights", heights);
  if (weights.numel() != heights.numel()) refuse("there are ", weights.numel(), " weights for ", heights.numel(), " heights");
  with_float_type("weights", weights.scalar_type(), [](auto) {});
  return torch::stable::contiguous(weights);
}

inline void check_edges(const double* edges, int64_t count) {
  for (int64_t k = 0; k + 1 < count; ++k)
    if (!(edges[k] < edges[k + 1])) refuse("edges must rise; ", edges[k], " comes before ", edges[k + 1]);
}

}  // namespace fusion3d
