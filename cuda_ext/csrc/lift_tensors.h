// What both bindings of lift take and refuse.
#pragma once

#include <vector>

#include "binding.h"
#include "core/lift.h"

namespace fusion3d {

constexpr int64_t kFewPoints = 16;  // pixels for each point: then a copy of the raster costs more than reading channels apart

inline LiftMode lift_mode_of(const std::string& name) {
  if (name == "nearest") return LiftMode::nearest;
  if (name == "bilinear") return LiftMode::bilinear;
  refuse("mode must be one of nearest, bilinear, not ", name);
}

// Calls body(constant) with `mode` as a compile-time constant.
template <class Body>
void with_lift_mode(LiftMode mode, Body&& body) {
  if (mode == LiftMode::nearest)
    body(std::integral_constant<LiftMode, LiftMode::nearest>{});
  else
    body(std::integral_constant<LiftMode, LiftMode::bilinear>{});
}

// Where each point lies, in dense memory, shapes checked; values are checked by the device that they are on.
struct LiftPoints {
  LiftPoints(const char* name, const Tensor& tensor, const Tensor& chip, const Tensor& position)
      : chips(torch::stable::contiguous(chip)), count(chip.numel()) {
    check_int64("chip", chip);
    check_same_device("chip", chip, name, tensor);
    check_same_device("position", position, name, tensor);
    check_shape("position", position, count, 2);
    with_float_type("position", position.scalar_type(), [](auto) {});
    // row 40,000.3 has no float32 neighbour closer than 0.004
    positions = torch::stable::contiguous(torch::stable::to(position, ScalarType::Double));
  }

  Tensor chips, positions;
  int64_t count;
};

// Whether all channels of a pixel lie side by side, pixel after pixel.
inline bool channels_last(const Tensor& raster) {
  const int64_t channels = raster.size(1), height = raster.size(2), width = raster.size(3);
  return raster.stride(1) == 1 && raster.stride(3) == channels && raster.stride(2) == width * channels &&
         raster.stride(0) == height * width * channels;
}

inline void check_pixels(int64_t points, int64_t height, int64_t width) {
  if (points > 0 && height * width == 0) refuse("a raster of ", height, " x ", width, " pixels has nothing to lift");
}

// [chips, channels, height, width]
inline void check_raster_shape(const std::vector<int64_t>& shape) {
  if (shape.size() != 4) refuse("shape must name chips, channels, height and width, not ", shape.size(), " sizes");
  int64_t elements = 1;
  for (const int64_t size : shape)
    if (size < 0 || size == INT64_MAX || __builtin_mul_overflow(elements, size + 1, &elements))
      refuse("shape holds sizes of no raster");
}

}  // namespace fusion3d
