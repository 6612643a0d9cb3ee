// footprint_pool on CUDA, forward and backward: a thread owns a packet of channels of one group and adds up its pairs in order.
#include "core/place_search.h"
#include "core/weighted_sum.h"
#include "cuda/footprint_pool.h"
#include "cuda/kernel.cuh"

namespace fusion3d::cuda {
namespace {

template <class S, int W>
__global__ void __launch_bounds__(kThreads, 4) add_up(WeightedRows<S> pairs, Columns groups, S* result) {
  const int64_t packets = groups.channels / W;
  for (int64_t item = global_thread(); item < groups.columns * packets; item += grid_threads()) {
    const int64_t m = item / packets, channel = item % packets * W;
    pairs.template sum<W>(groups.row_splits[m], groups.row_splits[m + 1], channel).finish(result + m * groups.channels + channel);
  }
}

__global__ void __launch_bounds__(kThreads) find_groups(Columns groups, int64_t* group) {
  for (int64_t place = global_thread(); place < groups.places; place += grid_threads())
    group[place] = group_of_place(groups.row_splits, groups.columns, place);
}

}  // namespace

Status weighted_sums(
    FloatType type, const void* rows, const int64_t* index, const void* weight, const int64_t* order, const Columns& groups,
    void* result, void* stream) {
  if (groups.columns == 0 || groups.channels == 0) return nullptr;
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_float_type(type, [&](auto scalar) {
    using S = decltype(scalar);
    const WeightedRows<S> pairs{
        static_cast<const S*>(rows), index, static_cast<const Accumulator<S>*>(weight), order, groups.channels,
        groups.places};
    return with_packet<S>(groups.channels, rows, result, [&](auto width) {
      constexpr int W = decltype(width)::value;
      const int64_t items = groups.columns * (groups.channels / W);
      add_up<S, W><<<blocks_for(items), kThreads, 0, queue>>>(pairs, groups, static_cast<S*>(result));
      return launched();
    });
  });
}

Status groups_of_places(const Columns& groups, int64_t* group, void* stream) {
  if (groups.places == 0) return nullptr;
  find_groups<<<blocks_for(groups.places), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(groups, group);
  return launched();
}

}  // namespace fusion3d::cuda
