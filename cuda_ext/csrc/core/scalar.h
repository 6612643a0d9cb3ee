// The four float types, without torch or CUDA headers: half types are their bits, and every sum is made in `Accumulator<Scalar>`.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define FUSION3D_BOTH __host__ __device__ inline __attribute__((always_inline))
#else
#define FUSION3D_BOTH inline __attribute__((always_inline))
#endif

// A loop over the channels of a packet: its bound is a constant, its rounds do not depend on each other. g++ 12 has to be told
// how to vectorise it: plain additions by unrolling, which keeps the packet in registers from row to row (-25 % time), compared
// and selected values as a loop (unrolled, they take 2.9 times as long).
#if defined(__CUDA_ARCH__)
#define FUSION3D_CHANNELS _Pragma("unroll")
#define FUSION3D_UNROLLED _Pragma("unroll")
#elif defined(__CUDACC__)
#define FUSION3D_CHANNELS  // nvcc's host pass, whose copy of a body nobody calls
#define FUSION3D_UNROLLED
#else
#define FUSION3D_CHANNELS _Pragma("omp simd")
#define FUSION3D_UNROLLED _Pragma("GCC unroll 32")
#endif

namespace fusion3d {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

template <class Scalar>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class Scalar>
using Accumulator = typename AccumulatorOf<Scalar>::type;

// Neighbouring channels of one row, moved as one: 16 aligned bytes are one load of a CUDA thread.
template <class Scalar, int Width>
struct alignas(sizeof(Scalar) * Width == 16 ? 16 : alignof(Scalar)) Packet {
  Scalar value[Width];
};

FUSION3D_BOTH float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

FUSION3D_BOTH uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

FUSION3D_BOTH float widen(float value) { return value; }
FUSION3D_BOTH double widen(double value) { return value; }
FUSION3D_BOTH float widen(BFloat16 value) { return float_of_bits(uint32_t(value.bits) << 16); }

FUSION3D_BOTH float widen(Half value) {
  // Half's exponent and mantissa, read as a float, are the value times 2^-112; this also makes subnormals right.
  const int32_t magnitude = int32_t(value.bits & 0x7fff) << 13;
  const uint32_t finite = bits_of_float(float_of_bits(uint32_t(magnitude)) * 0x1p112f);
  const uint32_t wide = finite | (magnitude >= 0x0f800000 ? 0x38000000u : 0u);  // all exponent bits for infinity and NaN
  return float_of_bits(wide | uint32_t(value.bits & 0x8000) << 16);
}

// Round to nearest, ties to even: what torch does.
template <class Scalar>
FUSION3D_BOTH Scalar narrow(Accumulator<Scalar> value) {
  return value;
}

template <>
FUSION3D_BOTH BFloat16 narrow<BFloat16>(float value) {
  const uint32_t bits = bits_of_float(value);
  if (value != value) return {uint16_t((bits >> 16) | 0x0040)};  // rounding could carry a NaN into infinity
  return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

template <>
FUSION3D_BOTH Half narrow<Half>(float value) {
  const uint32_t bits = bits_of_float(value);
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return {uint16_t(sign | 0x7e00)};   // NaN
  if (magnitude >= 0x477ff000) return {uint16_t(sign | 0x7c00)};  // 65520 and more round to infinity
  if (magnitude < 0x38800000) {
    // Below 2^-14 half is a fixed-point number of steps 2^-24: adding 0.5 leaves exactly those steps in the mantissa.
    const float shifted = float_of_bits(magnitude) + 0.5f;
    return {uint16_t(sign | (bits_of_float(shifted) - 0x3f000000))};
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return {uint16_t(sign | ((rounded - 0x38000000) >> 13))};
}

}  // namespace fusion3d
