// The seam of softmax_pool; see launch.h. `logits` is [rows, heads]; `peak` and `total` are [columns, heads], float64 for float64
// features, else float32.
#pragma once

#include "cuda/launch.h"

namespace fusion3d::cuda {

Status softmax_pool(
    FloatType type, const void* features, const void* logits, int64_t heads, const Columns& csr, int64_t longest, void* pooled,
    void* peak, void* total, void* stream);

struct SoftmaxSaved {
  const void *grad, *features, *logits, *pooled, *peak, *total;
};

Status softmax_pool_backward(
    FloatType type, const SoftmaxSaved& saved, int64_t heads, const Columns& csr, void* grad_features, void* grad_logits,
    void* stream);

}  // namespace fusion3d::cuda
