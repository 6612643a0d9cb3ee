// The seam of height_profile; see launch.h.
#pragma once

#include <optional>

#include "core/height_profile.h"
#include "cuda/launch.h"

namespace fusion3d::cuda {

// Sums of `weights` of type `weight_type`, or numbers of rows as int64 without them.
Status height_profile(
    FloatType type, const void* heights, std::optional<FloatType> weight_type, const void* weights, const Columns& csr,
    int64_t longest, const Bins& bins, void* result, void* stream);

Status profile_cell(FloatType type, const void* heights, const Columns& csr, const Bins& bins, int64_t* cell, void* stream);

}  // namespace fusion3d::cuda
