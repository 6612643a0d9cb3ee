// lift on CUDA. A thread owns a packet of channels, forward of a point, backward of a pixel: every address is written once, and
// the points that have read a pixel are added up in their order.
#include "core/weighted_sum.h"
#include "cuda/kernel.cuh"
#include "cuda/lift.h"

namespace fusion3d::cuda {
namespace {

template <LiftMode Mode, class S, int W>
__global__ void __launch_bounds__(kThreads, 4)
read_pixels(const S* pixels, Raster raster, const int64_t* chip, const double* position, int64_t points, S* result) {
  const int64_t packets = raster.channels / W;
  for (int64_t item = global_thread(); item < points * packets; item += grid_threads()) {
    const int64_t point = item / packets, channel = item % packets * W;
    const ReadPixels<Mode> read(raster, chip[point], position + 2 * point);
    WeightedSum<S, W> sum;
#pragma unroll
    for (int k = 0; k < ReadPixels<Mode>::kCount; ++k)
      sum.take(pixels + read.offset[k] + channel * raster.channel_stride, Accumulator<S>(read.weight[k]));
    sum.finish(result + point * raster.channels + channel);
  }
}

template <LiftMode Mode>
__global__ void __launch_bounds__(kThreads, 4)
find_cells(BaseCells<Mode> cells, const int64_t* chip, const double* position, int64_t points, int64_t* cell) {
  for (int64_t point = global_thread(); point < points; point += grid_threads())
    cell[point] = cells.cell_of(chip[point], position + 2 * point);
}

template <class S, int W>
struct AddReader {
  const S* grad;  // of the packet's first channel
  int64_t channels;
  WeightedSum<S, W>& sum;

  FUSION3D_BOTH void operator()(int64_t point, double weight) const {
    sum.take(grad + point * channels, Accumulator<S>(weight));
  }
};

template <LiftMode Mode, class S, int W>
__global__ void __launch_bounds__(kThreads, 4) gather_gradient(
    const S* grad, int64_t channels, BaseCells<Mode> cells, const int64_t* splits, const int64_t* order, const double* position,
    S* result) {
  const int64_t packets = channels / W, pixels = cells.chips * cells.height * cells.width;
  for (int64_t item = global_thread(); item < pixels * packets; item += grid_threads()) {
    const int64_t pixel = item / packets, channel = (item - pixel * packets) * W;
    const int64_t line = pixel / cells.width, chip = line / cells.height;
    WeightedSum<S, W> sum;
    const AddReader<S, W> add{grad + channel, channels, sum};
    cells.for_readers(chip, line - chip * cells.height, pixel - line * cells.width, splits, order, position, add);
    sum.finish(result + pixel * channels + channel);
  }
}

template <class Body>
Status with_mode(LiftMode mode, Body&& body) {
  if (mode == LiftMode::nearest) return body(std::integral_constant<LiftMode, LiftMode::nearest>{});
  return body(std::integral_constant<LiftMode, LiftMode::bilinear>{});
}

}  // namespace

Status lift(
    LiftMode mode, FloatType type, const void* pixels, const Raster& raster, const int64_t* chip, const double* position,
    int64_t points, void* result, void* stream) {
  if (points == 0 || raster.channels == 0) return nullptr;
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_float_type(type, [&](auto scalar) {
    using S = decltype(scalar);
    const S* const from = static_cast<const S*>(pixels);
    S* const to = static_cast<S*>(result);
    const auto launch = [&](auto width) {
      return with_mode(mode, [&](auto constant) {
        constexpr int W = decltype(width)::value;
        constexpr LiftMode Mode = decltype(constant)::value;
        const int64_t items = points * (raster.channels / W);
        read_pixels<Mode, S, W><<<blocks_for(items), kThreads, 0, queue>>>(from, raster, chip, position, points, to);
        return launched();
      });
    };
    if (raster.channel_stride != 1) return launch(std::integral_constant<int, 1>{});
    return with_packet<S>(raster.channels, pixels, result, launch);
  });
}

int64_t lift_cells(LiftMode mode, int64_t chips, int64_t height, int64_t width) {
  int64_t cells = 0;
  with_mode(mode, [&](auto constant) -> Status {
    cells = BaseCells<decltype(constant)::value>{chips, height, width}.count();
    return nullptr;
  });
  return cells;
}

Status lift_cell_of(
    LiftMode mode, int64_t chips, int64_t height, int64_t width, const int64_t* chip, const double* position, int64_t points,
    int64_t* cell, void* stream) {
  if (points == 0) return nullptr;
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_mode(mode, [&](auto constant) {
    const BaseCells<decltype(constant)::value> cells{chips, height, width};
    find_cells<<<blocks_for(points), kThreads, 0, queue>>>(cells, chip, position, points, cell);
    return launched();
  });
}

Status lift_backward(
    LiftMode mode, FloatType type, const void* grad, int64_t chips, int64_t channels, int64_t height, int64_t width,
    const int64_t* splits, const int64_t* order, const double* position, void* result, void* stream) {
  if (chips * height * width * channels == 0) return nullptr;
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_float_type(type, [&](auto scalar) {
    using S = decltype(scalar);
    const S* const from = static_cast<const S*>(grad);
    S* const to = static_cast<S*>(result);
    return with_packet<S>(channels, grad, result, [&](auto packet) {
      constexpr int W = decltype(packet)::value;
      return with_mode(mode, [&](auto constant) {
        const BaseCells<decltype(constant)::value> cells{chips, height, width};
        const int64_t items = chips * height * width * (channels / W);
        gather_gradient<decltype(constant)::value, S, W>
            <<<blocks_for(items), kThreads, 0, queue>>>(from, channels, cells, splits, order, position, to);
        return launched();
      });
    });
  });
}

}  // namespace fusion3d::cuda
