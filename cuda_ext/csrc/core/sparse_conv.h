// What one CUDA block does for sparse_conv: a tile of sums in shared memory, and a block of the weight's gradient in registers.
//
// A team is the block's threads. `team.each(work)` calls work(thread, sums) for each of them, and all wait for the last; between
// two waits no thread reads what another writes. So the host replays a block by letting `each` be a loop over threads, in any
// order, and needs nothing of CUDA's for it.
#pragma once

#include <math.h>

#include <cstdint>

#include "core/kernel_pairs.h"
#include "core/scalar.h"

namespace fusion3d {

constexpr int kTeam = 128;  // threads: 8 down, 16 across
constexpr int kSide = 32;   // pairs (or input channels) down and channels across a product; a thread has 4 x 2 of it
constexpr int kDown = 4, kAcross = 2;

template <class A>
struct ThreadSums {
  A value[kDown][kAcross];

  FUSION3D_BOTH void clear() {
    FUSION3D_UNROLLED
    for (int i = 0; i < kDown * kAcross; ++i) value[i / kAcross][i % kAcross] = 0;
  }
};

FUSION3D_BOTH int first_down(int thread) { return thread / (kSide / kAcross) * kDown; }
FUSION3D_BOTH int first_across(int thread) { return thread % (kSide / kAcross) * kAcross; }

FUSION3D_BOTH float fused(float a, float b, float c) { return fmaf(a, b, c); }
FUSION3D_BOTH double fused(double a, double b, double c) { return fma(a, b, c); }

// sums += down x across: one channel (or pair) of a thread's part of a product.
template <class A>
FUSION3D_BOTH void add_product(ThreadSums<A>& sums, const A* down, const A* across) {
  constexpr int kLoad = 16 / sizeof(A);  // elements that one load of 16 bytes brings
  Packet<A, kLoad> left[kDown / kLoad];
  FUSION3D_UNROLLED
  for (int i = 0; i < kDown / kLoad; ++i) left[i] = reinterpret_cast<const Packet<A, kLoad>*>(down)[i];
  FUSION3D_UNROLLED
  for (int a = 0; a < kAcross; ++a) {
    const A right = across[a];
    FUSION3D_UNROLLED
    for (int d = 0; d < kDown; ++d) sums.value[d][a] = fused(left[d / kLoad].value[d % kLoad], right, sums.value[d][a]);
  }
}

// One convolution: weight [K, depth, channels]; `starts` [tiles + 1, K] is the first pair of each tile in each element.
template <class S>
struct Convolution {
  const S* features;
  const S* weight;
  S* result;
  KernelPairs pairs;
  const int64_t* starts;
  int64_t depth;
  int64_t channels;
};

// Shared memory of a tile, under 48 KB. Rows are held by channel, so that a thread's 4 pairs are one load.
template <class A>
struct TileMemory {
  static constexpr int kRows = 1024 / sizeof(A);
  static constexpr int kDepth = 128 / sizeof(A);
  A sums[kRows][kSide];
  alignas(16) A rows[kDepth][kSide + 16 / sizeof(A)];  // 16 bytes more than a row needs: the banks of a column differ
  alignas(16) A weight[kDepth][kSide];
  int64_t from[kSide];
  int32_t to[kSide];
};

template <class S>
FUSION3D_BOTH int64_t tiles_of(int64_t rows) {
  constexpr int64_t kRows = TileMemory<Accumulator<S>>::kRows;
  return (rows + kRows - 1) / kRows;
}

// The first pair of element `item % K` that belongs to tile `item / K` or a later one.
template <class S>
FUSION3D_BOTH int64_t tile_start(const KernelPairs& pairs, int64_t item) {
  const int64_t element = item % pairs.elements, row = item / pairs.elements * TileMemory<Accumulator<S>>::kRows;
  return first_pair(pairs.to, pairs.offsets[element], pairs.offsets[element + 1], row);
}

// Sums of one tile of outputs, kSide channels from `channel` on: element after element, kSide pairs at a time.
template <class S, class Team, class A = Accumulator<S>>
FUSION3D_BOTH void convolve_tile(const Convolution<S>& c, int64_t tile, int64_t channel, TileMemory<A>& memory, Team& team) {
  using Sums = ThreadSums<A>;
  constexpr int kDepth = TileMemory<A>::kDepth, kRows = TileMemory<A>::kRows;
  team.each([&](int thread, Sums&) {
    for (int i = thread; i < kRows * kSide; i += kTeam) memory.sums[i / kSide][i % kSide] = 0;
  });
  for (int64_t element = 0; element < c.pairs.elements; ++element) {
    const int64_t stop = c.starts[(tile + 1) * c.pairs.elements + element];
    for (int64_t pair = c.starts[tile * c.pairs.elements + element]; pair < stop; pair += kSide) {
      const int count = stop - pair < kSide ? int(stop - pair) : kSide;
      team.each([&](int thread, Sums& sums) {
        sums.clear();
        if (thread >= count) return;
        memory.from[thread] = c.pairs.from[pair + thread];
        memory.to[thread] = int32_t(c.pairs.to[pair + thread] - tile * kRows);
      });
      for (int64_t depth = 0; depth < c.depth; depth += kDepth) {
        const int some = c.depth - depth < kDepth ? int(c.depth - depth) : kDepth;
        team.each([&](int thread, Sums&) {
          for (int i = thread; i < kSide * kDepth; i += kTeam) {
            const int p = i / kDepth, d = i % kDepth;
            if (p < count && d < some) memory.rows[d][p] = widen(c.features[memory.from[p] * c.depth + depth + d]);
          }
          for (int i = thread; i < kDepth * kSide; i += kTeam) {
            const int d = i / kSide;
            const int64_t at = channel + i % kSide;
            if (d < some && at < c.channels)
              memory.weight[d][i % kSide] = widen(c.weight[(element * c.depth + depth + d) * c.channels + at]);
          }
        });
        team.each([&](int thread, Sums& sums) {  // pairs and channels beyond the last hold anything, and are dropped below
          for (int d = 0; d < some; ++d)
            add_product(sums, &memory.rows[d][first_down(thread)], &memory.weight[d][first_across(thread)]);
        });
      }
      team.each([&](int thread, Sums& sums) {  // no row occurs twice in an element: every sum has one thread
        FUSION3D_UNROLLED
        for (int d = 0; d < kDown; ++d) {
          const int p = first_down(thread) + d;
          if (p >= count) continue;
          FUSION3D_UNROLLED
          for (int a = 0; a < kAcross; ++a) memory.sums[memory.to[p]][first_across(thread) + a] += sums.value[d][a];
        }
      });
    }
  }
  team.each([&](int thread, Sums&) {
    for (int i = thread; i < kRows * kSide; i += kTeam) {
      const int64_t row = tile * kRows + i / kSide, at = channel + i % kSide;
      if (row < c.pairs.outputs && at < c.channels)
        c.result[row * c.channels + at] = narrow<S>(memory.sums[i / kSide][i % kSide]);
    }
  });
}

// The weight's gradient is added up in parts: at most `longest` pairs of one element each. Part `first_part[k]` is the first of
// element k. Parts depend on the map alone; an element's parts are joined in order.
struct Parts {
  const int64_t* first_part;  // [K + 1]
  int64_t longest;

