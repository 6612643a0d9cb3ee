// Cutting the channels of a row into packets: cache lines first, then groups of four, then what is left one by one.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/memory.h"

namespace fusion3d {

// `Lines`: cache lines of the widest packets. Two read short rows in one go, where the partial results of two fit the registers.
template <class Scalar, int Lines = 1, class Work>
inline __attribute__((always_inline)) void for_packets(int64_t channels, const Work& work) {
  constexpr int kLine = kCacheLine / sizeof(Scalar);
  int64_t channel = 0;
  if constexpr (Lines > 1)
    for (; channel + Lines * kLine <= channels; channel += Lines * kLine)
      work(std::integral_constant<int, Lines * kLine>{}, channel);
  for (; channel + kLine <= channels; channel += kLine) work(std::integral_constant<int, kLine>{}, channel);
  for (; channel + 4 <= channels; channel += 4) work(std::integral_constant<int, 4>{}, channel);
  for (; channel < channels; ++channel) work(std::integral_constant<int, 1>{}, channel);
}

}  // namespace fusion3d
