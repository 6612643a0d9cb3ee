// column_quantile on CUDA. A warp sorts a column in shared memory, by the network of core/sorting_network.h. A block finds the
// order statistics of a longer column digit by digit; it counts whole numbers, so its atomics do not depend on their order.
#include "core/sorting_network.h"
#include "cuda/column_quantile.h"
#include "cuda/kernel.cuh"

namespace fusion3d::cuda {
namespace {

constexpr int kSortingWarps = 4;      // of a block
constexpr int64_t kSortedRows = 1024;  // 32 KB of float64 for the warps of a block

struct WarpBarrier {
  FUSION3D_BOTH void operator()() const {
#if defined(__CUDA_ARCH__)
    __syncwarp();
#endif
  }
};

template <class Heights, class S>
__global__ void __launch_bounds__(kSortingWarps* kWarp, 8)
quantiles_by_warp(Heights heights, Columns csr, Quantiles quantiles, S* result) {
  using Value = Accumulator<S>;
  __shared__ Value lists[kSortingWarps][kSortedRows];
  Value* const list = lists[threadIdx.x / kWarp];
  const int lane = threadIdx.x % kWarp;
  for (int64_t m = global_thread() / kWarp; m < csr.columns; m += grid_threads() / kWarp) {
    const int64_t start = csr.row_splits[m], rows = csr.row_splits[m + 1] - start;
    if (rows > kSortedRows) continue;  // the same for all lanes
    bool nan = rows == 0;
    for (int64_t place = lane; place < rows; place += kWarp) {
      const Value value = widen(heights.at(start + place));
      nan |= value != value;
      list[place] = value;
    }
    nan = __any_sync(0xffffffffu, nan);  // also a barrier, but not one for memory
    __syncwarp();
    if (!nan) sort_places(int32_t(rows), lane, kWarp, ExchangePlaces<Value>{list}, WarpBarrier{});
    for (int64_t q = lane; q < quantiles.count; q += kWarp) {
      Value value = NoQuantile<S>::kValue;
      if (!nan) {
        const Rank rank = rank_of(quantiles.wanted[q], rows);
        value = Value(between(list[rank.below], list[rank.above], rank.weight));
      }
      result[m * quantiles.count + q] = narrow<S>(value);
    }
    __syncwarp();  // before the next column's heights
  }
}

template <class Heights, class S>
__global__ void __launch_bounds__(kDigits) quantiles_by_block(Heights heights, Columns csr, Quantiles quantiles, S* result) {
  using Value = Accumulator<S>;
  using Key = KeyOf<Value>;
  __shared__ uint32_t counts[kDigits];
  __shared__ unsigned long long smallest;
  for (int64_t m = blockIdx.x; m < csr.columns; m += gridDim.x) {
    const int64_t start = csr.row_splits[m], stop = csr.row_splits[m + 1];
    if (stop - start <= kSortedRows) continue;  // the same for the whole block
    S* const to = result + m * quantiles.count;
    bool nan = false;
    for (int64_t place = start + threadIdx.x; place < stop; place += kDigits) {
      const Value value = widen(heights.at(place));
      nan |= value != value;
    }
    if (__syncthreads_or(nan)) {
      for (int64_t q = threadIdx.x; q < quantiles.count; q += kDigits) to[q] = NoQuantile<S>::narrowed();
      continue;
    }
    for (int64_t q = 0; q < quantiles.count; ++q) {
      const Rank rank = rank_of(quantiles.wanted[q], stop - start);
      RadixSearch<Key> search(rank.below);  // the same in every thread
      while (!search.done()) {
        counts[threadIdx.x] = 0;
        __syncthreads();
        for (int64_t place = start + threadIdx.x; place < stop; place += kDigits) {
          const Key key = key_of(widen(heights.at(place)));
          if (search.agrees(key)) atomicAdd(&counts[search.digit(key)], 1u);
        }
        __syncthreads();
        search.choose(counts);
        __syncthreads();
      }
      const Value low = value_of<Value>(search.known);
      Value high = low;
      if (rank.above != rank.below && !search.next_is_equal()) {  // the same for the whole block
        if (threadIdx.x == 0) smallest = ~0ull;
        __syncthreads();
        unsigned long long next = ~0ull;
        for (int64_t place = start + threadIdx.x; place < stop; place += kDigits) {
          const Key key = key_of(widen(heights.at(place)));
          if (key > search.known && key < next) next = key;
        }
        if (next != ~0ull) atomicMin(&smallest, next);
        __syncthreads();
        high = value_of<Value>(Key(smallest));
        __syncthreads();
      }
      if (threadIdx.x == 0) to[q] = narrow<S>(Value(between(low, high, rank.weight)));
    }
  }
}

template <class Heights>
Status launch(
    const Heights& heights, const Columns& csr, int64_t longest, const Quantiles& quantiles, void* result, cudaStream_t queue) {
  using S = typename Heights::Scalar;
  S* const to = static_cast<S*>(result);
  const auto blocks = [](int64_t count) { return unsigned(std::min(count, kMostBlocks)); };
  const int64_t of_warps = (csr.columns + kSortingWarps - 1) / kSortingWarps;
  quantiles_by_warp<Heights, S><<<blocks(of_warps), kSortingWarps * kWarp, 0, queue>>>(heights, csr, quantiles, to);
  if (longest > kSortedRows)
    quantiles_by_block<Heights, S><<<blocks(csr.columns), kDigits, 0, queue>>>(heights, csr, quantiles, to);
  return launched();
}

}  // namespace

Status column_quantile(
    FloatType type, const void* heights, const int64_t* permutation, const Columns& csr, int64_t longest,
    const Quantiles& quantiles, void* result, void* stream) {
  static_assert(kSortedRows >= kShortColumn);  // check_csr measures no shorter columns
  if (csr.columns == 0 || quantiles.count == 0) return nullptr;
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_float_type(type, [&](auto scalar) {
    using S = decltype(scalar);
    const S* const from = static_cast<const S*>(heights);
    if (permutation)
      return launch(OrderedHeights<S, true>{from, permutation, csr.places}, csr, longest, quantiles, result, queue);
    return launch(OrderedHeights<S, false>{from, nullptr, csr.places}, csr, longest, quantiles, result, queue);
  });
}

}  // namespace fusion3d::cuda
