// softmax_pool on the CPU. Schema, meaning and gradient formula: fusion3d/ops/softmax_pool.py; arithmetic: core/softmax_pool.h.
#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "binding.h"
#include "core/schedule.h"
#include "core/softmax_pool.h"
#include "cpu/csr_check.h"
#include "cpu/memory.h"
#include "cpu/packets.h"
#include "cpu/parallel.h"
#include "softmax_check.h"

namespace fusion3d {
namespace {

#define FUSION3D_VECTOR_BYTES 16
#include "cpu/simd.h"
#undef FUSION3D_VECTOR_BYTES

// Rows whose weights are held at a time. A longer column is pooled in pieces of this length, joined in order, whatever the number
// of threads.
constexpr int64_t kPiece = 1024;

// Logits of one head in one piece, then their exponentials, then weights.
template <class S>
class PieceWeights {
 public:
  using A = Accumulator<S>;

  explicit PieceWeights(const Logits<S>& logits) : logits_(logits) {}

  void read(const Columns& csr, int64_t head, int64_t first, int64_t last) {
    first_ = first;
    count_ = last - first;
    for (int64_t place = first; place < last; ++place) values_[place - first] = logits_.at(csr.row(place), head);
    std::fill_n(values_ + count_, kLanes<A>, -std::numeric_limits<A>::infinity());  // the last vector's other lanes: no weight
  }

  // Turns logits into exponentials below the piece's own peak.
  LogSumExp<A> add_up() {
    Vector<A> highest = all<A>(-LogSumExp<A>::kHighest), total{};
    for (int64_t i = 0; i < count_; i += kLanes<A>) highest = larger(load(values_ + i), highest);
    const A peak = LogSumExp<A>::finite(largest_of<A>(highest));
    for (int64_t i = 0; i < count_; i += kLanes<A>) {
      const Vector<A> power = exponentials<A>(load(values_ + i) - peak);
      store(values_ + i, power);
      total += power;
    }
    return {peak, sum_of<A>(total)};
  }

  // Turns those exponentials into weights, where the piece is the whole column.
  void share_out(const SoftmaxWeight<A>& weight) {
    for (int64_t i = 0; i < count_; i += kLanes<A>) store(values_ + i, load(values_ + i) * weight.share);
  }

  // Turns logits into weights.
  void weigh(const SoftmaxWeight<A>& weight) {
    for (int64_t i = 0; i < count_; i += kLanes<A>)
      store(values_ + i, exponentials<A>(load(values_ + i) - weight.peak) * weight.share);
  }

  A of(int64_t place) const { return values_[place - first_]; }

 private:
  const Logits<S> logits_;
  int64_t first_ = 0, count_ = 0;
  A values_[kPiece + kLanes<A>];
};

template <class S>
struct Pool {
  using A = Accumulator<S>;
  const S* features;
  Logits<S> logits;
  const Columns& csr;
  S* pooled;
  SoftmaxSums<A> sums;

  void short_columns() const {
    for_columns(csr, [&](int64_t begin, int64_t end) {
      PieceWeights<S> weights(logits);
      for (int64_t m = begin; m < end; ++m) {
        const int64_t start = csr.row_splits[m], stop = csr.row_splits[m + 1];
        if (stop - start > kPiece) continue;
        for (int64_t head = 0; head < logits.heads; ++head) {
          weights.read(csr, head, start, stop);
          sums.put(m * logits.heads + head, weights.add_up());
          weights.share_out(weight(m, head));
          for_packets<S>(each(), [&](auto width, int64_t channel) {
            const int64_t at = head * each() + channel;
            take<decltype(width)::value>(weights, at, start, stop).finish(pooled + m * csr.channels + at);
          });
        }
      }
    });
  }

