// column_quantile as CUDA finds it, on the host and without torch: the pairs of a sorting network shared out to the lanes of a warp,
// and the digits of a long column's order statistics.
#include <cstdint>
#include <vector>

#include "core/column_quantile.h"
#include "core/schedule.h"
#include "core/sorting_network.h"

namespace fusion3d {
namespace {

// Lanes take their turns from the last to the first: within a round their order must not matter.
template <class Value>
void sort_by_warp(std::vector<Value>& list) {
  const auto places = int32_t(list.size());
  for (int merged = 0; (int32_t(1) << merged) < places; ++merged)
    for (int log_distance = merged; log_distance >= 0; --log_distance)
      for (int lane = kWarp - 1; lane >= 0; --lane)
        for_pairs_of_round(places, merged, log_distance, lane, kWarp, ExchangePlaces<Value>{list.data()});
}

template <class Value>
double search_by_block(const std::vector<Value>& column, const Rank& rank) {
  using Key = KeyOf<Value>;
  RadixSearch<Key> search(rank.below);
  while (!search.done()) {
    uint32_t counts[kDigits] = {};
    for (const Value value : column)
      if (search.agrees(key_of(value))) ++counts[search.digit(key_of(value))];
    search.choose(counts);
  }
  const Value low = value_of<Value>(search.known);
  if (rank.above == rank.below || search.next_is_equal()) return between(low, low, rank.weight);
  Key next = ~Key(0);
  for (const Value value : column)
    if (key_of(value) > search.known && key_of(value) < next) next = key_of(value);
  return between(low, value_of<Value>(next), rank.weight);
}

template <class S>
void quantiles_of(const S* heights, int64_t rows, bool block, const Quantiles& quantiles, S* result) {
  using Value = Accumulator<S>;
  std::vector<Value> column;
  const OrderedHeights<S, false> ordered{heights, nullptr, rows};
  for (int64_t place = 0; place < rows; ++place) column.push_back(widen(ordered.at(place)));
  if (!block) sort_by_warp(column);
  for (int64_t q = 0; q < quantiles.count; ++q) {
    const Rank rank = rank_of(quantiles.wanted[q], rows);
    const double value = block ? search_by_block(column, rank) : between(column[rank.below], column[rank.above], rank.weight);
    result[q] = narrow<S>(Value(value));
  }
}

}  // namespace
}  // namespace fusion3d

// One column without NaN. `type`: 0 float32, 1 float64, 2 float16, 3 bfloat16.
extern "C" __attribute__((visibility("default"))) void replay_column_quantile(
    int type, int block, const void* heights, int64_t rows, const double* wanted, int64_t count, void* result) {
  using namespace fusion3d;
  const auto as = [&](auto scalar) {
    using S = decltype(scalar);
    quantiles_of(static_cast<const S*>(heights), rows, block, {wanted, count}, static_cast<S*>(result));
  };
  switch (type) {
    case 0: return as(float{});
    case 1: return as(double{});
    case 2: return as(Half{});
    case 3: return as(BFloat16{});
  }
}
