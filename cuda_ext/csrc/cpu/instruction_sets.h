// Which vectors this machine has. The library is compiled for every x86-64 and holds faster copies of a few loops for wider
// vectors, chosen when they are called.
#pragma once

#include <cstdlib>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FUSION3D_HAS_INSTRUCTION_SETS 1
#else
#define FUSION3D_HAS_INSTRUCTION_SETS 0
#endif

namespace fusion3d {

// 64 with AVX-512, 32 with AVX2 and FMA, else 16; no more than FUSION3D_VECTOR_BYTES where that is set, for tests.
inline int vector_bytes() {
  static const int bytes = [] {
    int widest = 16;
#if FUSION3D_HAS_INSTRUCTION_SETS
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) widest = 32;
    if (widest == 32 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
      widest = 64;
#endif
    const char* const most = std::getenv("FUSION3D_VECTOR_BYTES");
    return most && std::atoi(most) > 0 && std::atoi(most) < widest ? std::atoi(most) : widest;
  }();
  return bytes;
}

}  // namespace fusion3d
