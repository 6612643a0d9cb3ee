// Sorting voxel keys, stably and in parallel. A first pass deals (key, place) pairs out to buckets by their leading bits; each
// bucket is then sorted in a core's cache, so that the pairs go through main memory once. A stable order is unique: it cannot
// depend on the number of threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/voxel_key.h"
#include "cpu/memory.h"
#include "cpu/parallel.h"

namespace fusion3d {

// Memory that nobody has touched yet: its pages come from whichever thread writes them.
template <class Item>
class Scratch {
 public:
  explicit Scratch(int64_t count) : items_(new Item[count]) { prefer_huge_pages(items_.get(), count * sizeof(Item)); }
  Item* get() const { return items_.get(); }

 private:
  std::unique_ptr<Item[]> items_;
};

// Calls work(item, worker) for every item of [0, count), each as soon as a thread is free. worker < workers().
inline int64_t workers() { return torch::stable::get_num_threads(); }

template <class Work>
void for_each_item(int64_t count, const Work& work) {
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, std::min(workers(), count), 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t item = next++; item < count; item = next++) work(item, worker);
  });
}

inline int bits_of(uint64_t value) { return value ? 64 - __builtin_clzll(value) : 0; }

// Keys in as few bits as their range needs: each field less its lowest value, without the zeros above. Keeps the order.
class ShortKeys {
 public:
  explicit ShortKeys(const Bounds& bounds) : least_(pack(bounds.low)) {
    const auto width = [&](int axis) { return bits_of(uint64_t(bounds.high[axis] - bounds.low[axis])); };
    level_ = width(1), column_ = width(3), row_ = width(2);
    bits_ = width(0) + row_ + column_ + level_;
  }

  int bits() const { return bits_; }

  uint64_t shorten(int64_t key) const {
    const uint64_t rest = uint64_t(key - least_);  // no field borrows: each is at least the lowest one's
    const uint64_t level = rest & kLevel, column = rest >> kColumnShift & kPlane, row = rest >> kRowShift & kPlane;
    return (((rest >> kChipShift << row_ | row) << column_ | column) << level_) | level;
  }

  int64_t restore(uint64_t key) const {
    const uint64_t level = key & ((uint64_t(1) << level_) - 1), column = key >> level_ & ((uint64_t(1) << column_) - 1);
    const uint64_t row = key >> (level_ + column_) & ((uint64_t(1) << row_) - 1), chip = key >> (level_ + column_ + row_);
    return least_ + int64_t(chip << kChipShift | row << kRowShift | column << kColumnShift | level);
  }

 private:
  static constexpr uint64_t kPlane = (1 << kPlaneBits) - 1, kLevel = (1 << kLevelBits) - 1;
  int64_t least_;
  int level_, column_, row_, bits_;
};

// `Word`: 32 bits where both the key's bits below its bucket and the number of keys fit.
template <class Word>
struct Pair {
  Word key, place;
};

constexpr int kMostDigitBits = 11;  // 2048 counters of 8 bytes stay in the first-level cache beside the data
constexpr int64_t kInsertion = 24;  // pairs that insertion sorts faster than counting

// Stable; `spare` has room for as many pairs. Digits in which no two keys differ are skipped.
template <class Word>
void sort_pairs(Pair<Word>* pairs, int64_t count, Pair<Word>* spare) {
  Word varying = 0;
  for (int64_t i = 1; i < count; ++i) varying |= pairs[i].key ^ pairs[0].key;
  if (varying == 0) return;
  if (count <= kInsertion) {
    for (int64_t i = 1; i < count; ++i) {
      const Pair<Word> pair = pairs[i];
      int64_t at = i;
      for (; at > 0 && pairs[at - 1].key > pair.key; --at) pairs[at] = pairs[at - 1];
      pairs[at] = pair;
    }
    return;
  }
  const int lowest = __builtin_ctzll(varying), bits = bits_of(varying) - lowest;
  const int most = std::min(kMostDigitBits, bits_of(uint64_t(count))), passes = (bits + most - 1) / most;
  const int width = (bits + passes - 1) / passes;
  const Word mask = (Word(1) << width) - 1;
  Pair<Word>*from = pairs, *to = spare;
  for (int pass = 0; pass < passes; ++pass) {
    const int shift = lowest + pass * width;
    if ((varying >> shift & mask) == 0) continue;
    Word start[1 << kMostDigitBits];
    std::fill_n(start, int64_t(mask) + 1, Word(0));
    for (int64_t i = 0; i < count; ++i) ++start[from[i].key >> shift & mask];
    Word sum = 0;
    for (Word digit = 0; digit <= mask; ++digit) {
      const Word here = start[digit];
      start[digit] = sum;
      sum += here;
    }
    for (int64_t i = 0; i < count; ++i) to[start[from[i].key >> shift & mask]++] = from[i];
    std::swap(from, to);
  }
  if (from != pairs) std::copy_n(from, count, pairs);
}

