// The kernels of softmax_pool on the host and without torch, in the order of CUDA's warps and teams: tests load this with ctypes.
// What it cannot check are shuffles and launches.
#include <cstdint>
#include <cstring>
#include <utility>

#include "core/schedule.h"
#include "core/softmax_pool.h"

namespace fusion3d {
namespace {

struct Input {
  int32_t type, wide, warp;  // wide: packets of 16 bytes, else of one channel
  const void *features, *logits;
  int64_t heads;
  const int64_t *row_splits, *permutation;
  int64_t places, columns, channels;
};

// What lane 0 of a warp holds after it has joined take(first, step) of its lanes; or what one thread holds.
template <class Take>
auto joined(bool warp, int64_t start, const Take& take) {
  using Partial = decltype(take(start, int64_t(1)));
  if (!warp) return take(start, int64_t(1));
  Partial lanes[kWarp];
  for (int lane = 0; lane < kWarp; ++lane) lanes[lane] = take(start + lane, int64_t(kWarp));
  combine_as_a_warp(lanes);
  return lanes[0];
}

template <class S, int W>
void pool(const Input& input, const Columns& csr, void* pooled, void* peak, void* total) {
  using A = Accumulator<S>;
  const Logits<S> logits{static_cast<const S*>(input.logits), input.heads};
  const SoftmaxSums<A> sums{static_cast<A*>(peak), static_cast<A*>(total)};
  for (int64_t m = 0; m < csr.columns; ++m) {
    const int64_t start = csr.row_splits[m], stop = csr.row_splits[m + 1];
    for (int64_t head = 0; head < input.heads; ++head) {
      const int64_t at = m * input.heads + head, each = csr.channels / input.heads;
      sums.put(at, joined(input.warp, start, [&](int64_t first, int64_t step) {
                 return take_logits(logits, csr, head, first, stop, step);
               }));
      const SoftmaxWeight<A> weight(sums.peak[at], sums.total[at]);
      const auto weight_of = [&](int64_t, int64_t row) { return weight.of(logits.at(row, head)); };
      for (int64_t channel = head * each; channel < (head + 1) * each; channel += W)
        joined(input.warp, start, [&](int64_t first, int64_t step) {
          return take_weighted_rows<W>(static_cast<const S*>(input.features), csr, channel, first, stop, step, weight_of);
        }).finish(static_cast<S*>(pooled) + m * csr.channels + channel);
    }
  }
}

// Sum of the products of one head's channels, as a team makes it.
template <int W, class S>
Accumulator<S> along(const S* left, const S* right, int64_t each, int team) {
  Accumulator<S> lanes[kWarp];
  for (int lane = 0; lane < team; ++lane) lanes[lane] = product<W>(left, right, lane * W, each, team * W);
  sum_as_a_team(lanes, team);
  return lanes[team - 1];
}

template <class S, int W>
void spread(const SoftmaxGradient<S>& of) {
  using A = Accumulator<S>;
  const int64_t channels = of.csr.channels, each = of.head_channels();
  const int team = team_of(each / W);
  for (int64_t first = 0; first < of.csr.places; first += kWalk)
    for (int64_t head = 0; head < of.logits.heads; ++head) {
      const int64_t offset = head * each, stop = first + kWalk < of.csr.places ? first + kWalk : of.csr.places;
      const S* upstream = nullptr;
      A mean = 0, peak = 0, share = 0;
      walk_places(
          of.csr, first, stop,
          [&](int64_t column) {
            upstream = of.grad + column * channels + offset;
            mean = along<W>(of.pooled + column * channels + offset, upstream, each, team);
            const SoftmaxWeight<A> known = of.weight(column, head);
            peak = known.peak;
            share = known.share;
          },
          [&](int64_t row) {
            const A weight = exponential(of.logits.at(row, head) - peak) * share;
            const A sum = along<W>(of.features + row * channels + offset, upstream, each, team);
            of.grad_logits[row * of.logits.heads + head] = narrow<S>(logit_gradient(weight, sum, mean));
            for (int lane = 0; lane < team; ++lane)
              for (int64_t channel = lane * W; channel < each; channel += team * W) {
                Packet<S, W> packet;
                scale<W>(upstream + channel, weight, packet.value);
                memcpy(of.grad_features + row * channels + offset + channel, packet.value, sizeof packet.value);
              }
          });
    }
}

// Calls body(scalar, packet) in the types of the input.
template <class Body>
void with_types(const Input& input, const Body& body) {
  const auto with_scalar = [&](auto scalar) {
    if (input.wide)
      body(scalar, std::integral_constant<int, 16 / int(sizeof scalar)>{});
    else
      body(scalar, std::integral_constant<int, 1>{});
  };
  switch (input.type) {
    case 0: return with_scalar(float{});
    case 1: return with_scalar(double{});
    case 2: return with_scalar(Half{});
    case 3: return with_scalar(BFloat16{});
  }
}

}  // namespace
}  // namespace fusion3d

extern "C" __attribute__((visibility("default"))) void replay_softmax_pool(
    const void* input, void* pooled, void* peak, void* total) {
  using namespace fusion3d;
  const Input& given = *static_cast<const Input*>(input);
  const Columns csr{given.row_splits, given.permutation, given.places, given.columns, given.channels};
  with_types(given, [&](auto scalar, auto width) {
    pool<decltype(scalar), decltype(width)::value>(given, csr, pooled, peak, total);
  });
}

extern "C" __attribute__((visibility("default"))) void replay_softmax_pool_backward(
    const void* input, const void* grad, const void* pooled, const void* peak, const void* total, void* grad_features,
    void* grad_logits) {
  using namespace fusion3d;
  const Input& given = *static_cast<const Input*>(input);
  const Columns csr{given.row_splits, given.permutation, given.places, given.columns, given.channels};
  with_types(given, [&](auto scalar, auto width) {
    using S = decltype(scalar);
    using A = Accumulator<S>;
    spread<S, decltype(width)::value>({static_cast<const S*>(grad), static_cast<const S*>(given.features),
                                       static_cast<const S*>(pooled), {static_cast<const S*>(given.logits), given.heads},
                                       {static_cast<const A*>(peak), static_cast<const A*>(total)}, csr,
                                       static_cast<S*>(grad_features), static_cast<S*>(grad_logits)});
  });
}
