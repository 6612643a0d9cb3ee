// The arguments of softmax_pool, checked; the same for CPU and CUDA.
#pragma once

#include "binding.h"

namespace fusion3d {

inline ScalarType accumulator_of(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_type(const char* name, const Tensor& tensor, ScalarType type, const char* other) {
  if (tensor.scalar_type() != type) refuse(name, " does not have the type that goes with ", other, "; convert one");
}

inline void check_logits(const Tensor& features, const Tensor& logits) {
  check_dimensions("features", features, 2);
  check_dimensions("logits", logits, 2);
  check_same_device("logits", logits, "features", features);
  check_type("logits", logits, features.scalar_type(), "features");
  if (logits.size(0) != features.size(0)) refuse("logits has ", logits.size(0), " rows but features ", features.size(0));
  if (logits.size(1) == 0 || features.size(1) % logits.size(1) != 0)
    refuse("the ", features.size(1), " channels cannot be shared out between ", logits.size(1), " heads of logits");
}

// What the forward pass returned, and the gradient of its first part.
inline void check_pooled(
    const Tensor& grad, const Tensor& pooled, const Tensor& peak, const Tensor& total, const Tensor& features,
    const Tensor& logits, int64_t columns) {
  const auto check = [&](const char* name, const Tensor& tensor, int64_t width, ScalarType type) {
    check_shape(name, tensor, columns, width);
    check_same_device(name, tensor, "features", features);
    check_type(name, tensor, type, "features");
  };
  check("grad", grad, features.size(1), features.scalar_type());
  check("pooled", pooled, features.size(1), features.scalar_type());
  check("peak", peak, logits.size(1), accumulator_of(features));
  check("total", total, logits.size(1), accumulator_of(features));
}

}  // namespace fusion3d
