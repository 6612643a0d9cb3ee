// lift for CUDA tensors: the torch side of cuda/lift.cu, and the twin of cpu/lift.cpp.
#include "cuda/device.h"
#include "cuda/group_rows.h"
#include "cuda/index_check.h"
#include "cuda/lift.h"
#include "lift_tensors.h"

namespace fusion3d::cuda {
namespace {

void check_values(const LiftPoints& points, int64_t chips, void* stream) {
  check_index("chip", points.chips, chips, stream);
  check_finite("position", points.positions, stream);
}

Tensor lift_op(const Tensor& raster, const Tensor& chip, const Tensor& position, const std::string& mode) {
  check_dimensions("raster", raster, 4);
  const LiftMode how = lift_mode_of(mode);
  const FloatType type = float_type_of("raster", raster.scalar_type());
  const LiftPoints points("raster", raster, chip, position);
  const int64_t chips = raster.size(0), channels = raster.size(1), height = raster.size(2), width = raster.size(3);
  const OnDeviceOf device(raster);
  check_values(points, chips, device.stream);
  check_pixels(points.count, height, width);
  const int64_t pixels = height * width;
  const bool last = channels_last(raster) || points.count * kFewPoints >= chips * pixels;
  const Raster layout{chips, channels, height, width, pixels * channels, last ? channels : 1, last ? 1 : pixels};
  const Tensor stored = channels_last(raster) ? raster
                        : last ? torch::stable::contiguous(raster, torch::headeronly::MemoryFormat::ChannelsLast)
                               : torch::stable::contiguous(raster);
  Tensor result = torch::stable::new_empty(raster, {points.count, channels});
  succeed("lift", lift(how, type, stored.const_data_ptr(), layout, data<int64_t>(points.chips), data<double>(points.positions),
                       points.count, result.mutable_data_ptr(), device.stream));
  return result;
}

Tensor lift_backward_op(
    const Tensor& grad, const Tensor& chip, const Tensor& position, const std::vector<int64_t>& shape, const std::string& mode) {
  check_dimensions("grad", grad, 2);
  const LiftMode how = lift_mode_of(mode);
  const FloatType type = float_type_of("grad", grad.scalar_type());
  check_raster_shape(shape);
  const LiftPoints points("grad", grad, chip, position);
  check_shape("grad", grad, points.count, shape[1]);
  const int64_t chips = shape[0], channels = shape[1], height = shape[2], width = shape[3];
  const OnDeviceOf device(grad);
  check_values(points, chips, device.stream);
  check_pixels(points.count, height, width);
  Tensor cell = torch::stable::new_empty(chip, {points.count});
  succeed("lift_backward", lift_cell_of(how, chips, height, width, data<int64_t>(points.chips), data<double>(points.positions),
                                        points.count, output<int64_t>(cell), device.stream));
  const RowGroups groups = group_rows(cell, lift_cells(how, chips, height, width), device.stream);
  const Tensor upstream = torch::stable::contiguous(grad);
  Tensor result = torch::stable::new_empty(grad, {chips, height, width, channels});
  succeed("lift_backward", lift_backward(how, type, upstream.const_data_ptr(), chips, channels, height, width,
                                         data<int64_t>(groups.splits), data<int64_t>(groups.order),
                                         data<double>(points.positions), result.mutable_data_ptr(), device.stream));
  const Tensor channels_second = torch::stable::transpose(torch::stable::transpose(result, 1, 3), 2, 3);
  return torch::stable::contiguous(channels_second);
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CUDA, library) {
  library.impl("lift", TORCH_BOX(&lift_op));
  library.impl("lift_backward", TORCH_BOX(&lift_backward_op));
}

}  // namespace
}  // namespace fusion3d::cuda