  // All long columns at once, for the threads wait for each other after every loop over pieces.
  void long_columns() const {
    const std::vector<Piece> pieces = long_pieces();
    if (pieces.empty()) return;
    const int64_t heads = logits.heads, channels = csr.channels, count = int64_t(pieces.size());
    std::vector<LogSumExp<A>> piece_sums(count * heads);
    for_pieces(pieces, [&](PieceWeights<S>& weights, int64_t piece, int64_t head) {
      piece_sums[piece * heads + head] = weights.add_up();
    });
    for_columns_of(pieces, [&](int64_t m, int64_t first, int64_t last) {
      for (int64_t head = 0; head < heads; ++head) {
        LogSumExp<A> whole;
        for (int64_t piece = first; piece < last; ++piece) whole.combine(piece_sums[piece * heads + head]);
        sums.put(m * heads + head, whole);
      }
    });
    std::vector<A> totals(count * channels);
    for_pieces(pieces, [&](PieceWeights<S>& weights, int64_t piece, int64_t head) {
      weights.weigh(weight(pieces[piece].column, head));
      for_packets<S>(each(), [&](auto width, int64_t channel) {
        const int64_t at = head * each() + channel;
        const auto sum = take<decltype(width)::value>(weights, at, pieces[piece].first, pieces[piece].last);
        std::copy_n(sum.total, decltype(width)::value, &totals[piece * channels + at]);
      });
    });
    for_columns_of(pieces, [&](int64_t m, int64_t first, int64_t last) {
      for (int64_t channel = 0; channel < channels; ++channel) {
        A whole = 0;
        for (int64_t piece = first; piece < last; ++piece) whole += totals[piece * channels + channel];
        pooled[m * channels + channel] = narrow<S>(whole);
      }
    });
  }

 private:
  struct Piece {
    int64_t column, first, last;  // places
  };

  int64_t each() const { return csr.channels / logits.heads; }

  SoftmaxWeight<A> weight(int64_t m, int64_t head) const {
    return {sums.peak[m * logits.heads + head], sums.total[m * logits.heads + head]};
  }

  std::vector<Piece> long_pieces() const {
    std::vector<Piece> pieces;
    for (int64_t m = 0; m < csr.columns; ++m) {
      const int64_t start = csr.row_splits[m], stop = csr.row_splits[m + 1];
      if (stop - start <= kPiece) continue;
      for (int64_t first = start; first < stop; first += kPiece) pieces.push_back({m, first, std::min(first + kPiece, stop)});
    }
    return pieces;
  }

  // work(weights that hold the piece's logits, number of the piece, head)
  template <class Work>
  void for_pieces(const std::vector<Piece>& pieces, const Work& work) const {
    for_parts(int64_t(pieces.size()), kPiece * csr.channels, [&](int64_t begin, int64_t end) {
      PieceWeights<S> weights(logits);
      for (int64_t piece = begin; piece < end; ++piece)
        for (int64_t head = 0; head < logits.heads; ++head) {
          weights.read(csr, head, pieces[piece].first, pieces[piece].last);
          work(weights, piece, head);
        }
    });
  }

  // work(column, its first piece, the piece after its last)
  template <class Work>
  static void for_columns_of(const std::vector<Piece>& pieces, const Work& work) {
    const int64_t count = int64_t(pieces.size());
    for (int64_t first = 0, last = 0; first < count; first = last) {
      while (last < count && pieces[last].column == pieces[first].column) ++last;
      work(pieces[first].column, first, last);
    }
  }

  template <int W>
  WeightedSum<S, W> take(const PieceWeights<S>& weights, int64_t channel, int64_t first, int64_t last) const {
    return take_weighted_rows<W>(features, csr, channel, first, last, 1, [&](int64_t place, int64_t) {
      if (channel == 0) prefetch_row(features, csr, place + kAhead);
      return weights.of(place);
    });
  }
};

std::tuple<Tensor, Tensor, Tensor> softmax_pool(
    const Tensor& features, const Tensor& logits, const Tensor& row_splits, const std::optional<Tensor>& permutation) {
  check_logits(features, logits);
  const CsrTensors csr("features", features, row_splits, permutation, features.size(0), features.size(1));
  check_csr(csr);
  const Columns& columns = csr.columns;
  const Tensor rows = torch::stable::contiguous(features), scores = torch::stable::contiguous(logits);
  Tensor pooled = torch::stable::new_empty(features, {columns.columns, columns.channels});
  Tensor peak = torch::stable::new_empty(logits, {columns.columns, logits.size(1)}, accumulator_of(features));
  Tensor total = torch::stable::new_empty(logits, {columns.columns, logits.size(1)}, accumulator_of(features));
  with_float_type("features", features.scalar_type(), [&](auto scalar) {
    using S = decltype(scalar);
    using A = Accumulator<S>;
    const Pool<S> pool{data<S>(rows), {data<S>(scores), scores.size(1)}, columns, output<S>(pooled),
                       {output<A>(peak), output<A>(total)}};
    pool.short_columns();
    pool.long_columns();
  });
  return {pooled, peak, total};
}

template <class S>
struct PoolGradients {
  using A = Accumulator<S>;
  const SoftmaxGradient<S> of;
  bool past_caches;

