// voxelize on the CPU. Schema and meaning: fusion3d/ops/voxelize.py; the sort: cpu/key_sort.h.
#include <tuple>

#include "binding.h"
#include "cpu/key_sort.h"
#include "cpu/memory.h"
#include "cpu/voxel_keys.h"

namespace fusion3d {
namespace {

using Voxels = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Tensor integers(const Tensor& like, int64_t count) {
  Tensor tensor = torch::stable::new_empty(like, {count});
  prefer_huge_pages(tensor.mutable_data_ptr(), count * sizeof(int64_t));
  return tensor;
}

constexpr int64_t kAheadOfWrites = 32;  // points; saves a third of the time where they are in no order
constexpr int64_t kFirst = INT64_MIN;   // the bit that marks a voxel's first point in the permutation, for a while

// `permutation` holds the keys when this is called. Nothing else as large is allocated where pairs of 32 bits do: every page
// that is touched for the first time costs more than sorting what it holds. The pairs live in the place of the inverse, which is
// written last, from the marked permutation.
template <class Word>
Voxels number_voxels(const Tensor& coordinates, const ShortKeys& format, Tensor permutation) {
  const int64_t points = coordinates.size(0);
  Tensor inverse = integers(coordinates, points);
  int64_t *const order = output<int64_t>(permutation), *const number = output<int64_t>(inverse);
  constexpr bool kInPlace = sizeof(Pair<Word>) == sizeof(int64_t);
  const Scratch<Pair<Word>> scratch(kInPlace ? 0 : points);
  const SortedKeys<Word> sorted(order, points, format, kInPlace ? reinterpret_cast<Pair<Word>*>(number) : scratch.get());
  const int64_t count = sorted.distinct();
  Tensor voxels = torch::stable::new_empty(coordinates, {count, 4}), row_splits = integers(coordinates, count + 1);
  prefer_huge_pages(voxels.mutable_data_ptr(), count * 4 * sizeof(int64_t));
  int64_t *const voxel = output<int64_t>(voxels), *const split = output<int64_t>(row_splits);
  sorted.for_each([&](int64_t rank, int64_t place, int64_t which, bool first, const auto& key) {
    order[rank] = first ? place | kFirst : place;
    if (first) {
      split[which] = rank;
      unpack(key(), voxel + 4 * which);
    }
  });
  split[count] = points;
  sorted.for_parts_of_ranks([&](int64_t begin, int64_t end, int64_t before) {
    for (int64_t rank = begin; rank < end; ++rank) {
      if (rank + kAheadOfWrites < end) __builtin_prefetch(number + (order[rank + kAheadOfWrites] & ~kFirst), 1);
      before += order[rank] < 0;
      order[rank] &= ~kFirst;
      number[order[rank]] = before - 1;
    }
  });
  return {voxels, inverse, row_splits, permutation};
}

Voxels voxelize(const Tensor& coordinates) {
  check_coordinates(coordinates);
  const int64_t points = coordinates.size(0);
  const Tensor given = torch::stable::contiguous(coordinates);
  Tensor keys = integers(given, points);
  const Bounds bounds = pack_voxels(data<int64_t>(given), points, output<int64_t>(keys));
  if (points == 0) return {torch::stable::new_empty(given, {0, 4}), integers(given, 0), torch::stable::new_zeros(given, {1}), keys};
  const ShortKeys format(bounds);
  return SortedKeys<uint32_t>::fits(points, format) ? number_voxels<uint32_t>(given, format, keys)
                                                   : number_voxels<uint64_t>(given, format, keys);
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CPU, library) { library.impl("voxelize", TORCH_BOX(&voxelize)); }

}  // namespace
}  // namespace fusion3d
