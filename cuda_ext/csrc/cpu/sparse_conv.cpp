// sparse_conv on the CPU. Schema, meaning and gradient formula: fusion3d/ops/sparse_conv.py; products: cpu/pair_products.h.
//
// Work is cut into tiles of rows that receive sums: outputs in the forward pass, inputs in the backward pass. The pairs of a tile
// are taken element after element, so that a tile's sums stay in a core's cache, nothing is gathered to memory, and every sum
// has the order of the elements whatever the number of threads.
#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <tuple>
#include <type_traits>
#include <vector>

#include "binding.h"
#include "core/kernel_pairs.h"
#include "cpu/memory.h"
#include "cpu/pair_products.h"
#include "cpu/parallel.h"
#include "sparse_conv_tensors.h"

namespace fusion3d {
namespace {

constexpr int64_t kTile = 256;               // rows: some 80 pairs an element on terrain for each time that its weight is read
constexpr int64_t kMostSlabs = 64;           // shares of the weight's gradient, each with sums of its own
constexpr int64_t kSlabMemory = 64ll << 20;  // bytes for all of them

constexpr int64_t rounded_up(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

struct FreeAligned {
  void operator()(void* memory) const { ::operator delete[](memory, std::align_val_t(kCacheLine)); }
};

// Memory that starts on a cache line; not initialised.
template <class A>
using Aligned = std::unique_ptr<A[], FreeAligned>;
template <class A>
Aligned<A> aligned(int64_t count) {
  return Aligned<A>(static_cast<A*>(::operator new[](sizeof(A) * count, std::align_val_t(kCacheLine))));
}

void check_pairs(const KernelPairs& pairs) {
  std::atomic<int32_t> found{int32_t(PairFault::none)};
  for_parts(pairs.count(), 2, [&](int64_t begin, int64_t end) {
    int64_t element = std::upper_bound(pairs.offsets, pairs.offsets + pairs.elements + 1, begin) - pairs.offsets - 1;
    for (int64_t p = begin; p < end; ++element) {
      const int64_t start = pairs.offsets[element], stop = pairs.offsets[element + 1];
      for (const int64_t last = std::min(stop, end); p < last; ++p) {
        const PairFault fault = fault_of_pair(pairs, p, start, stop);
        if (fault != PairFault::none) found = int32_t(fault);
      }
    }
  });
  refuse_fault(PairFault(found.load()), pairs);
}

// work(worker, item) for every item of [0, items), each by the next idle of `workers` threads: items may cost unequally much, so
// what an item computes must not depend on its worker.
template <class Work>
void for_items(int64_t items, int64_t workers, const Work& work) {
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t item = next++; item < items; item = next++) work(worker, item);
  });
}

int64_t workers_for(int64_t items) {
  return std::clamp<int64_t>(torch::stable::get_num_threads(), 1, std::max<int64_t>(1, items));
}

// weight [elements, depth, columns] as `PairProducts::multiply` reads it: `width` columns, zeros beyond `columns`, in blocks of
// 4, 2 and 1 vectors, each block [depth, block]. `Transposed`: the weight is stored [elements, columns, depth].
template <bool Transposed, class S, class A = Accumulator<S>>
Aligned<A> pack_weight(const S* weight, int64_t elements, int64_t depth, int64_t columns, int64_t width, int64_t lanes) {
  Aligned<A> packed = aligned<A>(elements * depth * width);
  for_parts(elements, depth * width, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const S* const from = weight + k * depth * columns;
      A* to = packed.get() + k * depth * width;
      for (int64_t first = 0; first < width;) {
        const int64_t left = (width - first) / lanes, block = lanes * (left >= 4 ? 4 : left >= 2 ? 2 : 1);
        for (int64_t d = 0; d < depth; ++d)
          for (int64_t column = first; column < first + block; ++column)
            *to++ = column >= columns ? A(0) : widen(Transposed ? from[column * depth + d] : from[d * columns + column]);
        first += block;
      }
    }
  });
  return packed;
}

// Rows of S reached as rows of its accumulator: where they lie if they fit, else copied, widened, to rows of `stride` that end in
// zeros.
template <class S>
class Rows {
 public:
  using A = Accumulator<S>;

  Rows(int64_t width, int64_t stride)
      : places_(new const S*[kTile]), rows_(new const A*[kTile]), width_(width), stride_(stride) {
    if (std::is_same_v<S, A> && width == stride) return;
    copies_ = aligned<A>(kTile * stride);
    std::fill_n(copies_.get(), kTile * stride, A(0));
  }

  // Row i of at most kTile is row `row` of `tensor`.
  void put(int64_t i, const S* tensor, int64_t row) {
    places_[i] = tensor + row * width_;
    for (int64_t byte = 0; byte < width_ * int64_t(sizeof(S)); byte += kCacheLine)
      __builtin_prefetch(reinterpret_cast<const char*>(places_[i]) + byte);
  }

