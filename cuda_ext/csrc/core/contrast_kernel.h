// The kernels of contrast, one block at a time, for CUDA and for the replay on the host.
//
// `Threads` is who works: `each(phase)` calls phase(thread, its numbers) for every thread of the block, and returns when all are
// done. On CUDA it calls it for the one thread that runs it, and waits at a barrier; `each_alone` does not wait.
#pragma once

#include "core/contrast_block.h"

namespace fusion3d {

// A band of rows of query and a chunk of rows of key, whose tiles are in work.
template <class T>
struct Band {
  Operand<T> query, key;  // of the whole problem
  int64_t first_row, first_key;
  int32_t channels, rows, keys;

  FUSION3D_BOTH int row_tiles() const { return (rows + ContrastBlock<T>::kRows - 1) / ContrastBlock<T>::kRows; }
  FUSION3D_BOTH int key_tiles() const { return (keys + ContrastBlock<T>::kColumns - 1) / ContrastBlock<T>::kColumns; }
};

// Log-sum-exps and upstream gradients of the rows of one operand.
template <class T>
struct Softmaxes {
  const T *level, *grad;
};

FUSION3D_BOTH int at_most(int64_t count, int limit) { return count < limit ? int(count) : limit; }

template <class T, bool LeftDepthTogether, bool RightDepthTogether, class Threads>
FUSION3D_BOTH void multiply_block(
    Threads& threads, typename ContrastBlock<T>::Shared& shared, const Operand<T>& left, int64_t first_row,
    const Operand<T>& right, int64_t first_column, int depths) {
  using Block = ContrastBlock<T>;
  using Numbers = typename Block::Numbers;
  const T *from = left.data + first_row * left.row_stride, *from_right = right.data + first_column * right.row_stride;
  const int rows = at_most(left.rows - first_row, Block::kRows), columns = at_most(right.rows - first_column, Block::kColumns);
  threads.each_alone([&](int, Numbers& numbers) { Block::clear(numbers); });
  for (; depths > 0; depths -= Block::kDepth) {
    threads.each_alone([&](int thread, Numbers&) {
      Block::template fetch<LeftDepthTogether>(shared.left, thread, from, left.row_stride, left.depth_stride, rows, depths);
    });
    threads.each([&](int thread, Numbers&) {
      Block::template fetch<RightDepthTogether>(
          shared.right, thread, from_right, right.row_stride, right.depth_stride, columns, depths);
    });
    from += Block::kDepth * left.depth_stride;
    from_right += Block::kDepth * right.depth_stride;
    threads.each([&](int thread, Numbers& numbers) { Block::multiply(shared, thread, numbers); });
  }
}

// A tile's partial log-sum-exps: of its rows at row_partials[tile of keys * kBandRows + row in band], of its keys at
// key_partials[tile of rows * kChunkKeys + key in chunk].
template <class T, class P, class Threads>
FUSION3D_BOTH void sum_tile(
    Threads& threads, typename ContrastBlock<T>::Shared& shared, int tile, const Band<T>& band, const Exclusion<P>& exclusion,
    LogSumExp<T>* row_partials, LogSumExp<T>* key_partials) {
  using Block = ContrastBlock<T>;
  using Numbers = typename Block::Numbers;
  const int row_tile = tile / band.key_tiles(), key_tile = tile % band.key_tiles();
  const int row = row_tile * Block::kRows, key = key_tile * Block::kColumns;
  multiply_block<T, true, true>(threads, shared, band.query, band.first_row + row, band.key, band.first_key + key, band.channels);
  threads.each([&](int thread, Numbers& numbers) {
    Block::exclude(exclusion, thread, band.first_row + row, band.first_key + key, band.query.rows, numbers);
    Block::sum(shared, thread, numbers);
  });
  threads.each_alone([&](int thread, Numbers&) {
    Block::join(shared, thread, band.rows - row, band.keys - key, row_partials + key_tile * int(kBandRows) + row,
                key_partials + row_tile * int(kChunkKeys) + key);
  });
}

// A row's sum after the partials of one band and chunk: partial `i` is at partials[i * stride].
template <class T>
FUSION3D_BOTH LogSumExp<T> fold_partials(LogSumExp<T> before, const LogSumExp<T>* partials, int64_t count, int64_t stride) {
#if defined(__CUDA_ARCH__)
#pragma unroll 1
#endif
  for (int64_t i = 0; i < count; ++i) before.combine(partials[i * stride]);
  return before;
}

// The gradients of a tile's similarities, at probabilities[row in band * kChunkKeys + key in chunk].
template <class T, class P, class Threads>
FUSION3D_BOTH void write_probabilities(
    Threads& threads, typename ContrastBlock<T>::Shared& shared, int tile, const Band<T>& band, const Exclusion<P>& exclusion,
    const Softmaxes<T>& of_rows, const Softmaxes<T>& of_keys, T* probabilities) {
  using Block = ContrastBlock<T>;
  using Numbers = typename Block::Numbers;
  const int row = tile / band.key_tiles() * Block::kRows, key = tile % band.key_tiles() * Block::kColumns;
  multiply_block<T, true, true>(threads, shared, band.query, band.first_row + row, band.key, band.first_key + key, band.channels);
  const int rows = at_most(band.rows - row, Block::kRows), keys = at_most(band.keys - key, Block::kColumns);
  const T *const level = of_rows.level + band.first_row + row, *const grad = of_rows.grad + band.first_row + row;
  const T *const key_level = of_keys.level + band.first_key + key, *const key_grad = of_keys.grad + band.first_key + key;
  probabilities += row * int(kChunkKeys) + key;
  threads.each_alone([&](int thread, Numbers& numbers) {
    Block::exclude(exclusion, thread, band.first_row + row, band.first_key + key, band.query.rows, numbers);
    FUSION3D_UNROLLED
    for (int c = 0; c < Block::Columns; ++c) {
      FUSION3D_UNROLLED
      for (int r = 0; r < Block::Rows; ++r) {
        const int i = Block::row_of(thread, r), j = Block::column_of(thread, c);
        if (i < rows && j < keys)
          probabilities[i * int(kChunkKeys) + j] = Block::gradient(numbers[r][c], level[i], grad[i], key_level[j], key_grad[j]);
      }
    }
  });
}

// A tile of result [rows of left, rows of right] (+)= left x right^T.
template <class T, bool LeftDepthTogether, class Threads>
FUSION3D_BOTH void multiply_tile(
    Threads& threads, typename ContrastBlock<T>::Shared& shared, int tile, const Operand<T>& left, const Operand<T>& right,
    int depths, bool add, T* result) {
  using Block = ContrastBlock<T>;
  using Numbers = typename Block::Numbers;
  const int tiles = int((right.rows + Block::kColumns - 1) / Block::kColumns);
  const int row = tile / tiles * Block::kRows, column = tile % tiles * Block::kColumns;
  multiply_block<T, LeftDepthTogether, false>(threads, shared, left, row, right, column, depths);
  const int rows = at_most(left.rows - row, Block::kRows), columns = at_most(right.rows - column, Block::kColumns);
  const int stride = int(right.rows);
  result += row * right.rows + column;
  threads.each_alone([&](int thread, Numbers& numbers) {
    FUSION3D_UNROLLED
    for (int c = 0; c < Block::Columns; ++c) {
      FUSION3D_UNROLLED
      for (int r = 0; r < Block::Rows; ++r) {
        const int i = Block::row_of(thread, r), j = Block::column_of(thread, c);
        if (i >= rows || j >= columns) continue;
        T& to = result[i * stride + j];
        to = (add ? to : T(0)) + numbers[r][c];
      }
    }
  });
}

template <class T>
inline unsigned tiles_of(int64_t rows, int64_t columns) {
  using Block = ContrastBlock<T>;
  return unsigned(((rows + Block::kRows - 1) / Block::kRows) * ((columns + Block::kColumns - 1) / Block::kColumns));
}

// The two products of a band's gradients: (+)= probability x key, and (+)= probability^T x query. A channel of an embedding is a
// row of the right operand.
template <class T>
struct GradientProducts {
  Operand<T> by_row, by_key, keys, queries;

  GradientProducts(const Band<T>& band, const T* probabilities)
      : by_row{probabilities, int32_t(kChunkKeys), 1, band.rows},
        by_key{probabilities, 1, int32_t(kChunkKeys), band.keys},
        keys{band.key.data + band.first_key * band.channels, 1, band.channels, band.channels},
        queries{band.query.data + band.first_row * band.channels, 1, band.channels, band.channels} {}
};

}  // namespace fusion3d
