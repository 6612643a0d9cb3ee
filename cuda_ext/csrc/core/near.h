// Which rows are too close to be each other's negatives: nearer than a radius, in one scene.
#pragma once

#include <cstdint>

#include "core/scalar.h"

namespace fusion3d {

#if defined(__CUDA_ARCH__)
// nvcc would contract x * x + y * y, and pairs at exactly the radius would then differ from the reference's.
__device__ inline float square_sum(float x, float y) { return __fadd_rn(__fmul_rn(x, x), __fmul_rn(y, y)); }
__device__ inline double square_sum(double x, double y) { return __dadd_rn(__dmul_rn(x, x), __dmul_rn(y, y)); }
#else
template <class P>
FUSION3D_BOTH P square_sum(P x, P y) {
  return x * x + y * y;
}
#endif

// Positions of the rows, [N, 2], and the square of the exclusion radius; no scene: all rows share one.
template <class P>
struct Exclusion {
  const P* position;     // or nullptr: nothing is excluded
  const int64_t* scene;  // or nullptr
  P limit;

  FUSION3D_BOTH bool excludes(int64_t row, int64_t other) const {
    // differences first: squares of map coordinates would lose the metres
    const P east = position[2 * row] - position[2 * other], north = position[2 * row + 1] - position[2 * other + 1];
    return row != other && square_sum(east, north) < limit && (!scene || scene[row] == scene[other]);
  }
};

}  // namespace fusion3d
