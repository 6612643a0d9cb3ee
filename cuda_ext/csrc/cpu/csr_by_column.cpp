// csr_by_column on the CPU: a counting sort instead of torch's comparisons. Meaning: fusion3d/ops/csr.py.
#include <tuple>

#include "binding.h"
#include "cpu/group_rows.h"
#include "cpu/index_check.h"

namespace fusion3d {
namespace {

std::tuple<Tensor, Tensor> csr_by_column(const Tensor& column, int64_t columns) {
  check_int64("column", column);
  check_columns(columns);
  const Tensor names = torch::stable::contiguous(column);
  const int64_t* const name = data<int64_t>(names);
  Tensor splits = torch::stable::new_empty(column, {columns + 1});
  const auto column_of = [name](int64_t row) { return name[row]; };
  Tensor permutation;
  group_rows(column.numel(), columns, column_of, output<int64_t>(splits), [&](auto& groups) {
    if (groups.outside()) refuse_index("column", name, column.numel(), columns, -1);
    permutation = torch::stable::new_empty(column, {groups.count()});
    int64_t* const to = output<int64_t>(permutation);
    prefer_huge_pages(to, groups.count() * int64_t(sizeof(int64_t)));
    groups.write(to);
  });
  return {splits, permutation};
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CPU, library) { library.impl("csr_by_column", TORCH_BOX(&csr_by_column)); }

}  // namespace
}  // namespace fusion3d