// Keys with the places they came from, in the order of the keys and, for equal keys, of the places.
template <class Word>
class SortedKeys {
 public:
  // `pairs` has room for `count`, and is the caller's again when this is gone.
  SortedKeys(const int64_t* keys, int64_t count, const ShortKeys& format, Pair<Word>* pairs)
      : format_(format), below_(std::max(0, format.bits() - bucket_bits(count))), pairs_(pairs) {
    deal(keys, count);
    sort();
  }

  // Whether 32-bit words hold the pairs of so many keys.
  static bool fits(int64_t count, const ShortKeys& format) {
    return count <= int64_t(UINT32_MAX) && format.bits() - bucket_bits(count) <= 32;
  }

  int64_t distinct() const { return distinct_.back(); }

  // Calls visit(begin, end, before) for parts of all ranks, begin..end; `before` distinct keys precede each.
  template <class Visit>
  void for_parts_of_ranks(const Visit& visit) const {
    for_each_item(buckets(), [&](int64_t bucket, int64_t) { visit(splits_[bucket], splits_[bucket + 1], distinct_[bucket]); });
  }

  // Calls visit(rank, place, which, first, key) for every pair: `which` numbers the distinct keys, `first` says that this one
  // starts here, key() is the key as it was given.
  template <class Visit>
  void for_each(const Visit& visit) const {
    for_each_item(buckets(), [&](int64_t bucket, int64_t) {
      int64_t which = distinct_[bucket] - 1;
      for (int64_t rank = splits_[bucket]; rank < splits_[bucket + 1]; ++rank) {
        const Pair<Word> pair = pairs_[rank];
        const bool first = rank == splits_[bucket] || pair.key != pairs_[rank - 1].key;
        which += first;
        visit(rank, int64_t(pair.place), which, first, [&] { return format_.restore(uint64_t(bucket) << below_ | pair.key); });
      }
    });
  }

 private:
  // About 4096 keys a bucket: 32 KB in 32-bit words, and as much to sort them with.
  static int bucket_bits(int64_t count) { return std::min(kMostDigitBits, bits_of(uint64_t(count) >> 12)); }
  int64_t buckets() const { return int64_t(splits_.size()) - 1; }

  void deal(const int64_t* keys, int64_t count) {
    const int64_t buckets = int64_t(1) << (format_.bits() - below_);
    const int64_t shares = std::max<int64_t>(1, std::min(workers(), count / kGrain));
    const auto share_begin = [&](int64_t share) { return count / shares * share + std::min(share, count % shares); };
    std::vector<int64_t> starts(shares * buckets);
    torch::stable::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
      for (int64_t share = begin; share < end; ++share) {
        int64_t* const counts = &starts[share * buckets];
        for (int64_t i = share_begin(share); i < share_begin(share + 1); ++i) ++counts[format_.shorten(keys[i]) >> below_];
      }
    });
    splits_.assign(buckets + 1, 0);
    int64_t sum = 0;
    for (int64_t bucket = 0; bucket < buckets; ++bucket) {
      for (int64_t share = 0; share < shares; ++share) {
        const int64_t here = starts[share * buckets + bucket];
        starts[share * buckets + bucket] = sum;
        sum += here;
      }
      splits_[bucket + 1] = sum;
    }
    torch::stable::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
      for (int64_t share = begin; share < end; ++share) {
        int64_t* const next = &starts[share * buckets];
        for (int64_t i = share_begin(share); i < share_begin(share + 1); ++i) {
          const uint64_t key = format_.shorten(keys[i]);
          pairs_[next[key >> below_]++] = {Word(key & ((uint64_t(1) << below_) - 1)), Word(i)};
        }
      }
    });
  }

  void sort() {
    int64_t longest = 0;
    for (int64_t bucket = 0; bucket < buckets(); ++bucket) longest = std::max(longest, splits_[bucket + 1] - splits_[bucket]);
    const Scratch<Pair<Word>> spare(longest * workers());
    distinct_.assign(buckets() + 1, 0);
    for_each_item(buckets(), [&](int64_t bucket, int64_t worker) {
      Pair<Word>* const pairs = pairs_ + splits_[bucket];
      const int64_t count = splits_[bucket + 1] - splits_[bucket];
      sort_pairs(pairs, count, spare.get() + worker * longest);
      int64_t distinct = count > 0;
      for (int64_t i = 1; i < count; ++i) distinct += pairs[i].key != pairs[i - 1].key;
      distinct_[bucket + 1] = distinct;
    });
    for (int64_t bucket = 0; bucket < buckets(); ++bucket) distinct_[bucket + 1] += distinct_[bucket];
  }

  ShortKeys format_;
  int below_;  // bits of a key that its bucket does not say
  Pair<Word>* pairs_;
  std::vector<int64_t> splits_;    // bucket b holds the pairs splits_[b]..splits_[b + 1]
  std::vector<int64_t> distinct_;  // distinct keys before each bucket
};

}  // namespace fusion3d
