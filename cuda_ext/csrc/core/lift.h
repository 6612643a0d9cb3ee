// Bodies of lift: which pixels a position reads and with what weight; for the gradient, which positions have read a pixel.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/scalar.h"

namespace fusion3d {

enum class LiftMode : int32_t { nearest, bilinear };

// A raster and how far apart its elements lie: channels first as torch stores them, or channels last.
struct Raster {
  int64_t chips, channels, height, width;
  int64_t chip_stride, pixel_stride, channel_stride;

  FUSION3D_BOTH int64_t chip_pixels() const { return height * width; }
};

// Along rows or columns, a position reads the pixels `base` and `base + 1`, held inside [0, size), the second with weight `share`.
struct Step {
  int64_t base;
  double share;

  // The weight of one pixel; both of them, where the edge holds both.
  FUSION3D_BOTH double of_pixel(int64_t pixel, int64_t size) const {
    return (held_inside(base, size) == pixel ? 1 - share : 0) + (held_inside(base + 1, size) == pixel ? share : 0);
  }

  FUSION3D_BOTH static int64_t held_inside(int64_t pixel, int64_t size) {
    return pixel < 0 ? 0 : pixel < size ? pixel : size - 1;
  }
};

// Limits are compared as numbers, so that a far position does not overflow an integer; it reads the edge with any share.
template <LiftMode Mode>
FUSION3D_BOTH Step step_of(double position, int64_t size) {
  constexpr int64_t kFirst = Mode == LiftMode::bilinear ? -1 : 0;
  const double at = Mode == LiftMode::bilinear ? position - 0.5 : position, low = floor(at);
  const int64_t base = low < double(kFirst) ? kFirst : low < double(size) ? int64_t(low) : size - 1;
  return {base, Mode == LiftMode::bilinear ? at - low : 0};
}

// The pixels that one position reads, as offsets of their first channel, and their weights.
template <LiftMode Mode>
struct ReadPixels {
  static constexpr int kCount = Mode == LiftMode::bilinear ? 4 : 1;
  int64_t offset[kCount];
  double weight[kCount];

  FUSION3D_BOTH ReadPixels(const Raster& raster, int64_t chip, const double* position) {
    const Step row = step_of<Mode>(position[0], raster.height), col = step_of<Mode>(position[1], raster.width);
    for (int k = 0; k < kCount; ++k) {
      const int64_t r = Step::held_inside(row.base + k / 2, raster.height), c = Step::held_inside(col.base + k % 2, raster.width);
      offset[k] = chip * raster.chip_stride + (r * raster.width + c) * raster.pixel_stride;
      weight[k] = kCount == 1 ? 1 : (k / 2 ? row.share : 1 - row.share) * (k % 2 ? col.share : 1 - col.share);
    }
  }
};

// Positions grouped by base: a cell for each. A base is -1 at least when bilinear, 0 at least when nearest.
template <LiftMode Mode>
struct BaseCells {
  static constexpr int64_t kMargin = Mode == LiftMode::bilinear ? 1 : 0;
  int64_t chips, height, width;

  FUSION3D_BOTH int64_t count() const { return chips * (height + kMargin) * (width + kMargin); }

  FUSION3D_BOTH int64_t cell(int64_t chip, int64_t row_base, int64_t col_base) const {
    return (chip * (height + kMargin) + row_base + kMargin) * (width + kMargin) + col_base + kMargin;
  }

  FUSION3D_BOTH int64_t cell_of(int64_t chip, const double* position) const {
    return cell(chip, step_of<Mode>(position[0], height).base, step_of<Mode>(position[1], width).base);
  }

  // Calls take(point, weight) for the positions that read a pixel, always in the same order. `splits` and `order` group them.
  template <class Take>
  FUSION3D_BOTH void for_readers(
      int64_t chip, int64_t row, int64_t col, const int64_t* splits, const int64_t* order, const double* position,
      const Take& take) const {
    for (int64_t row_base = row - kMargin; row_base <= row; ++row_base)
      for (int64_t col_base = col - kMargin; col_base <= col; ++col_base) {
        const int64_t here = cell(chip, row_base, col_base);
        for (int64_t place = splits[here]; place < splits[here + 1]; ++place) {
          const int64_t point = order[place];
          const double weight = step_of<Mode>(position[2 * point], height).of_pixel(row, height) *
                                step_of<Mode>(position[2 * point + 1], width).of_pixel(col, width);
          take(point, weight);
        }
      }
  }
};

}  // namespace fusion3d
