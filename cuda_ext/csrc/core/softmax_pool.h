// Bodies of softmax_pool: the mean of a column's rows weighted by the softmax of their logits, and its gradients. First the peak
// and the total of the exponentials of each column and head, a LogSumExp; with them a row's weight is known, and the weighted sum
// is one of plain products. Channels h * channels / heads and the following belong to head h; a packet lies within one head.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/csr.h"
#include "core/log_sum_exp.h"
#include "core/place_search.h"
#include "core/schedule.h"
#include "core/weighted_sum.h"

namespace fusion3d {

template <class S>
struct Logits {
  const S* values;  // [rows, heads]
  int64_t heads;

  FUSION3D_BOTH Accumulator<S> at(int64_t row, int64_t head) const { return widen(values[row * heads + head]); }
};

// Peaks and totals, [columns, heads]. A column whose logits are all -inf, or that is empty, has 0 and 0. One with a NaN or an
// infinite logit has NaN for its total, and hence for its weights.
template <class A>
struct SoftmaxSums {
  A *peak, *total;

  FUSION3D_BOTH void put(int64_t at, const LogSumExp<A>& sum) const {
    peak[at] = sum.total == 0 ? 0 : sum.peak;
    total[at] = sum.total + (sum.total - sum.total);  // inf - inf is NaN
  }
};

// What a row of one column and head weighs: exp(logit - peak) * share.
template <class A>
struct SoftmaxWeight {
  A peak, share;

  FUSION3D_BOTH SoftmaxWeight(A peak, A total) : peak(peak), share(1 / (total == 0 ? A(1) : total)) {}
  FUSION3D_BOTH A of(A logit) const { return exponential(logit - peak) * share; }
};

// Takes the logits of one head at places first, first + step, ... below stop: see take_rows in core/schedule.h.
template <class S>
FUSION3D_BOTH LogSumExp<Accumulator<S>> take_logits(
    const Logits<S>& logits, const Columns& csr, int64_t head, int64_t first, int64_t stop, int64_t step) {
  LogSumExp<Accumulator<S>> sum;
  for (int64_t place = first; place < stop; place += step) {
    const Accumulator<S> value[1] = {logits.at(csr.row(place), head)};
    sum.combine(LogSumExp<Accumulator<S>>::of(value));
  }
  return sum;
}

// Takes a packet of the rows at places first, first + step, ... below stop; weight(place, row) is what each weighs.
template <int W, class S, class Weight>
FUSION3D_BOTH WeightedSum<S, W> take_weighted_rows(
    const S* features, const Columns& csr, int64_t channel, int64_t first, int64_t stop, int64_t step, const Weight& weight) {
  WeightedSum<S, W> sum;
#if defined(__CUDA_ARCH__)
#pragma unroll(sizeof(S) == 8 ? 1 : 2)  // two exponentials of float64 at a time spill on sm_90
#endif
  for (int64_t place = first; place < stop; place += step) {
    const int64_t row = csr.row(place);
    sum.take(features + row * csr.channels + channel, weight(place, row));
  }
  return sum;
}

template <int W, class S>
FUSION3D_BOTH Packet<S, W> packet_at(const S* from) {
#if defined(__CUDA_ARCH__)
  return *reinterpret_cast<const Packet<S, W>*>(from);  // launched for aligned rows only
#else
  Packet<S, W> packet;
  memcpy(packet.value, from, sizeof packet.value);
  return packet;
#endif
}

// Sum of left times right over the packets that start at first, first + step, ... below count.
template <int W, class S>
FUSION3D_BOTH Accumulator<S> product(const S* left, const S* right, int64_t first, int64_t count, int64_t step) {
  Accumulator<S> total[W];
  FUSION3D_UNROLLED
  for (int c = 0; c < W; ++c) total[c] = 0;
  for (int64_t channel = first; channel < count; channel += step) {
    const Packet<S, W> a = packet_at<W>(left + channel), b = packet_at<W>(right + channel);
    FUSION3D_UNROLLED
    for (int c = 0; c < W; ++c) total[c] += widen(a.value[c]) * widen(b.value[c]);
  }
  FUSION3D_UNROLLED
  for (int half = W / 2; half > 0; half /= 2) {
    FUSION3D_UNROLLED
    for (int c = 0; c < half; ++c) total[c] += total[c + half];
  }
  return total[0];
}

template <int W, class S>
FUSION3D_BOTH void scale(const S* grad, Accumulator<S> weight, S* result) {
  FUSION3D_CHANNELS
  for (int c = 0; c < W; ++c) result[c] = narrow<S>(widen(grad[c]) * weight);
}

// Gradient of a logit: `along` is its row times the upstream gradient, `mean` the pooled row times it.
template <class A>
FUSION3D_BOTH A logit_gradient(A weight, A along, A mean) {
  return weight * (along - mean);
}

// What the gradients are made of. `grad` and `pooled` are [columns, channels], `features` [rows, channels].
template <class S>
struct SoftmaxGradient {
  const S *grad, *features, *pooled;
  Logits<S> logits;
  SoftmaxSums<const Accumulator<S>> sums;
  Columns csr;
  S *grad_features, *grad_logits;

  FUSION3D_BOTH int64_t head_channels() const { return csr.channels / logits.heads; }

  FUSION3D_BOTH SoftmaxWeight<Accumulator<S>> weight(int64_t column, int64_t head) const {
    return {sums.peak[column * logits.heads + head], sums.total[column * logits.heads + head]};
  }
};

// Neighbouring places, whose rows CUDA lets the same threads walk: columns of any length are shared out evenly.
constexpr int64_t kWalk = 32;

// Calls enter(column) for each column of the places first..stop, then row(row) for each of its rows there.
template <class Enter, class Row>
FUSION3D_BOTH void walk_places(const Columns& csr, int64_t first, int64_t stop, const Enter& enter, const Row& row) {
  int64_t column = group_of_place(csr.row_splits, csr.columns, first);
  for (int64_t place = first; place < stop; ++column) {
    const int64_t last = csr.row_splits[column + 1] < stop ? csr.row_splits[column + 1] : stop;
    if (last <= place) continue;
    enter(column);
    for (; place < last; ++place) row(csr.row(place));
  }
}

// Lanes that share the channels of a head: a power of two, no more than it has packets.
FUSION3D_BOTH int team_of(int64_t packets) {
  int team = 1;
  while (team < kWarp && 2 * team <= packets) team *= 2;
  return team;
}

// The sum that a team makes with shuffles, on an array of its lanes' values: every lane then holds it.
template <class A>
FUSION3D_BOTH void sum_as_a_team(A (&values)[kWarp], int team) {
  for (int offset = team / 2; offset > 0; offset /= 2) {
    A other[kWarp];
    for (int lane = 0; lane < team; ++lane) other[lane] = values[lane ^ offset];
    for (int lane = 0; lane < team; ++lane) values[lane] += other[lane];
  }
}

}  // namespace fusion3d
