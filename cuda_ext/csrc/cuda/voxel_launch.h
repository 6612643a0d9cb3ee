// The seam of the operators on voxels; as cuda/launch.h.
#pragma once

#include "core/kernel_map.h"
#include "core/voxel_key.h"
#include "cuda/launch.h"

namespace fusion3d::cuda {

// What a walk over coordinates finds out. `falling`: some key is not above the one before.
struct VoxelFindings {
  Bounds bounds;
  int64_t falling = 0;
};

// Keys of coordinates [count, 4] in any range. Waits for the stream.
Status pack_voxels(
    const int64_t* coordinates, int64_t count, int64_t* keys, VoxelFindings* on_device, VoxelFindings* on_host, void* stream);

// starts[i]: 1 where keys[i] differs from the one before, else 0.
Status mark_starts(const int64_t* keys, int64_t count, int64_t* starts, void* stream);

// `ends`: the running sum of starts. Writes the distinct keys' voxels [.., 4] and, with a `permutation`, the number of each
// place's voxel and the CSR offsets.
Status number_voxels(
    const int64_t* keys, const int64_t* ends, const int64_t* permutation, int64_t count, int64_t* voxels, int64_t* inverse,
    int64_t* row_splits, void* stream);

Status coarse_keys(const int64_t* coordinates, int64_t count, int64_t stride, int64_t* keys, void* stream);
Status origin_keys(const int64_t* coarse, int64_t count, int64_t stride, int64_t* keys, void* stream);

// to[i] = from[first + i * step] on the host. Waits for the stream.
Status read_integers(const int64_t* from, int64_t first, int64_t step, int64_t count, int64_t* to, void* stream);

int64_t pair_blocks(int64_t outputs);

// counts [searched, pair_blocks(outputs)].
Status count_pairs(const PairSearch& search, int64_t* counts, void* stream);

// `turned`: a submanifold kernel, whose middle element and whose other half are listed too.
Status list_pairs(
    const PairSearch& search, const PairPlaces& places, bool turned, int64_t* in_rows, int64_t* out_rows, void* stream);

}  // namespace fusion3d::cuda
