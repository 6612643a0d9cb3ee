// column_pool on the CPU. Schema, meaning and gradient formula: fusion3d/ops/column_pool.py; arithmetic: core/column_pool.h.
#include <cstring>
#include <tuple>
#include <vector>

#include "binding.h"
#include "core/column_pool.h"
#include "core/schedule.h"
#include "cpu/csr_check.h"
#include "cpu/memory.h"
#include "cpu/packets.h"
#include "cpu/parallel.h"

namespace fusion3d {
namespace {

// Longer columns are pooled in pieces of this length, joined in order: many threads share one column, and the pieces, hence the
// rounding, are the same for any number of them. 2048 rows of 32 floats stay in a core's cache from packet to packet.
constexpr int64_t kPiece = 2048;

template <Reduce R, class S>
void pool_short_columns(const S* features, const Columns& csr, S* pooled, int64_t* winner) {
  for_columns(csr, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const int64_t start = csr.row_splits[m], stop = csr.row_splits[m + 1];
      if (stop - start > kPiece) continue;
      for_packets<S, R == Reduce::max ? 1 : 2>(csr.channels, [&](auto width, int64_t channel) {
        using Partial = PoolPartial<R, S, decltype(width)::value>;
        const Partial partial = take_rows<Partial>(features, csr, channel, start, start, stop, 1);
        partial.template finish<R>(csr, start, stop, pooled, winner, m * csr.channels + channel);
      });
    }
  });
}

template <Reduce R, class S>
void pool_long_column(const S* features, const Columns& csr, int64_t m, S* pooled, int64_t* winner) {
  const int64_t start = csr.row_splits[m], stop = csr.row_splits[m + 1], pieces = (stop - start + kPiece - 1) / kPiece;
  constexpr int64_t kBytes = sizeof(PoolPartial<R, S, 1>);  // of one channel's partial, within a packet of any width
  std::vector<unsigned char> partials(pieces * csr.channels * kBytes);
  const auto place_of = [&](int64_t piece, int64_t channel) { return &partials[(piece * csr.channels + channel) * kBytes]; };
  for_parts(pieces, kPiece * csr.channels, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t first = start + piece * kPiece, last = std::min(first + kPiece, stop);
      for_packets<S>(csr.channels, [&](auto width, int64_t channel) {
        using Partial = PoolPartial<R, S, decltype(width)::value>;
        static_assert(sizeof(Partial) == kBytes * Partial::Width);
        const Partial partial = take_rows<Partial>(features, csr, channel, start, first, last, 1);
        memcpy(place_of(piece, channel), &partial, sizeof partial);
      });
    }
  });
  for_packets<S>(csr.channels, [&](auto width, int64_t channel) {
    using Partial = PoolPartial<R, S, decltype(width)::value>;
    Partial whole;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      Partial partial;
      memcpy(&partial, place_of(piece, channel), sizeof partial);
      whole.combine(partial);
    }
    whole.template finish<R>(csr, start, stop, pooled, winner, m * csr.channels + channel);
  });
}

std::tuple<Tensor, Tensor> column_pool(
    const Tensor& features, const Tensor& row_splits, const std::optional<Tensor>& permutation, const std::string& reduce) {
  check_dimensions("features", features, 2);
  const Reduce how = reduce_of(reduce);
  const CsrTensors csr("features", features, row_splits, permutation, features.size(0), features.size(1));
  check_csr(csr);
  const Columns& columns = csr.columns;
  const Tensor rows = torch::stable::contiguous(features);
  Tensor pooled = torch::stable::new_empty(features, {columns.columns, columns.channels});
  Tensor winner = how == Reduce::max ? torch::stable::new_empty(row_splits, {columns.columns, columns.channels})
                                     : torch::stable::new_empty(row_splits, {0});
  prefer_huge_pages(winner.mutable_data_ptr(), winner.numel() * sizeof(int64_t));
  with_float_type("features", features.scalar_type(), [&](auto scalar) {
    using S = decltype(scalar);
    with_reduce(how, [&](auto constant) {
      constexpr Reduce R = decltype(constant)::value;
      S* const to = output<S>(pooled);
      int64_t* const to_winner = output<int64_t>(winner);
      pool_short_columns<R>(data<S>(rows), columns, to, to_winner);
      for (int64_t m = 0; m < columns.columns; ++m)
        if (columns.row_splits[m + 1] - columns.row_splits[m] > kPiece)
          pool_long_column<R>(data<S>(rows), columns, m, to, to_winner);
    });
  });
  return {pooled, winner};
}

template <Reduce R, class S>
void spread_gradient(const S* grad, const int64_t* winner, const Columns& csr, S* result, bool past_caches) {
  // every place writes a row of its own, so places can be shared out anywhere, also inside a long column
  for_parts(csr.places, csr.channels, [&](int64_t begin, int64_t end) {
    int64_t m = std::upper_bound(csr.row_splits, csr.row_splits + csr.columns + 1, begin) - csr.row_splits - 1;
    for (int64_t place = begin; place < end; ++m) {
      const int64_t start = csr.row_splits[m], stop = csr.row_splits[m + 1], last = std::min(stop, end);
      for_packets<S>(csr.channels, [&](auto width, int64_t channel) {
        constexpr int W = decltype(width)::value;
        const PoolGradient<R, S, W> gradient(grad, winner, m * csr.channels + channel, stop - start);
        for (int64_t k = place; k < last; ++k) {
          alignas(kCacheLine) S packet[W];
          const int64_t row = csr.row(k);
          gradient.of_row(row, packet);
          put_packet<S, W>(result + row * csr.channels + channel, packet, past_caches);
        }
      });
      place = std::max(place, last);
    }
    settle_memory();
  });
}

Tensor column_pool_backward(
    const Tensor& grad, const Tensor& winner, const Tensor& row_splits, const std::optional<Tensor>& permutation, int64_t rows,
    const std::string& reduce) {
  check_dimensions("grad", grad, 2);
  const Reduce how = reduce_of(reduce);
  const CsrTensors csr("grad", grad, row_splits, permutation, rows, grad.size(1));
  const Columns& columns = csr.columns;
  check_shape("grad", grad, columns.columns, columns.channels);
  if (how == Reduce::max) check_winner(winner, grad);
  check_csr(csr);
  const Tensor upstream = torch::stable::contiguous(grad), winners = torch::stable::contiguous(winner);
  Tensor result = torch::stable::new_empty(grad, {rows, columns.channels});
  const int64_t bytes = result.numel() * int64_t(result.element_size());
  prefer_huge_pages(result.mutable_data_ptr(), bytes);
  if (csr.leaves_rows_out()) torch::stable::zero_(result);
  with_float_type("grad", grad.scalar_type(), [&](auto scalar) {
    using S = decltype(scalar);
    S* const to = output<S>(result);
    const bool whole_lines = columns.channels * sizeof(S) % kCacheLine == 0 && uintptr_t(to) % kCacheLine == 0;
    with_reduce(how, [&](auto constant) {
      spread_gradient<decltype(constant)::value>(
          data<S>(upstream), how == Reduce::max ? data<int64_t>(winners) : nullptr, columns, to,
          whole_lines && bytes > kPastCaches);
    });
  });
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CPU, library) {
  library.impl("column_pool", TORCH_BOX(&column_pool));
  library.impl("column_pool_backward", TORCH_BOX(&column_pool_backward));
}

}  // namespace
}  // namespace fusion3d
