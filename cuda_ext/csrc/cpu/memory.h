// Writing large results: in huge pages where the kernel offers them, past the caches where nobody reads them soon.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace fusion3d {

constexpr int kCacheLine = 64;
constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kPastCaches = 16 << 20;

// The first touch of fresh memory costs a page fault every 4 KiB, which takes longer than filling it; one every 2 MiB does not.
inline void prefer_huge_pages(void* memory, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  const uintptr_t first = (uintptr_t(memory) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (uintptr_t(memory) + bytes) / kHugePage * kHugePage;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // advice: failing is no error
#endif
}

// Copies one packet; `past_caches` only for packets of whole cache lines.
template <class Scalar, int Width>
inline __attribute__((always_inline)) void put_packet(Scalar* to, const Scalar* packet, bool past_caches) {
#if defined(__SSE2__)
  if constexpr (sizeof(Scalar) * Width == kCacheLine) {
    if (past_caches) {
      for (int part = 0; part < kCacheLine / 16; ++part)
        _mm_stream_si128(reinterpret_cast<__m128i*>(to) + part, _mm_loadu_si128(reinterpret_cast<const __m128i*>(packet) + part));
      return;
    }
  }
#endif
  memcpy(to, packet, sizeof(Scalar) * Width);
}

// Makes what was put past the caches visible to other threads.
inline void settle_memory() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace fusion3d
