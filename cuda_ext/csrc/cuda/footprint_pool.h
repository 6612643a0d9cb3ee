// The seam of footprint_pool; see launch.h.
#pragma once

#include "cuda/launch.h"

namespace fusion3d::cuda {

// Sums of weighted rows for each group of pairs: `index` and `weight` of a pair (float64 weights for float64 rows, else float32),
// pairs reached through `order` unless that is null; splits, groups and channels in `groups`.
Status weighted_sums(
    FloatType type, const void* rows, const int64_t* index, const void* weight, const int64_t* order, const Columns& groups,
    void* result, void* stream);

// The group of each place.
Status groups_of_places(const Columns& groups, int64_t* group, void* stream);

}  // namespace fusion3d::cuda
