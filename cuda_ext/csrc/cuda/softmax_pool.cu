// softmax_pool on CUDA. Forward, a thread owns one head of a column and adds up its exponentials, then one owns a packet of
// channels and adds up the weighted rows; columns longer than kShortColumn get a warp instead. Backward, a team of lanes owns one
// head of kWalk places and reads every row once for both gradients. Nothing is added up by atomics.
#include "core/softmax_pool.h"

#include "cuda/kernel.cuh"
#include "cuda/softmax_pool.h"

namespace fusion3d::cuda {
namespace {

template <class S>
using Sums = SoftmaxSums<Accumulator<S>>;
template <class S>
using KnownSums = SoftmaxSums<const Accumulator<S>>;

// `Lanes` threads share the rows of a column: 1 for short columns, a warp for long ones.
template <class S, int Lanes>
__global__ void __launch_bounds__(kThreads, 4) add_up_logits(Logits<S> logits, Columns csr, Sums<S> sums) {
  const int lane = threadIdx.x % Lanes;
  for (int64_t item = global_thread() / Lanes; item < csr.columns * logits.heads; item += grid_threads() / Lanes) {
    const int64_t m = item / logits.heads, head = item % logits.heads;
    const int64_t start = csr.row_splits[m], stop = csr.row_splits[m + 1];
    if ((stop - start > kShortColumn) != (Lanes > 1)) continue;  // the same for all lanes
    auto sum = take_logits(logits, csr, head, start + lane, stop, Lanes);
    if constexpr (Lanes > 1) combine_warp(sum);
    if (lane == 0) sums.put(item, sum);
  }
}

template <class S>
struct WeightOfRow {
  const Logits<S>& logits;
  int64_t head;
  SoftmaxWeight<Accumulator<S>> weight;

