// Sharing work between torch's own threads so that the result does not depend on how many there are.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

#include "core/csr.h"

namespace fusion3d {

constexpr int64_t kGrain = 1 << 15;  // elements that are worth waking a thread for

// Calls work(begin, end) on parts of [0, count), each item of which touches `cost` elements.
template <class Work>
void for_parts(int64_t count, int64_t cost, const Work& work) {
  torch::stable::parallel_for(0, count, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, cost)), work);
}

// Calls work(begin, end) on ranges of columns that hold about equally many rows, however unequal the columns are.
template <class Work>
void for_columns(const Columns& csr, const Work& work) {
  const int64_t weight = csr.places + csr.columns;  // an empty column still has an output
  const int64_t worth = weight * std::max<int64_t>(1, csr.channels) / kGrain;
  const int64_t shares = std::clamp<int64_t>(worth, 1, torch::stable::get_num_threads());
  const auto cut = [&](int64_t share) {  // first column whose rows and predecessors weigh that much
    const int64_t target = share * (weight / shares) + share * (weight % shares) / shares;
    int64_t low = 0, high = csr.columns;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (csr.row_splits[middle] + middle < target)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  };
  torch::stable::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
    work(begin == 0 ? 0 : cut(begin), end == shares ? csr.columns : cut(end));
  });
}

}  // namespace fusion3d
