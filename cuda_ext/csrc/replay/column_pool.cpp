// column_pool's rows taken in the order of a CUDA warp, on the host and without torch: tests load this with ctypes. It checks a
// body's arithmetic, its neutral element and its `combine`; what it cannot check are shuffles and launches.
#include <cstdint>

#include "core/column_pool.h"
#include "core/schedule.h"

namespace fusion3d {
namespace {

template <class Partial, Reduce R>
void pool(const void* features, const Columns& csr, bool warp, void* pooled, int64_t* winner) {
  using S = typename Partial::Scalar;
  const S* const from = static_cast<const S*>(features);
  for (int64_t m = 0; m < csr.columns; ++m) {
    const int64_t start = csr.row_splits[m], stop = csr.row_splits[m + 1];
    for (int64_t channel = 0; channel + Partial::Width <= csr.channels; channel += Partial::Width) {
      Partial lanes[kWarp];
      if (warp) {
        for (int lane = 0; lane < kWarp; ++lane)
          lanes[lane] = take_rows<Partial>(from, csr, channel, start, start + lane, stop, kWarp);
        combine_as_a_warp(lanes);
      } else {
        lanes[0] = take_rows<Partial>(from, csr, channel, start, start, stop, 1);
      }
      lanes[0].template finish<R>(csr, start, stop, static_cast<S*>(pooled), winner, m * csr.channels + channel);
    }
  }
}

template <class S, int W>
void pool_as(Reduce reduce, const void* features, const Columns& csr, bool warp, void* pooled, int64_t* winner) {
  switch (reduce) {
    case Reduce::sum: return pool<SumPartial<S, W>, Reduce::sum>(features, csr, warp, pooled, winner);
    case Reduce::mean: return pool<SumPartial<S, W>, Reduce::mean>(features, csr, warp, pooled, winner);
    case Reduce::max: return pool<MaxPartial<S, W>, Reduce::max>(features, csr, warp, pooled, winner);
  }
}

}  // namespace
}  // namespace fusion3d

// `type`: 0 float32, 1 float64, 2 float16, 3 bfloat16, in packets of 16 bytes as CUDA takes them. `reduce`: 0 sum, 1 mean, 2 max.
extern "C" __attribute__((visibility("default"))) void replay_column_pool(
    int type, int reduce, int warp, const void* features, const int64_t* row_splits, const int64_t* permutation, int64_t places,
    int64_t columns, int64_t channels, void* pooled, int64_t* winner) {
  using namespace fusion3d;
  const Columns csr{row_splits, permutation, places, columns, channels};
  const auto how = Reduce(reduce);
  switch (type) {
    case 0: return pool_as<float, 4>(how, features, csr, warp, pooled, winner);
    case 1: return pool_as<double, 2>(how, features, csr, warp, pooled, winner);
    case 2: return pool_as<Half, 8>(how, features, csr, warp, pooled, winner);
    case 3: return pool_as<BFloat16, 8>(how, features, csr, warp, pooled, winner);
  }
}

// The half types of core/scalar.h, on 16-bit patterns.
extern "C" __attribute__((visibility("default"))) void replay_widen(int type, const uint16_t* bits, float* wide, int64_t count) {
  using namespace fusion3d;
  for (int64_t i = 0; i < count; ++i) wide[i] = type == 2 ? widen(Half{bits[i]}) : widen(BFloat16{bits[i]});
}

extern "C" __attribute__((visibility("default"))) void replay_narrow(int type, const float* wide, uint16_t* bits, int64_t count) {
  using namespace fusion3d;
  for (int64_t i = 0; i < count; ++i) bits[i] = type == 2 ? narrow<Half>(wide[i]).bits : narrow<BFloat16>(wide[i]).bits;
}