  // every place writes a row of its own, so places can be shared out anywhere, also inside a long column
  void spread() const {
    const Columns& csr = of.csr;
    for_parts(csr.places, csr.channels + of.logits.heads, [&](int64_t begin, int64_t end) {
      PieceWeights<S> weights(of.logits);
      int64_t m = group_of_place(csr.row_splits, csr.columns, begin);
      for (int64_t place = begin; place < end; ++m) {
        const int64_t last = std::min(csr.row_splits[m + 1], end);
        for (; place < last; place = std::min(place + kStay, last))
          for (int64_t head = 0; head < of.logits.heads; ++head)
            spread_piece(weights, m, head, place, std::min(place + kStay, last));
      }
      settle_memory();
    });
  }

 private:
  static constexpr int64_t kStay = 128;  // rows that stay in a core's cache from head to head

  // Sum of the products of one head's channels.
  A along(const S* left, const S* right) const {
    constexpr int kWide = 8;
    const int64_t each = of.head_channels(), wide = each / kWide * kWide;
    return product<kWide>(left, right, 0, wide, kWide) + product<1>(left, right, wide, each, 1);
  }

  void spread_piece(PieceWeights<S>& weights, int64_t m, int64_t head, int64_t first, int64_t last) const {
    const Columns& csr = of.csr;
    const int64_t each = of.head_channels(), offset = head * each;
    const S* const upstream = of.grad + m * csr.channels + offset;
    const A mean = along(of.pooled + m * csr.channels + offset, upstream);
    weights.read(csr, head, first, last);
    weights.weigh(of.weight(m, head));
    for (int64_t place = first; place < last; ++place) {
      if (head == 0) prefetch_row(of.features, csr, place + kAhead);
      const int64_t row = csr.row(place);
      const A weight = weights.of(place);
      of.grad_logits[row * of.logits.heads + head] =
          narrow<S>(logit_gradient(weight, along(of.features + row * csr.channels + offset, upstream), mean));
      for_packets<S>(each, [&](auto width, int64_t channel) {
        constexpr int W = decltype(width)::value;
        alignas(kCacheLine) S packet[W];
        scale<W>(upstream + channel, weight, packet);
        put_packet<S, W>(of.grad_features + row * csr.channels + offset + channel, packet, past_caches);
      });
    }
  }
};

std::tuple<Tensor, Tensor> softmax_pool_backward(
    const Tensor& grad, const Tensor& features, const Tensor& logits, const Tensor& pooled, const Tensor& peak,
    const Tensor& total, const Tensor& row_splits, const std::optional<Tensor>& permutation) {
  check_logits(features, logits);
  const CsrTensors csr("features", features, row_splits, permutation, features.size(0), features.size(1));
  const Columns& columns = csr.columns;
  check_pooled(grad, pooled, peak, total, features, logits, columns.columns);
  check_csr(csr);
  const Tensor dense[] = {torch::stable::contiguous(grad),   torch::stable::contiguous(features),
                          torch::stable::contiguous(pooled), torch::stable::contiguous(logits),
                          torch::stable::contiguous(peak),   torch::stable::contiguous(total)};
  Tensor grad_features = torch::stable::new_empty(features, {csr.rows, columns.channels});
  Tensor grad_logits = torch::stable::new_empty(logits, {csr.rows, logits.size(1)});
  const int64_t bytes = grad_features.numel() * int64_t(grad_features.element_size());
  prefer_huge_pages(grad_features.mutable_data_ptr(), bytes);
  if (csr.leaves_rows_out()) {
    torch::stable::zero_(grad_features);
    torch::stable::zero_(grad_logits);
  }
  with_float_type("features", features.scalar_type(), [&](auto scalar) {
    using S = decltype(scalar);
    using A = Accumulator<S>;
    S* const to = output<S>(grad_features);
    const int64_t each = columns.channels / logits.size(1);  // packets of whole cache lines start where a head's channels do
    const bool whole_lines = each * sizeof(S) % kCacheLine == 0 && uintptr_t(to) % kCacheLine == 0;
    const PoolGradients<S> gradients{{data<S>(dense[0]), data<S>(dense[1]), data<S>(dense[2]),
                                      {data<S>(dense[3]), logits.size(1)},
                                      {data<A>(dense[4]), data<A>(dense[5])},
                                      columns, to, output<S>(grad_logits)},
                                     whole_lines && bytes > kPastCaches};
    gradients.spread();
  });
  return {grad_features, grad_logits};
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CPU, library) {
  library.impl("softmax_pool", TORCH_BOX(&softmax_pool));
  library.impl("softmax_pool_backward", TORCH_BOX(&softmax_pool_backward));
}

}  // namespace
}  // namespace fusion3d
