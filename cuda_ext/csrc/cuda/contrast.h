// The seam of contrast between g++ and nvcc: see cuda/launch.h. All pointers are to the type that `type` names, f32 or f64.
#pragma once

#include "core/contrast_block.h"
#include "cuda/launch.h"

namespace fusion3d::cuda {

struct ContrastInput {
  FloatType type;
  const void *query, *key;  // [rows, channels]
  int64_t rows, channels;
  FloatType position_type;
  const void* position;  // [rows, 2] or nullptr
  const int64_t* scene;  // [rows] or nullptr
  double limit;          // square of the exclusion radius
};

// Bytes of memory that the calls below work in.
int64_t contrast_scratch(FloatType type, int64_t rows);
int64_t contrast_backward_scratch(FloatType type, int64_t rows);

Status contrast(const ContrastInput& input, void* forth, void* back, void* scratch, void* stream);

// Softmax levels and upstream gradients of the rows of query (`forth`) and of key (`back`).
Status contrast_backward(
    const ContrastInput& input, const void* grad_forth, const void* grad_back, const void* forth, const void* back,
    void* grad_query, void* grad_key, void* scratch, void* stream);

}  // namespace fusion3d::cuda
