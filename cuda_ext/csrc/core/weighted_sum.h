// Sums of rows times weights, in packets of channels: what lift, footprint_pool and softmax_pool are made of.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/scalar.h"

namespace fusion3d {

template <class S, int W>
struct WeightedSum {
  Accumulator<S> total[W];

  FUSION3D_BOTH WeightedSum() {
    FUSION3D_UNROLLED
    for (int c = 0; c < W; ++c) total[c] = 0;
  }

  FUSION3D_BOTH void take(const S* row, Accumulator<S> weight) {
#if defined(__CUDA_ARCH__)
    const Packet<S, W> packet = *reinterpret_cast<const Packet<S, W>*>(row);  // launched for aligned rows only
    row = packet.value;
#endif
    FUSION3D_UNROLLED
    for (int c = 0; c < W; ++c) total[c] += widen(row[c]) * weight;
  }

  FUSION3D_BOTH void combine(const WeightedSum& other) {
    FUSION3D_UNROLLED
    for (int c = 0; c < W; ++c) total[c] += other.total[c];
  }

  FUSION3D_BOTH void finish(S* to) const {
    Packet<S, W> packet;
    FUSION3D_UNROLLED
    for (int c = 0; c < W; ++c) packet.value[c] = narrow<S>(total[c]);
#if defined(__CUDA_ARCH__)
    *reinterpret_cast<Packet<S, W>*>(to) = packet;
#else
    memcpy(to, packet.value, sizeof packet.value);
#endif
  }
};

// Pairs of a row and a weight, grouped: pair k names row `index[k]`, and place p is pair `order[p]`, or p without an order.
template <class S>
struct WeightedRows {
  const S* rows;
  const int64_t* index;
  const Accumulator<S>* weight;
  const int64_t* order;  // or nullptr
  int64_t channels;
  int64_t places;

#if !defined(__CUDA_ARCH__)
  static constexpr int64_t kAhead = 8;

  // A CPU cannot guess which row a pair names.
  FUSION3D_BOTH void expect(int64_t place) const {
    if (place >= places) return;
    const char* const row = reinterpret_cast<const char*>(rows + index[order ? order[place] : place] * channels);
    for (int64_t byte = 0; byte < channels * int64_t(sizeof(S)); byte += 64) __builtin_prefetch(row + byte);
  }
#endif

  template <int W>
  FUSION3D_BOTH WeightedSum<S, W> sum(int64_t start, int64_t stop, int64_t channel) const {
    WeightedSum<S, W> sum;
    for (int64_t place = start; place < stop; ++place) {
#if !defined(__CUDA_ARCH__)
      if (channel == 0) expect(place + kAhead);  // with its other packets, whose turn is next
#endif
      const int64_t pair = order ? order[place] : place;
      sum.take(rows + index[pair] * channels + channel, weight[pair]);
    }
    return sum;
  }
};

}  // namespace fusion3d
