// column_quantile on the CPU. Meaning: fusion3d/ops/column_quantile.py; arithmetic: core/column_quantile.h.
//
// A tile holds kLanes lists side by side, so that one vector instruction compares a pair of places in all of them. Short columns
// are a list each, with columns of about the same length as neighbours; a long column is dealt out to the lists of several
// tiles, in which an order statistic is found by bisection.
#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <vector>

#include "binding.h"
#include "core/column_quantile.h"
#include "core/sorting_network.h"
#include "cpu/csr_check.h"
#include "cpu/index_check.h"
#include "cpu/parallel.h"
#include "quantile_tensors.h"

namespace fusion3d {
namespace {

constexpr int kLanes = 16;              // several vectors: finding a pair costs as much as comparing one
constexpr int64_t kPlaces = 1024;       // of a list
constexpr size_t kChunk = 512;          // columns among which neighbours of the same length are sought
constexpr size_t kChunkRows = 1 << 15;  // their heights stay in a core's cache
constexpr int64_t kSharedColumn = 1 << 17;  // rows of a column that several threads sort together

template <class Value>
constexpr Value kInfinity = std::numeric_limits<Value>::infinity();

// g++ 12 makes minimum and maximum instructions of comparisons of a vector type only; of a loop it makes ones five times as slow.
template <class Value>
struct VectorOf {
  typedef Value type __attribute__((vector_size(16), may_alias));
  static constexpr int kCount = kLanes * sizeof(Value) / 16;  // of them across the lists
};

template <class Value>
void sort_lists(Value* tile, int64_t places) {
  using Vector = typename VectorOf<Value>::type;
  constexpr int kCount = VectorOf<Value>::kCount;
  Vector* const rows = reinterpret_cast<Vector*>(tile);
  const auto exchange = [rows](int32_t low, int32_t high) __attribute__((always_inline)) {
    for (int i = 0; i < kCount; ++i) {
      Vector& first = rows[low * kCount + i];
      Vector& second = rows[high * kCount + i];
      const Vector a = first, b = second;
      first = b < a ? b : a;
      second = b < a ? a : b;
    }
  };
  sort_places(int32_t(places), 0, 1, exchange, [] {});
}

struct ShortColumn {
  int64_t column, start, rows;
};

// Sorts up to kLanes columns at once; they are in falling order of length.
template <class S>
void quantiles_of_group(
    const S* heights, const ShortColumn* columns, int count, Accumulator<S>* tile, const Quantiles& quantiles, S* result) {
  using Value = Accumulator<S>;
  ShortColumn list[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) list[lane] = columns[std::min(lane, count - 1)];  // spare lists repeat the last one
  const int64_t places = list[0].rows, common = list[kLanes - 1].rows;
  for (int64_t place = 0; place < common; ++place)
    for (int lane = 0; lane < kLanes; ++lane) tile[place * kLanes + lane] = widen(heights[list[lane].start + place]);
  for (int64_t place = common; place < places; ++place)
    for (int lane = 0; lane < kLanes; ++lane)
      tile[place * kLanes + lane] = place < list[lane].rows ? widen(heights[list[lane].start + place]) : kInfinity<Value>;
  int32_t has_nan[kLanes] = {};
  for (int64_t place = 0; place < places; ++place) {
    FUSION3D_CHANNELS
    for (int lane = 0; lane < kLanes; ++lane) has_nan[lane] |= tile[place * kLanes + lane] != tile[place * kLanes + lane];
  }
  sort_lists(tile, places);
  for (int lane = 0; lane < count; ++lane) {
    S* const to = result + list[lane].column * quantiles.count;
    for (int64_t q = 0; q < quantiles.count; ++q) {
      const Rank rank = rank_of(quantiles.wanted[q], list[lane].rows);
      const Value low = tile[rank.below * kLanes + lane], high = tile[rank.above * kLanes + lane];
      to[q] = has_nan[lane] ? NoQuantile<S>::narrowed() : narrow<S>(Value(between(low, high, rank.weight)));
    }
  }
}

// Many sorted lists, `places` long, in tiles; together they are one column and some infinities that fill the last tile.
template <class Value>
struct SortedLists {
  const Value* tiles;
  int64_t lists, places;

  Value at(int64_t list, int64_t place) const {
    return tiles[(list / kLanes * places + place) * kLanes + list % kLanes];
  }