  FUSION3D_BOTH int64_t element_of(int64_t part, int64_t elements) const {
    return first_pair(first_part, 0, elements, part + 1) - 1;  // last element whose first part is `part` or an earlier one
  }
};

template <class S>
struct WeightGradient {
  const S* features;
  const S* grad;
  KernelPairs pairs;
  Parts parts;
  Accumulator<S>* partial;  // [parts, depth, channels]
  int64_t depth;            // input channels
  int64_t channels;         // output channels
};

template <class A>
struct OuterMemory {
  alignas(16) A rows[kSide][kSide];
  alignas(16) A grad[kSide][kSide];
};

// kSide x kSide of one part's sums, from input channel `depth` and output channel `channel` on.
template <class S, class Team, class A = Accumulator<S>>
FUSION3D_BOTH void outer_part(
    const WeightGradient<S>& g, int64_t part, int64_t depth, int64_t channel, OuterMemory<A>& memory, Team& team) {
  using Sums = ThreadSums<A>;
  const int64_t element = g.parts.element_of(part, g.pairs.elements);
  const int64_t begin = g.pairs.offsets[element] + (part - g.parts.first_part[element]) * g.parts.longest;
  const int64_t last = g.pairs.offsets[element + 1], stop = last - begin < g.parts.longest ? last : begin + g.parts.longest;
  team.each([&](int, Sums& sums) { sums.clear(); });
  for (int64_t pair = begin; pair < stop; pair += kSide) {
    const int count = stop - pair < kSide ? int(stop - pair) : kSide;
    team.each([&](int thread, Sums&) {
      for (int i = thread; i < kSide * kSide; i += kTeam) {
        const int p = i / kSide, at = i % kSide;
        if (p >= count) continue;
        if (depth + at < g.depth) memory.rows[p][at] = widen(g.features[g.pairs.from[pair + p] * g.depth + depth + at]);
        if (channel + at < g.channels) memory.grad[p][at] = widen(g.grad[g.pairs.to[pair + p] * g.channels + channel + at]);
      }
    });
    team.each([&](int thread, Sums& sums) {
      for (int p = 0; p < count; ++p)
        add_product(sums, &memory.rows[p][first_down(thread)], &memory.grad[p][first_across(thread)]);
    });
  }
  team.each([&](int thread, Sums& sums) {
    FUSION3D_UNROLLED
    for (int d = 0; d < kDown; ++d)
      FUSION3D_UNROLLED
      for (int a = 0; a < kAcross; ++a) {
        const int64_t row = depth + first_down(thread) + d, at = channel + first_across(thread) + a;
        if (row < g.depth && at < g.channels) g.partial[(part * g.depth + row) * g.channels + at] = sums.value[d][a];
      }
  });
}

// Element `item` of the weight's gradient, [K, depth, channels]: its parts in order.
template <class S>
FUSION3D_BOTH S join_parts(const WeightGradient<S>& g, int64_t item) {
  const int64_t size = g.depth * g.channels, element = item / size;
  Accumulator<S> sum = 0;
  for (int64_t part = g.parts.first_part[element]; part < g.parts.first_part[element + 1]; ++part)
    sum += g.partial[part * size + item % size];
  return narrow<S>(sum);
}

}  // namespace fusion3d
