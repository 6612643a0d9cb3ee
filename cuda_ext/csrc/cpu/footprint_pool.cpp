// footprint_pool on the CPU. Schema, meaning and gradient formula: fusion3d/ops/footprint_pool.py; arithmetic:
// core/weighted_sum.h. The gradient is the same sum over the same pairs, grouped by column instead of by footprint.
#include "binding.h"
#include "core/weighted_sum.h"
#include "cpu/csr_check.h"
#include "cpu/group_rows.h"
#include "cpu/index_check.h"
#include "cpu/memory.h"
#include "cpu/packets.h"
#include "cpu/parallel.h"
#include "footprint_tensors.h"

namespace fusion3d {
namespace {

template <class S>
void add_up(const WeightedRows<S>& pairs, const Columns& groups, S* result) {
  for_columns(groups, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m)
      for_packets<S>(groups.channels, [&](auto width, int64_t channel) {
        const auto sum = pairs.template sum<decltype(width)::value>(groups.row_splits[m], groups.row_splits[m + 1], channel);
        sum.finish(result + m * groups.channels + channel);
      });
  });
}

Tensor footprint_pool(const Tensor& columns, const Tensor& row_splits, const Tensor& column, const Tensor& weight) {
  check_dimensions("columns", columns, 2);
  const FootprintPairs pairs("columns", columns, row_splits, column, weight);
  check_index("column", data<int64_t>(pairs.columns), pairs.count(), columns.size(0));
  check_csr(pairs.csr);
  const Tensor rows = torch::stable::contiguous(columns);
  Tensor result = torch::stable::new_empty(columns, {pairs.footprints(), columns.size(1)});
  with_float_type("columns", columns.scalar_type(), [&](auto scalar) {
    using S = decltype(scalar);
    const WeightedRows<S> weighted{
        data<S>(rows), data<int64_t>(pairs.columns), data<Accumulator<S>>(pairs.weights), nullptr, columns.size(1), pairs.count()};
    add_up(weighted, pairs.csr.columns, output<S>(result));
  });
  return result;
}

Tensor footprint_pool_backward(
    const Tensor& grad, const Tensor& row_splits, const Tensor& column, const Tensor& weight, int64_t columns) {
  check_dimensions("grad", grad, 2);
  const FootprintPairs pairs("grad", grad, row_splits, column, weight);
  check_shape("grad", grad, pairs.footprints(), grad.size(1));
  check_columns(columns);
  const int64_t* const column_of = data<int64_t>(pairs.columns);
  check_index("column", column_of, pairs.count(), columns);
  check_csr(pairs.csr);
  const Tensor rows = torch::stable::contiguous(grad);
  Tensor splits = torch::stable::new_empty(column, {columns + 1}), order = torch::stable::new_empty(column, {pairs.count()});
  group_rows(pairs.count(), columns, [column_of](int64_t pair) { return column_of[pair]; }, output<int64_t>(splits),
             [&](auto& groups) { groups.write(output<int64_t>(order)); });
  Tensor footprint = torch::stable::new_empty(column, {pairs.count()});
  const Columns& given = pairs.csr.columns;
  for_columns(given, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m)
      std::fill(output<int64_t>(footprint) + given.row_splits[m], output<int64_t>(footprint) + given.row_splits[m + 1], m);
  });
  Tensor result = torch::stable::new_empty(grad, {columns, grad.size(1)});
  prefer_huge_pages(result.mutable_data_ptr(), result.numel() * int64_t(result.element_size()));
  with_float_type("grad", grad.scalar_type(), [&](auto scalar) {
    using S = decltype(scalar);
    const WeightedRows<S> weighted{
        data<S>(rows), data<int64_t>(footprint), data<Accumulator<S>>(pairs.weights), data<int64_t>(order), grad.size(1), pairs.count()};
    add_up(weighted, {data<int64_t>(splits), nullptr, pairs.count(), columns, grad.size(1)}, output<S>(result));
  });
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CPU, library) {
  library.impl("footprint_pool", TORCH_BOX(&footprint_pool));
  library.impl("footprint_pool_backward", TORCH_BOX(&footprint_pool_backward));
}

}  // namespace
}  // namespace fusion3d
