// In which order the rows of a column are taken. A partial result is a monoid: `Partial()` is its neutral element, `take` adds
// a row, `combine` joins two. Which orders exist is written here once, for CPU, CUDA and the replay on the host.
#pragma once

#include <cstdint>

#include "core/csr.h"

namespace fusion3d {

constexpr int kWarp = 32;

#if !defined(__CUDA_ARCH__)
constexpr int64_t kAhead = 16;  // rows; 12 to 64 measure alike

// A CPU cannot guess where a permuted row lies. Looks past the column's end, for the next column is wanted soon as well.
template <class Scalar>
FUSION3D_BOTH void prefetch_row(const Scalar* features, const Columns& csr, int64_t place) {
  if (!csr.permutation || place >= csr.places) return;
  const char* const row = reinterpret_cast<const char*>(features + csr.permutation[place] * csr.channels);
  for (int64_t byte = 0; byte < csr.channels * int64_t(sizeof(Scalar)); byte += 64) __builtin_prefetch(row + byte);
}
#endif

// Takes the rows at places first, first + step, ... below stop. Serial: step 1. Lane l of a warp: first = start + l, step = 32.
template <class Partial>
FUSION3D_BOTH Partial take_rows(
    const typename Partial::Scalar* features, const Columns& csr, int64_t channel, int64_t start, int64_t first, int64_t stop,
    int64_t step) {
  using Position = typename Partial::Position;
  Partial partial;
#if defined(__CUDA_ARCH__)
#pragma unroll 2  // keeps 32 KB of loads in flight on every multiprocessor; 4 spills on sm_90
#endif
  for (int64_t place = first; place < stop; place += step) {
#if !defined(__CUDA_ARCH__)
    if (channel == 0) prefetch_row(features, csr, place + kAhead);  // with its other packets, whose turn is next
#endif
    const typename Partial::Scalar* const row = features + csr.row(place) * csr.channels + channel;
#if defined(__CUDA_ARCH__)
    using Row = Packet<typename Partial::Scalar, Partial::Width>;
    const Row packet = *reinterpret_cast<const Row*>(row);  // a launch takes packets of 16 bytes only where they are aligned
    partial.take(packet.value, Position(place - start));
#else
    partial.take(row, Position(place - start));
#endif
  }
  return partial;
}

// The tree that a warp walks with shuffles, on an array of its 32 lanes' partials: the result is lanes[0].
template <class Partial>
void combine_as_a_warp(Partial (&lanes)[kWarp]) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    for (int lane = 0; lane < offset; ++lane) lanes[lane].combine(lanes[lane + offset]);
}

}  // namespace fusion3d
