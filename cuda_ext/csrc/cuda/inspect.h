// The seam for looking at values on the device; see launch.h.
#pragma once

#include "cuda/launch.h"

namespace fusion3d::cuda {

// `outside`, zero on the device before, becomes 1 if a value lies outside [0, size). Does not wait.
Status inspect_index(const int64_t* index, int64_t count, int64_t size, int64_t* outside, void* stream);

// `infinite`, zero on the device before, becomes 1 if a value is not finite. Does not wait.
Status inspect_finite(const double* values, int64_t count, int64_t* infinite, void* stream);

// The first place of each of `cells` among rising cells, and their number after the last: cells + 1 splits.
Status first_places(const int64_t* sorted, int64_t count, int64_t cells, int64_t* splits, void* stream);

// Copies `bytes` from the device and waits for the stream.
Status fetch(void* on_host, const void* on_device, int64_t bytes, void* stream);

}  // namespace fusion3d::cuda
