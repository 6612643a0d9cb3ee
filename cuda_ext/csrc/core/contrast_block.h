// What a CUDA block does for contrast, phase by phase: between two phases stands a barrier, and inside one every thread works on
// its own. core/contrast_kernel.h puts the phases together.
//
// A block owns a tile of kRows x kColumns numbers of a product of two matrices, a thread Rows x Columns of them in registers.
// Operands pass through shared memory, kDepth at a time:
//
//   similarity  [rows, keys]     = query x key^T            -> two partial log-sum-exps of each row and key of the tile
//   probability [rows, keys]     = from the similarity      -> memory, for one band of rows and one chunk of keys at a time
//   grad_query  [rows, channels] += probability x key
//   grad_key    [keys, channels] += probability^T x query
#pragma once

#include <cstdint>
#include <limits>

#include "core/log_sum_exp.h"
#include "core/near.h"

namespace fusion3d {

// Rows of query and of key whose tiles are in work at one time: 128 MiB of float32 probabilities.
constexpr int64_t kBandRows = 4096, kChunkKeys = 8192;

// Calls body(first row, rows, first key, keys) for each band and chunk, in the order in which results are added up, until it
// returns something other than null.
template <class Body>
inline const char* for_bands_and_chunks(
    int64_t rows, const Body& body, int64_t band_rows = kBandRows, int64_t chunk_keys = kChunkKeys) {
  for (int64_t row = 0; row < rows; row += band_rows)
    for (int64_t key = 0; key < rows; key += chunk_keys)
      if (const char* problem = body(row, rows - row < band_rows ? rows - row : band_rows, key,
                                     rows - key < chunk_keys ? rows - key : chunk_keys))
        return problem;
  return nullptr;
}

// Element (row, k) of an operand is at data[row * row_stride + k * depth_stride]. Inside a tile 32 bits hold such an offset:
// neither stride is kMostChannels or more.
template <class T>
struct Operand {
  const T* data;
  int32_t row_stride, depth_stride;
  int64_t rows;
};

constexpr int64_t kMostChannels = 1 << 24;

template <class T>
struct ContrastBlock {
  static constexpr int kThreads = 128, kAcross = 8, kDown = kThreads / kAcross, kDepth = 16;
  static constexpr int Rows = sizeof(T) == 8 ? 2 : 4, Columns = 2 * Rows;  // of a thread: 64 registers hold no more
  static constexpr int kRows = kDown * Rows, kColumns = kAcross * Columns;
  static constexpr int kPacket = 16 / sizeof(T);
  static constexpr T kInfinity = std::numeric_limits<T>::infinity();
  using Numbers = T[Rows][Columns];

  struct Shared {
    // 16 bytes more than a row needs: neighbours in depth then lie in different banks
    alignas(16) T left[kDepth][kRows + kPacket], right[kDepth][kColumns + kPacket];
    LogSumExp<T> row[kRows][kAcross + 1], column[kDown][kColumns];
  };

  // Which row and column of the tile a thread's (r, c) is: packets of columns, so that a warp reads 8 neighbouring packets.
  FUSION3D_BOTH static int row_of(int thread, int r) { return thread / kAcross * Rows + r; }
  FUSION3D_BOTH static int column_of(int thread, int c) {
    return (c / kPacket * kAcross + thread % kAcross) * kPacket + c % kPacket;
  }

  FUSION3D_BOTH static void clear(Numbers& numbers) {
    FUSION3D_UNROLLED
    for (int r = 0; r < Rows; ++r)
      FUSION3D_UNROLLED
      for (int c = 0; c < Columns; ++c) numbers[r][c] = 0;
  }

  // Phase: kDepth elements of each of a tile's rows, from `from` on; zeros where `rows` or `depths` end. Neighbouring threads
  // read along the depth where that lies together in memory.
  template <bool DepthTogether, int Side>
  FUSION3D_BOTH static void fetch(
      T (&to)[kDepth][Side], int thread, const T* from, int32_t row_stride, int32_t depth_stride, int rows, int depths) {
    constexpr int kSide = Side - kPacket, kEach = kDepth * kSide / kThreads;
    constexpr int kDepthStep = DepthTogether ? 0 : kThreads / kSide, kRowStep = DepthTogether ? kThreads / kDepth : 0;
    static_assert(kThreads % kSide == 0 && kThreads % kDepth == 0 && kEach % 4 == 0);
    const int k = DepthTogether ? thread % kDepth : thread / kSide, row = DepthTogether ? thread / kDepth : thread % kSide;
    [[maybe_unused]] constexpr int kInFlight = sizeof(T) == 8 ? 4 : 2;  // loads; more spills
    const int32_t step = kRowStep * row_stride + kDepthStep * depth_stride;
    int32_t at = row * row_stride + k * depth_stride;
#if defined(__CUDA_ARCH__)
#pragma unroll kInFlight
#endif
    for (int i = 0; i < kEach; ++i, at += step) {
      const int this_row = row + i * kRowStep, this_k = k + i * kDepthStep;
      to[this_k][this_row] = this_row < rows && this_k < depths ? from[at] : T(0);
    }
  }

