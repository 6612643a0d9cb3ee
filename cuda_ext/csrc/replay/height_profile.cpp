// height_profile's rows taken in the order of a CUDA warp, on the host and without torch.
#include <cstdint>

#include "core/height_profile.h"
#include "core/schedule.h"

// Profiles of float32 heights and weights; without weights, int64 counts.
extern "C" __attribute__((visibility("default"))) void replay_height_profile(
    int warp, const float* heights, const float* weights, const int64_t* row_splits, int64_t columns, const double* edges,
    int64_t count, void* result) {
  using namespace fusion3d;
  const Bins bins{edges, count};
  const auto run = [&](auto amount) {
    using Amount = decltype(amount);
    const auto to = static_cast<typename Amount::Result*>(result);
    for (int64_t item = 0; item < columns * count; ++item) {
      const int64_t start = row_splits[item / count], stop = row_splits[item / count + 1];
      BinTotal<Amount> lanes[kWarp];
      for (int lane = 0; lane < (warp ? kWarp : 1); ++lane)
        lanes[lane].take_rows(heights, amount, bins, item % count, start + lane, stop, warp ? kWarp : 1);
      if (warp) combine_as_a_warp(lanes);
      to[item] = Amount::narrowed(lanes[0].total);
    }
  };
  if (weights)
    run(WeightOfRows<float>{weights});
  else
    run(NumberOfRows{});
}
