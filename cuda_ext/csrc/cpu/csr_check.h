// Values of CSR offsets are checked before they are used as addresses: a wrong offset is an error in words, not a wild read.
#pragma once

#include <atomic>
#include <memory>

#include "binding.h"
#include "cpu/parallel.h"

namespace fusion3d {

inline void check_csr(const CsrTensors& csr) {
  const Columns& columns = csr.columns;
  std::atomic<bool> outside{false}, splits{false}, long_column{false};
  for_parts(columns.columns, 1, [&](int64_t begin, int64_t end) {
    bool wrong = false, too_long = false;
    for (int64_t m = begin; m < end; ++m) {
      wrong |= !splits_fit(columns.row_splits, m, columns.columns, columns.places);
      too_long |= columns.row_splits[m + 1] - columns.row_splits[m] > kLongestColumn;
    }
    if (wrong) splits = true;
    if (too_long) long_column = true;
  });
  if (columns.columns == 0 && (columns.row_splits[0] != 0 || columns.places != 0)) splits = true;
  if (columns.permutation) {
    // A byte a row: names are distinct if and only if they mark as many bytes as there are names.
    const std::unique_ptr<uint8_t[]> named(new uint8_t[csr.rows]());
    for_parts(columns.places, 4, [&](int64_t begin, int64_t end) {
      bool wrong = false;
      for (int64_t place = begin; place < end; ++place) {
        const int64_t row = columns.permutation[place];
        const bool inside = row >= 0 && row < csr.rows;
        if (inside) __atomic_store_n(&named[row], 1, __ATOMIC_RELAXED);
        wrong |= !inside;
      }
      if (wrong) outside = true;
    });
    if (outside) refuse_fault(CsrFault::outside, csr);
    std::atomic<int64_t> distinct{0};
    for_parts(csr.rows, 1, [&](int64_t begin, int64_t end) {
      int64_t marked = 0;
      for (int64_t row = begin; row < end; ++row) marked += named[row];
      distinct += marked;
    });
    if (distinct != columns.places) refuse_fault(CsrFault::twice, csr);
  }
  if (splits) refuse_fault(CsrFault::splits, csr);
  if (long_column) refuse_fault(CsrFault::long_column, csr);
}

}  // namespace fusion3d