  const A* const* widened(int64_t count) {
    if constexpr (std::is_same_v<S, A>)
      if (!copies_) return places_.get();
    for (int64_t i = 0; i < count; ++i) {
      A* const to = copies_.get() + i * stride_;
      const S* const from = places_[i];
      FUSION3D_CHANNELS
      for (int64_t c = 0; c < width_; ++c) to[c] = widen(from[c]);
      rows_[i] = to;
    }
    return rows_.get();
  }

 private:
  std::unique_ptr<const S*[]> places_;
  std::unique_ptr<const A*[]> rows_;
  int64_t width_, stride_;
  Aligned<A> copies_;
};

// What a thread needs for its tiles, made before threads start.
template <class S>
struct Workplace {
  using A = Accumulator<S>;

  Workplace(int64_t elements, int64_t source_width, int64_t source_stride, int64_t target_width)
      : sources(source_width, source_stride),
        next_pair(elements),
        sums(aligned<A>(kTile * target_width)),
        targets(new A*[kTile]),
        width(target_width) {}

  // Makes ready for a tile that starts at `row`, which must not lie before the one that was worked on last.
  void seek(const KernelPairs& map, int64_t row) {
    for (int64_t k = 0; k < map.elements; ++k) {
      int64_t& begin = next_pair[k];
      begin = std::max(begin, map.offsets[k]);
      int64_t step = kTile;  // tiles follow each other closely
      while (begin + step < map.offsets[k + 1] && map.to[begin + step] < row) {
        begin += step;
        step *= 2;
      }
      begin = first_pair(map.to, begin, std::min(begin + step, map.offsets[k + 1]), row);
    }
  }

  // Sums of the rows [first, last) over all elements. `also(element, begin, end, rows)` sees the pairs of each, `rows` as read.
  template <class Also>
  void add_up(const S* tensor, const KernelPairs& map, const A* weight, int64_t depth, const PairProducts<A>& products,
              int64_t first, int64_t last, const Also& also) {
    std::fill_n(sums.get(), (last - first) * width, A(0));
    for (int64_t k = 0; k < map.elements; ++k) {
      const int64_t begin = next_pair[k], stop = map.offsets[k + 1];
      int64_t count = 0;
      for (; begin + count < stop && map.to[begin + count] < last; ++count) {
        sources.put(count, tensor, map.from[begin + count]);
        targets[count] = sums.get() + (map.to[begin + count] - first) * width;
      }
      next_pair[k] = begin + count;
      if (count == 0) continue;
      const A* const* const rows = sources.widened(count);
      products.multiply(rows, targets.get(), count, weight + k * depth * width, depth, width);
      also(k, begin, begin + count, rows);
    }
  }

  // The sums of `rows` rows as `channels` channels of `result`.
  void write(S* result, int64_t rows, int64_t channels) const {
    for (int64_t row = 0; row < rows; ++row) {
      const A* const from = sums.get() + row * width;
      FUSION3D_CHANNELS
      for (int64_t c = 0; c < channels; ++c) result[row * channels + c] = narrow<S>(from[c]);
    }
  }

  Rows<S> sources;
  std::vector<int64_t> next_pair;  // of each element
  Aligned<A> sums;
  std::unique_ptr<A*[]> targets;
  int64_t width;
};

template <class S>
void convolve(const S* features, const S* weight, const KernelPairs& pairs, int64_t in_channels, int64_t out_channels,
              S* result) {
  using A = Accumulator<S>;
  const PairProducts<A> products = pair_products<A>();
  const int64_t width = rounded_up(out_channels, products.lanes), tiles = rounded_up(pairs.outputs, kTile) / kTile;
  const auto packed = pack_weight<false>(weight, pairs.elements, in_channels, out_channels, width, products.lanes);
  std::vector<Workplace<S>> workplaces;
  for (int64_t worker = 0; worker < workers_for(tiles); ++worker)
    workplaces.emplace_back(pairs.elements, in_channels, in_channels, width);
  for_items(tiles, workplaces.size(), [&](int64_t worker, int64_t tile) {
    const int64_t first = tile * kTile, last = std::min(first + kTile, pairs.outputs);
    Workplace<S>& place = workplaces[worker];
    place.seek(pairs, first);
    place.add_up(features, pairs, packed.get(), in_channels, products, first, last,
                 [](int64_t, int64_t, int64_t, const A* const*) {});
    place.write(result + first * out_channels, last - first, out_channels);
  });
}

Tensor sparse_conv(const Tensor& features, const Tensor& weight, const Tensor& in_rows, const Tensor& out_rows,
                   const Tensor& offsets, int64_t outputs) {
  check_channels(features, weight);
  const PairTensors map(features, weight, in_rows, out_rows, offsets, features.size(0), outputs);
  check_pairs(map.pairs);
  const Tensor rows = torch::stable::contiguous(features), elements = torch::stable::contiguous(weight);
  Tensor result = torch::stable::new_empty(features, {outputs, weight.size(2)});
  if (result.numel() == 0) return result;  // of no channels there may be any number of rows
  prefer_huge_pages(result.mutable_data_ptr(), result.numel() * int64_t(result.element_size()));
  with_float_type("features", features.scalar_type(), [&](auto scalar) {
    using S = decltype(scalar);
    convolve<S>(data<S>(rows), data<S>(elements), map.pairs, weight.size(1), weight.size(2), output<S>(result));
  });
  return result;
}

