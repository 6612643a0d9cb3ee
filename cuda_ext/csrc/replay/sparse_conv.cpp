// sparse_conv's CUDA blocks on the host, thread after thread, without torch: tests load this with ctypes. It checks arithmetic,
// addresses and order; run with its threads in reverse it also shows that none reads what another writes between two waits. What
// it cannot check are barriers and launches.
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "core/sparse_conv.h"

namespace fusion3d {
namespace {

template <class A>
struct Team {
  bool reversed;
  ThreadSums<A> sums[kTeam];

  template <class Work>
  void each(const Work& work) {
    for (int i = 0; i < kTeam; ++i) {
      const int thread = reversed ? kTeam - 1 - i : i;
      work(thread, sums[thread]);
    }
  }
};

// Shared memory holds anything at first: here NaN.
template <class Memory>
std::unique_ptr<Memory> unset() {
  auto memory = std::make_unique<Memory>();
  memset(static_cast<void*>(memory.get()), 0xff, sizeof *memory);
  return memory;
}

template <class S>
void convolve(const void* features, const void* weight, const KernelPairs& pairs, int64_t depth, int64_t channels, bool reversed,
              void* result) {
  using A = Accumulator<S>;
  const int64_t tiles = tiles_of<S>(pairs.outputs);
  std::vector<int64_t> starts((tiles + 1) * pairs.elements);
  for (int64_t item = 0; item < int64_t(starts.size()); ++item) starts[item] = tile_start<S>(pairs, item);
  const Convolution<S> c{static_cast<const S*>(features), static_cast<const S*>(weight), static_cast<S*>(result), pairs,
                         starts.data(), depth, channels};
  const auto memory = unset<TileMemory<A>>();
  Team<A> team{reversed, {}};
  for (int64_t tile = 0; tile < tiles; ++tile)
    for (int64_t channel = 0; channel < channels; channel += kSide) convolve_tile(c, tile, channel, *memory, team);
}

template <class S>
void weight_gradient(const void* features, const void* grad, const KernelPairs& pairs, int64_t longest, int64_t depth,
                     int64_t channels, bool reversed, void* grad_weight) {
  using A = Accumulator<S>;
  std::vector<int64_t> first_part{0};
  for (int64_t k = 0; k < pairs.elements; ++k)
    first_part.push_back(first_part.back() + (pairs.offsets[k + 1] - pairs.offsets[k] + longest - 1) / longest);
  std::vector<A> partial(first_part.back() * depth * channels);
  const WeightGradient<S> g{static_cast<const S*>(features), static_cast<const S*>(grad), pairs, {first_part.data(), longest},
                            partial.data(), depth, channels};
  const auto memory = unset<OuterMemory<A>>();
  Team<A> team{reversed, {}};
  for (int64_t part = 0; part < first_part.back(); ++part)
    for (int64_t down = 0; down < depth; down += kSide)
      for (int64_t across = 0; across < channels; across += kSide) outer_part(g, part, down, across, *memory, team);
  for (int64_t item = 0; item < pairs.elements * depth * channels; ++item)
    static_cast<S*>(grad_weight)[item] = join_parts(g, item);
}

}  // namespace
}  // namespace fusion3d

// `type`: 0 float32, 1 float64, 2 float16, 3 bfloat16. weight [elements, depth, channels], result [outputs, channels].
extern "C" __attribute__((visibility("default"))) void replay_sparse_conv(
    int type, int reversed, const void* features, const void* weight, const int64_t* from, const int64_t* to,
    const int64_t* offsets, int64_t elements, int64_t inputs, int64_t outputs, int64_t depth, int64_t channels, void* result) {
  using namespace fusion3d;
  const KernelPairs pairs{from, to, offsets, elements, inputs, outputs};
  switch (type) {
    case 0: return convolve<float>(features, weight, pairs, depth, channels, reversed, result);
    case 1: return convolve<double>(features, weight, pairs, depth, channels, reversed, result);
    case 2: return convolve<Half>(features, weight, pairs, depth, channels, reversed, result);
    case 3: return convolve<BFloat16>(features, weight, pairs, depth, channels, reversed, result);
  }
}

// `longest`: pairs of a part. grad [outputs, channels], grad_weight [elements, depth, channels].
extern "C" __attribute__((visibility("default"))) void replay_sparse_conv_weight_gradient(
    int type, int reversed, int64_t longest, const void* features, const void* grad, const int64_t* from, const int64_t* to,
    const int64_t* offsets, int64_t elements, int64_t inputs, int64_t outputs, int64_t depth, int64_t channels,
    void* grad_weight) {
  using namespace fusion3d;
  const KernelPairs pairs{from, to, offsets, elements, inputs, outputs};
  switch (type) {
    case 0: return weight_gradient<float>(features, grad, pairs, longest, depth, channels, reversed, grad_weight);
    case 1: return weight_gradient<double>(features, grad, pairs, longest, depth, channels, reversed, grad_weight);
    case 2: return weight_gradient<Half>(features, grad, pairs, longest, depth, channels, reversed, grad_weight);
    case 3: return weight_gradient<BFloat16>(features, grad, pairs, longest, depth, channels, reversed, grad_weight);
  }
}
