// The seam between g++, which sees torch, and nvcc, which does not: raw pointers, a stream, and a status in words.
#pragma once

#include <cstdint>

#include "core/column_pool.h"
#include "core/csr.h"

namespace fusion3d::cuda {

constexpr int64_t kShortColumn = 512;  // rows that one thread walks; a longer column gets a warp

enum class FloatType : int32_t { f32, f64, f16, bf16 };

// What a walk over CSR offsets finds out, in device memory; zeros before the walk.
struct CsrFindings {
  unsigned long long splits, outside, twice, longest;
};

// Every launch returns nullptr, or the CUDA runtime's words for what went wrong. `stream` is a cudaStream_t.
using Status = const char*;

// `marked`: a zeroed bit for each row, as 32-bit words; unused without a permutation. Waits for the stream.
Status inspect_csr(
    const Columns& csr, int64_t rows, uint32_t* marked, CsrFindings* on_device, CsrFindings* on_host, void* stream);

Status column_pool(
    Reduce reduce, FloatType type, const void* features, const Columns& csr, int64_t longest, void* pooled, int64_t* winner,
    void* stream);

Status column_pool_backward(
    Reduce reduce, FloatType type, const void* grad, const int64_t* winner, const Columns& csr, int64_t longest, void* result,
    void* stream);

}  // namespace fusion3d::cuda
