// Values of CSR offsets are checked on the device before a kernel uses them as addresses.
#include "cuda/kernel.cuh"

namespace fusion3d::cuda {
namespace {

__global__ void __launch_bounds__(kThreads) inspect_splits(Columns csr, CsrFindings* findings) {
  for (int64_t m = global_thread(); m < csr.columns; m += grid_threads()) {
    if (!splits_fit(csr.row_splits, m, csr.columns, csr.places)) findings->splits = 1;
    const int64_t length = csr.row_splits[m + 1] - csr.row_splits[m];
    if (length > kShortColumn) atomicMax(&findings->longest, (unsigned long long)length);  // few columns are long
  }
  if (global_thread() == 0 && csr.columns == 0 && (csr.row_splits[0] != 0 || csr.places != 0)) findings->splits = 1;
}

__global__ void __launch_bounds__(kThreads)
inspect_permutation(Columns csr, int64_t rows, uint32_t* marked, CsrFindings* findings) {
  for (int64_t place = global_thread(); place < csr.places; place += grid_threads()) {
    const int64_t row = csr.permutation[place];
    if (row < 0 || row >= rows) {
      findings->outside = 1;
      continue;
    }
    const uint32_t bit = 1u << (row % 32);
    if (atomicOr(&marked[row / 32], bit) & bit) findings->twice = 1;
  }
}

}  // namespace

Status inspect_csr(
    const Columns& csr, int64_t rows, uint32_t* marked, CsrFindings* on_device, CsrFindings* on_host, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  inspect_splits<<<blocks_for(csr.columns), kThreads, 0, queue>>>(csr, on_device);
  if (csr.permutation) inspect_permutation<<<blocks_for(csr.places), kThreads, 0, queue>>>(csr, rows, marked, on_device);
  if (Status problem = launched()) return problem;
  cudaMemcpyAsync(on_host, on_device, sizeof *on_host, cudaMemcpyDeviceToHost, queue);
  const cudaError_t error = cudaStreamSynchronize(queue);
  return error == cudaSuccess ? launched() : cudaGetErrorString(error);
}

}  // namespace fusion3d::cuda
