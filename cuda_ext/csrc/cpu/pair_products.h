// The two products of sparse convolution on a CPU, in as many variants as there are instruction sets worth having; which one
// runs is found out at run time. Variants differ in rounding (a fused multiply-add rounds once), not in the order of additions.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "binding.h"

namespace fusion3d {

// Rows are reached by pointers: where they lie, and whether they were widened from a half type, is the caller's business.
template <class A>
struct PairProducts {
  int lanes;  // widths are multiples of it
  // sums[p] += rows[p] @ weight, for rows of `depth` and sums of `width`; the weight as `pack_weight` lays it out.
  void (*multiply)(const A* const* rows, A* const* sums, int64_t pairs, const A* weight, int64_t depth, int64_t width);
  // sums += sum over pairs of the outer product of rows[p], `depth`, and upstream[p], `width`; sums is [depth, width].
  void (*outer)(const A* const* rows, const A* const* upstream, int64_t pairs, A* sums, int64_t depth, int64_t width);
};

namespace portable {
#define FUSION3D_TARGET
#define FUSION3D_BYTES 16
#define FUSION3D_REGISTERS 16
#define FUSION3D_FUSED_FLOAT(a, b, c) ((a) * (b) + (c))
#define FUSION3D_FUSED_DOUBLE(a, b, c) ((a) * (b) + (c))
#include "cpu/pair_products_kernels.h"
#undef FUSION3D_TARGET
#undef FUSION3D_BYTES
#undef FUSION3D_REGISTERS
#undef FUSION3D_FUSED_FLOAT
#undef FUSION3D_FUSED_DOUBLE
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
#define FUSION3D_TARGET __attribute__((target("avx2,fma")))
#define FUSION3D_BYTES 32
#define FUSION3D_REGISTERS 16
#define FUSION3D_FUSED_FLOAT(a, b, c) _mm256_fmadd_ps(a, b, c)
#define FUSION3D_FUSED_DOUBLE(a, b, c) _mm256_fmadd_pd(a, b, c)
#include "cpu/pair_products_kernels.h"
#undef FUSION3D_TARGET
#undef FUSION3D_BYTES
#undef FUSION3D_REGISTERS
#undef FUSION3D_FUSED_FLOAT
#undef FUSION3D_FUSED_DOUBLE
}  // namespace avx2

namespace avx512 {
#define FUSION3D_TARGET __attribute__((target("avx512f")))
#define FUSION3D_BYTES 64
#define FUSION3D_REGISTERS 32
#define FUSION3D_FUSED_FLOAT(a, b, c) _mm512_fmadd_ps(a, b, c)
#define FUSION3D_FUSED_DOUBLE(a, b, c) _mm512_fmadd_pd(a, b, c)
#include "cpu/pair_products_kernels.h"
#undef FUSION3D_TARGET
#undef FUSION3D_BYTES
#undef FUSION3D_REGISTERS
#undef FUSION3D_FUSED_FLOAT
#undef FUSION3D_FUSED_DOUBLE
}  // namespace avx512
#endif

// The widest variant that this machine can run, or the one that FUSION3D_CPU names: portable, avx2 or avx512.
template <class A>
PairProducts<A> pair_products() {
  const char* const wanted = std::getenv("FUSION3D_CPU");
  const auto takes = [&](const char* name, bool runs) {
    if (!wanted) return runs;
    if (strcmp(wanted, name) == 0 && !runs) refuse("FUSION3D_CPU=", wanted, ", but this machine has no ", name, "; unset it");
    return strcmp(wanted, name) == 0;
  };
#if defined(__x86_64__)
  if (takes("avx512", __builtin_cpu_supports("avx512f"))) return avx512::products<A>();
  if (takes("avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) return avx2::products<A>();
#endif
  if (takes("portable", true)) return portable::products<A>();
  refuse("FUSION3D_CPU must be portable, avx2 or avx512, not ", wanted);
}

}  // namespace fusion3d
