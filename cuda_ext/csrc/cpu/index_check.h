// Values of an index are checked before they are used as addresses.
#pragma once

#include <algorithm>
#include <atomic>

#include "binding.h"
#include "cpu/parallel.h"

namespace fusion3d {

[[noreturn]] inline void refuse_index(const char* name, const int64_t* index, int64_t count, int64_t size, int64_t lowest) {
  const auto [low, high] = std::minmax_element(index, index + count);
  refuse(name, " holds values from ", *low, " to ", *high, ", outside [", lowest, ", ", size, ")");
}

// Refuses an index with values outside [0, size).
inline void check_index(const char* name, const int64_t* index, int64_t count, int64_t size) {
  std::atomic<bool> outside{false};
  for_parts(count, 1, [&](int64_t begin, int64_t end) {
    bool wrong = false;
    for (int64_t i = begin; i < end; ++i) wrong |= uint64_t(index[i]) >= uint64_t(size);
    if (wrong) outside = true;
  });
  if (outside) refuse_index(name, index, count, size, 0);
}

}  // namespace fusion3d
