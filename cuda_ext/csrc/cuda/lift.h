// The seam of lift; see launch.h.
#pragma once

#include "core/lift.h"
#include "cuda/launch.h"

namespace fusion3d::cuda {

Status lift(
    LiftMode mode, FloatType type, const void* pixels, const Raster& raster, const int64_t* chip, const double* position,
    int64_t points, void* result, void* stream);

// How many cells positions lie in, and the cell of each.
int64_t lift_cells(LiftMode mode, int64_t chips, int64_t height, int64_t width);
Status lift_cell_of(
    LiftMode mode, int64_t chips, int64_t height, int64_t width, const int64_t* chip, const double* position, int64_t points,
    int64_t* cell, void* stream);

// Channels last. `splits` and `order` group the points by cell.
Status lift_backward(
    LiftMode mode, FloatType type, const void* grad, int64_t chips, int64_t channels, int64_t height, int64_t width,
    const int64_t* splits, const int64_t* order, const double* position, void* result, void* stream);

}  // namespace fusion3d::cuda
