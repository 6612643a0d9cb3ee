// The logarithm of a sum of exponentials as a monoid: sum = total * exp(peak), so that nothing overflows on the way.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/scalar.h"

namespace fusion3d {

FUSION3D_BOTH float exponential(float x) { return expf(x); }
FUSION3D_BOTH double exponential(double x) { return exp(x); }
FUSION3D_BOTH float logarithm(float x) { return logf(x); }
FUSION3D_BOTH double logarithm(double x) { return log(x); }

// `peak` is always finite: the difference of two is then never inf - inf. Of an infinite value it is the largest number, below
// which exp(inf - peak) is inf; of -inf the lowest, and its exponential is 0. A NaN does not become the peak but makes the total
// NaN.
template <class T>
struct LogSumExp {
  static constexpr T kHighest = std::numeric_limits<T>::max(), kInfinity = std::numeric_limits<T>::infinity();
  T peak = -kHighest;
  T total = 0;

  FUSION3D_BOTH static T finite(T value) { return value > kHighest ? kHighest : value > -kHighest ? value : -kHighest; }

  LogSumExp() = default;
  FUSION3D_BOTH LogSumExp(T peak, T total) : peak(peak), total(total) {}

  template <int Count>
  FUSION3D_BOTH static LogSumExp of(const T (&values)[Count]) {
    T highest = -kHighest;
    FUSION3D_UNROLLED
    for (int i = 0; i < Count; ++i) highest = values[i] > highest ? values[i] : highest;
    LogSumExp sum(finite(highest), 0);
    FUSION3D_UNROLLED
    for (int i = 0; i < Count; ++i) sum.total += exponential(values[i] - sum.peak);
    return sum;
  }

  FUSION3D_BOTH void combine(const LogSumExp& other) {
    const bool higher = other.peak > peak;
    const T scale = exponential(higher ? peak - other.peak : other.peak - peak);
    total = higher ? total * scale + other.total : total + other.total * scale;
    peak = higher ? other.peak : peak;
  }

  FUSION3D_BOTH T finish() const { return total == 0 ? -kInfinity : peak + logarithm(total); }
};

}  // namespace fusion3d