// Both gradients in one walk over tiles of input rows: the upstream rows that a tile's pairs name serve both. The weight's
// gradient is added up in slabs of tiles, which depend on the data alone, and the slabs are joined in order.
template <class S>
void gradients(const S* grad, const S* features, const S* weight, const KernelPairs& pairs, int64_t in_channels,
               int64_t out_channels, S* grad_features, S* grad_weight) {
  using A = Accumulator<S>;
  const PairProducts<A> products = pair_products<A>();
  const int64_t in_width = rounded_up(in_channels, products.lanes), out_width = rounded_up(out_channels, products.lanes);
  const auto packed = pack_weight<true>(weight, pairs.elements, out_channels, in_channels, in_width, products.lanes);
  const KernelPairs back = pairs.transposed();
  const int64_t tiles = rounded_up(back.outputs, kTile) / kTile;
  const int64_t slab_size = pairs.elements * in_channels * out_width;
  const int64_t affordable = kSlabMemory / std::max<int64_t>(1, slab_size * int64_t(sizeof(A)));
  const int64_t slabs = std::clamp<int64_t>(std::min(affordable, tiles / 4), 1, kMostSlabs);
  const auto partial = aligned<A>(slabs * slab_size);
  std::vector<Workplace<S>> workplaces;
  std::vector<Rows<S>> inputs;
  for (int64_t worker = 0; worker < workers_for(slabs); ++worker) {
    workplaces.emplace_back(pairs.elements, out_channels, out_width, in_width);
    inputs.emplace_back(in_channels, in_channels);
  }
  for_items(slabs, workplaces.size(), [&](int64_t worker, int64_t slab) {
    A* const slab_sums = partial.get() + slab * slab_size;
    std::fill_n(slab_sums, slab_size, A(0));
    Workplace<S>& place = workplaces[worker];
    for (int64_t tile = tiles * slab / slabs; tile < tiles * (slab + 1) / slabs; ++tile) {
      const int64_t first = tile * kTile, last = std::min(first + kTile, back.outputs);
      place.seek(back, first);
      place.add_up(grad, back, packed.get(), out_channels, products, first, last,
                   [&](int64_t k, int64_t begin, int64_t end, const A* const* upstream) {
                     for (int64_t p = begin; p < end; ++p) inputs[worker].put(p - begin, features, back.to[p]);
                     products.outer(inputs[worker].widened(end - begin), upstream, end - begin,
                                    slab_sums + k * in_channels * out_width, in_channels, out_width);
                   });
      place.write(grad_features + first * in_channels, last - first, in_channels);
    }
  });
  for_parts(pairs.elements * in_channels, out_channels * slabs, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t c = 0; c < out_channels; ++c) {
        A sum = 0;
        for (int64_t slab = 0; slab < slabs; ++slab) sum += partial[slab * slab_size + row * out_width + c];
        grad_weight[row * out_channels + c] = narrow<S>(sum);
      }
  });
}

std::tuple<Tensor, Tensor> sparse_conv_backward(const Tensor& grad, const Tensor& features, const Tensor& weight,
                                                const Tensor& in_rows, const Tensor& out_rows, const Tensor& offsets) {
  check_channels(features, weight);
  check_grad(grad, features, weight);
  const PairTensors map(features, weight, in_rows, out_rows, offsets, features.size(0), grad.size(0));
  check_pairs(map.pairs);
  const Tensor rows = torch::stable::contiguous(features), elements = torch::stable::contiguous(weight);
  const Tensor upstream = torch::stable::contiguous(grad);
  Tensor grad_features = torch::stable::new_empty(features, {features.size(0), features.size(1)});
  Tensor grad_weight = torch::stable::new_empty(weight, {weight.size(0), weight.size(1), weight.size(2)});
  prefer_huge_pages(grad_features.mutable_data_ptr(), grad_features.numel() * int64_t(grad_features.element_size()));
  with_float_type("features", features.scalar_type(), [&](auto scalar) {
    using S = decltype(scalar);
    gradients<S>(data<S>(upstream), data<S>(rows), data<S>(elements), map.pairs, weight.size(1), weight.size(2),
                 output<S>(grad_features), output<S>(grad_weight));
  });
  return {grad_features, grad_weight};
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CPU, library) {
  library.impl("sparse_conv", TORCH_BOX(&sparse_conv));
  library.impl("sparse_conv_backward", TORCH_BOX(&sparse_conv_backward));
}

}  // namespace
}  // namespace fusion3d
