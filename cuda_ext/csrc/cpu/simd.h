// Vectors of one instruction set. Included once for each, inside a namespace of its own and without include guard, after
// FUSION3D_VECTOR_BYTES is defined; cpu/contrast.cpp shows how.

constexpr int kVectorBytes = FUSION3D_VECTOR_BYTES;

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  typedef T unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

template <class T>
FUSION3D_BOTH Vector<T> load(const T* from) {
  return *reinterpret_cast<const typename VectorOf<T>::unaligned*>(from);
}

template <class T>
FUSION3D_BOTH void store(T* to, Vector<T> value) {
  *reinterpret_cast<typename VectorOf<T>::unaligned*>(to) = value;
}

template <class T>
FUSION3D_BOTH Vector<T> all(T value) {
  return value - Vector<T>{};  // not a sum: the compiler may drop x - 0, but not x + 0, which turns -0 into 0
}

// a * b + c, rounded once where the instruction set can
#if FUSION3D_VECTOR_BYTES == 64
FUSION3D_BOTH __m512 multiply_add(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
FUSION3D_BOTH __m512d multiply_add(__m512d a, __m512d b, __m512d c) { return _mm512_fmadd_pd(a, b, c); }
#elif FUSION3D_VECTOR_BYTES == 32
FUSION3D_BOTH __m256 multiply_add(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
FUSION3D_BOTH __m256d multiply_add(__m256d a, __m256d b, __m256d c) { return _mm256_fmadd_pd(a, b, c); }
#else
template <class V>
FUSION3D_BOTH V multiply_add(V a, V b, V c) {
  return a * b + c;
}
#endif

template <class V>
FUSION3D_BOTH V larger(V a, V b) {
  return a > b ? a : b;
}

template <class T>
FUSION3D_BOTH T sum_of(Vector<T> value) {
  T total = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) total += value[lane];
  return total;
}

template <class T>
FUSION3D_BOTH T largest_of(Vector<T> value) {
  T best = value[0];
  for (int lane = 1; lane < kLanes<T>; ++lane) best = value[lane] > best ? value[lane] : best;
  return best;
}

// e^x = 2^n e^r with n a whole number and |r| <= ln(2) / 2, where Taylor's series ends after few terms: within 2 units in the
// last place. 0 below kLowest, where results would be subnormal; infinity above kHighest; NaN stays NaN.
template <class T>
struct ExponentialOf;

template <>
struct ExponentialOf<float> {
  using Bits = int32_t;
  static constexpr float kLowest = -87.3f, kHighest = 88.0f, kLog2e = 0x1.715476p+0f;
  static constexpr float kLn2[2] = {0x1.62e4p-1f, 0x1.7f7d1cp-20f};  // ln(2) in two parts, the first of few bits
  static constexpr float kShift = 0x1.8p23f;                         // adding it leaves n in the low bits
  static constexpr int kTerms = 7, kMantissa = 23, kBias = 127;
};
template <>
struct ExponentialOf<double> {
  using Bits = int64_t;
  static constexpr double kLowest = -708.0, kHighest = 709.0, kLog2e = 0x1.71547652b82fep+0;
  static constexpr double kLn2[2] = {0x1.62e42fefa38p-1, 0x1.ef35793c7673p-45};
  static constexpr double kShift = 0x1.8p52;
  static constexpr int kTerms = 13, kMantissa = 52, kBias = 1023;
};

template <class T>
FUSION3D_BOTH Vector<T> exponentials(Vector<T> x) {
  using Of = ExponentialOf<T>;
  using Bits = Vector<typename Of::Bits>;
  constexpr double kInverseFactorial[] = {1, 1, 1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040, 1. / 40320, 1. / 362880,
                                          1. / 3628800, 1. / 39916800, 1. / 479001600, 1. / 6227020800.};
  const Vector<T> shifted = multiply_add(x, all<T>(Of::kLog2e), all<T>(Of::kShift)), n = shifted - Of::kShift;
  Vector<T> r = multiply_add(n, all<T>(-Of::kLn2[0]), x);
  r = multiply_add(n, all<T>(-Of::kLn2[1]), r);
  Vector<T> sum = all<T>(T(kInverseFactorial[Of::kTerms]));
#pragma GCC unroll 16
  for (int term = Of::kTerms - 1; term >= 0; --term) sum = multiply_add(sum, r, all<T>(T(kInverseFactorial[term])));
  const Bits exponent = ((Bits)shifted + Of::kBias) << Of::kMantissa;
  Vector<T> power = sum * (Vector<T>)exponent;
  power = x < Of::kLowest ? all<T>(0) : power;
  return x > Of::kHighest ? all<T>(std::numeric_limits<T>::infinity()) : power;
}