  FUSION3D_BOTH Accumulator<S> operator()(int64_t, int64_t row) const { return weight.of(logits.at(row, head)); }
};

template <class S, int W, int Lanes>
__global__ void __launch_bounds__(kThreads, 4)
pool_rows(const S* features, Logits<S> logits, Columns csr, KnownSums<S> sums, S* pooled) {
  const int64_t packets = csr.channels / W, of_head = packets / logits.heads;
  const int lane = threadIdx.x % Lanes;
  for (int64_t item = global_thread() / Lanes; item < csr.columns * packets; item += grid_threads() / Lanes) {
    const int64_t m = item / packets, packet = item % packets, head = packet / of_head, at = m * logits.heads + head;
    const int64_t start = csr.row_splits[m], stop = csr.row_splits[m + 1];
    if ((stop - start > kShortColumn) != (Lanes > 1)) continue;
    const WeightOfRow<S> weight{logits, head, {sums.peak[at], sums.total[at]}};
    auto sum = take_weighted_rows<W>(features, csr, packet * W, start + lane, stop, Lanes, weight);
    if constexpr (Lanes > 1) combine_warp(sum);
    if (lane == 0) sum.finish(pooled + m * csr.channels + packet * W);
  }
}

// Sum over the lanes of a team, in every one of them, in the order of sum_as_a_team (core/softmax_pool.h).
template <class A>
__device__ inline A sum_of_team(A value, int team) {
  const int lane = threadIdx.x % kWarp;
  const unsigned members = (team == kWarp ? 0xffffffffu : (1u << team) - 1) << (lane / team * team);
  for (int offset = team / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(members, value, offset);
  return value;
}

template <class S, int W>
__global__ void __launch_bounds__(kThreads, 4) spread_gradients(SoftmaxGradient<S> of, int team) {
  using A = Accumulator<S>;
  const int64_t heads = of.logits.heads, channels = of.csr.channels, each = of.head_channels();
  const int64_t walks = (of.csr.places + kWalk - 1) / kWalk;
  const int lane = threadIdx.x % team;
  // lanes of a team do the same rounds, teams of a warp need not
  for (int64_t item = global_thread() / team; item < walks * heads; item += grid_threads() / team) {
    const int64_t head = item % heads, offset = head * each, first = item / heads * kWalk;
    const int64_t stop = first + kWalk < of.csr.places ? first + kWalk : of.csr.places;
    const S* upstream = nullptr;
    A mean = 0, peak = 0, share = 0;
    walk_places(
        of.csr, first, stop,
        [&](int64_t column) {
          upstream = of.grad + column * channels + offset;
          const S* const pooled = of.pooled + column * channels + offset;
          mean = sum_of_team(product<W>(pooled, upstream, int64_t(lane) * W, each, int64_t(team) * W), team);
          const SoftmaxWeight<A> known = of.weight(column, head);
          peak = known.peak;
          share = known.share;
        },
        [&](int64_t row) {
          const A weight = exponential(of.logits.at(row, head) - peak) * share;
          const S* const from = of.features + row * channels + offset;
          const A along = sum_of_team(product<W>(from, upstream, int64_t(lane) * W, each, int64_t(team) * W), team);
          if (lane == 0) of.grad_logits[row * heads + head] = narrow<S>(logit_gradient(weight, along, mean));
          for (int64_t channel = int64_t(lane) * W; channel < each; channel += int64_t(team) * W) {
            Packet<S, W> packet;
            scale<W>(packet_at<W>(upstream + channel).value, weight, packet.value);
            *reinterpret_cast<Packet<S, W>*>(of.grad_features + row * channels + offset + channel) = packet;
          }
        });
  }
}

}  // namespace

Status softmax_pool(
    FloatType type, const void* features, const void* logits, int64_t heads, const Columns& csr, int64_t longest, void* pooled,
    void* peak, void* total, void* stream) {
  if (csr.columns == 0) return nullptr;
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_float_type(type, [&](auto scalar) {
    using S = decltype(scalar);
    using A = Accumulator<S>;
    const bool some_long = longest > kShortColumn;
    const Logits<S> scores{static_cast<const S*>(logits), heads};
    const Sums<S> sums{static_cast<A*>(peak), static_cast<A*>(total)};
    const KnownSums<S> known{sums.peak, sums.total};
    const S* const from = static_cast<const S*>(features);
    S* const to = static_cast<S*>(pooled);
    const int64_t softmaxes = csr.columns * heads;
    add_up_logits<S, 1><<<blocks_for(softmaxes), kThreads, 0, queue>>>(scores, csr, sums);
    if (some_long) add_up_logits<S, kWarp><<<blocks_for(softmaxes * kWarp), kThreads, 0, queue>>>(scores, csr, sums);
    if (csr.channels == 0) return launched();
    return with_packet<S>(csr.channels / heads, features, pooled, [&](auto width) {
      constexpr int W = decltype(width)::value;
      const int64_t items = csr.columns * (csr.channels / W);
      pool_rows<S, W, 1><<<blocks_for(items), kThreads, 0, queue>>>(from, scores, csr, known, to);
      if (some_long)
        pool_rows<S, W, kWarp><<<blocks_for(items * kWarp), kThreads, 0, queue>>>(from, scores, csr, known, to);
      return launched();
    });
  });
}

Status softmax_pool_backward(
    FloatType type, const SoftmaxSaved& saved, int64_t heads, const Columns& csr, void* grad_features, void* grad_logits,
    void* stream) {
  if (csr.places == 0) return nullptr;
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_float_type(type, [&](auto scalar) {
    using S = decltype(scalar);
    using A = Accumulator<S>;
    const SoftmaxGradient<S> of{static_cast<const S*>(saved.grad), static_cast<const S*>(saved.features),
                                static_cast<const S*>(saved.pooled), {static_cast<const S*>(saved.logits), heads},
                                {static_cast<const A*>(saved.peak), static_cast<const A*>(saved.total)},
                                csr, static_cast<S*>(grad_features), static_cast<S*>(grad_logits)};
    const auto launch = [&](auto width) {
      constexpr int W = decltype(width)::value;
      const int team = team_of(of.head_channels() / W);
      const int64_t items = (csr.places + kWalk - 1) / kWalk * heads;
      spread_gradients<S, W><<<blocks_for(items * team), kThreads, 0, queue>>>(of, team);
      return launched();
    };
    return with_packet<S>(of.head_channels(), saved.grad, saved.features, [&](auto width) {
      return with_packet<S>(of.head_channels(), saved.pooled, grad_features, [&](auto other) {
        constexpr int W = decltype(width)::value < decltype(other)::value ? decltype(width)::value : decltype(other)::value;
        return launch(std::integral_constant<int, W>{});
      });
    });
  });
}

}  // namespace fusion3d::cuda
