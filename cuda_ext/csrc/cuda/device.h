// The torch side of every CUDA binding: torch's current stream, dtypes as the seam names them, offsets checked on the device.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "binding.h"
#include "cuda/launch.h"

// Only libtorch_cuda has it. Weak, so that the library also loads under a torch without CUDA, where no CUDA tensor can call it.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace fusion3d::cuda {

// While it lives, the tensor's device is current; `stream` is the one that torch works on there.
struct OnDeviceOf {
  explicit OnDeviceOf(const Tensor& tensor) : guard(tensor.get_device_index()) {
    if (!aoti_torch_get_current_cuda_stream || aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream))
      refuse("torch gives no CUDA stream for device ", tensor.get_device_index());
  }

  torch::stable::accelerator::DeviceGuard guard;
  void* stream = nullptr;
};

inline void succeed(const char* operation, Status problem) {
  if (problem) throw std::runtime_error(std::string(operation) + " failed on CUDA: " + problem);
}

inline FloatType float_type_of(const char* name, ScalarType type) {
  switch (type) {
    case ScalarType::Float: return FloatType::f32;
    case ScalarType::Double: return FloatType::f64;
    case ScalarType::Half: return FloatType::f16;
    case ScalarType::BFloat16: return FloatType::bf16;
    default: refuse(name, " must be float32, float64, float16 or bfloat16");
  }
}

// Refuses offsets that do not fit; returns the length of the longest column, or 0 when all are short. Waits for the stream.
inline int64_t check_csr(const CsrTensors& csr, const Tensor& like, void* stream) {
  const int64_t words = csr.columns.permutation ? (csr.rows + 31) / 32 : 0;
  Tensor on_device = torch::stable::new_zeros(like, {int64_t(sizeof(CsrFindings) / sizeof(int64_t))}, ScalarType::Long);
  Tensor marked = torch::stable::new_zeros(like, {words}, ScalarType::Int);
  CsrFindings found{};
  succeed("checking row_splits", inspect_csr(csr.columns, csr.rows, output<uint32_t>(marked), output<CsrFindings>(on_device),
                                            &found, stream));
  if (found.outside) refuse_fault(CsrFault::outside, csr);
  if (found.twice) refuse_fault(CsrFault::twice, csr);
  if (found.splits) refuse_fault(CsrFault::splits, csr);
  if (found.longest > uint64_t(kLongestColumn)) refuse_fault(CsrFault::long_column, csr);
  return int64_t(found.longest);
}

}  // namespace fusion3d::cuda
