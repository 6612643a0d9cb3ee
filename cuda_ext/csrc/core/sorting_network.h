// Batcher's odd-even merge sort: which pairs of places to compare, in which order, to sort any list of a given length. The pairs
// do not depend on the values, so a CPU sorts one list in every vector lane without a branch, and the lanes of a warp share
// the pairs of one list. (Batcher 1968; Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M.)
#pragma once

#include <cstdint>

#include "core/scalar.h"

namespace fusion3d {

// Runs of 2^merged sorted places become runs of twice that in rounds distance = 2^merged, 2^(merged - 1), ..., 1. The pairs of a
// round touch every place at most once, so they can be taken in any order and shared out: first, first + step, ...
template <class Exchange>
FUSION3D_BOTH void for_pairs_of_round(
    int32_t places, int merged, int log_distance, int32_t first, int32_t step, const Exchange& exchange) {
  const int32_t distance = 1 << log_distance, block = (2 << merged) - 1;
  const int32_t from = log_distance == merged ? 0 : distance;
  for (int32_t pair = first;; pair += step) {
    const int32_t low = from + ((pair >> log_distance) << (log_distance + 1)) + (pair & (distance - 1));
    if (low + distance >= places) return;
    if ((low & ~block) == ((low + distance) & ~block)) exchange(low, low + distance);
  }
}

// `settle` runs after every round: a barrier where the pairs of a round are shared out.
template <class Exchange, class Settle>
FUSION3D_BOTH void sort_places(int32_t places, int32_t first, int32_t step, const Exchange& exchange, const Settle& settle) {
  for (int merged = 0; (int32_t(1) << merged) < places; ++merged)
    for (int log_distance = merged; log_distance >= 0; --log_distance) {
      for_pairs_of_round(places, merged, log_distance, first, step, exchange);
      settle();
    }
}

}  // namespace fusion3d
