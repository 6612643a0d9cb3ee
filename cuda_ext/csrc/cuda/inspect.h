// The seam for looking at values on the device; see launch.h.
#pragma once

#include "cuda/launch.h"

namespace fusion3d::cuda {

// `outside`, zero on the device before, becomes 1 if a value lies outside [0, size). Does not wait.
Status inspect_index(const int64_t* index, int64_t count, int64_t size, int64_t* outside, void* stream);

// Copies `bytes` from the device and waits for the stream.
Status fetch(void* on_host, const void* on_device, int64_t bytes, void* stream);

}  // namespace fusion3d::cuda
