// Rows grouped by cell with a counting sort: each cell's rows in rising order, whatever the number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

#include "cpu/memory.h"
#include "cpu/parallel.h"

namespace fusion3d {

// Counting comes first, so that whoever asks can make room for `count()` rows; then `write`. `Counter` holds any number of rows;
// a narrow one keeps twice as many counters in the cache.
template <class Counter, class CellOf>
class RowGroups {
 public:
  // `cell_of(row)` is in [0, cells), or -1 to leave the row out. `splits`, of cells + 1, receives the offsets.
  RowGroups(int64_t rows, int64_t cells, const CellOf& cell_of, int64_t* splits)
      : rows_(rows), cells_(cells), parts_(parts_for(rows, cells)), cell_of_(cell_of), next_(new Counter[parts_ * cells]()) {
    for_each_part([this](Counter* next, int64_t begin, int64_t end) {
      bool outside = false;
      for (int64_t row = begin; row < end; ++row) {
        const int64_t cell = cell_of_(row);
        if (uint64_t(cell) < uint64_t(cells_))
          ++next[cell];
        else
          outside |= cell != -1;
      }
      if (outside) outside_ = true;
    });
    for (int64_t cell = 0; cell < cells; ++cell) {
      splits[cell] = count_;
      for (int64_t part = 0; part < parts_; ++part) {
        const int64_t here = next_[part * cells + cell];
        next_[part * cells + cell] = Counter(count_);
        count_ += here;
      }
    }
    splits[cells] = count_;
  }

  int64_t count() const { return count_; }

  // Whether a cell was none of those; then there is nothing to write.
  bool outside() const { return outside_; }

  // Once only: the rows of every cell, one after the other.
  void write(int64_t* order) {
    for_each_part([&](Counter* next, int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        // each cell writes to a place of its own, which no CPU can guess; it hardly moves until its turn comes
        const int64_t soon = row + kAhead < end ? cell_of_(row + kAhead) : -1;
        if (soon >= 0) __builtin_prefetch(order + next[soon], 1);
        const int64_t cell = cell_of_(row);
        if (cell >= 0) order[next[cell]++] = row;
      }
    });
  }

 private:
  static constexpr int64_t kAhead = 16;

  // Every part needs a counter for each cell: few rows in many cells are not worth that.
  static int64_t parts_for(int64_t rows, int64_t cells) {
    return std::clamp<int64_t>(rows / std::max(4 * cells, kGrain), 1, torch::stable::get_num_threads());
  }

  template <class Work>
  void for_each_part(const Work& work) {
    torch::stable::parallel_for(0, parts_, 1, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part)
        work(next_.get() + part * cells_, rows_ * part / parts_, rows_ * (part + 1) / parts_);
    });
  }

  int64_t rows_, cells_, parts_, count_ = 0;
  std::atomic<bool> outside_{false};
  const CellOf& cell_of_;
  std::unique_ptr<Counter[]> next_;
};

// Calls with_groups(groups) with counters as narrow as the rows allow.
template <class CellOf, class WithGroups>
void group_rows(int64_t rows, int64_t cells, const CellOf& cell_of, int64_t* splits, const WithGroups& with_groups) {
  if (rows <= int64_t(UINT32_MAX)) {
    RowGroups<uint32_t, CellOf> groups(rows, cells, cell_of, splits);
    with_groups(groups);
  } else {
    RowGroups<int64_t, CellOf> groups(rows, cells, cell_of, splits);
    with_groups(groups);
  }
}

}  // namespace fusion3d
