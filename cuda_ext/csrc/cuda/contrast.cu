// contrast on CUDA: the launches of core/contrast_kernel.h. Nothing is added up by atomics: every tile leaves partial sums of its
// own, which are joined in their order.
#include "cuda/contrast.h"

#include "core/contrast_kernel.h"
#include "cuda/kernel.cuh"

namespace fusion3d::cuda {
namespace {

template <class T>
constexpr int kBlockThreads = ContrastBlock<T>::kThreads;
constexpr int kBlocks = 8;  // of 128 threads on a multiprocessor: 64 registers a thread

// The threads of a block, seen from one of them.
template <class T>
struct BlockThreads {
  typename ContrastBlock<T>::Numbers numbers;

#if defined(__CUDACC__)
  template <class Phase>
  __device__ inline void each(const Phase& phase) {
    phase(int(threadIdx.x), numbers);
    __syncthreads();
  }

  // Nobody waits: the next phase, if there is one, reads nothing that others write here.
  template <class Phase>
  __device__ inline void each_alone(const Phase& phase) {
    phase(int(threadIdx.x), numbers);
    asm volatile("" ::: "memory");  // what two phases load, held at the same time, would take more than 64 registers
  }
#endif
};

template <class T, class P>
__global__ void __launch_bounds__(kBlockThreads<T>, kBlocks)
sum_tiles(Band<T> band, Exclusion<P> exclusion, LogSumExp<T>* row_partials, LogSumExp<T>* key_partials) {
  __shared__ typename ContrastBlock<T>::Shared shared;
  BlockThreads<T> threads;
  sum_tile(threads, shared, int(blockIdx.x), band, exclusion, row_partials, key_partials);
}

// `sums`: what the bands and chunks before left; `results` are written after the last.
template <class T>
__global__ void __launch_bounds__(kThreads) join_tiles(
    const LogSumExp<T>* partials, int64_t tiles, int64_t stride, int64_t rows, bool first, LogSumExp<T>* sums, T* results) {
  for (int64_t row = global_thread(); row < rows; row += grid_threads()) {
    const LogSumExp<T> sum = fold_partials(first ? LogSumExp<T>() : sums[row], partials + row, tiles, stride);
    sums[row] = sum;
    if (results) results[row] = sum.finish();
  }
}

template <class T, class P>
__global__ void __launch_bounds__(kBlockThreads<T>, kBlocks) write_gradients(
    Band<T> band, Exclusion<P> exclusion, Softmaxes<T> of_rows, Softmaxes<T> of_keys, T* probabilities) {
  __shared__ typename ContrastBlock<T>::Shared shared;
  BlockThreads<T> threads;
  write_probabilities(threads, shared, int(blockIdx.x), band, exclusion, of_rows, of_keys, probabilities);
}

template <class T, bool LeftDepthTogether>
__global__ void __launch_bounds__(kBlockThreads<T>, kBlocks)
multiply_tiles(Operand<T> left, Operand<T> right, int depths, bool add, T* result) {
  __shared__ typename ContrastBlock<T>::Shared shared;
  BlockThreads<T> threads;
  multiply_tile<T, LeftDepthTogether>(threads, shared, int(blockIdx.x), left, right, depths, add, result);
}

// Calls body(whole problem, exclusion) in the types of the input.
template <class Body>
Status with_types(const ContrastInput& input, const Body& body) {
  const auto with_scalar = [&](auto scalar) {
    using T = decltype(scalar);
    Band<T> all{};
    all.query = {static_cast<const T*>(input.query), int32_t(input.channels), 1, input.rows};
    all.key = {static_cast<const T*>(input.key), int32_t(input.channels), 1, input.rows};
    all.channels = int32_t(input.channels);
    if (input.position_type == FloatType::f64)
      return body(all, Exclusion<double>{static_cast<const double*>(input.position), input.scene, input.limit});
    return body(all, Exclusion<float>{static_cast<const float*>(input.position), input.scene, float(input.limit)});
  };
  return input.type == FloatType::f64 ? with_scalar(double{}) : with_scalar(float{});
}

template <class T>
constexpr int64_t kRowPartials = kChunkKeys / ContrastBlock<T>::kColumns * kBandRows;
template <class T>
constexpr int64_t kKeyPartials = kBandRows / ContrastBlock<T>::kRows * kChunkKeys;

template <class T>
int64_t scratch_of(int64_t rows) {
  return (kRowPartials<T> + kKeyPartials<T> + 2 * rows) * int64_t(sizeof(LogSumExp<T>));
}

}  // namespace

int64_t contrast_scratch(FloatType type, int64_t rows) {
  return type == FloatType::f64 ? scratch_of<double>(rows) : scratch_of<float>(rows);
}

int64_t contrast_backward_scratch(FloatType type, int64_t rows) {
  return (rows < kBandRows ? rows : kBandRows) * kChunkKeys * (type == FloatType::f64 ? 8 : 4);
}

Status contrast(const ContrastInput& input, void* forth, void* back, void* scratch, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_types(input, [&](auto band, auto exclusion) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(band.query.data)>>;
    LogSumExp<T>* const row_partials = static_cast<LogSumExp<T>*>(scratch);
    LogSumExp<T>* const key_partials = row_partials + kRowPartials<T>;
    LogSumExp<T>* const row_sums = key_partials + kKeyPartials<T>;
    LogSumExp<T>* const key_sums = row_sums + input.rows;
    return for_bands_and_chunks(input.rows, [&](int64_t row, int64_t rows, int64_t key, int64_t keys) {
      band.first_row = row;
      band.rows = int(rows);
      band.first_key = key;
      band.keys = int(keys);
      sum_tiles<<<tiles_of<T>(rows, keys), kBlockThreads<T>, 0, queue>>>(band, exclusion, row_partials, key_partials);
      const bool last_chunk = key + keys == input.rows, last_band = row + rows == input.rows;
      join_tiles<<<blocks_for(rows), kThreads, 0, queue>>>(
          row_partials, band.key_tiles(), kBandRows, rows, key == 0, row_sums + row,
          last_chunk ? static_cast<T*>(forth) + row : nullptr);
      join_tiles<<<blocks_for(keys), kThreads, 0, queue>>>(
          key_partials, band.row_tiles(), kChunkKeys, keys, row == 0, key_sums + key,
          last_band ? static_cast<T*>(back) + key : nullptr);
      return launched();
    });
  });
}

