// height_profile on CUDA. A thread owns one bin of one column and walks the column's rows, which the threads of its neighbouring
// bins read at the same time; nothing is added up by atomics. In columns longer than kShortColumn a warp owns the bin.
#include "core/height_profile.h"
#include "core/place_search.h"
#include "cuda/height_profile.h"
#include "cuda/kernel.cuh"

namespace fusion3d::cuda {
namespace {

template <class H, class Amount>
__global__ void __launch_bounds__(kThreads, 4)
profile_by_thread(const H* heights, Amount amount, Columns csr, Bins bins, typename Amount::Result* result) {
  for (int64_t item = global_thread(); item < csr.columns * bins.count; item += grid_threads()) {
    const int64_t m = item / bins.count, bin = item - m * bins.count;
    const int64_t start = csr.row_splits[m], stop = csr.row_splits[m + 1];
    if (stop - start > kShortColumn) continue;
    BinTotal<Amount> total;
    total.take_rows(heights, amount, bins, bin, start, stop, 1);
    result[item] = Amount::narrowed(total.total);
  }
}

template <class H, class Amount>
__global__ void __launch_bounds__(kThreads, 4)
profile_by_warp(const H* heights, Amount amount, Columns csr, Bins bins, typename Amount::Result* result) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t item = global_thread() / kWarp; item < csr.columns * bins.count; item += grid_threads() / kWarp) {
    const int64_t m = item / bins.count, bin = item - m * bins.count;
    const int64_t start = csr.row_splits[m], stop = csr.row_splits[m + 1];
    if (stop - start <= kShortColumn) continue;  // the same for all lanes
    BinTotal<Amount> total;
    total.take_rows(heights, amount, bins, bin, start + lane, stop, kWarp);
    combine_warp(total);
    if (lane == 0) result[item] = Amount::narrowed(total.total);
  }
}

template <class H>
__global__ void __launch_bounds__(kThreads, 4) find_profile_cells(const H* heights, Columns csr, Bins bins, int64_t* cell) {
  for (int64_t row = global_thread(); row < csr.places; row += grid_threads())
    cell[row] = bins.cell(group_of_place(csr.row_splits, csr.columns, row), double(widen(heights[row])));
}

template <class H, class Amount>
Status launch(
    const H* heights, const Amount& amount, const Columns& csr, int64_t longest, const Bins& bins, void* result,
    cudaStream_t queue) {
  const auto to = static_cast<typename Amount::Result*>(result);
  const int64_t items = csr.columns * bins.count;
  profile_by_thread<<<blocks_for(items), kThreads, 0, queue>>>(heights, amount, csr, bins, to);
  if (longest > kShortColumn)
    profile_by_warp<<<blocks_for(items * kWarp), kThreads, 0, queue>>>(heights, amount, csr, bins, to);
  return launched();
}

}  // namespace

Status height_profile(
    FloatType type, const void* heights, std::optional<FloatType> weight_type, const void* weights, const Columns& csr,
    int64_t longest, const Bins& bins, void* result, void* stream) {
  if (csr.columns == 0) return nullptr;
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_float_type(type, [&](auto scalar) {
    const auto from = static_cast<const decltype(scalar)*>(heights);
    if (!weight_type) return launch(from, NumberOfRows{}, csr, longest, bins, result, queue);
    return with_float_type(*weight_type, [&](auto weight) {
      using W = decltype(weight);
      return launch(from, WeightOfRows<W>{static_cast<const W*>(weights)}, csr, longest, bins, result, queue);
    });
  });
}

Status profile_cell(FloatType type, const void* heights, const Columns& csr, const Bins& bins, int64_t* cell, void* stream) {
  if (csr.places == 0) return nullptr;
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_float_type(type, [&](auto scalar) {
    const auto from = static_cast<const decltype(scalar)*>(heights);
    find_profile_cells<<<blocks_for(csr.places), kThreads, 0, queue>>>(from, csr, bins, cell);
    return launched();
  });
}

}  // namespace fusion3d::cuda