  // Phase: the products of what was fetched.
  FUSION3D_BOTH static void multiply(const Shared& shared, int thread, Numbers& numbers) {
    using Aligned = Packet<T, kPacket>;
#if defined(__CUDA_ARCH__)
#pragma unroll 2  // 4 spills
#endif
    for (int k = 0; k < kDepth; ++k) {
      T left[Rows], right[Columns];
      FUSION3D_UNROLLED
      for (int r = 0; r < Rows; r += kPacket) {
        const Aligned packet = *reinterpret_cast<const Aligned*>(&shared.left[k][row_of(thread, r)]);
        FUSION3D_UNROLLED
        for (int i = 0; i < kPacket; ++i) left[r + i] = packet.value[i];
      }
      FUSION3D_UNROLLED
      for (int c = 0; c < Columns; c += kPacket) {
        const Aligned packet = *reinterpret_cast<const Aligned*>(&shared.right[k][column_of(thread, c)]);
        FUSION3D_UNROLLED
        for (int i = 0; i < kPacket; ++i) right[c + i] = packet.value[i];
      }
      FUSION3D_UNROLLED
      for (int r = 0; r < Rows; ++r)
        FUSION3D_UNROLLED
        for (int c = 0; c < Columns; ++c) numbers[r][c] += left[r] * right[c];
    }
  }

  // -inf where a pair is excluded or outside.
  template <class P>
  FUSION3D_BOTH static void exclude(
      const Exclusion<P>& exclusion, int thread, int64_t first_row, int64_t first_key, int64_t rows, Numbers& numbers) {
    uint32_t excluded = 0;  // a bit each, found in a plain loop: unrolled with the numbers it would take too many registers
#if defined(__CUDA_ARCH__)
#pragma unroll 1
#endif
    for (int i = 0; i < Rows * Columns; ++i) {
      const int64_t row = first_row + row_of(thread, i / Columns), key = first_key + column_of(thread, i % Columns);
      const bool without = row >= rows || key >= rows || (exclusion.position && exclusion.excludes(row, key));
      excluded |= uint32_t(without) << i;
    }
    FUSION3D_UNROLLED
    for (int i = 0; i < Rows * Columns; ++i)
      if (excluded >> i & 1) numbers[i / Columns][i % Columns] = -kInfinity;
  }

  // Phase: what a thread's numbers add to their rows and columns.
  FUSION3D_BOTH static void sum(Shared& shared, int thread, const Numbers& numbers) {
    FUSION3D_UNROLLED
    for (int r = 0; r < Rows; ++r) {
      shared.row[row_of(thread, r)][thread % kAcross] = LogSumExp<T>::of(numbers[r]);
    }
    FUSION3D_UNROLLED
    for (int c = 0; c < Columns; ++c) {
      T column[Rows];
      FUSION3D_UNROLLED
      for (int r = 0; r < Rows; ++r) column[r] = numbers[r][c];
      shared.column[thread / kAcross][column_of(thread, c)] = LogSumExp<T>::of(column);
    }
  }

  // Phase: the tile's partials of its rows, by the first half of the threads, and of its columns, by the second.
  FUSION3D_BOTH static void join(
      const Shared& shared, int thread, int64_t rows, int64_t keys, LogSumExp<T>* row_partials, LogSumExp<T>* key_partials) {
    constexpr int kHalf = kThreads / 2;
    static_assert(kRows <= kHalf && kColumns <= kHalf);
    LogSumExp<T> whole;
    if (thread < kHalf) {
      if (thread >= kRows || thread >= rows) return;
      for (int i = 0; i < kAcross; ++i) whole.combine(shared.row[thread][i]);
      row_partials[thread] = whole;
    } else {
      const int key = thread - kHalf;
      if (key >= kColumns || key >= keys) return;
      for (int i = 0; i < kDown; ++i) whole.combine(shared.column[i][key]);
      key_partials[key] = whole;
    }
  }

  // Gradient of one similarity: two softmax probabilities times what comes from above.
  FUSION3D_BOTH static T gradient(T similarity, T row_level, T row_grad, T key_level, T key_grad) {
    return exponential(similarity - row_level) * row_grad + exponential(similarity - key_level) * key_grad;
  }
};

}  // namespace fusion3d