Status contrast_backward(
    const ContrastInput& input, const void* grad_forth, const void* grad_back, const void* forth, const void* back,
    void* grad_query, void* grad_key, void* scratch, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  const int64_t channels = input.channels;
  if (channels == 0) return nullptr;
  return with_types(input, [&](auto band, auto exclusion) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(band.query.data)>>;
    const Softmaxes<T> of_rows{static_cast<const T*>(forth), static_cast<const T*>(grad_forth)};
    const Softmaxes<T> of_keys{static_cast<const T*>(back), static_cast<const T*>(grad_back)};
    T* const probabilities = static_cast<T*>(scratch);
    return for_bands_and_chunks(input.rows, [&](int64_t row, int64_t rows, int64_t key, int64_t keys) {
      band.first_row = row;
      band.rows = int(rows);
      band.first_key = key;
      band.keys = int(keys);
      write_gradients<<<tiles_of<T>(rows, keys), kBlockThreads<T>, 0, queue>>>(
          band, exclusion, of_rows, of_keys, probabilities);
      const GradientProducts<T> products(band, probabilities);
      multiply_tiles<T, true><<<tiles_of<T>(rows, channels), kBlockThreads<T>, 0, queue>>>(
          products.by_row, products.keys, int(keys), key > 0, static_cast<T*>(grad_query) + row * channels);
      multiply_tiles<T, false><<<tiles_of<T>(keys, channels), kBlockThreads<T>, 0, queue>>>(
          products.by_key, products.queries, int(rows), row > 0, static_cast<T*>(grad_key) + key * channels);
      return launched();
    });
  });
}

}  // namespace fusion3d::cuda
