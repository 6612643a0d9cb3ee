// Bodies of column_pool: sum, mean and maximum of the rows of a column, and their gradients.
//
// A body works on a packet: `Width` neighbouring channels of one row. A CUDA thread takes packets of 16 bytes, a CPU core
// packets of a cache line; the arithmetic of a channel is the same for every width.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/csr.h"

namespace fusion3d {

enum class Reduce : int32_t { sum, mean, max };

// Where a row stands in its column: as wide as what it is compared with, so that both fit the same vector lanes.
template <class Scalar>
using PositionOf = std::conditional_t<sizeof(Scalar) == 8, int64_t, int32_t>;

template <class S, int W>
struct SumPartial {
  using Scalar = S;
  using Position = PositionOf<S>;
  static constexpr int Width = W;
  Accumulator<S> total[W];

  FUSION3D_BOTH SumPartial() {
    FUSION3D_UNROLLED
    for (int c = 0; c < W; ++c) total[c] = 0;
  }

  FUSION3D_BOTH void take(const S* row, Position) {
    FUSION3D_UNROLLED
    for (int c = 0; c < W; ++c) total[c] += widen(row[c]);
  }

  FUSION3D_BOTH void combine(const SumPartial& other) {
    FUSION3D_UNROLLED
    for (int c = 0; c < W; ++c) total[c] += other.total[c];
  }

  // `at`: element (column, channel) of the outputs, whose rows are `channels` long.
  template <Reduce R>
  FUSION3D_BOTH void finish(const Columns&, int64_t start, int64_t stop, S* pooled, int64_t*, int64_t at) const {
    const Accumulator<S> divisor = R == Reduce::mean && stop > start ? Accumulator<S>(stop - start) : 1;
    for (int c = 0; c < W; ++c) pooled[at + c] = narrow<S>(R == Reduce::mean ? total[c] / divisor : total[c]);
  }
};

// Maximum and the position of its first row. A NaN is larger than any number, and the first NaN stays.
template <class S, int W>
struct MaxPartial {
  using Scalar = S;
  using Position = PositionOf<S>;
  static constexpr int Width = W;
  static constexpr Accumulator<S> kLowest = -std::numeric_limits<Accumulator<S>>::infinity();
  static constexpr Position kNone = std::numeric_limits<Position>::max();  // no row was larger than -inf yet
  Accumulator<S> best[W];
  Position first[W];

  FUSION3D_BOTH MaxPartial() {
    FUSION3D_CHANNELS
    for (int c = 0; c < W; ++c) {
      best[c] = kLowest;
      first[c] = kNone;
    }
  }

  FUSION3D_BOTH void take(const S* row, Position position) {
    FUSION3D_CHANNELS
    for (int c = 0; c < W; ++c) {
      const Accumulator<S> value = widen(row[c]);
      const bool wins = !(value <= best[c]) & (best[c] == best[c]);
      best[c] = wins ? value : best[c];
      first[c] = wins ? position : first[c];
    }
  }

  FUSION3D_BOTH void combine(const MaxPartial& other) {
    FUSION3D_CHANNELS
    for (int c = 0; c < W; ++c) {
      const bool here_nan = best[c] != best[c], there_nan = other.best[c] != other.best[c];
      const bool tied = (here_nan & there_nan) | (other.best[c] == best[c]);
      const bool wins = (tied & (other.first[c] < first[c])) | ((!here_nan) & (there_nan | (other.best[c] > best[c])));
      best[c] = wins ? other.best[c] : best[c];
      first[c] = wins ? other.first[c] : first[c];
    }
  }

  template <Reduce>
  FUSION3D_BOTH void finish(const Columns& csr, int64_t start, int64_t stop, S* pooled, int64_t* winner, int64_t at) const {
    for (int c = 0; c < W; ++c) {
      // in a column of nothing but -inf no row ever won: its first row is the first of the tied
      const int64_t place = start + (first[c] == kNone ? 0 : int64_t(first[c]));
      pooled[at + c] = stop > start ? narrow<S>(best[c]) : narrow<S>(0);
      winner[at + c] = stop > start ? csr.row(place) : -1;
    }
  }
};

template <Reduce R, class S, int W>
using PoolPartial = std::conditional_t<R == Reduce::max, MaxPartial<S, W>, SumPartial<S, W>>;

// Gradient that each row of one column receives: the column's own for sum, its share for mean, all or nothing for max.
template <Reduce R, class S, int W>
struct PoolGradient {
  // Rows are told apart by their low 32 bits (float64: by all), which is exact below 2^32 rows: the binding refuses more.
  using Tag = std::conditional_t<sizeof(S) == 8, uint64_t, uint32_t>;
  S share[W];
  Tag winner[R == Reduce::max ? W : 1];

  FUSION3D_BOTH PoolGradient(const S* grad, const int64_t* winners, int64_t at, int64_t count) {
    FUSION3D_CHANNELS
    for (int c = 0; c < W; ++c)
      share[c] = R == Reduce::mean ? narrow<S>(widen(grad[at + c]) / Accumulator<S>(count)) : grad[at + c];
    if constexpr (R == Reduce::max) {
      FUSION3D_CHANNELS
      for (int c = 0; c < W; ++c) winner[c] = Tag(winners[at + c]);
    }
  }

  FUSION3D_BOTH void of_row(int64_t row, S* gradient) const {
    FUSION3D_CHANNELS
    for (int c = 0; c < W; ++c) {
      if constexpr (R == Reduce::max)
        gradient[c] = winner[c] == Tag(row) ? share[c] : S{};
      else
        gradient[c] = share[c];
    }
  }
};

}  // namespace fusion3d
