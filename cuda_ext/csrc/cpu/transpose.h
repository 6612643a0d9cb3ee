// Channels first to channels last: matrices transposed in blocks that fit a core's cache.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/parallel.h"

namespace fusion3d {

// `count` matrices of rows x columns, each to columns x rows.
template <class S>
void transpose(const S* from, S* to, int64_t count, int64_t rows, int64_t columns) {
  constexpr int64_t kBlock = 32;
  const int64_t strips = (columns + kBlock - 1) / kBlock;
  for_parts(count * strips, rows * kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t strip = begin; strip < end; ++strip) {
      const int64_t matrix = strip / strips * rows * columns;
      const int64_t first = strip % strips * kBlock, last = std::min(first + kBlock, columns);
      for (int64_t block = 0; block < rows; block += kBlock)
        for (int64_t column = first; column < last; ++column)
          for (int64_t row = block; row < std::min(block + kBlock, rows); ++row)
            to[matrix + column * rows + row] = from[matrix + row * columns + column];
    }
  });
}

}  // namespace fusion3d