  // How many values of a list are at most `value`, known to lie in [low, high].
  int64_t at_most(int64_t list, Value value, int64_t low, int64_t high) const {
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (at(list, middle) <= value)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

  double quantile(const Rank& rank) const {
    std::vector<int64_t> low(lists, 0), high(lists, places), cut(lists);
    Value least = at(0, 0), most = at(0, places - 1);
    for (int64_t list = 1; list < lists; ++list) {
      least = std::min(least, at(list, 0));
      most = std::max(most, at(list, places - 1));
    }
    KeyOf<Value> first = key_of(least), last = key_of(most);  // the value of the rank lies between
    while (first < last) {
      const KeyOf<Value> middle = first + (last - first) / 2;
      int64_t count = 0;
      for (int64_t list = 0; list < lists; ++list)
        count += cut[list] = at_most(list, value_of<Value>(middle), low[list], high[list]);
      if (count > rank.below) {
        last = middle;
        high.swap(cut);
      } else {
        first = middle + 1;
        low.swap(cut);
      }
    }
    const Value value = value_of<Value>(first);
    int64_t count = 0;
    Value next = kInfinity<Value>;
    for (int64_t list = 0; list < lists; ++list) {
      const int64_t stop = at_most(list, value, low[list], high[list]);
      count += stop;
      if (stop < places) next = std::min(next, at(list, stop));
    }
    return between(value, count > rank.above ? value : next, rank.weight);
  }
};

template <class Heights, class S = typename Heights::Scalar>
void quantiles_of_long_column(const Heights& heights, int64_t start, int64_t rows, const Quantiles& quantiles, S* result) {
  using Value = Accumulator<S>;
  const int64_t tiles = (rows + kPlaces * kLanes - 1) / (kPlaces * kLanes);
  const int64_t places = (rows + tiles * kLanes - 1) / (tiles * kLanes), tile_size = places * kLanes;
  const std::unique_ptr<Value[]> values(new Value[tiles * tile_size]);
  std::atomic<bool> has_nan{false};
  for_parts(tiles, tile_size, [&](int64_t begin, int64_t end) {
    bool nan = false;
    for (int64_t tile = begin; tile < end; ++tile) {
      Value* const to = values.get() + tile * tile_size;
      const int64_t first = start + tile * tile_size, filled = std::clamp<int64_t>(start + rows - first, 0, tile_size);
      for (int64_t i = 0; i < filled; ++i) {
        heights.expect(first + i);
        to[i] = widen(heights.at(first + i));
        nan |= to[i] != to[i];
      }
      std::fill(to + filled, to + tile_size, kInfinity<Value>);
      if (!nan) sort_lists(to, places);
    }
    if (nan) has_nan = true;
  });
  const SortedLists<Value> lists{values.get(), tiles * kLanes, places};
  for_parts(quantiles.count, rows / 4, [&](int64_t begin, int64_t end) {
    for (int64_t q = begin; q < end; ++q)
      result[q] = has_nan ? NoQuantile<S>::narrowed() : narrow<S>(Value(lists.quantile(rank_of(quantiles.wanted[q], rows))));
  });
}

template <class Heights, class S = typename Heights::Scalar>
void column_quantile(const Heights& heights, const Columns& csr, const Quantiles& quantiles, S* result) {
  const int64_t* const splits = csr.row_splits;
  const auto length = [splits](int64_t m) { return splits[m + 1] - splits[m]; };
  const auto long_column = [&](int64_t m) {
    quantiles_of_long_column(heights, splits[m], length(m), quantiles, result + m * quantiles.count);
  };
  for_columns(csr, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<Accumulator<S>[]> tile(new Accumulator<S>[kPlaces * kLanes]);
    std::vector<ShortColumn> chunk;
    std::vector<S> ordered;  // permuted heights of the chunk, fetched one after the other: that is all the memory has to do
    const auto finish_chunk = [&] {
      std::sort(chunk.begin(), chunk.end(), [](const ShortColumn& a, const ShortColumn& b) { return a.rows > b.rows; });
      const S* const from = Heights::kPermuted ? ordered.data() : heights.heights;
      for (size_t i = 0; i < chunk.size(); i += kLanes)
        quantiles_of_group(from, &chunk[i], int(std::min<size_t>(kLanes, chunk.size() - i)), tile.get(), quantiles, result);
      chunk.clear();
      ordered.clear();
    };
    for (int64_t m = begin; m < end; ++m) {
      if (length(m) == 0) {
        std::fill_n(result + m * quantiles.count, quantiles.count, NoQuantile<S>::narrowed());
      } else if (length(m) <= kPlaces) {
        chunk.push_back({m, Heights::kPermuted ? int64_t(ordered.size()) : splits[m], length(m)});
        if (Heights::kPermuted) {
          ordered.resize(ordered.size() + length(m));
          S* const to = &ordered[chunk.back().start] - splits[m];
          for (int64_t place = splits[m]; place < splits[m + 1]; ++place) {
            heights.expect(place);
            to[place] = heights.at(place);
          }
        }
      } else if (length(m) <= kSharedColumn) {
        long_column(m);
      }
      if (chunk.size() == kChunk || ordered.size() >= kChunkRows) finish_chunk();
    }
    finish_chunk();
  });
  for (int64_t m = 0; m < csr.columns; ++m)
    if (length(m) > kSharedColumn) long_column(m);
}

Tensor column_quantile_op(
    const Tensor& heights, const Tensor& row_splits, const Tensor& quantiles, const std::optional<Tensor>& permutation) {
  const QuantileTensors tensors(heights, row_splits, quantiles, permutation);
  if (tensors.order) check_index("permutation", data<int64_t>(*tensors.order), tensors.csr.rows, heights.size(0));
  check_csr(tensors.csr);
  const Quantiles wanted{data<double>(tensors.quantiles), tensors.quantiles.numel()};
  check_quantile_values(wanted.wanted, wanted.count);
  Tensor result = torch::stable::new_empty(heights, {tensors.csr.columns.columns, wanted.count});
  with_float_type("heights", heights.scalar_type(), [&](auto scalar) {
    using S = decltype(scalar);
    const S* const from = data<S>(tensors.heights);
    const Columns& columns = tensors.csr.columns;
    if (tensors.order)
      column_quantile(
          OrderedHeights<S, true>{from, data<int64_t>(*tensors.order), columns.places}, columns, wanted, output<S>(result));
    else
      column_quantile(OrderedHeights<S, false>{from, nullptr, columns.places}, columns, wanted, output<S>(result));
  });
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CPU, library) { library.impl("column_quantile", TORCH_BOX(&column_quantile_op)); }

}  // namespace
}  // namespace fusion3d
