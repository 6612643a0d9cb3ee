// Bodies of column_quantile: which order statistics a quantile lies between, how they are joined, and how one is found among
// many values without sorting them.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/scalar.h"

namespace fusion3d {

struct Quantiles {
  const double* wanted;
  int64_t count;
};

// The heights in the order of the columns.
template <class S, bool Permuted>
struct OrderedHeights {
  using Scalar = S;
  static constexpr bool kPermuted = Permuted;
  const S* heights;
  const int64_t* permutation;  // if any
  int64_t places;

  FUSION3D_BOTH S at(int64_t place) const { return heights[Permuted ? permutation[place] : place]; }

#if !defined(__CUDA_ARCH__)
  // A CPU cannot guess where a permuted row lies.
  FUSION3D_BOTH void expect(int64_t place) const {
    constexpr int64_t kAhead = 32;  // rows; 16 to 64 measure alike
    if (Permuted && place + kAhead < places) __builtin_prefetch(heights + permutation[place + kAhead]);
  }
#endif
};

// Of an empty column, and of one that holds a NaN.
template <class S>
struct NoQuantile {
  static constexpr Accumulator<S> kValue = std::numeric_limits<Accumulator<S>>::quiet_NaN();

  FUSION3D_BOTH static S narrowed() { return narrow<S>(kValue); }
};

// Between the values of rank `below` and `above`, counted from 0.
struct Rank {
  int64_t below, above;
  double weight;
};

FUSION3D_BOTH Rank rank_of(double quantile, int64_t count) {
  const double position = double(count - 1) * quantile;
  const int64_t below = int64_t(position);  // position is not negative: this is its floor
  return {below, below + 1 < count ? below + 1 : below, position - double(below)};
}

// torch.lerp, but for equal values (infinite ones too) that value.
FUSION3D_BOTH double between(double low, double high, double weight) {
  if (low == high || weight == 0) return low;
  return weight < 0.5 ? low + weight * (high - low) : high - (high - low) * (1 - weight);
}

// Unsigned numbers in the order of the values that they stand for; -0 comes before 0, and there must be no NaN.
template <class Value>
using KeyOf = std::conditional_t<sizeof(Value) == 8, uint64_t, uint32_t>;

template <class Value>
FUSION3D_BOTH KeyOf<Value> key_of(Value value) {
  constexpr KeyOf<Value> kSign = KeyOf<Value>(1) << (8 * sizeof(Value) - 1);
  KeyOf<Value> bits;
  memcpy(&bits, &value, sizeof bits);
  return bits & kSign ? ~bits : bits | kSign;
}

template <class Value>
FUSION3D_BOTH Value value_of(KeyOf<Value> key) {
  constexpr KeyOf<Value> kSign = KeyOf<Value>(1) << (8 * sizeof(Value) - 1);
  const KeyOf<Value> bits = key & kSign ? key & ~kSign : ~key;
  Value value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// A pair of places of one list.
template <class Value>
struct ExchangePlaces {
  Value* list;

  FUSION3D_BOTH void operator()(int32_t low, int32_t high) const {
    const Value a = list[low], b = list[high];
    list[low] = b < a ? b : a;
    list[high] = b < a ? a : b;
  }
};

constexpr int kDigits = 256;

// Finds the key of a rank digit by digit, the highest first: count the digits of the keys that agree with what is known, choose
// the digit in which the rank falls, until all are known. Counts may be made by many threads in any order.
template <class Key>
struct RadixSearch {
  Key known = 0, mask = 0;
  int64_t rank;         // among the keys that agree with `known`
  int64_t equal = 0;    // how many keys agree
  int shift = 8 * int(sizeof(Key)) - 8;

  FUSION3D_BOTH explicit RadixSearch(int64_t rank) : rank(rank) {}
  FUSION3D_BOTH bool done() const { return shift < 0; }
  FUSION3D_BOTH bool agrees(Key key) const { return (key & mask) == known; }
  FUSION3D_BOTH int digit(Key key) const { return int((key >> shift) & 0xff); }

  template <class Count>
  FUSION3D_BOTH void choose(const Count* counts) {
    int chosen = 0;
    while (rank >= int64_t(counts[chosen])) rank -= int64_t(counts[chosen++]);
    equal = int64_t(counts[chosen]);
    known |= Key(chosen) << shift;
    mask |= Key(0xff) << shift;
    shift -= 8;
  }

  // Whether the next rank has the same key.
  FUSION3D_BOTH bool next_is_equal() const { return rank + 1 < equal; }
};

}  // namespace fusion3d
