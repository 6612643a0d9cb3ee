// lift on the CPU. Schema, meaning and gradient formula: fusion3d/ops/lift.py; arithmetic: core/lift.h.
#include <atomic>
#include <utility>
#include <vector>

#include "binding.h"
#include "core/lift.h"
#include "core/weighted_sum.h"
#include "cpu/group_rows.h"
#include "cpu/index_check.h"
#include "cpu/memory.h"
#include "cpu/packets.h"
#include "cpu/parallel.h"
#include "cpu/transpose.h"
#include "lift_tensors.h"

namespace fusion3d {
namespace {

constexpr int64_t kPixelBlock = 16;  // of a raster row, whose gradients are written channel by channel

void check_values(const LiftPoints& points, int64_t chips) {
  check_index("chip", data<int64_t>(points.chips), points.count, chips);
  const double* const position = data<double>(points.positions);
  std::atomic<bool> infinite{false};
  for_parts(2 * points.count, 1, [&](int64_t begin, int64_t end) {
    bool wrong = false;
    for (int64_t i = begin; i < end; ++i) wrong |= position[i] - position[i] != 0;
    if (wrong) infinite = true;
  });
  if (infinite) refuse("position holds values that are not finite");
}

template <LiftMode Mode, class S>
void read_channels_last(const S* from, const Raster& raster, const int64_t* chip, const double* position, int64_t points, S* to) {
  for_parts(points, raster.channels * ReadPixels<Mode>::kCount, [&](int64_t begin, int64_t end) {
    for (int64_t point = begin; point < end; ++point) {
      const ReadPixels<Mode> read(raster, chip[point], position + 2 * point);
      for_packets<S>(raster.channels, [&](auto width, int64_t channel) {
        constexpr int W = decltype(width)::value;
        WeightedSum<S, W> sum;
        for (int k = 0; k < read.kCount; ++k) sum.take(from + read.offset[k] + channel, Accumulator<S>(read.weight[k]));
        sum.finish(to + point * raster.channels + channel);
      });
    }
  });
}

template <LiftMode Mode, class S>
void read_channels_first(const S* from, const Raster& raster, const int64_t* chip, const double* position, int64_t points, S* to) {
  for_parts(points, raster.channels * ReadPixels<Mode>::kCount, [&](int64_t begin, int64_t end) {
    for (int64_t point = begin; point < end; ++point) {
      const ReadPixels<Mode> read(raster, chip[point], position + 2 * point);
      for (int64_t channel = 0; channel < raster.channels; ++channel) {
        WeightedSum<S, 1> sum;
        for (int k = 0; k < read.kCount; ++k)
          sum.take(from + read.offset[k] + channel * raster.channel_stride, Accumulator<S>(read.weight[k]));
        sum.finish(to + point * raster.channels + channel);
      }
    }
  });
}

Tensor lift(const Tensor& raster, const Tensor& chip, const Tensor& position, const std::string& mode) {
  check_dimensions("raster", raster, 4);
  const LiftMode how = lift_mode_of(mode);
  const LiftPoints points("raster", raster, chip, position);
  const int64_t chips = raster.size(0), channels = raster.size(1), height = raster.size(2), width = raster.size(3);
  check_values(points, chips);
  check_pixels(points.count, height, width);
  const int64_t pixels = height * width;
  const Raster last{chips, channels, height, width, pixels * channels, channels, 1};
  const Raster first{chips, channels, height, width, pixels * channels, 1, pixels};
  Tensor result = torch::stable::new_empty(raster, {points.count, channels});
  prefer_huge_pages(result.mutable_data_ptr(), result.numel() * int64_t(result.element_size()));
  const bool stored_last = channels_last(raster);
  const Tensor rows = stored_last ? raster : torch::stable::contiguous(raster);
  const bool few = points.count * kFewPoints < chips * pixels;
  with_float_type("raster", raster.scalar_type(), [&](auto scalar) {
    using S = decltype(scalar);
    with_lift_mode(how, [&](auto constant) {
      constexpr LiftMode Mode = decltype(constant)::value;
      const auto chip_of = data<int64_t>(points.chips);
      const auto at = data<double>(points.positions);
      if (!stored_last && few)
        return read_channels_first<Mode>(data<S>(rows), first, chip_of, at, points.count, output<S>(result));
      Tensor copy = stored_last ? rows : torch::stable::new_empty(raster, {chips, pixels, channels});
      if (!stored_last) {
        prefer_huge_pages(copy.mutable_data_ptr(), copy.numel() * int64_t(copy.element_size()));
        transpose(data<S>(rows), output<S>(copy), chips, channels, pixels);
      }
      read_channels_last<Mode>(data<S>(copy), last, chip_of, at, points.count, output<S>(result));
    });
  });
  return result;
}

// Every pixel adds up the points that have read it: no address is written twice, and the order is that of the points.
template <LiftMode Mode, class S>
void gather_gradient(
    const S* grad, int64_t channels, const BaseCells<Mode>& cells, const int64_t* splits, const int64_t* order,
    const double* position, S* result) {
  const int64_t pixels = cells.height * cells.width;
  for_parts(cells.chips * cells.height, cells.width * channels, [&](int64_t begin, int64_t end) {
    std::vector<std::pair<int64_t, Accumulator<S>>> readers;
    std::vector<S> block(kPixelBlock * channels);
    for (int64_t line = begin; line < end; ++line) {
      const int64_t chip = line / cells.height, row = line % cells.height;
      for (int64_t first = 0; first < cells.width; first += kPixelBlock) {
        const int64_t count = std::min(kPixelBlock, cells.width - first);
        for (int64_t i = 0; i < count; ++i) {
          readers.clear();
          cells.for_readers(chip, row, first + i, splits, order, position, [&](int64_t point, double weight) {
            readers.emplace_back(point, Accumulator<S>(weight));
          });
          for_packets<S>(channels, [&](auto width, int64_t channel) {
            WeightedSum<S, decltype(width)::value> sum;
            for (const auto& [point, weight] : readers) sum.take(grad + point * channels + channel, weight);
            sum.finish(&block[i * channels + channel]);
          });
        }
        S* const to = result + chip * channels * pixels + row * cells.width + first;
        for (int64_t channel = 0; channel < channels; ++channel)
          for (int64_t i = 0; i < count; ++i) to[channel * pixels + i] = block[i * channels + channel];
      }
    }
  });
}

Tensor lift_backward(
    const Tensor& grad, const Tensor& chip, const Tensor& position, const std::vector<int64_t>& shape, const std::string& mode) {
  check_dimensions("grad", grad, 2);
  const LiftMode how = lift_mode_of(mode);
  check_raster_shape(shape);
  const LiftPoints points("grad", grad, chip, position);
  check_shape("grad", grad, points.count, shape[1]);
  check_values(points, shape[0]);
  check_pixels(points.count, shape[2], shape[3]);
  const Tensor upstream = torch::stable::contiguous(grad);
  Tensor result = torch::stable::new_empty(grad, {shape[0], shape[1], shape[2], shape[3]});
  prefer_huge_pages(result.mutable_data_ptr(), result.numel() * int64_t(result.element_size()));
  with_lift_mode(how, [&](auto constant) {
    const BaseCells<decltype(constant)::value> cells{shape[0], shape[2], shape[3]};
    const int64_t* const chip_of = data<int64_t>(points.chips);
    const double* const at = data<double>(points.positions);
    Tensor splits = torch::stable::new_empty(chip, {cells.count() + 1}), order = torch::stable::new_empty(chip, {points.count});
    const auto cell_of = [&](int64_t point) { return cells.cell_of(chip_of[point], at + 2 * point); };
    group_rows(points.count, cells.count(), cell_of, output<int64_t>(splits), [&](auto& groups) {
      groups.write(output<int64_t>(order));
    });
    with_float_type("grad", grad.scalar_type(), [&](auto scalar) {
      using S = decltype(scalar);
      gather_gradient(data<S>(upstream), shape[1], cells, data<int64_t>(splits), data<int64_t>(order), at, output<S>(result));
    });
  });
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CPU, library) {
  library.impl("lift", TORCH_BOX(&lift));
  library.impl("lift_backward", TORCH_BOX(&lift_backward));
}

}  // namespace
}  // namespace fusion3d
