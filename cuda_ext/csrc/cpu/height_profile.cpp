// height_profile on the CPU. Schema, meaning and gradient formula: fusion3d/ops/height_profile.py; arithmetic:
// core/height_profile.h.
#include <algorithm>
#include <cmath>
#include <vector>

#include "binding.h"
#include "core/height_profile.h"
#include "cpu/csr_check.h"
#include "cpu/parallel.h"
#include "profile_tensors.h"

namespace fusion3d {
namespace {

// Longer columns are added up in pieces of this length, joined in order: the rounding is the same for any number of threads.
constexpr int64_t kPiece = 1 << 16;

// Finds bins by a table of equal steps of height, which tells in which few bins a height may lie. Where the edges are equally far
// apart, that is one bin or two.
class BinTable {
 public:
  explicit BinTable(const Bins& bins) : bins_(bins) {
    const double low = bins.edges[0], steps = double(4 * bins.count);
    const double scale = steps / (bins.edges[bins.count] - low);
    if (std::isfinite(low) && std::isfinite(scale) && scale > 0) {
      low_ = low;
      scale_ = scale;
      steps_ = 4 * bins.count;
    }
    // step_of never falls with height: edges of a lower step lie at or below a height, edges of a higher step above it
    least_.assign(steps_ + 1, 0);
    most_.assign(steps_ + 1, 0);
    for (int64_t k = 1; k < bins.count; ++k) {
      const int64_t step = step_of(bins.edges[k]);
      ++most_[step];
      if (step < steps_) ++least_[step + 1];
    }
    for (int64_t step = 1; step <= steps_; ++step) {
      most_[step] += most_[step - 1];
      least_[step] += least_[step - 1];
    }
  }

  // Of a height that lies in a bin.
  int64_t find(double height) const {
    const int64_t step = step_of(height);
    return bins_.find(height, least_[step], most_[step]);
  }

 private:
  int64_t step_of(double height) const {
    return scale_ > 0 ? std::min<int64_t>(int64_t((height - low_) * scale_), steps_) : 0;
  }

  const Bins& bins_;
  double low_ = 0, scale_ = 0;
  int64_t steps_ = 0;
  std::vector<int64_t> least_, most_;  // the first and the last bin that a height of a step may lie in
};

template <class H, class Amount>
void add_rows(
    const H* heights, const Amount& amount, const Bins& bins, const BinTable& table, int64_t first, int64_t stop,
    typename Amount::Total* totals) {
  for (int64_t row = first; row < stop; ++row) {
    const double height = double(widen(heights[row]));
    if (bins.holds(height)) totals[table.find(height)] += amount.of_row(row);
  }
}

template <class H, class Amount>
void profile(const H* heights, const Amount& amount, const Columns& csr, const Bins& bins, typename Amount::Result* result) {
  using Total = typename Amount::Total;
  const BinTable table(bins);
  const auto finish = [&](int64_t m, const Total* totals) {
    for (int64_t bin = 0; bin < bins.count; ++bin) result[m * bins.count + bin] = Amount::narrowed(totals[bin]);
  };
  for_columns(csr, [&](int64_t begin, int64_t end) {
    std::vector<Total> totals(bins.count);
    for (int64_t m = begin; m < end; ++m) {
      const int64_t start = csr.row_splits[m], stop = csr.row_splits[m + 1];
      if (stop - start > kPiece) continue;
      std::fill(totals.begin(), totals.end(), Total(0));
      add_rows(heights, amount, bins, table, start, stop, totals.data());
      finish(m, totals.data());
    }
  });
  for (int64_t m = 0; m < csr.columns; ++m) {
    const int64_t start = csr.row_splits[m], stop = csr.row_splits[m + 1], pieces = (stop - start + kPiece - 1) / kPiece;
    if (pieces <= 1) continue;
    std::vector<Total> totals(pieces * bins.count);
    for_parts(pieces, kPiece, [&](int64_t begin, int64_t end) {
      for (int64_t piece = begin; piece < end; ++piece) {
        const int64_t first = start + piece * kPiece;
        add_rows(heights, amount, bins, table, first, std::min(first + kPiece, stop), &totals[piece * bins.count]);
      }
    });
    for (int64_t i = bins.count; i < int64_t(totals.size()); ++i) totals[i % bins.count] += totals[i];
    finish(m, totals.data());
  }
}

Tensor height_profile(
    const Tensor& heights, const Tensor& row_splits, const Tensor& edges, const std::optional<Tensor>& weights) {
  const ProfileTensors tensors(heights, row_splits, edges);
  const Bins bins{data<double>(tensors.edges), tensors.bins()};
  check_edges(bins.edges, bins.count + 1);
  check_csr(tensors.csr);
  const Columns& columns = tensors.csr.columns;
  Tensor result = torch::stable::new_empty(weights ? *weights : row_splits, {columns.columns, bins.count});
  with_float_type("heights", heights.scalar_type(), [&](auto scalar) {
    const auto* const from = data<decltype(scalar)>(tensors.heights);
    if (!weights) return profile(from, NumberOfRows{}, columns, bins, output<int64_t>(result));
    const Tensor amounts = checked_weights(*weights, heights);
    with_float_type("weights", amounts.scalar_type(), [&](auto weight) {
      using W = decltype(weight);
      profile(from, WeightOfRows<W>{data<W>(amounts)}, columns, bins, output<W>(result));
    });
  });
  return result;
}

Tensor profile_cell(const Tensor& heights, const Tensor& row_splits, const Tensor& edges) {
  const ProfileTensors tensors(heights, row_splits, edges);
  const Bins bins{data<double>(tensors.edges), tensors.bins()};
  check_edges(bins.edges, bins.count + 1);
  check_csr(tensors.csr);
  const Columns& columns = tensors.csr.columns;
  const BinTable table(bins);
  Tensor result = torch::stable::new_empty(row_splits, {columns.places});
  int64_t* const to = output<int64_t>(result);
  with_float_type("heights", heights.scalar_type(), [&](auto scalar) {
    const auto* const from = data<decltype(scalar)>(tensors.heights);
    for_columns(columns, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m)
        for (int64_t row = columns.row_splits[m]; row < columns.row_splits[m + 1]; ++row) {
          const double height = double(widen(from[row]));
          to[row] = bins.holds(height) ? m * bins.count + table.find(height) : -1;
        }
    });
  });
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CPU, library) {
  library.impl("height_profile", TORCH_BOX(&height_profile));
  library.impl("profile_cell", TORCH_BOX(&profile_cell));
}

}  // namespace
}  // namespace fusion3d
