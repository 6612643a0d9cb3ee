// kernel_map in the order of CUDA's blocks, on the host and without torch: what each thread looks up, what a block counts, and
// where each pair goes. What it cannot check are ballots, barriers and launches.
#include <cstdint>

#include "core/kernel_map.h"

// `searched`: elements that are looked up; with `turned` the middle and the opposite ones are listed too. `ends` has room for
// searched * ceil(outputs / block) numbers. Returns how many pairs were searched; writes none unless `in_rows`.
extern "C" __attribute__((visibility("default"))) int64_t replay_kernel_map(
    const int64_t* keys, int64_t inputs, const int64_t* origins, int64_t outputs, int64_t size, int64_t before, int64_t dilation,
    int64_t searched, int turned, int64_t block, int64_t* ends, int64_t* in_rows, int64_t* out_rows) {
  using namespace fusion3d;
  const PairSearch search{keys, inputs, origins, outputs, {size, before, dilation}, searched};
  const int64_t blocks = (outputs + block - 1) / block;
  const PairPlaces places{ends, blocks};
  int64_t sum = 0;
  for (int64_t item = 0; item < searched * blocks; ++item) {
    for (int64_t thread = 0; thread < block; ++thread)
      sum += search.input(item / blocks, item % blocks * block + thread) >= 0;
    ends[item] = sum;
  }
  if (!in_rows) return sum;
  for (int64_t item = 0; item < searched * blocks; ++item) {
    int64_t rank = 0;
    for (int64_t thread = 0; thread < block; ++thread) {
      const int64_t element = item / blocks, out = item % blocks * block + thread, in = search.input(element, out);
      if (in < 0) continue;
      const int64_t place = places.start(item) + rank++;
      in_rows[place] = in;
      out_rows[place] = out;
      if (!turned) continue;
      const int64_t opposite = places.opposite(place, element, searched, outputs);
      in_rows[opposite] = out;
      out_rows[opposite] = in;
    }
  }
  for (int64_t voxel = 0; turned && voxel < outputs; ++voxel)
    in_rows[places.element_start(searched) + voxel] = out_rows[places.element_start(searched) + voxel] = voxel;
  return sum;
}

// The keys and bounds of core/voxel_key.h, and keys turned back into coordinates.
extern "C" __attribute__((visibility("default"))) void replay_pack(
    const int64_t* coordinates, int64_t count, int64_t* keys, int64_t* unpacked, int64_t* low, int64_t* high) {
  fusion3d::Bounds bounds;
  for (int64_t i = 0; i < count; ++i) {
    keys[i] = fusion3d::pack(coordinates + 4 * i);
    fusion3d::unpack(keys[i], unpacked + 4 * i);
    fusion3d::Bounds one;
    one.take(coordinates + 4 * i);
    bounds.combine(one);
  }
  for (int axis = 0; axis < 4; ++axis) low[axis] = bounds.low[axis], high[axis] = bounds.high[axis];
}

extern "C" __attribute__((visibility("default"))) void replay_coarse(
    const int64_t* coordinates, int64_t count, int64_t stride, int64_t* coarse, int64_t* origins) {
  for (int64_t i = 0; i < count; ++i) {
    int64_t voxel[4];
    coarse[i] = fusion3d::coarse_key(coordinates + 4 * i, stride);
    fusion3d::unpack(coarse[i], voxel);
    origins[i] = fusion3d::origin_key(voxel, stride);
  }
}
