// The torch side of grouping rows by cell on the device: torch's stable sort, so each cell lists its rows in rising order.
#pragma once

#include <array>

#include "cuda/device.h"
#include "cuda/inspect.h"

namespace fusion3d {

struct SortedCells {
  Tensor cells, rows;
};

// aten::sort.stable of int64; works on every device.
inline SortedCells sort_cells(const Tensor& cell) {
  std::array<StableIValue, 4> stack{
      torch::stable::detail::from(cell), torch::stable::detail::from(std::optional<bool>(true)),
      torch::stable::detail::from(int64_t(0)), torch::stable::detail::from(false)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

namespace cuda {

struct RowGroups {
  Tensor splits, order;
};

// `cell` of each row in [0, cells).
inline RowGroups group_rows(const Tensor& cell, int64_t cells, void* stream) {
  const SortedCells sorted = sort_cells(cell);
  Tensor splits = torch::stable::new_empty(cell, {cells + 1});
  succeed("grouping rows", first_places(data<int64_t>(sorted.cells), cell.numel(), cells, output<int64_t>(splits), stream));
  return {splits, sorted.rows};
}

}  // namespace cuda
}  // namespace fusion3d
