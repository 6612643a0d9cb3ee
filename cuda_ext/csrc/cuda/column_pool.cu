// column_pool on CUDA. A thread owns a packet of channels of one column and walks its rows, so neighbouring threads read
// neighbouring addresses and nothing is added up by atomics. Columns longer than kShortColumn get a warp instead.
#include "cuda/kernel.cuh"

namespace fusion3d::cuda {
namespace {

template <Reduce R, class S, int W>
__global__ void __launch_bounds__(kThreads, 4) pool_by_thread(const S* features, Columns csr, S* pooled, int64_t* winner) {
  using Partial = PoolPartial<R, S, W>;
  const int64_t packets = csr.channels / W;
  for (int64_t item = global_thread(); item < csr.columns * packets; item += grid_threads()) {
    const int64_t m = item / packets, channel = item % packets * W;
    const int64_t start = csr.row_splits[m], stop = csr.row_splits[m + 1];
    if (stop - start > kShortColumn) continue;
    const Partial partial = take_rows<Partial>(features, csr, channel, start, start, stop, 1);
    partial.template finish<R>(csr, start, stop, pooled, winner, m * csr.channels + channel);
  }
}

template <Reduce R, class S, int W>
__global__ void __launch_bounds__(kThreads, 4) pool_by_warp(const S* features, Columns csr, S* pooled, int64_t* winner) {
  using Partial = PoolPartial<R, S, W>;
  const int64_t packets = csr.channels / W;
  const int lane = threadIdx.x % kWarp;
  for (int64_t item = global_thread() / kWarp; item < csr.columns * packets; item += grid_threads() / kWarp) {
    const int64_t m = item / packets, channel = item % packets * W;
    const int64_t start = csr.row_splits[m], stop = csr.row_splits[m + 1];
    if (stop - start <= kShortColumn) continue;  // the same for all lanes
    Partial partial = take_rows<Partial>(features, csr, channel, start, start + lane, stop, kWarp);
    combine_warp(partial);
    if (lane == 0) partial.template finish<R>(csr, start, stop, pooled, winner, m * csr.channels + channel);
  }
}

// `Lanes` threads share the rows of a column: 1 for short columns, a warp for long ones.
template <Reduce R, class S, int W, int Lanes>
__global__ void __launch_bounds__(kThreads, 4) spread_gradient(const S* grad, const int64_t* winner, Columns csr, S* result) {
  const int64_t packets = csr.channels / W;
  const int lane = threadIdx.x % Lanes;
  for (int64_t item = global_thread() / Lanes; item < csr.columns * packets; item += grid_threads() / Lanes) {
    const int64_t m = item / packets, channel = item % packets * W;
    const int64_t start = csr.row_splits[m], stop = csr.row_splits[m + 1];
    if (start == stop || (stop - start > kShortColumn) != (Lanes > 1)) continue;
    const PoolGradient<R, S, W> gradient(grad, winner, m * csr.channels + channel, stop - start);
    for (int64_t place = start + lane; place < stop; place += Lanes) {
      Packet<S, W> packet;
      const int64_t row = csr.row(place);
      gradient.of_row(row, packet.value);
      *reinterpret_cast<Packet<S, W>*>(result + row * csr.channels + channel) = packet;
    }
  }
}

}  // namespace

Status column_pool(
    Reduce reduce, FloatType type, const void* features, const Columns& csr, int64_t longest, void* pooled, int64_t* winner,
    void* stream) {
  if (csr.columns == 0 || csr.channels == 0) return nullptr;
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_float_type(type, [&](auto scalar) {
    using S = decltype(scalar);
    const S* const from = static_cast<const S*>(features);
    S* const to = static_cast<S*>(pooled);
    return with_packet<S>(csr.channels, features, pooled, [&](auto width) {
      constexpr int W = decltype(width)::value;
      return with_reduce(reduce, [&](auto constant) {
        constexpr Reduce R = decltype(constant)::value;
        const int64_t items = csr.columns * (csr.channels / W);
        pool_by_thread<R, S, W><<<blocks_for(items), kThreads, 0, queue>>>(from, csr, to, winner);
        if (longest > kShortColumn)
          pool_by_warp<R, S, W><<<blocks_for(items * kWarp), kThreads, 0, queue>>>(from, csr, to, winner);
        return launched();
      });
    });
  });
}

Status column_pool_backward(
    Reduce reduce, FloatType type, const void* grad, const int64_t* winner, const Columns& csr, int64_t longest, void* result,
    void* stream) {
  if (csr.columns == 0 || csr.channels == 0) return nullptr;
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_float_type(type, [&](auto scalar) {
    using S = decltype(scalar);
    const S* const from = static_cast<const S*>(grad);
    S* const to = static_cast<S*>(result);
    return with_packet<S>(csr.channels, grad, result, [&](auto width) {
      constexpr int W = decltype(width)::value;
      return with_reduce(reduce, [&](auto constant) {
        constexpr Reduce R = decltype(constant)::value;
        const int64_t items = csr.columns * (csr.channels / W);
        spread_gradient<R, S, W, 1><<<blocks_for(items), kThreads, 0, queue>>>(from, winner, csr, to);
        if (longest > kShortColumn)
          spread_gradient<R, S, W, kWarp><<<blocks_for(items * kWarp), kThreads, 0, queue>>>(from, winner, csr, to);
        return launched();
      });
    });
  });
}

}  // namespace fusion3d::cuda
